"""Draw who ran where and when: nodes as rows, jobs as bars, rented nodes on a warm band.

The picture is one self-contained SVG text. It is a pure function of its input, so the same
timeline gives the same bytes, and it is bounded: whatever does not fit is counted in a note
below the picture instead of being left out in silence.

    node = NodeRow("compute0", False, "local", 0, 3600, None)
    job = JobBar("ƒ2X", "lammps", 0, 1800, ("compute0",), rented=False)
    Path("timeline.svg").write_text(timeline_svg(Timeline("One job", (node,), (job,), 3600)))

Times are seconds since the start of the timeline. Every name is taken as hostile text: control
characters go, what is left is cut to a length and escaped.
"""

from __future__ import annotations

import heapq
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from xml.sax.saxutils import escape

from flux_flex.errors import BadInput

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
THIN = 5.0  # an outline would cover a bar that is thinner
LABEL_HEIGHT = 10.0  # a bar lower than this has no readable label

# A glyph is taken as this wide, in font sizes: a little more than common sans fonts need, since
# the viewer's font is not known.
GLYPH_EM = 0.61

# Okabe-Ito and Paul Tol "muted", without their oranges: warm colours say "rented" here.
JOB_COLOURS = (
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#332288",
    "#999933",
    "#882255",
    "#44AA99",
    "#6B7785",
)
DARK_TEXT = "#14202B"
LIGHT_TEXT = "#FFFFFF"

STYLE = """
.ff-timeline text { font-family: Inter, 'Source Sans 3', 'Helvetica Neue', Arial, 'DejaVu Sans',
  sans-serif; fill: #14202B; }
.ff-timeline .title { font-size: 20px; font-weight: 700; }
.ff-timeline .subtitle { font-size: 13px; fill: #4A5763; }
.ff-timeline .heading { font-size: 12px; font-weight: 700; fill: #4A5763; }
.ff-timeline .aside { font-size: 11px; fill: #4A5763; }
.ff-timeline .node { font-size: 11px; fill: #33414E; text-anchor: end; }
.ff-timeline .tick { font-size: 11px; fill: #4A5763; text-anchor: middle; }
.ff-timeline .note { font-size: 12px; font-style: italic; fill: #7A2E00; }
.ff-timeline .grid { stroke: #14202B; stroke-opacity: 0.1; stroke-width: 1; }
.ff-timeline .axis { stroke: #7B8794; stroke-width: 1; }
.ff-timeline .up { fill: #EDF1F5; }
.ff-timeline .band { fill: #FFF7EC; }
.ff-timeline .rented .up { fill: #FFDDB0; }
.ff-timeline .boot { fill: url(#ff-boot); }
.ff-timeline .bracket { fill: none; stroke: #D55E00; stroke-width: 2.5; }
.ff-timeline .heading .aside { font-weight: 400; fill: #4A5763; }
.ff-timeline .rented.heading, .ff-timeline .rented .node { fill: #9A3C00; }
.ff-timeline .badge { fill: #D55E00; }
.ff-timeline text.badge-text { font-size: 9.5px; font-weight: 700; letter-spacing: 0.5px;
  fill: #14202B; text-anchor: middle; }
.ff-timeline .bar rect { stroke: #FFFFFF; stroke-width: 1; }
.ff-timeline .bar.rented rect { stroke: #9A3C00; stroke-width: 1.25; }
.ff-timeline .bar.thin rect { stroke: none; }
.ff-timeline .bar.thin.rented rect { stroke: #9A3C00; stroke-width: 0.5; }
.ff-timeline .before { fill: none; stroke-width: 1.5; }
"""

DEFS = (
    '<defs><pattern id="ff-boot" width="7" height="7" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="7" height="7" fill="#FFF1DE"/>'
    '<rect width="2.5" height="7" fill="#E08A3C"/></pattern></defs>'
)


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
class _Line:
    """A drawn row: one node, or several folded into one that have the same history."""

    node: NodeRow
    label: str
    n_nodes: int
    bars: tuple[int, ...]  # positions in Timeline.bars


@dataclass(frozen=True, slots=True)
class _Section:
    """Consecutive drawn rows under one heading; ``first`` and ``last`` are positions of lines."""

    first: int
    last: int
    top: float
    heading: str
    aside: str
    rented: bool


