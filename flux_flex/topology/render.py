"""The network as a tree of lines for a terminal, folded until it can be read.

    drawing = draw(network, standing, job)
    drawing.root.pieces        # (("16 hosts, 1 zone, 7 network nodes", "title"),)
    drawing.root.twigs         # the lines below it
    drawing.notes              # lines under the tree

A line is pieces of text, each with the role it plays, which is a HostState or says how to show it.
What a terminal makes of roles, and of characters that could steer it, is the command's business:
names are as they came here, only cut.

Up to 40 lines each host has one. Above, hosts that are alike share a line; then the lowest
branches are shut, layer by layer, until there are at most 100 lines. With a job, branches that
have none of it are shut from the start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flux_flex.errors import BadInput
from flux_flex.model.hostlist import format_hostlist
from flux_flex.model.jobid import f58
from flux_flex.model.network import NetworkTree
from flux_flex.topology.mapping import Network
from flux_flex.topology.standing import STATES, PlacedJob, Standing

MOST_UNFOLDED = 40
MOST_LINES = 100
_MOST_NOTES = 8  # domains and claimed hosts; more are counted

_NAME = 48
_HOSTLIST = 60
_JOBS = 4

STATE_WORDS: dict[str, str] = {
    **dict(zip(STATES, STATES, strict=True)),
    "partly": "partly allocated",
}

Piece = tuple[str, str]
"""Text, and its role: a HostState, ``title``, ``job`` (the one asked for), ``aside`` or ''."""


@dataclass(slots=True)
class Twig:
    """A line with those below it."""

    pieces: tuple[Piece, ...]
    twigs: list[Twig] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The line without its roles."""
        return "".join(text for text, _ in self.pieces)

    def __iter__(self) -> Iterator[Twig]:
        """The line and all below it, depth first."""
        yield self
        for twig in self.twigs:
            yield from twig


@dataclass(frozen=True, slots=True)
class Drawing:
    """The tree, and the lines that stand under it."""

    root: Twig
    notes: tuple[tuple[Piece, ...], ...]


@dataclass(slots=True)
class Bough:
    """A region, zone or network node (or all of them: the root) with what is below it.

    hosts    those right below it
    states   how many hosts, at or below, are in each state; those in none count for ''
    leaves   how many network nodes, at or below, have none below them
    marked   how many hosts, at or below, the job has that is asked for
    height   1 where only hosts are below, else one more than the highest bough below
    """

    name: str
    kind: str
    boughs: list[Bough] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    leaves: int = 0
    marked: int = 0
    height: int = 1

    @property
    def n_hosts(self) -> int:
        return self.states.total()


@dataclass(frozen=True, slots=True)
class _Fold:
    """How much is folded: alike hosts, boughs up to a height, siblings that the job is not on."""

    hosts: bool = True
    height: int = 0
    siblings: bool = False


def draw(
    network: Network,
    standing: Standing,
    job: PlacedJob | None = None,
    *,
    everything: bool = False,
) -> Drawing:
    """The lines for a network; ``job`` is marked, and ``everything`` folds nothing.

    Raises BadInput where the places make no tree.
    """
    root = bough_of(network.tree, standing, job)
    pencil = _Pencil(network, standing, job, everything=everything)
    fold, twig = _Fold(hosts=False), None
    if not everything:
        for fold in _folds(root, job):
            twig = pencil.root(root, fold)
            if sum(1 for _ in twig) <= (MOST_LINES if fold.hosts else MOST_UNFOLDED):
                break
    if twig is None:
        twig = pencil.root(root, fold)
    notes = [*_domains(network, standing, everything), *_placeless(network, everything)]
    if job is not None:
        notes.append(((f"* {span_words(job, network.tree)}", "job"),))
    if pencil.has_folded:
        notes.append((("--all shows each host", "aside"),))
    return Drawing(twig, tuple(notes))


def bough_of(tree: NetworkTree, standing: Standing, job: PlacedJob | None = None) -> Bough:
    """The root of the tree, with all that is counted below each of its branches."""
    root = Bough("", "root")
    marked = set(job.hosts) if job else set()
    path = [root]
    for branch in tree:
        if branch.kind == "host":
            path[-1].hosts.append(branch.name)
            continue
        del path[branch.depth + 1 :]
        bough = Bough(branch.name, branch.kind)
        path[-1].boughs.append(bough)
        path.append(bough)
    _count(root, standing, marked)
    return root


def _count(bough: Bough, standing: Standing, marked: set[str]) -> None:
    bough.states.update(standing.states.get(host, "") for host in bough.hosts)
    bough.marked = len(marked.intersection(bough.hosts))
    for below in bough.boughs:
        _count(below, standing, marked)
        bough.states.update(below.states)
        bough.leaves += below.leaves
        bough.marked += below.marked
        bough.height = max(bough.height, below.height + 1)
    if not bough.boughs and bough.kind == "network node":
        bough.leaves = 1


# -- words, for pictures as well -----------------------------------------------------------------


def counted(number: int, what: str) -> str:
    """``1 host``, ``1,000 hosts``, ``2 leaves``."""
    many = {"leaf": "leaves"}.get(what, f"{what}s")
    return f"{number:,} {what if number == 1 else many}"


