"""Where and how commands print: rich on a terminal, the same text without colour elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flux_flex.cli.output import printing, write_out
from flux_flex.model.quoting import printable

# What a pipe or a file gets: no terminal says how wide it is.
PLAIN_WIDTH = 118

VERDICT_STYLE = {"burst": "bold green", "stay": "", "deferred": "yellow", "impossible": "red"}


def console(*, stderr: bool = False) -> Console:
    """A console for output (or for progress, on standard error)."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return _Console(file=stream, width=width, highlight=False, soft_wrap=False)


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        with printing():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the command: rich itself would exit with 1, which means "not now"."""
        raise BrokenPipeError


def print_json(document: Mapping[str, object]) -> None:
    """Print a document as JSON, escaped where the terminal's encoding cannot show it."""
    text = to_json(document)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = to_json(document, ascii_only=True)
    write_out(text)


def to_json(document: Mapping[str, object], *, ascii_only: bool = False) -> str:
    """The document as text, readable and ending with a newline."""
    return json.dumps(document, indent=1, ensure_ascii=ascii_only, allow_nan=False) + "\n"


def plain_table() -> Table:
    """A table without boxes, which survives copying into a mail."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def word(text: object, style: str = "") -> Text:
    """Text as it is: rich reads no markup in what users named their jobs, and no control
    character reaches the terminal."""
    return Text(printable(str(text)), style=style)
