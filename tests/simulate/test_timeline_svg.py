"""The timeline picture: well formed whatever it is given, honest about what it leaves out."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.simulate import timeline_layout
from flux_flex.simulate import timeline_svg as module
from flux_flex.simulate.timeline_svg import JobBar, NodeRow, Timeline, timeline_svg

SVG = "{http://www.w3.org/2000/svg}"
HOUR = 3600.0
HOSTILE = "<script>alert('x')</script> & \"q\" ]]> \x00\x1b[31m\u202e\ud800\uffff\n"


def local(*names: str, until_s: float = 10 * HOUR) -> tuple[NodeRow, ...]:
    return tuple(NodeRow(name, False, "local", 0, until_s, None) for name in names)


def rented(*names: str) -> tuple[NodeRow, ...]:
    group = f"burst-1 · {len(names)} x hpc6id.32xlarge"
    return tuple(NodeRow(name, True, group, 2 * HOUR, 8 * HOUR, HOUR) for name in names)


def job(name: str, *nodes: str, start_h: float = 1, end_h: float = 2, share: float = 1.0) -> JobBar:
    is_rented = nodes[0].startswith("r")
    return JobBar(f"id-{name}", name, start_h * HOUR, end_h * HOUR, nodes, is_rented, share)


def drawn(rows: tuple[NodeRow, ...], *bars: JobBar) -> ET.Element:
    return ET.fromstring(timeline_svg(Timeline("Title", rows, bars, 10 * HOUR, "subtitle")))


def of_class(root: ET.Element, *names: str) -> list[ET.Element]:
    return [e for e in root.iter() if set(names) <= set(e.get("class", "").split())]


def bar_rects(root: ET.Element) -> list[dict[str, float]]:
    rects = [
        bar.find(f"{SVG}rect") for bar in of_class(root.find(f"./{SVG}g[@class='bars']"), "bar")
    ]
    return [{key: float(r.get(key)) for key in ("x", "y", "width", "height")} for r in rects]


def words(root: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_job_on_consecutive_rows_is_one_block_with_one_label():
    root = drawn(local("a", "b", "c"), job("wide", "a", "b", "c"))
    assert len(bar_rects(root)) == 1
    assert words(root).count("wide") == 1
    one_row = bar_rects(drawn(local("a", "b", "c"), job("wide", "b")))[0]
    assert bar_rects(root)[0]["height"] > 2.9 * one_row["height"]


def test_job_on_rows_that_are_apart_is_two_blocks():
    assert len(bar_rects(drawn(local("a", "b", "c"), job("split", "a", "c")))) == 2


def test_heading_between_rows_separates_the_blocks_of_a_job():
    assert len(bar_rects(drawn(local("a") + rented("r0"), job("both", "a", "r0")))) == 2


def test_jobs_that_share_a_node_do_not_overlap():
    quarters = [job(f"q{i}", "a", start_h=1 + i, end_h=6 + i, share=0.25) for i in range(4)]
    rects = sorted(bar_rects(drawn(local("a"), *quarters)), key=lambda r: r["y"])
    for upper, lower in itertools.pairwise(rects):
        assert upper["y"] + upper["height"] <= lower["y"]


def test_three_thirds_fill_a_node():
    thirds = [job(f"t{i}", "a", share=1 / 3) for i in range(3)]
    root = drawn(local("a"), *thirds)
    assert len({rect["y"] for rect in bar_rects(root)}) == 3
    assert {"t0", "t1", "t2"} <= set(words(root))


def test_shares_beyond_the_node_get_lanes_and_lanes_are_used_again():
    bars = (
        job("first", "a", start_h=0, end_h=2),
        job("beside", "a", start_h=1, end_h=4),
        job("after", "a", start_h=2, end_h=3),
    )
    first, beside, after = bar_rects(drawn(local("a"), *bars))
    assert first["y"] == after["y"] != beside["y"]
    assert first["height"] == beside["height"]


def test_job_after_another_on_the_same_node_has_the_whole_row():
    first, then = bar_rects(drawn(local("a"), job("x", "a"), job("y", "a", start_h=2, end_h=3)))
    assert (first["y"], first["height"]) == (then["y"], then["height"])


def test_hundreds_of_jobs_at_once_on_one_node_are_all_drawn():
    slivers = [job(f"s{i}", "a", share=0.001) for i in range(200)]
    assert len(bar_rects(drawn(local("a"), *slivers))) == 200


def test_rented_rows_and_jobs_are_marked_and_named():
    root = drawn(
        local("a") + rented("r0", "r1"), job("here", "a"), job("there", "r0", start_h=3, end_h=4)
    )
    assert len(of_class(root, "row", "rented")) == 2
    assert len(of_class(root, "row", "local")) == 1
    assert len(of_class(root, "bracket")) == len(of_class(root, "badge")) == 1
    assert any(text.startswith("burst-1 · 2 x hpc6id.32xlarge") for text in words(root))
    assert any("requested at 1h · up from 2h to 8h" in text for text in words(root))
    bars = of_class(root.find(f"./{SVG}g[@class='bars']"), "bar", "rented")
    assert [bar.find(f"{SVG}title").text.split(" · ")[1] for bar in bars] == ["there"]


def test_boot_time_lies_before_the_time_that_the_node_is_up():
    (row,) = of_class(drawn(rented("r0")), "row", "rented")
    boot, up = of_class(row, "boot")[0], of_class(row, "up")[0]
    end_of_boot = float(boot.get("x")) + float(boot.get("width"))
    assert end_of_boot == pytest.approx(float(up.get("x")), abs=0.02)


def test_picture_without_rented_nodes_says_nothing_of_rent():
    text = timeline_svg(Timeline("t", local("a"), (job("x", "a"),), 10 * HOUR))
    assert "rented" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


def test_tooltip_tells_id_name_and_times():
    root = drawn(local("a", "b"), job("lammps", "a", "b", start_h=1.5, end_h=4))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "id-lammps · lammps · 1h 30m to 4h (2h 30m) · 2 nodes" in titles


def test_job_that_ran_before_the_start_is_marked():
    bar = replace(job("old", "a", start_h=0), running_before=True)
    root = drawn(local("a"), bar)
    assert len(of_class(root, "before")) == 2  # the bar and the legend
    assert any("before the start" in (t.text or "") for t in root.iter(f"{SVG}title"))
    assert not of_class(drawn(local("a"), job("new", "a", start_h=0)), "before")


def test_colour_follows_the_job_by_first_appearance():
    def fills(*bars: JobBar) -> list[str]:
        root = drawn(local("a", "b"), *bars)
        return [e.find(f"{SVG}rect").get("fill") for e in of_class(root, "bar")[: len(bars)]]

    again = job("x", "b", start_h=5, end_h=6)
    assert fills(job("x", "a"), job("y", "b"), again) == [
        module.JOB_COLOURS[0],
        module.JOB_COLOURS[1],
        module.JOB_COLOURS[0],
    ]


def test_label_that_does_not_fit_is_cut_and_too_little_room_shows_none():
    long = "a-name-much-longer-than-its-bar"
    cut = [w for w in words(drawn(local("a"), job(long, "a"))) if w.startswith("a-name")]
    assert len(cut) == 1
    assert cut[0].endswith("…")
    assert not any(
        w.startswith("a-n") for w in words(drawn(local("a"), job(long, "a", end_h=1.01)))
    )


@pytest.mark.parametrize("size", [1, 75, 300])
def test_every_row_up_to_the_limit_is_drawn_inside_the_page(size):
    rows = local(*(f"n{i}" for i in range(size)))
    root = drawn(rows, *(job(f"j{i}", f"n{i}") for i in range(size)))
    assert len(of_class(root, "row")) == size
    assert len(bar_rects(root)) == size
    assert max(r["y"] + r["height"] for r in bar_rects(root)) < float(root.get("height"))
    assert float(root.get("height")) < 2200


def test_many_alike_nodes_are_folded_into_one_row_with_a_range():
    rows = local(*(f"compute{i}" for i in range(2000)))
    busy = tuple(row.name for row in rows[16:256])
    root = drawn(rows, job("hero", *busy))
    labels = [row.find(f"{SVG}title").text for row in of_class(root, "row")]
    assert labels == [
        "compute[0-15] (16 nodes)",
        "compute[16-255] (240 nodes)",
        "compute[256-1999] (1,744 nodes)",
    ]
    assert len(bar_rects(root)) == 1


def test_alike_nodes_whose_names_do_not_count_up_are_named_by_the_ends():
    rows = local(*(f"{'ab'[i % 2]}-node" for i in range(2)), *(f"n{i}" for i in range(0, 800, 2)))
    root = drawn(rows)
    assert [r.find(f"{SVG}title").text for r in of_class(root, "row")] == [
        "a-node … n798 (402 nodes)"
    ]


def test_rows_beyond_the_limit_are_counted_and_rented_ones_keep_their_place():
    rows = local(*(f"n{i}" for i in range(1000))) + rented("r0", "r1")
    bars = [job(f"j{i}", f"n{i}", end_h=2 + i / 1000) for i in range(1000)]
    root = drawn(
        rows, *bars, job("a", "r0", start_h=3, end_h=4), job("b", "r1", start_h=3, end_h=4)
    )
    assert len(of_class(root, "row", "rented")) == 2
    assert len(of_class(root, "row")) == 300
    assert "… 702 more nodes not drawn, nor what ran on them" in words(root)


def test_bars_beyond_the_limit_are_counted_and_the_largest_stay(monkeypatch):
    monkeypatch.setattr(timeline_layout, "MAX_BARS", 3)
    bars = [job(f"j{i}", f"n{i}", end_h=1.5 + i) for i in range(5)]
    root = drawn(local(*(f"n{i}" for i in range(5))), *bars)
    assert len(bar_rects(root)) == 3
    assert "… 2 more bars not drawn: the smallest ones" in words(root)
    assert {"j2", "j3", "j4"} <= set(words(root))


def test_thirty_thousand_jobs_make_a_bounded_picture():
    rows = local(*(f"n{i}" for i in range(100)))
    bars = [
        job("j", f"n{i % 100}", start_h=i // 100 / 30, end_h=(i // 100 + 1) / 30)
        for i in range(30_000)
    ]
    text = timeline_svg(Timeline("many", rows, tuple(bars), 10 * HOUR))
    assert text.count('<g class="bar ') + text.count('<g class="bar"') == 20_000
    assert "10,000 more bars not drawn" in text


def test_bars_outside_the_picture_are_counted():
    root = drawn(local("a"), job("late", "a", start_h=11, end_h=12))
    assert not bar_rects(root)
    assert "… 1 more bars not drawn: outside the time of this picture" in words(root)


def test_bar_beyond_the_end_stops_at_the_edge():
    (rect,) = bar_rects(drawn(local("a"), job("long", "a", start_h=-2, end_h=99)))
    (axis_x, axis_right) = (168.0, 1176.0)
    assert rect["x"] == axis_x
    assert rect["x"] + rect["width"] == axis_right


def test_hostile_names_stay_text():
    row = NodeRow(HOSTILE, True, HOSTILE, HOUR, 9 * HOUR, 0)
    bar = JobBar(HOSTILE, HOSTILE, HOUR, 9 * HOUR, (HOSTILE,), True)
    text = timeline_svg(Timeline(HOSTILE, (row,), (bar,), 10 * HOUR, HOSTILE))
    root = ET.fromstring(text)
    assert not list(root.iter(f"{SVG}script"))
    assert "<script" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800\uffff]", text)
    text.encode()


def test_endless_names_do_not_make_an_endless_picture():
    long = "x" * 1_000_000
    row = NodeRow(long, True, long, 0, HOUR, 0)
    bar = JobBar(long, long, 0, HOUR, (long,), True)
    assert len(timeline_svg(Timeline(long, (row,), (bar,), HOUR, long))) < 10_000


def test_background_is_explicit_and_nothing_is_fetched():
    text = timeline_svg(Timeline("t", local("a"), (), HOUR))
    page = of_class(ET.fromstring(text), "page")[0]
    assert (page.get("width"), page.get("fill")) == ("1200", "#FFFFFF")
    assert "href" not in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]


def test_same_input_gives_the_same_bytes_in_every_interpreter():
    program = """
