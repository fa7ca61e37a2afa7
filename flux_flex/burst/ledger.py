"""The ledger: what has been asked for and what became of it, as an eventlog that outlives us.

    ledger = Ledger(instance)               # reads what is there
    ledger.intend(rental, ...)              # before the act
    provider.request(rental)
    ledger.note("asked", burst)             # after it

It is an eventlog (RFC 18) in the KVS of the instance. The intent is written before each act, and
the outcome after, so whoever reads it after a crash knows what may be half done::

    intend → asked → up → leave → release → gone
      └→ refused (nothing was rented)          (from any state: release → gone)

:func:`fold` makes the :class:`Book` of the events, and is the only reader of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, Protocol

from flux_flex.burst.providers import Rental
from flux_flex.errors import FlexError
from flux_flex.host.instance import Event
from flux_flex.model.money import cost_of

KEY = "flex.burst.ledger"

# No time since the epoch and no price an hour is as much.
_MOST = 1e15


class State(str, Enum):
    """How far a burst is, on our side."""

    INTENDED = "intended"
    ASKED = "asked"
    UP = "up"
    LEAVING = "leaving"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True)
class Entry:
    """A burst that is not over. Times are seconds since the epoch, money is US dollars."""

    rental: Rental
    provider: str
    user: str
    cost_per_hour_usd: float
    state: State
    intended_s: float
    boot_by_s: float
    changed_s: float
    jobs: tuple[int, ...] = ()
    reason: str = ""

    @property
    def burst(self) -> str:
        return self.rental.burst

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no more jobs."""
        return self.state in (State.LEAVING, State.RELEASING)

    def cost_usd(self, since_s: float, until_s: float) -> float:
        """What it costs between two times, from the intent on."""
        return cost_of(self.cost_per_hour_usd, max(0.0, until_s - max(self.intended_s, since_s)))


@dataclass(frozen=True, slots=True)
class Past:
    """A burst that is over, and was paid from ``began_s`` to ``ended_s``."""

    entry: Entry
    began_s: float
    ended_s: float

    def cost_usd(self, since_s: float) -> float:
        return self.entry.cost_usd(since_s, self.ended_s)


class Aside(NamedTuple):
    """A type that a provider could not give: until when it is not asked for, how often that was so
    since nodes of it last came up, and why; empty where there was no capacity."""

    until_s: float = 0.0
    times: int = 0
    why: str = ""


@dataclass(frozen=True)
class Book:
    """All that the ledger says, at one moment.

    aside       by provider and type, what could not be had
    protected   providers that are asked for nothing more, with the reason
    shunned     jobs that did not start on nodes that were open for them: until when nothing is
                rented for them
    """

    bursts: Mapping[str, Entry] = field(default_factory=dict)
    past: tuple[Past, ...] = ()
    aside: Mapping[tuple[str, str], Aside] = field(default_factory=dict)
    protected: Mapping[str, str] = field(default_factory=dict)
    shunned: Mapping[int, float] = field(default_factory=dict)

    @property
    def jobs(self) -> frozenset[int]:
        """The jobs that nodes are rented for."""
        return frozenset(job for entry in self.bursts.values() for job in entry.jobs)

    def spent_usd(self, since_s: float, now_s: float) -> float:
        """What has been paid since a time, for what is over and for what is not."""
        return sum(one.cost_usd(since_s) for one in self.past) + sum(
            one.cost_usd(since_s, now_s) for one in self.bursts.values()
        )


class Log(Protocol):
    """What the ledger needs of an instance."""

    def now(self) -> float: ...

    def log(self, key: str) -> Sequence[Event]: ...

    def post(self, key: str, name: str, context: Mapping[str, object]) -> None: ...


class Ledger:
    """The book, and the pen. Every method writes before it changes the book."""

    def __init__(self, instance: Log) -> None:
        self._instance = instance
        self._book: Book | None = fold(instance.log(KEY))

    @property
    def book(self) -> Book:
        """What the ledger says. Raises FlexError where it has to be read again, and cannot be."""
        if self._book is None:
            self._book = fold(self._instance.log(KEY))
        return self._book

    def intend(
        self, rental: Rental, *, provider: str, user: str, jobs: Sequence[int],
        cost_per_hour_usd: float, boot_by_s: float,
    ) -> None:  # fmt: skip
        """Before a request. Raises FlexError where the burst is not over."""
        if rental.burst in self.book.bursts:
            raise FlexError("it is rented already", rental.burst, "wait until it is gone")
        self._write(
            "intend",
            burst=rental.burst,
            type=rental.type,
            hosts=list(rental.hosts),
            provider=provider,
            user=user,
            jobs=list(jobs),
            cost_per_hour=cost_per_hour_usd,
            boot_by=boot_by_s,
        )

    def note(self, name: str, burst: str, **context: object) -> None:
        """What became of a burst: asked, up, join, leave, release, refused or gone."""
        self._write(name, burst=burst, **context)

    def set_aside(self, provider: str, node_type: str, until_s: float, why: str = "") -> None:
        """A type has no capacity: it is not asked for until then."""
        self._write("aside", provider=provider, type=node_type, until=until_s, reason=why)

    def shun(self, jobs: Sequence[int], until_s: float) -> None:
        """Jobs did not start on nodes that were open for them: no more are rented until then."""
        self._write("shun", jobs=list(jobs), until=until_s)

    def protect(self, provider: str, reason: str) -> None:
        """A provider's nodes did not come up: nothing more is rented there."""
        self._write("protect", provider=provider, reason=reason)

    def reset(self, provider: str) -> None:
        """Somebody looked after a protected provider, or its types that are set aside."""
        self._write("reset", provider=provider)

    def _write(self, name: str, **context: object) -> None:
        book = self.book
        # What could not be written may have been: an answer that is late is no refusal.
        self._book = None
        self._instance.post(KEY, name, context)
        self._book = _folded(book, Event(self._instance.now(), name, context))


