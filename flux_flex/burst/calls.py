"""Providers' calls, which may take minutes, kept off whoever drives the controller.

    calls.start(("request", "hpc-0"), lambda: provider.request(rental))
    for call in calls.finished(): ...       # at the next step

:class:`Inline` makes each call at once, for tests and simulations. host/ has one with threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flux_flex.errors import FlexError

# What is done, and to which burst (or by which provider).
Key = tuple[str, str]


class Call(Protocol):
    """A call that has ended: what it gave, or the error that it raised."""

    @property
    def key(self) -> Key: ...

    @property
    def answer(self) -> object: ...

    @property
    def error(self) -> FlexError | None: ...


class Calls(Protocol):
    """Runs calls; at most one of a key at a time."""

    def start(self, key: Key, call: Callable[[], object]) -> None:
        """Make a call, now or later. Nothing if one of this key has not ended."""
        ...

    def under_way(self, key: Key) -> bool: ...

    def abandon(self, key: Key) -> None:
        """Forget a call that has not ended: another may be made, and its answer is nobody's."""
        ...

    def finished(self) -> Sequence[Call]:
        """The calls that ended since this was last asked."""
        ...


@dataclass(frozen=True, slots=True)
class _Ended:
    key: Key
    answer: object = None
    error: FlexError | None = None


class Inline:
    """Makes each call when it is started."""

    def __init__(self) -> None:
        self._ended: list[Call] = []

    def start(self, key: Key, call: Callable[[], object]) -> None:
        try:
            self._ended.append(_Ended(key, call()))
        except FlexError as error:
            self._ended.append(_Ended(key, error=error))

    def under_way(self, key: Key) -> bool:  # noqa: ARG002 - never
        return False

    def abandon(self, key: Key) -> None:
        pass

    def finished(self) -> Sequence[Call]:
        ended, self._ended = self._ended, []
        return ended