import sys
from flux_flex.simulate.timeline_svg import JobBar, NodeRow, Timeline, timeline_svg
rows = tuple(NodeRow(f"n{i}", i > 4, f"g{i > 4}", 0, 9, None) for i in range(8))
bars = tuple(JobBar(f"j{i}", "x", i, 9, (f"n{i}", f"n{i // 2}"), i > 4) for i in range(8))
sys.stdout.buffer.write(timeline_svg(Timeline("t", rows, bars, 9)).encode())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != b""


@pytest.mark.parametrize("end_s", [0.0, 1e-9, 0.5, 1.0, 1e12])
def test_timeline_of_any_length_has_an_axis(end_s):
    bar = JobBar("1", "x", 0, end_s, ("a",), False)
    root = ET.fromstring(timeline_svg(Timeline("t", local("a", until_s=end_s), (bar,), end_s)))
    ticks = ["".join(t.itertext()) for t in of_class(root, "tick")]
    assert ticks[0] == "0"
    assert len(set(ticks)) <= 13
    assert bar_rects(root)[0]["width"] >= 1


def test_timeline_without_nodes_says_so():
    assert "There are no nodes in this timeline." in words(
        ET.fromstring(timeline_svg(Timeline("t", (), (), 0)))
    )


@pytest.mark.parametrize(
    ("end_h", "labels"),
    [
        (1 / 60, ["0", "5s", "10s"]),
        (1, ["0", "5m", "10m"]),
        (20, ["0", "2h", "4h"]),
        (72, ["0", "6h", "12h", "18h", "1d", "1d 6h"]),
        (24 * 10, ["0", "1d", "2d"]),
    ],
)
def test_ticks_are_round_times(end_h, labels):
    root = ET.fromstring(timeline_svg(Timeline("t", (), (), end_h * HOUR)))
    ticks = ["".join(t.itertext()) for t in of_class(root, "tick")]
    assert ticks[::2][: len(labels)] == labels


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -math.inf, 1e13])
def test_what_is_not_a_time_is_refused(time_s):
    good_row, good_bar = local("a")[0], job("x", "a")
    for timeline in (
        Timeline("t", (), (), time_s),
        Timeline("t", (replace(good_row, up_until_s=time_s),), (), 1),
        Timeline("t", (replace(good_row, boot_from_s=time_s),), (), 1),
        Timeline("t", (good_row,), (replace(good_bar, start_s=time_s),), 1),
    ):
        with pytest.raises(BadInput, match="not a time"):
            timeline_svg(timeline)


