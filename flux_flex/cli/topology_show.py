"""``flux-flex topology show``: the network as a tree, as a picture, or as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from flux_flex.cli.console import console, to_json, word
from flux_flex.cli.output import write_out
from flux_flex.model.quoting import printable
from flux_flex.simulate.files import write_all
from flux_flex.topology.document import topology_document
from flux_flex.topology.mapping import Network
from flux_flex.topology.render import Piece, Twig, draw
from flux_flex.topology.standing import Standing, placed_job
from flux_flex.topology.svg import topology_svg

# How a terminal shows the roles of pieces; a state is always said in words, too.
_STYLES = {
    "free": "green",
    "partly": "yellow",
    "allocated": "cyan",
    "drained": "magenta",
    "down": "red",
    "title": "bold",
    "job": "bold",
    "aside": "dim",
}

# Above this many lines of tree, rich would take seconds for colours that nobody looks at.
_MOST_COLOURED = 2_000

# What stands before a line that has others after it, before a last one, and before those below.
_STEMS = ("├── ", "└── ", "│   ", "    ")
_ASCII_STEMS = ("+-- ", "`-- ", "|   ", "    ")


def show(network: Network, standing: Standing, options: argparse.Namespace) -> int:
    """Show hosts with their places, states and jobs, and return 0.

    ``options`` has ``job`` (an id, whose hosts are marked, or None), ``svg`` (where a picture goes,
    or None), ``json``, and ``all``: fold nothing. Raises BadInput where the job does not run, the
    places make no tree, or the picture cannot be written; nothing is printed then.
    """
    job = None if options.job is None else placed_job(network.tree, standing, options.job)
    if options.svg:
        write_all([(Path(options.svg), topology_svg(network, standing, job))])
    if options.json:
        # Not every character in a name may reach a terminal as it is, and JSON can spell them all.
        document = topology_document(network, standing, job)
        write_out(to_json(document, ascii_only=True))
        return 0
    drawing = draw(network, standing, job, everything=options.all)
    out = console()
    if sum(1 for _ in drawing.root) > _MOST_COLOURED:
        stems = _ASCII_STEMS if out.options.ascii_only else _STEMS
        for line in _plain(drawing.root, stems):
            write_out(line)
    else:
        out.print(_tree(drawing.root))
    for note in drawing.notes:
        out.print(_line(note))
    if options.svg:
        out.print(word(f"drawing  {options.svg}"))
    return 0


def _tree(twig: Twig) -> Tree:
    tree = Tree(_line(twig.pieces), guide_style="dim")
    pending = [(tree, twig)]
    while pending:
        branch, drawn = pending.pop()
        for below in drawn.twigs:
            grown = branch.add(_line(below.pieces))
            if below.twigs:
                pending.append((grown, below))
    return tree


def _plain(twig: Twig, stems: tuple[str, str, str, str], before: str = "") -> Iterator[str]:
    """The same tree as lines of text, those below the first after ``before``."""
    if not before:
        yield f"{printable(twig.text)}\n"
    for below in twig.twigs:
        is_last = below is twig.twigs[-1]
        yield f"{before}{stems[is_last]}{printable(below.text)}\n"
        if below.twigs:
            yield from _plain(below, stems, before + stems[2 + is_last])


def _line(pieces: Iterable[Piece]) -> Text:
    return Text("").join(word(text, _STYLES.get(role, "")) for text, role in pieces)
