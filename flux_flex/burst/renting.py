"""The providers' side of a controller: what they are asked, what they said, and what they owe.

    renting = Renting(providers, calls, instance.now)
    renting.request("local", rental)            # unless something of this burst is under way
    for burst, error in renting.take(): ...     # requests that have ended since
    renting.look(every_s=5.0)                   # asks them what they have, if it is time

Calls take as long as they take, and end at any time or never. Nothing here is remembered that
matters: a controller that is started anew asks again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from flux_flex.burst.calls import Call, Calls, Key
from flux_flex.burst.ledger import Entry
from flux_flex.burst.providers import Observed, Provider, Rental
from flux_flex.errors import FlexError
from flux_flex.model.duration import format_duration
from flux_flex.model.quoting import one_line

# A call that has not ended after this long is taken for lost, and may be made again.
LOST_S = 900.0
# How long there is until a release that did not help is made again, first and at the most.
_FIRST_AGAIN_S = 5.0
_LONGEST_AGAIN_S = 300.0
# Providers speak for themselves, and at length.
_MOST_SAID = 300
# A provider whose answer is older than this many looks is in trouble.
_LATE_LOOKS = 5
_VERBS = ("request", "release")

log = logging.getLogger("flux_flex.burst")


@dataclass
class _Seen:
    """What a provider last said, and when; None: it has not answered yet, since ``first_s``."""

    first_s: float
    bursts: Mapping[str, Observed] | None = None
    at_s: float = -math.inf
    error: str = ""
    # Bursts of which something was done since the provider was last asked; and those of them that
    # the question under way will answer.
    stale: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)


class Renting:
    """Asks providers, one thing at a time for each burst, and keeps what they said."""

    def __init__(
        self, providers: Mapping[str, Provider], calls: Calls, now: Callable[[], float]
    ) -> None:
        self.providers = providers
        self.calls = calls
        self._now = now
        self._seen = {name: _Seen(now()) for name in providers}
        self._began: dict[Key, float] = {}
        # By burst: how often its release was asked for, and when it may be asked for again.
        self._releases: dict[str, tuple[int, float]] = {}

    # -- asking ------------------------------------------------------------------------------------

    def request(self, provider: str, rental: Rental) -> None:
        """Rent, unless something of this burst is under way."""
        if provider in self.providers and not self.is_busy(rental.burst):
            self._start(("request", rental.burst), partial(self._of(provider).request, rental))

    def release(self, provider: str, burst: str) -> None:
        """Take a burst away, unless something of it is under way or was tried just now."""
        times, again_s = self._releases.get(burst, (0, -math.inf))
        # After a clock was put back, as well.
        if provider not in self.providers or self.is_busy(burst):
            return
        if 0.0 < again_s - self._now() <= _LONGEST_AGAIN_S:
            return
        pause_s = min(_FIRST_AGAIN_S * 2.0 ** min(times, 10), _LONGEST_AGAIN_S)
        self._releases[burst] = times + 1, self._now() + pause_s
        self._seen[provider].stale.add(burst)
        self._start(("release", burst), partial(self._of(provider).release, burst))

    def look(self, every_s: float) -> None:
        """Ask each provider what it has, if its answer is as old as that or no longer true."""
        for name, provider in self.providers.items():
            seen, key = self._seen[name], ("observe", name)
            if self._is_under_way(key):
                continue
            if not 0 <= self._now() - seen.at_s < every_s or seen.stale:
                seen.asked = set(seen.stale)
                self._start(key, provider.observe)

    def _of(self, provider: str) -> Provider:
        return self.providers[provider]

    def _start(self, key: Key, call: Callable[[], object]) -> None:
        self._began[key] = self._now()
        self.calls.start(key, call)

    def _is_under_way(self, key: Key) -> bool:
        """Whether a call has not ended. One that is lost is not waited for any more."""
        if not self.calls.under_way(key):
            return False
        if 0 <= self._now() - self._began.setdefault(key, self._now()) < LOST_S:
            return True
        log.warning("%s of %s has not ended in %s", *key, format_duration(LOST_S))
        self.calls.abandon(key)
        return False

    # -- what became of it -------------------------------------------------------------------------

    def take(self, known: Mapping[str, Entry], ours: Collection[str]) -> list[_Ended]:
        """The requests that have ended since this was last asked, by burst, with their errors.

        What a provider has under a name of ``ours``, and the ledger does not know, is released:
        the intent is written before each act, so that is over.
        """
        ended = []
        for call in self.calls.finished():
            verb, name = call.key
            if verb == "observe":
                self._observed(name, call)
                continue
            if verb == "request":
                ended.append((name, call.error))
            elif call.error is not None:
                log.warning("%s: cannot be released yet: %s", name, one_line(call.error.what))
            if name in known and known[name].provider in self._seen:
                # What a provider said before this call is no longer all of it.
                self._seen[known[name].provider].stale.add(name)
        for provider, seen in self._seen.items():
            for orphan in ((seen.bursts or {}).keys() & set(ours)) - known.keys():
                if orphan not in seen.stale:
                    log.warning("%s: %s has it, the ledger does not: released", orphan, provider)
                    self.release(provider, orphan)
        return ended

    def _observed(self, name: str, call: Call) -> None:
        seen = self._seen[name]
        seen.at_s = self._now()
        if call.error is not None:
            seen.error = one_line(call.error.what, _MOST_SAID)
            log.warning("%s does not say what it has: %s", name, seen.error)
            return
        seen.stale -= seen.asked
        answer = call.answer if isinstance(call.answer, Sequence) else ()
        seen.error = ""
        seen.bursts = {
            one.burst: replace(one, reason=one_line(one.reason, _MOST_SAID))
            for one in answer
            if isinstance(one, Observed)
        }

    # -- what is known -----------------------------------------------------------------------------

    def is_busy(self, burst: str) -> bool:
        """Whether a request or a release of it is under way."""
        return any(self._is_under_way((verb, burst)) for verb in _VERBS)

    def was_released(self, burst: str) -> bool:
        """Whether this controller has asked for its release."""
        return burst in self._releases

    def forget(self, burst: str) -> None:
        """It is over."""
        self._releases.pop(burst, None)

    def of(self, entry: Entry) -> Observed | None:
        """What its provider last said of a burst, if anything."""
        seen = self._seen.get(entry.provider)
        return seen.bursts.get(entry.burst) if seen is not None and seen.bursts else None

    def has_said(self, entry: Entry) -> bool:
        """Whether the provider has said what it has since something was last done to a burst."""
        seen = self._seen.get(entry.provider)
        return seen is not None and seen.bursts is not None and entry.burst not in seen.stale

    def taken(self, known: Collection[str]) -> set[str]:
        """Bursts that the ledger does not know and that are there, or on their way out."""
        found = {burst for seen in self._seen.values() for burst in seen.bursts or ()}
        found |= {name for verb, name in self._began if verb in _VERBS and self.is_busy(name)}
        return found - set(known)

    def troubles(self, every_s: float) -> dict[str, str]:
        """By provider, why it is not known what it has."""
        found = {}
        for name, seen in self._seen.items():
            silent_s = self._now() - max(seen.at_s, seen.first_s)
            if seen.error:
                found[name] = f"does not say what it has: {seen.error}"
            elif silent_s > _LATE_LOOKS * every_s:
                found[name] = f"has not answered for {format_duration(silent_s)}"
        return found


_Ended = tuple[str, FlexError | None]
