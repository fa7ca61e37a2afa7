"""Where and how commands print: rich on a terminal, the same text without colour elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

# What a pipe or a file gets: no terminal says how wide it is.
PLAIN_WIDTH = 118

VERDICT_STYLE = {"burst": "bold green", "stay": "", "deferred": "yellow", "impossible": "red"}


def console(*, stderr: bool = False) -> Console:
    """A console for output (or for progress, on standard error)."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def plain_table(*, title: str = "") -> Table:
    """A table without boxes, which survives copying into a mail."""
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def word(text: object, style: str = "") -> Text:
    """Text as it is: rich reads no markup in what users named their jobs, and no control
    character reaches the terminal."""
    return Text("".join(c if c.isprintable() else "?" for c in str(text)), style=style)