def cut(text: str, limit: int) -> str:
    """The text, of at most ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def jobs_words(jobids: Sequence[int]) -> str:
    """Job ids as people type them: the first four, and how many more there are."""
    shown = " ".join(map(f58, jobids[:_JOBS]))
    return shown if len(jobids) <= _JOBS else f"{shown} and {len(jobids) - _JOBS:,} more"


def state_counts(states: Mapping[str, int]) -> list[Piece]:
    """``2 free``, ``1 down``, each with its state as the role; none where no state is known."""
    found = [(f"{states[state]:,} {state}", str(state)) for state in STATES if states.get(state)]
    if found and states.get(""):
        found.append((f"{states['']:,} unknown", ""))
    return found


def span_words(job: PlacedJob, tree: NetworkTree) -> str:
    """Where a job's hosts are on the network, and how far apart, in a sentence."""
    said = f"job {f58(job.jobid)}:"
    if not job.hosts:
        return f"{said} no place is known of its {_some(job.elsewhere, 'host')}"
    above = _above(job, tree)
    said += f" {counted(len(job.hosts), 'host')}{f' under {above}' if above else ''}"
    if job.span.diameter:
        said += f"; at most {job.span.diameter} hops, {job.span.mean_hops:.1f} on average"
    if job.elsewhere:
        said += f"; no place is known of {_some(job.elsewhere, 'more host')}"
    return said


def _above(job: PlacedJob, tree: NetworkTree) -> str:
    """``2 leaves (nn3), 1 nn2, 1 nn1``, and the zones where there are several of them."""
    layers = [(f"nn{layer}", count) for layer, count in enumerate(job.span.layers, 1) if count]
    said = [f"{count:,} {name}" for name, count in reversed(layers)]
    if said and len(layers) == len(tree.layers):
        name, count = layers[-1]
        said[0] = f"{counted(count, 'leaf')} ({name})"
    zones = len({tree.place(host).zone for host in job.hosts})
    if zones > 1 or not said:
        said.append(counted(zones, "zone"))
    return ", ".join(said)


def _some(hosts: Sequence[str], what: str) -> str:
    return f"{counted(len(hosts), what)}: {hostlist(hosts)}"


def hostlist(hosts: Iterable[str], limit: int = _HOSTLIST) -> str:
    """Hosts in hostlist notation, cut; with commas between them where one is no host name."""
    ordered = sorted(hosts, key=_by_number)
    try:
        text = format_hostlist(ordered)
    except BadInput:
        text = ", ".join(cut(host, _NAME) for host in ordered[:limit])
    return cut(text, limit)


def _by_number(host: str) -> tuple[str, int, str]:
    """Sorts n2 before n10, whatever the number's length."""
    stem = host.rstrip("0123456789")
    return stem, len(host), host


# -- lines of the tree ---------------------------------------------------------------------------


def _folds(root: Bough, job: PlacedJob | None) -> Iterator[_Fold]:
    if root.n_hosts <= MOST_UNFOLDED or job is not None:
        yield _Fold(hosts=False)
    yield _Fold()
    for height in range(0 if job else 1, root.height + 1):
        yield _Fold(height=height, siblings=job is not None)