@pytest.mark.parametrize(
    ("rows", "bar", "complaint"),
    [
        (local("a"), job("x", "a", start_h=2, end_h=1), "before it starts"),
        (local("a", until_s=-1), job("x", "a"), "before it starts"),
        (local("a"), job("x", "a", share=0), "share"),
        (local("a"), job("x", "a", share=1.1), "share"),
        (local("a"), job("x", "a", share=math.nan), "share"),
        (local("a"), job("x", "b"), "no row 'b'"),
        (local("a"), replace(job("x", "a"), nodes=()), "no node"),
        (local("a", "a"), job("x", "a"), "two rows"),
    ],
)
def test_contradictory_input_is_refused(rows, bar, complaint):
    with pytest.raises(BadInput, match=complaint):
        timeline_svg(Timeline("t", rows, (bar,), HOUR))


times = st.floats(0, 1e12) | st.integers(0, 100_000) | st.just(0.0)
anything = st.text(st.characters(), max_size=30)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    names = draw(st.lists(anything, max_size=6, unique=True))
    rows = []
    for name in names:
        boot, up, until = sorted(draw(st.tuples(times, times, times)))
        is_rented = draw(st.booleans())
        rows.append(
            NodeRow(name, is_rented, draw(anything), up, until, boot if is_rented else None)
        )
    bars = []
    for _ in range(draw(st.integers(0, 8)) if names else 0):
        start, end = sorted(draw(st.tuples(times, times)))
        on = tuple(draw(st.lists(st.sampled_from(names), min_size=1)))
        share = draw(st.floats(0, 1, exclude_min=True))
        bars.append(
            JobBar(
                draw(anything),
                draw(anything),
                start,
                end,
                on,
                draw(st.booleans()),
                share,
                draw(st.booleans()),
            )
        )
    return Timeline(draw(anything), tuple(rows), tuple(bars), draw(times), draw(anything))


@settings(deadline=None)
@given(timelines())
def test_any_timeline_is_well_formed_with_short_numbers_inside_the_page(timeline):
    text = timeline_svg(timeline)
    root = ET.fromstring(text.encode())
    assert len(of_class(root, "row")) == len(timeline.rows)
    for element in root.iter(f"{SVG}rect"):
        for key in ("x", "y", "width", "height"):
            assert re.fullmatch(r"-?\d+(\.\d{1,2})?", element.get(key, "0"))
    for rect in bar_rects(root):
        assert 168 <= rect["x"] <= rect["x"] + rect["width"] <= 1176.02
        assert 0 < rect["y"] <= rect["y"] + rect["height"] <= float(root.get("height"))
