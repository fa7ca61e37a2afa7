"""Where everything in the picture of a timeline goes, in px: rows, sections, bars and ticks.

Here are the timeline as plain data, what is refused of it, and what becomes of one that is too
large: alike nodes are folded into one row, jobs that share a node are stacked or get lanes, and
whatever does not fit is left out and counted. Nothing is drawn here; for colours and SVG see
:mod:`flux_flex.simulate.timeline_svg`, and for the way from a replay to a timeline
:mod:`flux_flex.simulate.timeline`.

    page = lay_out(timeline)
    page.tops[0], page.heights[0]      # the first row
    page.x(1800)                       # half an hour after the start
    blocks, left_out = job_blocks(page, timeline.bars)
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from flux_flex.errors import BadInput
from flux_flex.model.quoting import one_line
from flux_flex.svg_text import number, text_width

MAX_ROWS = 300
MAX_BARS = 20_000
MAX_TIME_S = 1e12

# Picture, in px.
WIDTH = 1200.0
MARGIN = 24.0
PLOT_LEFTS = (168.0, 270.0)  # as the names of the rows need it
PLOT_RIGHT = WIDTH - MARGIN
HEADING_HEIGHT = 24.0
SECTION_GAP = 8.0
ROW_HEIGHTS = (6.0, 24.0)
SHARED_BAR_HEIGHT = 16.0  # what a job that shares a node would like
ROWS_HEIGHT = 1800.0  # what the rows share before they shrink to the smallest height


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node. Times in seconds; a rented node boots from ``boot_from_s`` to ``up_from_s``.

    ``group`` is the heading that consecutive rows share: ``local``, or what names the burst.
    """

    name: str
    rented: bool
    group: str
    up_from_s: float
    up_until_s: float
    boot_from_s: float | None


@dataclass(frozen=True, slots=True)
class JobBar:
    """One job from ``start_s`` to ``end_s`` on the rows named in ``nodes``.

    ``share`` is the fraction of each node that it uses, in (0, 1]. ``running_before`` says that
    it started before the timeline did. ``job`` is the id, which chooses the colour.
    """

    job: str
    name: str
    start_s: float
    end_s: float
    nodes: tuple[str, ...]
    rented: bool
    share: float = 1.0
    running_before: bool = False