class _Pencil:
    """Makes the lines of the tree."""

    def __init__(
        self, network: Network, standing: Standing, job: PlacedJob | None, *, everything: bool
    ) -> None:
        self._standing = standing
        self._marked = frozenset(job.hosts) if job else None
        self._shuts = job is not None and not everything
        self._tree = network.tree
        self._zone_ids = {place.zone: place.zone_id for place in network.places}
        self._types = {place.host: place.instance_type for place in network.places}
        self._one_type = len(set(self._types.values())) == 1
        self.has_folded = False

    def root(self, root: Bough, fold: _Fold) -> Twig:
        """The whole tree."""
        self.has_folded = False
        tree = self._tree
        words = [counted(root.n_hosts, "host")]
        if tree.regions:
            words.append(counted(len(tree.regions), "region"))
        words += [
            counted(len(tree.zones), "zone"),
            counted(sum(map(len, tree.layers)), "network node"),
        ]
        pieces: list[Piece] = [(", ".join(words), "title")]
        if self._one_type and (kind := next(iter(self._types.values()))):
            pieces.append((f"; all {cut(kind, _NAME)}", "aside"))
        if root.height <= fold.height:
            self.has_folded = True
            return Twig((*pieces, *_colon(state_counts(root.states))))
        return Twig(tuple(pieces), self._below(root, fold))

    def _bough(self, bough: Bough, fold: _Fold) -> Twig:
        shut = bough.height <= fold.height or (self._shuts and not bough.marked)
        pieces: list[Piece] = [(cut(bough.name, _NAME), "")]
        if bough.kind == "zone" and (zone_id := self._zone_ids.get(bough.name)):
            pieces.append((f" ({cut(zone_id, _NAME)})", "aside"))
        pieces.append(("  ", ""))
        pieces += self._contents([bough], leaves=shut and bool(bough.boughs))
        if not shut:
            return Twig(tuple(pieces), self._below(bough, fold))
        self.has_folded = True
        return Twig(tuple(pieces))

    def _below(self, bough: Bough, fold: _Fold) -> list[Twig]:
        shown, rest = bough.boughs, list[Bough]()
        if fold.siblings:
            rest = [below for below in shown if not below.marked]
            shown = [below for below in shown if below.marked] if len(rest) > 1 else shown
        twigs = [*self._hosts(bough, fold), *(self._bough(below, fold) for below in shown)]
        if len(rest) > 1:
            self.has_folded = True
            kinds = {below.kind for below in rest}
            what = counted(len(rest), kinds.pop() if len(kinds) == 1 else "branch")
            pieces = [(f"{what} without the job", "aside"), ("  ", "")]
            has_more = any(below.boughs for below in rest)
            twigs.append(Twig((*pieces, *self._contents(rest, leaves=has_more))))
        return twigs

    def _contents(self, boughs: Sequence[Bough], *, leaves: bool) -> list[Piece]:
        """``16 leaves, 128 hosts: 100 free, 28 allocated``, of several boughs together."""
        states: Counter[str] = Counter()
        for bough in boughs:
            states.update(bough.states)
        n_leaves = sum(bough.leaves for bough in boughs)
        before = f"{counted(n_leaves, 'leaf')}, " if leaves and n_leaves else ""
        pieces: list[Piece] = [(before + counted(states.total(), "host"), "")]
        if marked := sum(bough.marked for bough in boughs):
            pieces += [(" (", ""), (f"* {marked:,} of the job", "job"), (")", "")]
        return [*pieces, *_colon(state_counts(states))]

    def _hosts(self, bough: Bough, fold: _Fold) -> list[Twig]:
        groups: dict[object, list[str]] = {}
        for host in bough.hosts:
            groups.setdefault(self._looks(host) if fold.hosts else host, []).append(host)
        names = [
            cut(hosts[0], _NAME) if len(hosts) == 1 else hostlist(hosts)
            for hosts in groups.values()
        ]
        # A few long names must not push what stands behind all the others out of sight.
        width = min(max(map(len, names), default=0), 28)
        self.has_folded |= len(groups) < len(bough.hosts)
        return [
            Twig(tuple(self._line(hosts, name, width)))
            for hosts, name in zip(groups.values(), names, strict=True)
        ]

    def _looks(self, host: str) -> tuple[bool, str, tuple[int, ...], str]:
        """All that is shown of a host but its name."""
        standing = self._standing
        marked = self._marked is not None and host in self._marked
        kind = "" if self._one_type else self._types[host]
        return marked, standing.states.get(host, ""), standing.jobs.get(host, ()), kind

    def _line(self, hosts: Sequence[str], name: str, width: int) -> Iterator[Piece]:
        marked, state, jobids, kind = self._looks(hosts[0])
        if self._marked is not None:
            yield ("* " if marked else "  ", "job")
        behind = [
            (f"{len(hosts):,} hosts" if name.endswith("…") and len(hosts) > 1 else "", ""),
            (STATE_WORDS.get(state, ""), state),
            (jobs_words(jobids), ""),
            (cut(kind, _NAME), "aside"),
        ]
        behind = [piece for piece in behind if piece[0]]
        yield name.ljust(width) if behind else name, "job" if marked else ""
        for piece in behind:
            yield "  ", ""
            yield piece


def _colon(states: Sequence[Piece]) -> Iterator[Piece]:
    """``: 2 free, 1 down``; nothing where no state is known."""
    for index, piece in enumerate(states):
        yield (", " if index else ": "), ""
        yield piece


# -- lines under the tree ------------------------------------------------------------------------


def _domains(network: Network, standing: Standing, everything: bool) -> Iterator[tuple[Piece, ...]]:
    domains = network.tree.domains
    shown = len(domains) if everything else _MOST_NOTES
    for block, hosts in list(domains.items())[:shown]:
        states = Counter(standing.states.get(host, "") for host in hosts)
        yield (
            (f"accelerator domain {cut(block, _NAME)}  {counted(len(hosts), 'host')}", ""),
            *_colon(state_counts(states)),
            (f"  {hostlist(hosts)}", ""),
        )
    if len(domains) > shown:
        more = counted(len(domains) - shown, "more accelerator domain")
        yield ((more, "aside"),)


def _placeless(network: Network, everything: bool) -> Iterator[tuple[Piece, ...]]:
    if network.unmapped:
        said = f"{hostlist(network.unmapped)} ({counted(len(network.unmapped), 'host')})"
        yield ((f"no place known: {said}", ""),)
    shown = len(network.claimed) if everything else _MOST_NOTES
    for host, ids in list(network.claimed.items())[:shown]:
        claimants = cut(", ".join(ids[:8]), _HOSTLIST)
        yield ((f"no place known: {cut(host, _NAME)}, which is claimed by {claimants}", ""),)
    if len(network.claimed) > shown:
        yield ((f"and of {counted(len(network.claimed) - shown, 'more claimed host')}", "aside"),)