def fold(events: Iterable[Event]) -> Book:
    """The book of an eventlog. Events of other names, of later versions, are passed over."""
    book = Book()
    for event in events:
        book = _folded(book, event)
    return book


_CHANGES = {
    "asked": State.ASKED,
    "up": State.UP,
    "leave": State.LEAVING,
    "release": State.RELEASING,
}


def _folded(book: Book, event: Event) -> Book:
    context = event.context
    if event.name == "intend":
        return _with_intent(book, _intended(event))
    if event.name in ("aside", "protect", "reset"):
        return _of_provider(book, event)
    if event.name == "shun":
        kept = {job: until for job, until in book.shunned.items() if until > event.timestamp}
        new = dict.fromkeys(_ids(context), _number(event, "until"))
        return replace(book, shunned={**kept, **new})
    found = book.bursts.get(str(context.get("burst")))
    if found is None:
        return book
    entry = found
    if event.name in ("refused", "gone"):
        left = {burst: one for burst, one in book.bursts.items() if burst != entry.burst}
        paid_to_s = entry.intended_s if event.name == "refused" else event.timestamp
        past = Past(entry, entry.intended_s, paid_to_s)
        return replace(book, bursts=left, past=(*book.past, past))
    changed = entry
    if event.name == "join":
        jobs = [job for job in _ids(context) if job not in entry.jobs]
        changed = replace(entry, jobs=(*entry.jobs, *jobs))
    elif event.name in _CHANGES:
        changed = replace(
            entry,
            state=_CHANGES[event.name],
            changed_s=event.timestamp,
            reason=str(context.get("reason", "")),
        )
    if event.name == "up":
        book = _tried_again(book, (entry.provider, entry.rental.type))
    return replace(book, bursts={**book.bursts, entry.burst: changed})


def _with_intent(book: Book, entry: Entry) -> Book:
    """The book with one more burst. Nodes are rented once for a job: where an intent came into the
    ledger after its writer had given it up, what has not been asked for yet loses the job."""
    bursts = dict(book.bursts)
    jobs = set(entry.jobs)
    for other in book.bursts.values():
        if other.burst == entry.burst:
            continue
        if other.state is State.INTENDED:
            left = tuple(job for job in other.jobs if job not in jobs)
            bursts[other.burst] = replace(other, jobs=left)
        elif other.state in (State.ASKED, State.UP):
            jobs -= set(other.jobs)
    own = tuple(job for job in entry.jobs if job in jobs)
    return replace(book, bursts={**bursts, entry.burst: replace(entry, jobs=own)})


def _of_provider(book: Book, event: Event) -> Book:
    name = str(event.context.get("provider"))
    if event.name == "protect":
        reason = str(event.context.get("reason", ""))
        return replace(book, protected={**book.protected, name: reason})
    if event.name == "aside":
        key = (name, str(event.context.get("type")))
        times = book.aside.get(key, Aside()).times + 1
        why = str(event.context.get("reason", ""))
        one = Aside(_number(event, "until"), times, why)
        return replace(book, aside={**book.aside, key: one})
    return replace(
        book,
        protected={one: why for one, why in book.protected.items() if one != name},
        aside={key: value for key, value in book.aside.items() if key[0] != name},
    )


def _tried_again(book: Book, key: tuple[str, str]) -> Book:
    """Nodes of this type came up, so what failed before does not count any more."""
    return replace(book, aside={one: value for one, value in book.aside.items() if one != key})


def _intended(event: Event) -> Entry:
    context = event.context
    hosts = context.get("hosts")
    rental = Rental(
        str(context.get("burst")),
        str(context.get("type")),
        tuple(map(str, hosts)) if isinstance(hosts, list) else (),
    )
    return Entry(
        rental=rental,
        provider=str(context.get("provider")),
        user=str(context.get("user")),
        cost_per_hour_usd=_number(event, "cost_per_hour"),
        state=State.INTENDED,
        intended_s=event.timestamp,
        boot_by_s=_number(event, "boot_by"),
        changed_s=event.timestamp,
        jobs=tuple(_ids(context)),
    )


def _ids(context: Mapping[str, object]) -> list[int]:
    jobs = context.get("jobs")
    return [job for job in jobs if isinstance(job, int)] if isinstance(jobs, list) else []


def _number(event: Event, key: str) -> float:
    """Seconds or dollars. Raises FlexError for what is neither: no reckoning is right with it."""
    value = event.context.get(key)
    # An int of hundreds of digits is no float.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _MOST:  # type: ignore[operator]
        what = f"the key {key} is no number that could be"
        raise FlexError(what, f"{KEY}: {event.name}", "it was changed by hand")
    return float(value)  # type: ignore[arg-type]
