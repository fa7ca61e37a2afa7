"""Calls in threads: what may take minutes, kept off the reactor of whoever wants the answer.

    calls = Threads(on_end=wake)        # wake() is called in the thread of a call that has ended
    calls.start(("request", "hpc-0"), lambda: provider.request(rental))

At most one call of a key is under way. Threads are daemons: a call that never ends keeps nobody
from ending, and the ledger knows what it was about.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flux_flex.errors import FlexError
from flux_flex.model.quoting import one_line

Key = tuple[str, str]

log = logging.getLogger("flux_flex.burst")


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that has ended: what it gave, or the error that it raised."""

    key: Key
    answer: object = None
    error: FlexError | None = None


class Threads:
    """Runs each call in a thread of its own."""

    def __init__(self, on_end: Callable[[], None] | None = None) -> None:
        self._on_end = on_end
        self._guard = threading.Lock()
        self._idle = threading.Condition(self._guard)
        # By key: what tells a call from one that was made again.
        self._under_way: dict[Key, object] = {}
        self._ended: list[Ended] = []

    def start(self, key: Key, call: Callable[[], object]) -> None:
        """Make a call, unless one of this key is under way."""
        with self._guard:
            if key in self._under_way:
                return
            mark = self._under_way[key] = object()
        threading.Thread(
            target=self._run, args=(key, call, mark), name="-".join(key), daemon=True
        ).start()

    def under_way(self, key: Key) -> bool:
        with self._guard:
            return key in self._under_way

    def abandon(self, key: Key) -> None:
        """Do not wait for a call any more. Its thread may live on; its answer is dropped."""
        with self._guard:
            self._under_way.pop(key, None)
            self._idle.notify_all()

    def wait(self, seconds: float) -> None:
        """Until no call is under way, or so many seconds have passed."""
        with self._guard:
            self._idle.wait_for(lambda: not self._under_way, seconds)

    def finished(self) -> Sequence[Ended]:
        """The calls that ended since this was last asked."""
        with self._guard:
            ended, self._ended = self._ended, []
        return ended

    def _run(self, key: Key, call: Callable[[], object], mark: object) -> None:
        try:
            ended = Ended(key, call())
        except FlexError as error:
            ended = Ended(key, error=error)
        # A bug of the provider, which must not be a silent end.
        except (Exception, SystemExit) as error:
            log.exception("%s of %s", *key)
            what = one_line(f"{type(error).__name__}: {error}", 300)
            ended = Ended(
                key, error=FlexError(what, " ".join(key), "this is a bug of the provider")
            )
        with self._guard:
            if self._under_way.get(key) is not mark:
                return
            self._ended.append(ended)
            del self._under_way[key]
            self._idle.notify_all()
        if self._on_end is not None:
            self._on_end()
