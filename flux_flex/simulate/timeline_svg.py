"""Draw who ran where and when: nodes as rows, jobs as bars, rented nodes on a warm band.

The picture is one self-contained SVG text. It is a pure function of its input, so the same
timeline gives the same bytes, and it is bounded: whatever does not fit is counted in a note
below the picture instead of being left out in silence.

    node = NodeRow("compute0", False, "local", 0, 3600, None)
    job = JobBar("ƒ2X", "lammps", 0, 1800, ("compute0",), rented=False)
    Path("timeline.svg").write_text(timeline_svg(Timeline("One job", (node,), (job,), 3600)))

Here are the colours, the style and the SVG. Where things go, and what is folded or left out, is in
:mod:`flux_flex.simulate.timeline_layout`.

Times are seconds since the start of the timeline. Every name is taken as hostile text: what
cannot be printed is a question mark, and the rest is cut to a length and escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flux_flex.model.quoting import one_line
from flux_flex.simulate.timeline_layout import (
    MARGIN,
    PLOT_RIGHT,
    WIDTH,
    Block,
    JobBar,
    NodeRow,
    Page,
    Section,
    Timeline,
    axis_ticks,
    clock,
    in_view,
    job_blocks,
    lay_out,
)
from flux_flex.svg_text import box, escaped, fitted, text_element, text_width
from flux_flex.svg_text import number as _n

__all__ = ["JobBar", "NodeRow", "Timeline", "timeline_svg"]

THIN = 5.0  # an outline would cover a bar that is thinner
LABEL_HEIGHT = 10.0  # a bar lower than this has no readable label

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


def timeline_svg(timeline: Timeline) -> str:
    """The timeline as SVG text, 1200 px wide.

    Above 300 rows, consecutive nodes with the same history are folded into one row, and what is
    still too many is counted in a note; likewise above 20,000 bars, where the smallest go.

    Raises:
        BadInput: a time that is not a number between -1e12 and 1e12, a span that ends before it
            starts, a share outside (0, 1], two rows of one name, or a bar without a known row.
    """
    page = lay_out(timeline)
    blocks, left_out = job_blocks(page, timeline.bars)
    notes = _notes(page, timeline, left_out)
    legend_y = page.bottom + 48
    height = legend_y + 22 + 18 * len(notes) + 8
    parts = [
        *_opening(timeline, height),
        *(part for section in page.sections for part in _section_svg(page, section)),
        *_axis_svg(page),
        *_bars_svg(timeline, blocks),
        *_legend_svg(timeline, legend_y),
        *(text_element(MARGIN, legend_y + 34 + 18 * i, "note", n) for i, n in enumerate(notes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# What is drawn


def _opening(timeline: Timeline, height: float) -> list[str]:
    size = f'width="{_n(WIDTH)}" height="{_n(height)}" viewBox="0 0 {_n(WIDTH)} {_n(height)}"'
    title = one_line(timeline.title, 100)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ff-timeline" {size} '
        f'role="img" aria-label="{escaped(title)}">',
        f"<style>{STYLE}</style>",
        DEFS,
        # Viewers in dark mode would otherwise show dark text on their own dark page.
        f'<rect class="page" width="{_n(WIDTH)}" height="{_n(height)}" fill="#FFFFFF"/>',
        text_element(MARGIN, 38, "title", fitted(title, WIDTH - 2 * MARGIN, 20)),
    ]
    if timeline.subtitle:
        subtitle = fitted(one_line(timeline.subtitle, 300), WIDTH - 2 * MARGIN, 13)
        parts.append(text_element(MARGIN, 60, "subtitle", subtitle))
    return parts


def _section_svg(page: Page, section: Section) -> list[str]:
    foot = page.tops[section.last] + page.heights[section.last]
    kind = " rented" if section.rented else ""
    x, y = MARGIN, section.top + 16
    parts = [f'<g class="section{kind}">']
    if section.rented:
        parts += _rented_svg(section.top, foot)
        x += 78
    heading = escaped(fitted(one_line(section.heading, 80), 600, 12.5))
    aside = f'<tspan class="aside" dx="14">{escaped(section.aside)}</tspan>'
    parts.append(f'<text class="heading{kind}" x="{_n(x)}" y="{_n(y)}">{heading}{aside}</text>')
    stride = math.ceil(11 / page.heights[section.first])  # names closer than 11 px would overlap
    for i in range(section.first, section.last + 1):
        parts += _row_svg(page, i, named=(i - section.first) % stride == 0)
    return [*parts, "</g>"]


def _rented_svg(top: float, foot: float) -> list[str]:
    """What makes rented rows stand out: a warm band, a bracket and a badge."""
    band = box(MARGIN - 12, top, PLOT_RIGHT - MARGIN + 24, foot - top + 4)
    spine, arm = _n(MARGIN - 2), _n(MARGIN + 4)
    bracket = f"M{arm},{_n(top + 5)} H{spine} V{_n(foot - 1)} H{arm}"
    return [
        f'<rect class="band" {band} rx="4"/>',
        f'<path class="bracket" d="{bracket}"/>',
        f'<rect class="badge" {box(MARGIN + 10, top + 4.5, 60, 15)} rx="7.5"/>',
        text_element(MARGIN + 40, top + 15.5, "badge-text", "RENTED"),
    ]


def _row_svg(page: Page, position: int, *, named: bool) -> list[str]:
    line, top, height = page.lines[position], page.tops[position], page.heights[position]
    node, label = line.node, one_line(line.label, 120)
    gap = min(1.0, height / 8)
    kind = "row rented" if node.rented else "row local"
    parts = [f'<g class="{kind}"><title>{escaped(label)}</title>']
    spans = [("up", node.up_from_s, node.up_until_s)]
    if node.boot_from_s is not None:
        spans.append(("boot", node.boot_from_s, node.up_from_s))
    for name, start_s, end_s in spans:
        x, width = page.x(start_s), page.x(end_s) - page.x(start_s)
        if width > 0:
            area = box(x, top + gap / 2, width, height - gap)
            parts.append(f'<rect class="{name}" {area}/>')
    if named:
        shown = fitted(label, page.left - MARGIN - 16, 11)
        parts.append(text_element(page.left - 8, top + height / 2 + 4, "node", shown))
    return [*parts, "</g>"]


def _axis_svg(page: Page) -> list[str]:
    parts = ['<g class="axes">']
    for time_s in axis_ticks(page):
        x, label = _n(page.x(time_s)), clock(time_s)
        centre = min(page.x(time_s), WIDTH - 4 - text_width(label, 11) / 2)
        parts.append(
            f'<line class="grid" x1="{x}" y1="{_n(page.top)}" x2="{x}" y2="{_n(page.bottom + 5)}"/>'
        )
        parts.append(text_element(centre, page.bottom + 20, "tick", label))
        parts.append(text_element(centre, page.top - 8, "tick", label))
    for y in (page.top - 2, page.bottom):
        left, right = _n(page.left), _n(PLOT_RIGHT)
        parts.append(f'<line class="axis" x1="{left}" y1="{_n(y)}" x2="{right}" y2="{_n(y)}"/>')
    parts.append(text_element(MARGIN, page.bottom + 20, "aside", "time since the start"))
    return [*parts, "</g>"]


def _bars_svg(timeline: Timeline, blocks: Sequence[Block]) -> list[str]:
    colours: dict[str, str] = {}
    for bar in timeline.bars:
        colours.setdefault(bar.job, JOB_COLOURS[len(colours) % len(JOB_COLOURS)])
    parts = ['<g class="bars">']
    for block in blocks:
        bar = timeline.bars[block.bar]
        parts.append(_bar_svg(bar, block, colours[bar.job]))
    return [*parts, "</g>"]


def _bar_svg(bar: JobBar, block: Block, colour: str) -> str:
    area = box(block.x, block.y, block.width, block.height)
    kind = "bar" + " rented" * bar.rented + " thin" * (block.height < THIN or block.width < THIN)
    ink = _ink(colour)
    inset = 6.0
    parts = [
        f'<g class="{kind}"><title>{escaped(_tooltip(bar))}</title>'
        f'<rect {area} rx="{_n(min(2.5, block.height / 4))}" fill="{colour}"/>'
    ]
    if bar.running_before and block.width >= 14 and block.height >= LABEL_HEIGHT - 1:
        parts.append(_before(block.x, block.y + block.height / 2, ink))
        inset = 15.0
    font = min(12.0, 0.8 * block.height)
    room = block.width - inset - 4
    label = fitted(one_line(bar.name or bar.job, 80), room, font)
    if block.labelled and label and block.height >= LABEL_HEIGHT:
        # An inner <svg> clips without an id, so that pictures can share a page.
        baseline = _n(block.height / 2 + 0.36 * font)
        parts.append(
            f'<svg {area}><text x="{_n(inset)}" y="{baseline}" '
            f'style="font-size:{_n(font)}px;fill:{ink}">{escaped(label)}</text></svg>'
        )
    return "".join(parts) + "</g>"


def _before(x: float, middle: float, ink: str) -> str:
    """The mark of a job that was running before the timeline begins: two arrow heads."""
    strokes = "".join(f"M{_n(x + dx)},{_n(middle - 3)} l-3,3 l3,3" for dx in (6.5, 11.0))
    return f'<path class="before" d="{strokes}" stroke="{ink}"/>'


def _tooltip(bar: JobBar) -> str:
    n_nodes = len(set(bar.nodes))
    nodes = one_line(bar.nodes[0], 60) if n_nodes == 1 else f"{n_nodes:,} nodes"
    share = "" if bar.share == 1 else f" · {_n(100 * bar.share)}% of each"
    began = "before the start" if bar.running_before else clock(bar.start_s)
    times = f"{began} to {clock(bar.end_s)} ({clock(bar.end_s - bar.start_s)})"
    where = " · rented" if bar.rented else ""
    return f"{one_line(bar.job, 60)} · {one_line(bar.name, 80)} · {times} · {nodes}{share}{where}"


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
        parts.append(f'<g class="{group}"><rect {box(x, y - 10, 22, 13)} {look}/></g>')
        parts.append(text_element(x + 29, y + 1, "aside", label))
        x += 29 + text_width(label, 11) + 20
    if any(bar.running_before for bar in timeline.bars):
        parts.append(f'<rect {box(x, y - 10, 22, 13)} rx="2.5" fill="{colour}"/>')
        parts.append(_before(x, y - 3.5, LIGHT_TEXT))
        parts.append(text_element(x + 29, y + 1, "aside", "running before the start"))
    return [*parts, "</g>"]


def _notes(page: Page, timeline: Timeline, left_out: int) -> list[str]:
    """What the picture does not show; ``left_out`` is the bars there was no room for."""
    outside = sum(not in_view(bar, page.span_s) for bar in timeline.bars)
    notes = []
    if page.hidden_nodes:
        notes.append(f"… {page.hidden_nodes:,} more nodes not drawn, nor what ran on them")
    if left_out:
        notes.append(f"… {left_out:,} more bars not drawn: the smallest ones")
    if outside:
        notes.append(f"… {outside:,} more bars not drawn: outside the time of this picture")
    if not timeline.rows:
        notes.append("There are no nodes in this timeline.")
    return notes


# Ink


def _ink(colour: str) -> str:
    """Dark or light text, whichever has more contrast on ``colour`` (WCAG 2 luminance)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK_TEXT if (luminance + 0.05) ** 2 > 1.05 * 0.063 else LIGHT_TEXT
