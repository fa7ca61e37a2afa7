"""Draw the network as one self-contained SVG: layers as rows of bars, hosts as cells below them.

    Path("network.svg").write_text(topology_svg(network, standing, job))

What does not fit beside each other goes on in the next band, and the more hosts there are the
smaller are their cells, so 1,000 hosts fit a screen. States are colours and patterns; a job's
hosts are outlined, and what is above them is dark. Everything has a tooltip.

Every name is taken as hostile text: what cannot be printed is a question mark, and the
rest is cut and escaped. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from flux_flex.model.network import NetworkPlace
from flux_flex.model.quoting import one_line
from flux_flex.svg_text import GLYPH_EM, box, escaped, fitted, text_element, text_width
from flux_flex.svg_text import number as _n
from flux_flex.topology.mapping import Network
from flux_flex.topology.render import (
    STATE_WORDS,
    Bough,
    bough_of,
    counted,
    hostlist,
    jobs_words,
    span_words,
    state_counts,
)
from flux_flex.topology.standing import STATES, PlacedJob, Standing

# In px.
WIDTH = 1200.0
MARGIN = 24.0
PLOT_LEFT = 78.0  # behind the names of the layers
PLOT_WIDTH = WIDTH - MARGIN - PLOT_LEFT
TOP = 84.0
BAR = 18.0
BAND_GAP = 26.0
# Cells shrink before the bands get taller than a screen; small cells, before they get too tall.
SCREEN = 750.0
TALL = 1500.0

_BOLD_EM = 0.69
_LONGEST = 100
_FONT = 10.5

_STYLE = """
.ff-topology text { font-family: Inter, 'Source Sans 3', 'Helvetica Neue', Arial, 'DejaVu Sans',
  sans-serif; font-size: 10.5px; fill: #14202B; }
.ff-topology text.title { font-size: 20px; font-weight: 700; }
.ff-topology text.subtitle { font-size: 13px; fill: #4A5763; }
.ff-topology text.layer { font-size: 11px; fill: #4A5763; text-anchor: end; }
.ff-topology text.legend { font-size: 12px; }
.ff-topology text.note { font-size: 12px; font-style: italic; fill: #7A2E00; }
.ff-topology .bar { fill: #DDE5ED; }
.ff-topology .bar.zone, .ff-topology .bar.region { fill: #C3CFDB; }
.ff-topology .bar.on { fill: #14202B; }
.ff-topology text.on { fill: #FFFFFF; font-weight: 700; }
.ff-topology .free { fill: #BFE5C8; }
.ff-topology .partly { fill: url(#ff-partly); }
.ff-topology .allocated { fill: #2B7BBA; }
.ff-topology .drained { fill: url(#ff-drained); }
.ff-topology .down { fill: #A93226; }
.ff-topology .unknown { fill: #E3E7EB; }
.ff-topology .cell { stroke: #14202B; stroke-opacity: 0.25; stroke-width: 0.5; }
.ff-topology .cell.mine { stroke: #14202B; stroke-opacity: 1; stroke-width: 2; }
.ff-topology .cell.other { opacity: 0.4; }
.ff-topology .cell.none { fill: #FFFFFF; }
.ff-topology text.light { fill: #FFFFFF; }
.ff-topology text.halo { stroke: #FFFFFF; stroke-width: 2.5px; stroke-linejoin: round;
  paint-order: stroke; }
.ff-topology text.mine { font-weight: 700; }
"""

# Names on patterns get an outline, and those on dark colours are light.
_INK = {"allocated": "light", "down": "light", "partly": "halo", "drained": "halo"}

_DEFS = (
    '<defs><linearGradient id="ff-partly" x1="0" y1="0" x2="1" y2="1">'
    '<stop offset="0.5" stop-color="#BFE5C8"/><stop offset="0.5" stop-color="#2B7BBA"/>'
    '</linearGradient><pattern id="ff-drained" width="4" height="4" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="4" height="4" fill="#EBD5E8"/>'
    '<rect width="1.6" height="4" fill="#8E4585"/></pattern></defs>'
)


def topology_svg(network: Network, standing: Standing, job: PlacedJob | None = None) -> str:
    """The network as SVG text, 1200 px wide; ``job`` is the one to point out.

    Raises BadInput where the places make no tree.
    """
    root = bough_of(network.tree, standing, job)
    page = _lay_out(root)
    legend_y = TOP + page.height + 14
    notes = _notes(network)
    height = legend_y + 34 + 18 * len(notes)
    ink = _Ink(network, standing, job, page)
    parts = [
        *_opening(network, root, job, height),
        *ink.bands(),
        *_legend(root, job, legend_y),
        *(text_element(MARGIN, legend_y + 36 + 18 * i, "note", n) for i, n in enumerate(notes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# -- where things go -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cells:
    """How large the cells are, in px, and how many stand on each other in a column."""

    width: float
    height: float
    rows: int
    labelled: bool


@dataclass(frozen=True, slots=True)
class _Column:
    """Hosts of one branch on each other, at ``x``, below the boughs of ``path``, top first."""

    x: float
    path: tuple[Bough, ...]
    hosts: Sequence[str]


@dataclass(slots=True)
class _Page:
    """Bands of columns, each from left to right."""

    cells: _Cells
    depth: int
    bands: list[list[_Column]] = field(default_factory=list)

    def band_height(self, band: Sequence[_Column]) -> float:
        rows = max(len(column.hosts) for column in band)
        return self.depth * (BAR + 1) + 2 + rows * (self.cells.height + 1) + BAND_GAP

    @property
    def height(self) -> float:
        return sum(map(self.band_height, self.bands))


def _lay_out(root: Bough) -> _Page:
    """The largest cells with which the page does not get too tall."""
    fullest = max((len(bough.hosts) for bough, _ in _branches(root)), default=1)
    depth = max((len(path) for _, path in _branches(root)), default=1)
    longest = max((len(host) for b, _ in _branches(root) for host in b.hosts), default=1)
    width = min(max(longest * GLYPH_EM * _FONT + 10, 60.0), 150.0)
    rows = min(max(fullest, 1), 16)
    sizes = [(_Cells(150.0, 18.0, rows, True), 400.0), (_Cells(width, 18.0, rows, True), 900.0)]
    sizes += [(_Cells(side, side, rows, False), SCREEN) for side in (20.0, 17.0, 14.0)]
    sizes += [(_Cells(side, side, rows, False), TALL) for side in (12.0, 10.0, 8.0, 6.0)]
    sizes.append((_Cells(5.0, 5.0, min(max(fullest, 1), 32), False), TALL))
    for cells, tall in sizes:
        page = _Filler(_Page(cells, depth)).filled(root)
        if page.height <= tall:
            break
    return page


def _branches(
    bough: Bough, path: tuple[Bough, ...] = ()
) -> Iterator[tuple[Bough, tuple[Bough, ...]]]:
    """The boughs that have hosts right below them, with the path to each (and with itself)."""
    if bough.hosts:
        yield bough, path
    for below in bough.boughs:
        yield from _branches(below, (*path, below))


class _Filler:
    """Puts columns beside each other, and begins a band where one is full."""

    def __init__(self, page: _Page) -> None:
        self._page = page
        self._x = 0.0
        self._before: tuple[Bough, ...] = ()

    def filled(self, root: Bough) -> _Page:
        self._put(root, ())
        return self._page

    def _put(self, bough: Bough, path: tuple[Bough, ...]) -> None:
        # A branch begins a band rather than being torn, unless that left much of this one empty.
        wanted = self._width(bough)
        may_break = not bough.boughs or self._x > 0.6 * PLOT_WIDTH
        if may_break and wanted <= PLOT_WIDTH < self._x + wanted:
            self._x = 0.0
        n_hosts = len(bough.hosts)
        if n_hosts:
            # Columns of one branch are about equally high.
            rows = -(-n_hosts // self._columns(bough))
            for first in range(0, n_hosts, rows):
                self._add(path, bough.hosts[first : first + rows])
        for below in bough.boughs:
            self._put(below, (*path, below))

    def _add(self, path: tuple[Bough, ...], hosts: Sequence[str]) -> None:
        bands, width = self._page.bands, self._page.cells.width
        gap = self._gap(path)
        if not self._x or self._x + gap + width > PLOT_WIDTH:
            bands.append([])
            self._x = gap = 0.0
        bands[-1].append(_Column(PLOT_LEFT + self._x + gap, path, hosts))
        self._x += gap + width
        self._before = path

    def _gap(self, path: tuple[Bough, ...]) -> float:
        """What separates a column from the one before it: the more, the higher they part."""
        shared = 0
        for one, other in zip(path, self._before, strict=False):
            if one is not other:
                break
            shared += 1
        return self._gap_at(max(len(path), len(self._before)) - shared)

    def _gap_at(self, parted: int) -> float:
        return 1.0 + min(parted, 4) * (4.0 if self._page.cells.labelled else 2.0)

    def _width(self, bough: Bough) -> float:
        """About how wide a branch is."""
        n_columns = sum(self._columns(one) for one, _ in _branches(bough))
        return n_columns * (self._page.cells.width + self._gap_at(1))

    def _columns(self, bough: Bough) -> int:
        """How many columns the hosts right below it need."""
        return -(-len(bough.hosts) // self._page.cells.rows)


# -- what is drawn -------------------------------------------------------------------------------


class _Ink:
    """Draws the bands of a page."""

    def __init__(
        self, network: Network, standing: Standing, job: PlacedJob | None, page: _Page
    ) -> None:
        self._places = {place.host: place for place in network.places}
        self._standing = standing
        self._mine = frozenset(job.hosts) if job else None
        self._page = page
        self._drawn: set[int] = set()
        upper = ["region", "zone"] if network.tree.regions else ["zone"]
        lower = [f"nn{layer + 1}" for layer in range(page.depth - len(upper))]
        self._layers = [*upper, *lower][: page.depth]

    def bands(self) -> Iterator[str]:
        """Each band as a group."""
        top = TOP
        for band in self._page.bands:
            yield '<g class="band">'
            for depth, layer in enumerate(self._layers):
                y = top + depth * (BAR + 1)
                yield text_element(PLOT_LEFT - 8, y + 13, "layer", layer)
                yield from self._bars(band, depth, y)
            y = top + len(self._layers) * (BAR + 1) + 2
            yield text_element(
                PLOT_LEFT - 8, y + max(9.0, self._page.cells.height / 2 + 4), "layer", "hosts"
            )
            for column in band:
                yield from self._cells(column, y)
            yield "</g>"
            top += self._page.band_height(band)

    def _bars(self, band: Sequence[_Column], depth: int, y: float) -> Iterator[str]:
        deep = (column for column in band if len(column.path) > depth)
        for _, group in groupby(deep, key=lambda column: id(column.path[depth])):
            columns = list(group)
            bough = columns[0].path[depth]
            left, right = columns[0].x, columns[-1].x + self._page.cells.width
            on = any(self._mine and self._mine.intersection(one.hosts) for one in columns)
            kind = f"bar {bough.kind.replace(' ', '-')}{' on' if on else ''}"
            again = " (continued)" if id(bough) in self._drawn else ""
            self._drawn.add(id(bough))
            contents = _contents(bough)
            title = f"{bough.kind} {one_line(bough.name, _LONGEST)}{again} · {contents}"
            yield (
                f'<rect class="{kind}" {box(left, y, right - left, BAR)} rx="2">'
                f"<title>{escaped(title)}</title></rect>"
            )
            name = f"{one_line(bough.name, _LONGEST)}{again}"
            room = right - left - 10
            label = f"{name} · {contents}"
            em = _BOLD_EM if on else GLYPH_EM
            label = label if text_width(label, _FONT, em) <= room else fitted(name, room, _FONT, em)
            if label:
                yield text_element(left + 5, y + 12.5, "on" if on else "", label)

    def _cells(self, column: _Column, top: float) -> Iterator[str]:
        size = self._page.cells
        for row, host in enumerate(column.hosts):
            y = top + row * (size.height + 1)
            state = self._standing.states.get(host, "unknown")
            is_mine = self._mine is not None and host in self._mine
            kind = " mine" if is_mine else " other" if self._mine is not None else ""
            area = box(column.x, y, size.width, size.height)
            yield (
                f'<rect class="cell {state}{kind}" {area}>'
                f"<title>{escaped(self._tooltip(self._places[host]))}</title></rect>"
            )
            if not size.labelled:
                continue
            em = _BOLD_EM if is_mine else GLYPH_EM
            label = fitted(one_line(host, _LONGEST), size.width - 8, _FONT, em)
            ink = "" if kind == " other" else _INK.get(state, "")
            yield text_element(column.x + 4, y + 12.5, f"{ink}{kind}".strip(), label)

    def _tooltip(self, place: NetworkPlace) -> str:
        standing, host = self._standing, place.host
        block = place.capacity_block
        words = [
            one_line(host, _LONGEST),
            one_line(place.instance_id, _LONGEST),
            one_line(place.instance_type, _LONGEST),
            STATE_WORDS.get(standing.states.get(host, ""), "state unknown"),
            jobs_words(standing.jobs.get(host, ())),
            f"capacity block {one_line(block, _LONGEST)}" if block else "",
        ]
        return " · ".join(word for word in words if word)


def _opening(network: Network, root: Bough, job: PlacedJob | None, height: float) -> list[str]:
    size = f'width="{_n(WIDTH)}" height="{_n(height)}" viewBox="0 0 {_n(WIDTH)} {_n(height)}"'
    tree = network.tree
    title = ", ".join(
        [
            counted(root.n_hosts, "host"),
            counted(len(tree.zones), "zone"),
            counted(sum(map(len, tree.layers)), "network node"),
        ]
    )
    subtitle = one_line(span_words(job, tree), 400) if job else _contents(root)
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ff-topology" {size} role="img" '
        f'aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        _DEFS,
        # Viewers in dark mode would otherwise show dark text on their own dark page.
        f'<rect class="page" width="{_n(WIDTH)}" height="{_n(height)}" fill="#FFFFFF"/>',
        text_element(MARGIN, 38, "title", title),
        text_element(MARGIN, 60, "subtitle", fitted(subtitle, WIDTH - 2 * MARGIN, 13)),
    ]


def _legend(root: Bough, job: PlacedJob | None, y: float) -> list[str]:
    """Only what the picture has is explained."""
    parts = ['<g class="legend">']
    x = MARGIN
    known = [(str(state), STATE_WORDS[state], root.states[state]) for state in STATES]
    entries = [*known, ("unknown", "state unknown", root.states[""])]
    for kind, words, count in entries:
        if count:
            label = f"{words} ({count:,})"
            parts += _entry(x, y, kind, label)
            x += 34 + text_width(label, 12)
    if job:
        parts += _entry(x, y, "none mine", f"of the job ({len(job.hosts):,})")
    return [*parts, "</g>"]


def _entry(x: float, y: float, kind: str, label: str) -> list[str]:
    return [
        f'<rect class="cell {kind}" {box(x, y, 14, 14)}/>',
        text_element(x + 20, y + 11.5, "legend", label),
    ]


def _notes(network: Network) -> list[str]:
    notes = []
    for what, hosts in (("unknown", network.unmapped), ("claimed twice", tuple(network.claimed))):
        if hosts:
            said = f"{counted(len(hosts), 'host')} not drawn, place {what}: {hostlist(hosts, 100)}"
            notes.append(one_line(said, 160))
    return notes


def _contents(bough: Bough) -> str:
    leaves = f"{counted(bough.leaves, 'leaf')}, " if bough.boughs and bough.leaves else ""
    states = ", ".join(text for text, _ in state_counts(bough.states))
    return f"{leaves}{counted(bough.n_hosts, 'host')}{f': {states}' if states else ''}"
