"""The few kinds of error that flux-flex raises on purpose.

Each carries *what* happened, *where* (file, key, job or host) and the *remedy*, so that a
command prints one or two lines and a program can look at the parts. ``exit_code`` is what the
``flux-flex`` commands end with; the codes are part of the interface (see docs/cli.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

EXIT_OK = 0
EXIT_BUSY = 1
EXIT_UNSATISFIABLE = 2
EXIT_BAD_INPUT = 3


@dataclass(eq=False)
class FlexError(Exception):
    """What went wrong, where, and the way out.

    ``where`` reads like ``scenario.yaml: burst.limits.nodes`` and may be empty when the caller
    knows the place better: :meth:`at` puts an outer place in front on the way up.
    """

    what: str
    where: str = ""
    remedy: str = ""

    exit_code: ClassVar[int] = EXIT_BAD_INPUT

    def __str__(self) -> str:
        first = f"{self.where}: {self.what}" if self.where else self.what
        return f"{first}\n{self.remedy}" if self.remedy else first

    def at(self, place: str) -> FlexError:
        """The same error with ``place`` in front of where it happened."""
        where = f"{place}: {self.where}" if self.where else place
        return type(self)(self.what, where, self.remedy)


class BadInput(FlexError):
    """Input that cannot be used: a file, a key, a number. Exit code 3."""


class Busy(FlexError):
    """The request fits the graph, but not now. Exit code 1."""

    exit_code = EXIT_BUSY


class Unsatisfiable(FlexError):
    """The request can never be met by this graph, even when it is empty. Exit code 2."""

    exit_code = EXIT_UNSATISFIABLE
