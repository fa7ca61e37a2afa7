"""Writing output: an error of it is told apart from the OSErrors that files and brokers raise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class OutputError(Exception):
    """What was printed could not be written; the cause is the OSError."""

    @property
    def is_broken_pipe(self) -> bool:
        """Whether the reader has gone, such as head, which has seen enough."""
        return isinstance(self.__cause__, BrokenPipeError)

    @property
    def reason(self) -> str:
        return getattr(self.__cause__, "strerror", None) or "it cannot be written"


@contextmanager
def printing() -> Iterator[None]:
    """Around what prints and does nothing else: raises OutputError for its OSError."""
    try:
        yield
    except OSError as error:
        raise OutputError from error


def write_out(text: str) -> None:
    """Write to standard output. Raises OutputError."""
    with printing():
        sys.stdout.write(text)


def flush() -> None:
    """Write what standard output still holds back. Raises OutputError."""
    with printing():
        sys.stdout.flush()
