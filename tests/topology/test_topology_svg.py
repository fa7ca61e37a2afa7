"""The picture of the network: valid, self-contained, bounded, and everybody is in it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from flux_flex.model.network import NetworkPlace
from flux_flex.topology.mapping import Network
from flux_flex.topology.standing import EMPTY, STATES, HostState, Standing, placed_job
from flux_flex.topology.svg import WIDTH, topology_svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "]]><script>&\"'\x1b[31m\u202e\ufffe\ud800\x00" + "x" * 10_000


def network(n_hosts: int, leaf: int = 8, mid: int = 8) -> Network:
    return Network(
        tuple(
            NetworkPlace(
                f"n{i}",
                (f"top{i // leaf // mid // 8}", f"mid{i // leaf // mid}", f"leaf{i // leaf}"),
                f"i-{i:04}",
                "c7i.large",
                "use2-az1",
            )
            for i in range(n_hosts)
        )
    )


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def titles(root: ElementTree.Element, kind: str) -> list[str]:
    """The tooltips of the cells or bars."""
    found = (one for one in root.iter(f"{SVG}rect") if kind in one.get("class", "").split())
    return [one.findtext(f"{SVG}title") or "" for one in found if len(one)]


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_each_host_is_a_cell_that_says_all_of_it() -> None:
    place = NetworkPlace("n0", ("nn-1",), "i-7", "p6e", "az1", capacity_block="cr-1")
    standing = Standing({"n0": "partly"}, {"n0": (58,)})
    (said,) = titles(drawn(topology_svg(Network((place,)), standing)), "cell")
    assert said == "n0 · i-7 · p6e · partly allocated · ƒ21 · capacity block cr-1"


@pytest.mark.parametrize("n_hosts", [1, 16, 300, 1_000])
def test_each_host_is_drawn_once_whatever_the_size(n_hosts: int) -> None:
    said = titles(drawn(topology_svg(network(n_hosts), EMPTY)), "cell")
    assert Counter(one.split(" · ")[0] for one in said) == Counter(f"n{i}" for i in range(n_hosts))


def test_each_zone_and_network_node_is_a_bar_that_counts_what_is_below() -> None:
    states: dict[str, HostState] = {f"n{i}": STATES[i % 5] for i in range(16)}
    said = titles(drawn(topology_svg(network(16), Standing(states))), "bar")
    assert said[0] == (
        "zone use2-az1 · 2 leaves, 16 hosts: 4 free, 3 partly, 3 allocated, 3 drained, 3 down"
    )
    assert "network node leaf1 · 8 hosts: 2 free, 1 partly, 1 allocated, 2 drained, 2 down" in said


def test_few_hosts_have_their_names_in_the_picture() -> None:
    assert {f"n{i}" for i in range(64)} <= set(texts(drawn(topology_svg(network(64), EMPTY))))


def test_the_legend_explains_what_there_is_and_no_more() -> None:
    standing = Standing({"n0": "drained", "n1": "free"})
    said = texts(drawn(topology_svg(network(3), standing)))
    assert {"drained (1)", "free (1)", "state unknown (1)"} <= set(said)
    assert "down (0)" not in said


def test_the_hosts_of_the_job_are_outlined_and_what_is_above_them_stands_out() -> None:
    standing = Standing({}, {"n0": (58,), "n9": (58,)})
    shape = network(1_000)
    svg = topology_svg(shape, standing, placed_job(shape.tree, standing, "58"))
    root = drawn(svg)
    assert [one.split(" · ")[0] for one in titles(root, "mine")] == ["n0", "n9"]
    assert len(titles(root, "other")) == 998
    above = {one.split(" · ")[0] for one in titles(root, "on")}
    assert above == {
        "zone use2-az1", "network node top0", "network node mid0", "network node leaf0",
        "network node leaf1",
    }  # fmt: skip
    assert "job ƒ21: 2 hosts under 2 leaves (nn3), 1 nn2, 1 nn1; at most 4 hops" in svg


def test_nothing_is_outlined_where_no_job_is_asked_for() -> None:
    root = drawn(topology_svg(network(16), Standing({}, {"n0": (58,)})))
    assert not [*titles(root, "mine"), *titles(root, "other"), *titles(root, "on")]


def test_hosts_without_a_place_are_told_below() -> None:
    shape = replace(network(2), unmapped=("login1", "login2"), claimed={"b": ("i-1", "i-2")})
    said = texts(drawn(topology_svg(shape, EMPTY)))
    assert "2 hosts not drawn, place unknown: login[1-2]" in said
    assert "1 host not drawn, place claimed twice: b" in said


def test_a_network_without_hosts_is_a_picture_too() -> None:
    assert "0 hosts, 0 zones, 0 network nodes" in texts(drawn(topology_svg(Network(()), EMPTY)))


def test_the_same_input_gives_the_same_bytes() -> None:
    assert topology_svg(network(40), EMPTY) == topology_svg(network(40), EMPTY)


@pytest.mark.parametrize(
    "shape",
    [
        network(1_000),
        network(1_000, leaf=1, mid=1),
        network(1_000, leaf=1_000),
        network(1_000, leaf=17, mid=3),
        network(20_000),
    ],
    ids=["balanced", "all apart", "one leaf", "odd", "20,000 hosts"],
)
def test_the_picture_is_bounded_and_nothing_leaves_the_page_or_lies_on_another(
    shape: Network,
) -> None:
    root = drawn(topology_svg(shape, EMPTY))
    height = float(root.get("height", "0"))
    assert height <= 1_700 if len(shape.places) <= 1_000 else height <= 4_000
    boxes = set()
    for one in root.iter(f"{SVG}rect"):
        if not len(one):
            continue
        x, y, w, h = (float(one.get(key, "nan")) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= WIDTH
        assert y + h <= height
        assert min(w, h) >= 4
        boxes.add((x, y))
    # In a grid of cells two that overlap begin at one place.
    assert len(boxes) == sum(1 for one in root.iter(f"{SVG}rect") if len(one))


def test_branches_of_different_depth_are_all_drawn() -> None:
    places = [
        NetworkPlace("a", (), "i-1", "", "az1"),
        NetworkPlace("b", ("x",), "i-2", "", "az1"),
        NetworkPlace("c", ("u", "v", "w"), "i-3", "", "az2"),
    ]
    root = drawn(topology_svg(Network(tuple(places)), EMPTY))
    assert len(titles(root, "cell")) == 3
    assert [one for one in texts(root) if one.startswith("nn")] == ["nn1", "nn2", "nn3"]


def test_the_deepest_network_is_drawn() -> None:
    deep = NetworkPlace("a", tuple(f"d{i}" for i in range(32)), "i-1", "", "az1")
    assert len(titles(drawn(topology_svg(Network((deep,)), EMPTY)), "bar")) == 33


def test_hostile_names_cannot_break_the_picture_nor_blow_it_up() -> None:
    place = NetworkPlace(
        f"h{HOSTILE}", (f"n{HOSTILE}",), HOSTILE, HOSTILE, f"z{HOSTILE}", capacity_block=HOSTILE
    )
    shape = Network((place,), (HOSTILE,), {HOSTILE: (HOSTILE,)})
    standing = Standing({}, {place.host: (58,), HOSTILE: (58,)})
    svg = topology_svg(shape, standing, placed_job(shape.tree, standing, "58"))
    svg.encode("utf-8")
    root = drawn(svg)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {
        "svg", "style", "defs", "linearGradient", "stop", "pattern", "rect", "g", "text", "title",
    }  # fmt: skip
    assert len(svg) < 20_000
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", svg)


def test_the_picture_asks_for_nothing_from_outside() -> None:
    svg = topology_svg(network(16), EMPTY)
    assert re.findall(r"https?://[^\"' ]*", svg) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\(([^)]*)\)", svg)) <= {"#ff-partly", "#ff-drained"}
    assert "<script" not in svg
    assert "href" not in svg