@dataclass(frozen=True, slots=True)
class Timeline:
    """All rows, top to bottom, and all bars, from 0 to ``end_s`` seconds."""

    title: str
    rows: tuple[NodeRow, ...]
    bars: tuple[JobBar, ...]
    end_s: float
    subtitle: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A drawn row: one node, or several folded into one that have the same history."""

    node: NodeRow
    label: str
    n_nodes: int
    bars: tuple[int, ...]  # positions in Timeline.bars


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive drawn rows under one heading; ``first`` and ``last`` are positions of lines."""

    first: int
    last: int
    top: float
    heading: str
    aside: str
    rented: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Where everything goes, in px: ``lines[i]`` begins at ``tops[i]`` and is ``heights[i]`` high.

    ``slots[i]`` has the (offset, height) of each bar of that line, as fractions of the line.
    """

    lines: tuple[Line, ...]
    slots: tuple[list[tuple[float, float]], ...]
    sections: tuple[Section, ...]
    tops: tuple[float, ...]
    heights: tuple[float, ...]
    left: float
    top: float
    bottom: float
    end_s: float
    span_s: float
    hidden_nodes: int  # beyond MAX_ROWS

    def x(self, time_s: float) -> float:
        """Where a time is, held inside the plot."""
        part = min(max(time_s / self.span_s, 0.0), 1.0)
        return self.left + part * (PLOT_RIGHT - self.left)


@dataclass(frozen=True, slots=True)
class Block:
    """One rectangle of a job, in px; only the first one of a run of rows has a label."""

    bar: int
    x: float
    y: float
    width: float
    height: float
    labelled: bool


# Where they go


def lay_out(timeline: Timeline) -> Page:
    """The page of a timeline, with at most 300 rows: see ``hidden_nodes`` for the others.

    Raises:
        BadInput: see :func:`flux_flex.simulate.timeline_svg.timeline_svg`.
    """
    _check(timeline)
    lines, hidden_nodes = _lines(timeline)
    slots = tuple(_slots([timeline.bars[bar] for bar in line.bars]) for line in lines)
    heights = _heights(slots)
    top = y = 104.0 if timeline.subtitle else 82.0
    group_sizes = Counter(row.group for row in timeline.rows)
    sections: list[Section] = []
    tops: list[float] = []
    for (group, rented), members in groupby(lines, key=lambda ln: (ln.node.group, ln.node.rented)):
        section = list(members)
        first, last = len(tops), len(tops) + len(section) - 1
        aside = _aside(rented, group_sizes[group], section)
        sections.append(Section(first, last, y, group, aside, rented))
        y += HEADING_HEIGHT
        for height in heights[first : last + 1]:
            tops.append(y)
            y += height
        y += SECTION_GAP
    bottom = y if lines else y + 2 * HEADING_HEIGHT
    widest = max((text_width(one_line(line.label, 120), 11) for line in lines), default=0.0)
    return Page(
        lines=lines,
        slots=slots,
        sections=tuple(sections),
        tops=tuple(tops),
        heights=heights,
        left=min(max(widest + MARGIN + 18, PLOT_LEFTS[0]), PLOT_LEFTS[1]),
        top=top,
        bottom=bottom,
        end_s=timeline.end_s,
        span_s=max(timeline.end_s, 1.0),  # an empty timeline still needs an axis
        hidden_nodes=hidden_nodes,
    )


def _heights(slots: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, ...]:
    """How high each line is, in px. While there is room, jobs that share a node get labels."""
    low, high = ROW_HEIGHTS
    base = min(max(ROWS_HEIGHT / max(len(slots), 1), low), high)
    if base < high:
        return (base,) * len(slots)
    thinnest = (min((share for _, share in line), default=1.0) for line in slots)
    return tuple(min(max(SHARED_BAR_HEIGHT / share, base), 3 * base) for share in thinnest)


def _aside(rented: bool, n_nodes: int, section: Sequence[Line]) -> str:
    """What is said beside the heading of a section."""
    if not rented:
        return f"{n_nodes:,} node{'s' * (n_nodes != 1)}"
    nodes = [line.node for line in section]
    up_from = min(node.up_from_s for node in nodes)
    up_until = max(node.up_until_s for node in nodes)
    asked = [node.boot_from_s for node in nodes if node.boot_from_s is not None]
    said = f"up from {clock(up_from)} to {clock(up_until)}"
    return f"requested at {clock(min(asked))} · {said}" if asked else said


def job_blocks(page: Page, bars: Sequence[JobBar]) -> tuple[list[Block], int]:
    """The rectangles of all bars, and how many there was no room for: the smallest ones."""
    return _largest(_blocks(page, bars))


def _blocks(page: Page, bars: Sequence[JobBar]) -> list[Block]:
    """The rectangles of all bars; rows that follow each other and hold only one job are merged."""
    section_of = [n for n, s in enumerate(page.sections) for _ in range(s.first, s.last + 1)]
    latest: dict[int, tuple[int, bool]] = {}  # bar -> its last row so far, and whether it fills it
    begins: dict[int, int] = {}  # bar -> the row where its last block begins
    blocks: dict[tuple[int, int], Block] = {}  # by bar and the row where the block begins
    for row, line in enumerate(page.lines):
        for bar, (offset, share) in zip(line.bars, page.slots[row], strict=True):
            if not in_view(bars[bar], page.span_s):
                continue
            last_row, filled = latest.get(bar, (-2, False))
            follows = last_row == row - 1 and section_of[last_row] == section_of[row]
            if follows and filled and share == 1.0:
                block = blocks[bar, begins[bar]]
                height = block.height + page.heights[row]
                blocks[bar, begins[bar]] = replace(block, height=height)
            else:
                begins[bar] = row
                y, height = page.tops[row] + offset * page.heights[row], share * page.heights[row]
                left, right = page.x(bars[bar].start_s), page.x(bars[bar].end_s)
                blocks[bar, row] = _block(bar, left, right, y, height, labelled=not follows)
            latest[bar] = (row, share == 1.0)
    return [blocks[key] for key in sorted(blocks)]


def in_view(bar: JobBar, span_s: float) -> bool:
    """Whether any of it lies in the time of the picture."""
    return bar.end_s >= 0 and bar.start_s <= span_s


def _block(
    bar: int, left: float, right: float, y: float, height: float, *, labelled: bool
) -> Block:
    """A rectangle in one row. A job too short to see is still one px wide."""
    gap = min(2.0, height / 6)
    x = min(left, PLOT_RIGHT - 1)
    return Block(bar, x, y + gap / 2, max(right - left, 1.0), max(height - gap, 0.5), labelled)


def _largest(blocks: list[Block]) -> tuple[list[Block], int]:
    """The MAX_BARS blocks that cover most, in their order, and how many others there are."""
    if len(blocks) <= MAX_BARS:
        return blocks, 0
    by_size = sorted(range(len(blocks)), key=lambda i: -blocks[i].width * blocks[i].height)
    return [blocks[i] for i in sorted(by_size[:MAX_BARS])], len(blocks) - MAX_BARS


def axis_ticks(page: Page) -> list[float]:
    """At most 13 round times from 0 to the end, as far apart as the axis wants."""
    days = [86400.0 * digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    hours = [3600.0 * h for h in (1, 2, 3, 6, 12)]
    minutes = [60.0 * m for m in (1, 2, 5, 10, 15, 30)]
    seconds = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0]
    step = next(step for step in seconds + minutes + hours + days if page.span_s / step <= 12)
    return [i * step for i in range(math.floor(page.end_s / step + 1e-9) + 1)]


# Jobs that share a node


def _slots(bars: Sequence[JobBar]) -> list[tuple[float, float]]:
    """For each bar of one row its (offset, height), as fractions of the row."""
    slots = [(0.0, 1.0)] * len(bars)
    order = sorted(range(len(bars)), key=lambda i: (bars[i].start_s, bars[i].end_s))
    for crowd in _crowds(order, bars):
        members = [bars[i] for i in crowd]
        for i, slot in zip(crowd, _stack(members) or _lanes(members), strict=True):
            slots[i] = slot
    return slots


def _crowds(order: Iterable[int], bars: Sequence[JobBar]) -> list[list[int]]:
    """Bars that touch the same stretch of busy time belong together."""
    crowds: list[list[int]] = []
    until = -math.inf
    for i in order:
        if bars[i].start_s >= until:
            crowds.append([])
        crowds[-1].append(i)
        until = max(until, bars[i].end_s)
    return crowds


def _stack(bars: Sequence[JobBar]) -> list[tuple[float, float]] | None:
    """Each bar as high as its share, at the lowest place that is free; None if that fails."""
    slack = 1e-9  # three thirds are a whole
    slots: list[tuple[float, float]] = []
    busy: list[tuple[float, float, float]] = []  # (offset, upper end, end_s), by offset
    for bar in bars:
        busy = [taken for taken in busy if taken[2] > bar.start_s]
        offset = 0.0
        for low, high, _ in busy:
            if low - offset >= bar.share - slack:
                break
            offset = max(offset, high)
        # More than 64 at once would be slivers, and this search quadratic.
        if offset + bar.share > 1 + slack or len(busy) >= 64:
            return None
        slots.append((offset, bar.share))
        busy = sorted([*busy, (offset, offset + bar.share, bar.end_s)])
    return slots


def _lanes(bars: Sequence[JobBar]) -> list[tuple[float, float]]:
    """Lanes of equal height, for shares that add up to more than the node."""
    lanes: list[int] = []
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    n_lanes = 0
    for bar in bars:
        while busy and busy[0][0] <= bar.start_s:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else n_lanes
        n_lanes = max(n_lanes, lane + 1)
        heapq.heappush(busy, (bar.end_s, lane))
        lanes.append(lane)
    return [(lane / n_lanes, 1 / n_lanes) for lane in lanes]


# Which rows are drawn


def _lines(timeline: Timeline) -> tuple[tuple[Line, ...], int]:
    """The rows to draw, and how many nodes are not among them."""
    on_row: dict[str, list[int]] = {row.name: [] for row in timeline.rows}
    for position, bar in enumerate(timeline.bars):
        for node in dict.fromkeys(bar.nodes):
            on_row[node].append(position)
    lines = [Line(row, row.name, 1, tuple(on_row[row.name])) for row in timeline.rows]
    if len(lines) > MAX_ROWS:
        lines = [_folded(list(alike)) for _, alike in groupby(lines, key=_history)]
    kept = _kept(lines)
    return tuple(kept), len(timeline.rows) - sum(line.n_nodes for line in kept)


def _history(line: Line) -> tuple[object, ...]:
    """Everything that is drawn in a row except its name."""
    node = line.node
    times = (node.boot_from_s, node.up_from_s, node.up_until_s)
    return (node.group, node.rented, times, line.bars)


def _folded(alike: Sequence[Line]) -> Line:
    first = alike[0]
    if len(alike) == 1:
        return first
    label = f"{_name_range([line.label for line in alike])} ({len(alike):,} nodes)"
    return Line(first.node, label, len(alike), first.bars)


def _name_range(names: Sequence[str]) -> str:
    """``compute[16-255]`` where the names count up, else the first and the last."""
    ends = [re.fullmatch(r"(.*?)([0-9]{1,9})", name, re.DOTALL) for name in names]
    found = [end for end in ends if end]
    if len(found) == len(names) and len({end[1] for end in found}) == 1:
        first, last = found[0][2], found[-1][2]
        numbers = [int(end[2]) for end in found]
        if numbers == list(range(numbers[0], numbers[0] + len(names))):
            return f"{found[0][1]}[{first}-{last}]"
    return f"{names[0]} … {names[-1]}"


def _kept(lines: Sequence[Line]) -> list[Line]:
    """At most MAX_ROWS, so that neither the local nor the rented nodes crowd the others out."""
    n_rented = sum(line.node.rented for line in lines)
    n_local = len(lines) - n_rented
    room_local = max(MAX_ROWS // 2, MAX_ROWS - n_rented)
    room = {False: room_local, True: MAX_ROWS - min(room_local, n_local)}
    kept = []
    for line in lines:
        if room[line.node.rented] > 0:
            room[line.node.rented] -= 1
            kept.append(line)
    return kept


# What is refused


def _check(timeline: Timeline) -> None:
    _check_span("timeline", 0.0, timeline.end_s)
    names: set[str] = set()
    for row in timeline.rows:
        where = f"row {one_line(row.name, 60)!r}"
        if row.name in names:
            raise BadInput("two rows have this name", where, "Give each node a name of its own.")
        names.add(row.name)
        _check_span(where, row.up_from_s, row.up_until_s)
        if row.boot_from_s is not None:
            _check_span(where, row.boot_from_s, row.up_from_s)
    for bar in timeline.bars:
        _check_bar(bar, names)


def _check_bar(bar: JobBar, row_names: set[str]) -> None:
    where = f"job {one_line(bar.job, 60)!r}"
    _check_span(where, bar.start_s, bar.end_s)
    if not 0 < bar.share <= 1:
        raise BadInput(f"a share of {bar.share}", where, "A share is above 0 and at most 1.")
    if not bar.nodes:
        raise BadInput("no node", where, "Name at least one row for each bar.")
    for node in bar.nodes:
        if node not in row_names:
            raise BadInput(f"no row {one_line(node, 60)!r}", where, "Add the row of that node.")


def _check_span(where: str, start_s: float, end_s: float) -> None:
    for time_s in (start_s, end_s):
        if not abs(time_s) <= MAX_TIME_S:  # also true of NaN
            raise BadInput(f"{time_s} is not a time in seconds", where)
    if end_s < start_s:
        raise BadInput(f"ends at {end_s} s, before it starts at {start_s} s", where)


def clock(time_s: float) -> str:
    """A time by its two largest units: ``2h 30m``, ``1d 12h``, ``45s``."""
    if time_s < 0:
        return f"−{clock(-time_s)}"
    if time_s < 10:
        return f"{number(time_s)}s" if time_s else "0"
    total = round(time_s)
    units = (
        (f"{total // 86400:,}d", total // 86400),
        (f"{total // 3600 % 24}h", total // 3600 % 24),
        (f"{total // 60 % 60}m", total // 60 % 60),
        (f"{total % 60}s", total % 60),
    )
    first = next(i for i, (_, count) in enumerate(units) if count)
    return " ".join(text for text, count in units[first : first + 2] if count)