@dataclass(frozen=True, slots=True)
class _Page:
    """Where everything goes, in px: ``lines[i]`` begins at ``tops[i]`` and is ``heights[i]`` high.

    ``slots[i]`` has the (offset, height) of each bar of that line, as fractions of the line.
    """

    lines: tuple[_Line, ...]
    slots: tuple[list[tuple[float, float]], ...]
    sections: tuple[_Section, ...]
    tops: tuple[float, ...]
    heights: tuple[float, ...]
    left: float
    top: float
    bottom: float
    end_s: float
    span_s: float

    def x(self, time_s: float) -> float:
        """Where a time is, held inside the plot."""
        part = min(max(time_s / self.span_s, 0.0), 1.0)
        return self.left + part * (PLOT_RIGHT - self.left)


@dataclass(frozen=True, slots=True)
class _Block:
    """One rectangle of a job, in px; only the first one of a run of rows has a label."""

    bar: int
    x: float
    y: float
    width: float
    height: float
    labelled: bool


def timeline_svg(timeline: Timeline) -> str:
    """The timeline as SVG text, 1200 px wide.

    Above 300 rows, consecutive nodes with the same history are folded into one row, and what is
    still too many is counted in a note; likewise above 20,000 bars, where the smallest go.

    Raises:
        BadInput: a time that is not a number between -1e12 and 1e12, a span that ends before it
            starts, a share outside (0, 1], two rows of one name, or a bar without a known row.
    """
    _check(timeline)
    lines, hidden = _lines(timeline)
    page = _lay_out(timeline, lines)
    blocks, left_out = _largest(_blocks(page, timeline.bars))
    notes = _notes(timeline, hidden, left_out)
    legend_y = page.bottom + 48
    height = legend_y + 22 + 18 * len(notes) + 8
    parts = [
        *_opening(timeline, height),
        *(part for section in page.sections for part in _section_svg(page, section)),
        *_axis_svg(page),
        *_bars_svg(timeline, blocks),
        *_legend_svg(timeline, legend_y),
        *(_text(MARGIN, legend_y + 34 + 18 * i, "note", note) for i, note in enumerate(notes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# What is refused


def _check(timeline: Timeline) -> None:
    _check_span("timeline", 0.0, timeline.end_s)
    names: set[str] = set()
    for row in timeline.rows:
        where = f"row {_clean(row.name, 60)!r}"
        if row.name in names:
            raise BadInput("two rows have this name", where, "Give each node a name of its own.")
        names.add(row.name)
        _check_span(where, row.up_from_s, row.up_until_s)
        if row.boot_from_s is not None:
            _check_span(where, row.boot_from_s, row.up_from_s)
    for bar in timeline.bars:
        _check_bar(bar, names)


def _check_bar(bar: JobBar, row_names: set[str]) -> None:
    where = f"job {_clean(bar.job, 60)!r}"
    _check_span(where, bar.start_s, bar.end_s)
    if not 0 < bar.share <= 1:
        raise BadInput(f"a share of {bar.share}", where, "A share is above 0 and at most 1.")
    if not bar.nodes:
        raise BadInput("no node", where, "Name at least one row for each bar.")
    for node in bar.nodes:
        if node not in row_names:
            raise BadInput(f"no row {_clean(node, 60)!r}", where, "Add the row of that node.")


def _check_span(where: str, start_s: float, end_s: float) -> None:
    for time_s in (start_s, end_s):
        if not abs(time_s) <= MAX_TIME_S:  # also true of NaN
            raise BadInput(f"{time_s} is not a time in seconds", where)
    if end_s < start_s:
        raise BadInput(f"ends at {end_s} s, before it starts at {start_s} s", where)


# Which rows are drawn


def _lines(timeline: Timeline) -> tuple[tuple[_Line, ...], int]:
    """The rows to draw, and how many nodes are not among them."""
    on_row: dict[str, list[int]] = {row.name: [] for row in timeline.rows}
    for position, bar in enumerate(timeline.bars):
        for node in dict.fromkeys(bar.nodes):
            on_row[node].append(position)
    lines = [_Line(row, row.name, 1, tuple(on_row[row.name])) for row in timeline.rows]
    if len(lines) > MAX_ROWS:
        lines = [_folded(list(alike)) for _, alike in groupby(lines, key=_history)]
    kept = _kept(lines)
    return tuple(kept), len(timeline.rows) - sum(line.n_nodes for line in kept)


def _history(line: _Line) -> tuple[object, ...]:
    """Everything that is drawn in a row except its name."""
    node = line.node
    times = (node.boot_from_s, node.up_from_s, node.up_until_s)
    return (node.group, node.rented, times, line.bars)


def _folded(alike: Sequence[_Line]) -> _Line:
    first = alike[0]
    if len(alike) == 1:
        return first
    label = f"{_name_range([line.label for line in alike])} ({len(alike):,} nodes)"
    return _Line(first.node, label, len(alike), first.bars)


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


def _kept(lines: Sequence[_Line]) -> list[_Line]:
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


# Where they go


def _lay_out(timeline: Timeline, lines: tuple[_Line, ...]) -> _Page:
    slots = tuple(_slots([timeline.bars[bar] for bar in line.bars]) for line in lines)
    heights = _heights(slots)
    top = y = 104.0 if timeline.subtitle else 82.0
    group_sizes = Counter(row.group for row in timeline.rows)
    sections: list[_Section] = []
    tops: list[float] = []
    for (group, rented), members in groupby(lines, key=lambda ln: (ln.node.group, ln.node.rented)):
        section = list(members)
        first, last = len(tops), len(tops) + len(section) - 1
        aside = _aside(rented, group_sizes[group], section)
        sections.append(_Section(first, last, y, group, aside, rented))
        y += HEADING_HEIGHT
        for height in heights[first : last + 1]:
            tops.append(y)
            y += height
        y += SECTION_GAP
    bottom = y if lines else y + 2 * HEADING_HEIGHT
    widest = max((_width(_clean(line.label, 120), 11) for line in lines), default=0.0)
    return _Page(
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
    )


def _heights(slots: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, ...]:
    """How high each line is, in px. While there is room, jobs that share a node get labels."""
    low, high = ROW_HEIGHTS
    base = min(max(ROWS_HEIGHT / max(len(slots), 1), low), high)
    if base < high:
        return (base,) * len(slots)
    thinnest = (min((share for _, share in line), default=1.0) for line in slots)
    return tuple(min(max(SHARED_BAR_HEIGHT / share, base), 3 * base) for share in thinnest)


def _aside(rented: bool, n_nodes: int, section: Sequence[_Line]) -> str:
    """What is said beside the heading of a section."""
    if not rented:
        return f"{n_nodes:,} node{'s' * (n_nodes != 1)}"
    nodes = [line.node for line in section]
    up_from = min(node.up_from_s for node in nodes)
    up_until = max(node.up_until_s for node in nodes)
    asked = [node.boot_from_s for node in nodes if node.boot_from_s is not None]
    said = f"up from {_clock(up_from)} to {_clock(up_until)}"
    return f"requested at {_clock(min(asked))} · {said}" if asked else said


def _blocks(page: _Page, bars: Sequence[JobBar]) -> list[_Block]:
    """The rectangles of all bars; rows that follow each other and hold only one job are merged."""
    section_of = [n for n, s in enumerate(page.sections) for _ in range(s.first, s.last + 1)]
    latest: dict[int, tuple[int, bool]] = {}  # bar -> its last row so far, and whether it fills it
    begins: dict[int, int] = {}  # bar -> the row where its last block begins
    blocks: dict[tuple[int, int], _Block] = {}  # by bar and the row where the block begins
    for row, line in enumerate(page.lines):
        for bar, (offset, share) in zip(line.bars, page.slots[row], strict=True):
            if not _in_view(bars[bar], page.span_s):
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


def _in_view(bar: JobBar, span_s: float) -> bool:
    return bar.end_s >= 0 and bar.start_s <= span_s


def _block(
    bar: int, left: float, right: float, y: float, height: float, *, labelled: bool
) -> _Block:
    """A rectangle in one row. A job too short to see is still one px wide."""
    gap = min(2.0, height / 6)
    x = min(left, PLOT_RIGHT - 1)
    return _Block(bar, x, y + gap / 2, max(right - left, 1.0), max(height - gap, 0.5), labelled)


def _largest(blocks: list[_Block]) -> tuple[list[_Block], int]:
    """The MAX_BARS blocks that cover most, in their order, and how many others there are."""
    if len(blocks) <= MAX_BARS:
        return blocks, 0
    by_size = sorted(range(len(blocks)), key=lambda i: -blocks[i].width * blocks[i].height)
    return [blocks[i] for i in sorted(by_size[:MAX_BARS])], len(blocks) - MAX_BARS


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


# What is drawn


def _opening(timeline: Timeline, height: float) -> list[str]:
    size = f'width="{_n(WIDTH)}" height="{_n(height)}" viewBox="0 0 {_n(WIDTH)} {_n(height)}"'
    title = _clean(timeline.title, 100)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ff-timeline" {size} '
        f'role="img" aria-label="{_escaped(title)}">',
        f"<style>{STYLE}</style>",
        DEFS,
        # Viewers in dark mode would otherwise show dark text on their own dark page.
        f'<rect class="page" width="{_n(WIDTH)}" height="{_n(height)}" fill="#FFFFFF"/>',
        _text(MARGIN, 38, "title", _fitted(title, WIDTH - 2 * MARGIN, 20)),
    ]
    if timeline.subtitle:
        subtitle = _fitted(_clean(timeline.subtitle, 300), WIDTH - 2 * MARGIN, 13)
        parts.append(_text(MARGIN, 60, "subtitle", subtitle))
    return parts


def _section_svg(page: _Page, section: _Section) -> list[str]:
    foot = page.tops[section.last] + page.heights[section.last]
    kind = " rented" if section.rented else ""
    x, y = MARGIN, section.top + 16
    parts = [f'<g class="section{kind}">']
    if section.rented:
        parts += _rented_svg(section.top, foot)
        x += 78
    heading = _escaped(_fitted(_clean(section.heading, 80), 600, 12.5))
    aside = f'<tspan class="aside" dx="14">{_escaped(section.aside)}</tspan>'
    parts.append(f'<text class="heading{kind}" x="{_n(x)}" y="{_n(y)}">{heading}{aside}</text>')
    stride = math.ceil(11 / page.heights[section.first])  # names closer than 11 px would overlap
    for i in range(section.first, section.last + 1):
        parts += _row_svg(page, i, named=(i - section.first) % stride == 0)
    return [*parts, "</g>"]


def _rented_svg(top: float, foot: float) -> list[str]:
    """What makes rented rows stand out: a warm band, a bracket and a badge."""
    band = _rect(MARGIN - 12, top, PLOT_RIGHT - MARGIN + 24, foot - top + 4)
    spine, arm = _n(MARGIN - 2), _n(MARGIN + 4)
    bracket = f"M{arm},{_n(top + 5)} H{spine} V{_n(foot - 1)} H{arm}"
    return [
        f'<rect class="band" {band} rx="4"/>',
        f'<path class="bracket" d="{bracket}"/>',
        f'<rect class="badge" {_rect(MARGIN + 10, top + 4.5, 60, 15)} rx="7.5"/>',
        _text(MARGIN + 40, top + 15.5, "badge-text", "RENTED"),
    ]


def _row_svg(page: _Page, position: int, *, named: bool) -> list[str]:
    line, top, height = page.lines[position], page.tops[position], page.heights[position]
    node, label = line.node, _clean(line.label, 120)
    gap = min(1.0, height / 8)
    kind = "row rented" if node.rented else "row local"
    parts = [f'<g class="{kind}"><title>{_escaped(label)}</title>']
    spans = [("up", node.up_from_s, node.up_until_s)]
    if node.boot_from_s is not None:
        spans.append(("boot", node.boot_from_s, node.up_from_s))
    for name, start_s, end_s in spans:
        x, width = page.x(start_s), page.x(end_s) - page.x(start_s)
        if width > 0:
            area = _rect(x, top + gap / 2, width, height - gap)
            parts.append(f'<rect class="{name}" {area}/>')
    if named:
        fitted = _fitted(label, page.left - MARGIN - 16, 11)
        parts.append(_text(page.left - 8, top + height / 2 + 4, "node", fitted))
    return [*parts, "</g>"]


def _axis_svg(page: _Page) -> list[str]:
    parts = ['<g class="axes">']
    for time_s in _ticks(page.span_s, page.end_s):
        x, label = _n(page.x(time_s)), _clock(time_s)
        centre = min(page.x(time_s), WIDTH - 4 - _width(label, 11) / 2)
        parts.append(
            f'<line class="grid" x1="{x}" y1="{_n(page.top)}" x2="{x}" y2="{_n(page.bottom + 5)}"/>'
        )
        parts.append(_text(centre, page.bottom + 20, "tick", label))
        parts.append(_text(centre, page.top - 8, "tick", label))
    for y in (page.top - 2, page.bottom):
        left, right = _n(page.left), _n(PLOT_RIGHT)
        parts.append(f'<line class="axis" x1="{left}" y1="{_n(y)}" x2="{right}" y2="{_n(y)}"/>')
    parts.append(_text(MARGIN, page.bottom + 20, "aside", "time since the start"))
    return [*parts, "</g>"]


def _ticks(span_s: float, end_s: float) -> list[float]:
    """At most 13 round times from 0 to ``end_s``, as far apart as an axis of ``span_s`` wants."""
    days = [86400.0 * digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    hours = [3600.0 * h for h in (1, 2, 3, 6, 12)]
    minutes = [60.0 * m for m in (1, 2, 5, 10, 15, 30)]
    seconds = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0]
    step = next(step for step in seconds + minutes + hours + days if span_s / step <= 12)
    return [i * step for i in range(math.floor(end_s / step + 1e-9) + 1)]


def _bars_svg(timeline: Timeline, blocks: Sequence[_Block]) -> list[str]:
    colours: dict[str, str] = {}
    for bar in timeline.bars:
        colours.setdefault(bar.job, JOB_COLOURS[len(colours) % len(JOB_COLOURS)])
    parts = ['<g class="bars">']
    for block in blocks:
        bar = timeline.bars[block.bar]
        parts.append(_bar_svg(bar, block, colours[bar.job]))
    return [*parts, "</g>"]


def _bar_svg(bar: JobBar, block: _Block, colour: str) -> str:
    area = _rect(block.x, block.y, block.width, block.height)
    kind = "bar" + " rented" * bar.rented + " thin" * (block.height < THIN or block.width < THIN)
    ink = _ink(colour)
    inset = 6.0
    parts = [
        f'<g class="{kind}"><title>{_escaped(_tooltip(bar))}</title>'
        f'<rect {area} rx="{_n(min(2.5, block.height / 4))}" fill="{colour}"/>'
    ]
    if bar.running_before and block.width >= 14 and block.height >= LABEL_HEIGHT - 1:
        parts.append(_before(block.x, block.y + block.height / 2, ink))
        inset = 15.0
    font = min(12.0, 0.8 * block.height)
    room = block.width - inset - 4
    label = _fitted(_clean(bar.name or bar.job, 80), room, font)
    if block.labelled and label and block.height >= LABEL_HEIGHT:
        # An inner <svg> clips without an id, so that pictures can share a page.
        baseline = _n(block.height / 2 + 0.36 * font)
        parts.append(
            f'<svg {area}><text x="{_n(inset)}" y="{baseline}" '
            f'style="font-size:{_n(font)}px;fill:{ink}">{_escaped(label)}</text></svg>'
        )
    return "".join(parts) + "</g>"


def _before(x: float, middle: float, ink: str) -> str:
    """The mark of a job that was running before the timeline begins: two arrow heads."""
    strokes = "".join(f"M{_n(x + dx)},{_n(middle - 3)} l-3,3 l3,3" for dx in (6.5, 11.0))
    return f'<path class="before" d="{strokes}" stroke="{ink}"/>'


def _tooltip(bar: JobBar) -> str:
    n_nodes = len(set(bar.nodes))
    nodes = _clean(bar.nodes[0], 60) if n_nodes == 1 else f"{n_nodes:,} nodes"
    share = "" if bar.share == 1 else f" · {_n(100 * bar.share)}% of each"
    began = "before the start" if bar.running_before else _clock(bar.start_s)
    times = f"{began} to {_clock(bar.end_s)} ({_clock(bar.end_s - bar.start_s)})"
    where = " · rented" if bar.rented else ""
    return f"{_clean(bar.job, 60)} · {_clean(bar.name, 80)} · {times} · {nodes}{share}{where}"


def _legend_svg(timeline: Timeline, y: float) -> list[str]:
    """Only what the picture can contain is explained."""
    colour = JOB_COLOURS[0]
    items = [("", f'rx="2.5" fill="{colour}"', "job, on local nodes"), ("", 'class="up"', "idle")]
    if any(row.rented for row in timeline.rows):
        items = [
            items[0],
            ("bar rented", f'rx="2.5" fill="{colour}"', "job, on rented nodes"),
            ("", 'class="up"', "local, idle"),
            ("rented", 'class="up"', "rented, idle (paid for)"),
            ("rented", 'class="boot"', "rented, booting"),
        ]
    parts = ['<g class="legend">']
    x = MARGIN
    for group, look, label in items:
        parts.append(f'<g class="{group}"><rect {_rect(x, y - 10, 22, 13)} {look}/></g>')
        parts.append(_text(x + 29, y + 1, "aside", label))
        x += 29 + _width(label, 11) + 20
    if any(bar.running_before for bar in timeline.bars):
        parts.append(f'<rect {_rect(x, y - 10, 22, 13)} rx="2.5" fill="{colour}"/>')
        parts.append(_before(x, y - 3.5, LIGHT_TEXT))
        parts.append(_text(x + 29, y + 1, "aside", "running before the start"))
    return [*parts, "</g>"]


def _notes(timeline: Timeline, hidden_nodes: int, left_out: int) -> list[str]:
    """What the picture does not show."""
    span_s = max(timeline.end_s, 1.0)
    outside = sum(not _in_view(bar, span_s) for bar in timeline.bars)
    notes = []
    if hidden_nodes:
        notes.append(f"… {hidden_nodes:,} more nodes not drawn, nor what ran on them")
    if left_out:
        notes.append(f"… {left_out:,} more bars not drawn: the smallest ones")
    if outside:
        notes.append(f"… {outside:,} more bars not drawn: outside the time of this picture")
    if not timeline.rows:
        notes.append("There are no nodes in this timeline.")
    return notes


# Text and numbers


def _clean(text: str, limit: int) -> str:
    """``text`` without control, format and surrogate characters, at most ``limit`` long.

    Cut first, with room to spare, so that a name of a gigabyte costs no more than a short one.
    """
    head = text[: 4 * limit]
    spaced = "".join(" " if ch.isspace() else ch for ch in head)
    shown = "".join(
        ch
        for ch in spaced
        # Cf turns writing direction round; U+FFFE and U+FFFF are not XML.
        if unicodedata.category(ch) not in ("Cc", "Cf", "Cs") and ch not in "\ufffe\uffff"
    )
    return shown if len(shown) <= limit and len(head) == len(text) else shown[: limit - 1] + "…"


def _escaped(text: str) -> str:
    return escape(text, {'"': "&quot;", "'": "&apos;"})


def _width(text: str, font: float) -> float:
    """About how wide ``text`` is, in px; East Asian wide characters are a full em."""
    return sum(font * (1.0 if _is_wide(ch) else GLYPH_EM) for ch in text)


def _is_wide(ch: str) -> bool:
    return unicodedata.east_asian_width(ch) in "WF"


def _fitted(text: str, room: float, font: float) -> str:
    """``text``, or as much of it as fits in ``room`` px with an ellipsis; empty below 3 signs."""
    if _width(text, font) <= room:
        return text
    fits = 0
    used = font  # the ellipsis
    for ch in text:
        used += _width(ch, font)
        if used > room:
            break
        fits += 1
    return text[:fits].rstrip() + "…" if fits >= 3 else ""


def _text(x: float, y: float, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{_escaped(text)}</text>'


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'


def _n(number: float) -> str:
    """A number with at most two decimals."""
    short = f"{number:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _clock(time_s: float) -> str:
    """A time by its two largest units: ``2h 30m``, ``1d 12h``, ``45s``."""
    if time_s < 0:
        return f"−{_clock(-time_s)}"
    if time_s < 10:
        return f"{_n(time_s)}s" if time_s else "0"
    total = round(time_s)
    units = (
        (f"{total // 86400:,}d", total // 86400),
        (f"{total // 3600 % 24}h", total // 3600 % 24),
        (f"{total // 60 % 60}m", total // 60 % 60),
        (f"{total % 60}s", total % 60),
    )
    first = next(i for i, (_, count) in enumerate(units) if count)
    return " ".join(text for text, count in units[first : first + 2] if count)


def _ink(colour: str) -> str:
    """Dark or light text, whichever has more contrast on ``colour`` (WCAG 2 luminance)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK_TEXT if (luminance + 0.05) ** 2 > 1.05 * 0.063 else LIGHT_TEXT
