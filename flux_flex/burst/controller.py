"""The loop: look, decide, act, record; safe to stop between any two of its lines.

    controller = Controller(instance, {"local": provider}, settings, calls)
    controller.step()        # whenever something happened, and when next_step_s says

One step takes what providers answered, moves each burst on by what is seen of it, and asks
decide() about the queue. Nothing is remembered that matters: the ledger has the intents and
outcomes, and the provider what exists. So a controller that is started anew goes on where another
one died. A request or a release that may not have happened is made again: providers take it as one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from flux_flex.burst import reasons
from flux_flex.burst.budget import Purse
from flux_flex.burst.calls import Call, Calls
from flux_flex.burst.config import BurstConfig
from flux_flex.burst.decide import decide
from flux_flex.burst.ledger import Entry, Ledger, State
from flux_flex.burst.plan import Decision, Order, QueuePolicy
from flux_flex.burst.providers import NoCapacity, Observed, Phase, Provider, Rental
from flux_flex.burst.queue import Known, Queue, read_queue
from flux_flex.burst.slots import Slot, free_slot, placed_slots
from flux_flex.burst.snapshot import snapshot_of
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.instance import Instance
from flux_flex.model.duration import format_duration
from flux_flex.model.jobid import f58
from flux_flex.model.quoting import one_line
from flux_flex.model.rv1 import parse_r

MEMO = "flex.burst"
REASON = "flux-flex: the burst ends"
# Rented nodes are drained except while a job that they are for waits. So nobody else's job runs
# there, and what a burst costs is what was decided.
KEPT = "flux-flex: kept for jobs that burst"

_NOT_COVERED = "the budget does not cover what may start there"

# How long a type without capacity is set aside, first and at the most.
_FIRST_ASIDE_S = 60.0
_LONGEST_ASIDE_S = 3600.0
# How often providers are asked what they have while something is going on, and else.
_BUSY_LOOK_S = 5.0
_IDLE_LOOK_S = 60.0
_URGENCY = 16

log = logging.getLogger("flux_flex.burst")


def _minute_of_utc(seconds: float) -> int:
    return int(seconds // 60) % 1440


@dataclass(frozen=True)
class Settings:
    """What a controller goes by. ``config`` has the limits; ``boot_deadline_s`` is how long nodes
    may take to come up; jobs of ``queue`` may burst without saying so; ``hours`` are the first and
    the end of the time of day to rent, in minutes after midnight, as ``minute_of`` tells it;
    ``waits``: the scheduler lets a job wait for hosts that are down."""

    config: BurstConfig
    slots: tuple[Slot, ...]
    boot_deadline_s: float = 600.0
    queue_policy: QueuePolicy = "fcfs"
    queue: str = ""
    waits: bool = False
    hours: tuple[int, int] | None = None
    minute_of: Callable[[float], int] = _minute_of_utc


@dataclass
class _Seen:
    """What a provider last said, and when. None: it has not answered yet."""

    bursts: Mapping[str, Observed] | None = None
    at_s: float = -math.inf
    error: str = ""
    # Bursts of which something was done since the provider was last asked; and those of them that
    # the question under way will answer.
    stale: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)


class Controller:
    """Rents for jobs that wait, and takes away what idles. See the module."""

    def __init__(
        self,
        instance: Instance,
        providers: Mapping[str, Provider],
        settings: Settings,
        calls: Calls,
    ) -> None:
        self.instance = instance
        self.providers = providers
        self.settings = settings
        self.calls = calls
        self.ledger = Ledger(instance)
        self.slots = placed_slots(settings.slots, parse_r(instance.resources()))
        self.decisions: dict[int, Decision] = {}
        self.deciding = True  # else nothing more is rented
        self._known = Known()
        self._seen = {name: _Seen() for name in providers}
        self._idle_since: dict[str, float] = {}
        self._said: dict[int, str] = {}
        self._released: set[str] = set()
        self._purse: Purse

    # -- one step ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Look, move bursts on, decide. Raises FlexError where the instance does not answer."""
        self._take_answers()
        queue = read_queue(
            self.instance, self._known, depth=self.settings.config.depth,
            queue=self.settings.queue, also=self.ledger.book.jobs,
        )  # fmt: skip
        self._purse = self._counted(queue)
        for entry in [*self.ledger.book.bursts.values()]:
            self._move(entry, queue)
        if self.deciding:
            self._decide(queue)
        self._look()
        # Inline calls have ended by now.
        self._take_answers()

    @property
    def next_step_s(self) -> float:
        """How many seconds a step may wait if nothing happens."""
        return _BUSY_LOOK_S if self.ledger.book.bursts else _IDLE_LOOK_S

    def let_go(self, burst: str, reason: str) -> None:
        """Take a burst away when what runs on it has ended. Raises BadInput for an unknown one."""
        entry = self.ledger.book.bursts.get(burst)
        if entry is None:
            raise BadInput("no such burst", burst, "see flux-flex burst list")
        if entry.state in (State.INTENDED, State.ASKED):
            self._release(entry, reason)
        elif entry.state is State.UP:
            self.ledger.note("leave", burst, reason=reason)
            self._drain(entry, self.instance.drained(), REASON)

    def retire(self, reason: str) -> None:
        """Let all bursts go, and take away at once what nothing runs on. What runs may end; the
        next controller takes those away. Raises FlexError."""
        self.deciding = False
        for burst in [*self.ledger.book.bursts]:
            self.let_go(burst, reason)
        self.step()

    # -- what providers say ------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask each provider what it has, if it is time."""
        now_s = self.instance.now()
        for name, provider in self.providers.items():
            if self.calls.under_way(("observe", name)):
                continue
            if now_s - self._seen[name].at_s >= self.next_step_s or self._seen[name].stale:
                self._seen[name].asked = set(self._seen[name].stale)
                self.calls.start(("observe", name), provider.observe)

    def _take_answers(self) -> None:
        for call in self.calls.finished():
            verb, name = call.key
            if verb == "observe":
                self._observed(name, call)
            elif verb == "request":
                self._requested(name, call)
            elif call.error is not None:
                log.warning("%s: cannot be released yet: %s", name, one_line(call.error.what))
            self._mark_stale(verb, name)

    def _mark_stale(self, verb: str, burst: str) -> None:
        """What a provider said before this call is no longer all of it."""
        entry = self.ledger.book.bursts.get(burst)
        if verb != "observe" and entry is not None and entry.provider in self._seen:
            self._seen[entry.provider].stale.add(burst)

    def _observed(self, name: str, call: Call) -> None:
        seen = self._seen[name]
        seen.at_s = self.instance.now()
        if call.error is None:
            seen.stale -= seen.asked
        if call.error is not None:
            seen.error = call.error.what
            log.warning("%s does not say what it has: %s", name, one_line(call.error.what))
            return
        answer = call.answer if isinstance(call.answer, Sequence) else ()
        seen.error = ""
        seen.bursts = {one.burst: one for one in answer if isinstance(one, Observed)}
        ours = {slot.name for slot in self.slots}
        for orphan in (seen.bursts.keys() & ours) - self.ledger.book.bursts.keys():
            # The intent is written before each act, so what it does not name is over.
            log.warning("%s: the provider has it, the ledger does not: releasing it", orphan)
            self.calls.start(("release", orphan), partial(self.providers[name].release, orphan))

    def _requested(self, burst: str, call: Call) -> None:
        entry = self.ledger.book.bursts.get(burst)
        if entry is None or entry.state is not State.INTENDED:
            return
        if call.error is None:
            self.ledger.note("asked", burst)
        elif isinstance(call.error, NoCapacity):
            self._set_aside(entry)
            self._undrain(entry)
            self.ledger.note("refused", burst, reason=call.error.what)
        else:
            # It may have gone half through, and would fail again at once.
            self._set_aside(entry)
            self._release(entry, call.error.what)

    def _set_aside(self, entry: Entry) -> None:
        times = self.ledger.book.aside.get((entry.provider, entry.rental.type), (0.0, 0))[1]
        pause_s = min(_FIRST_ASIDE_S * 2**times, _LONGEST_ASIDE_S)
        until_s = self.instance.now() + pause_s
        self.ledger.set_aside(entry.provider, entry.rental.type, until_s)

    # -- one burst ---------------------------------------------------------------------------------

    def _move(self, entry: Entry, queue: Queue) -> None:
        """Move a burst on by what is seen of it."""
        moves = {
            State.INTENDED: self._intended,
            State.ASKED: self._asked,
            State.UP: self._up,
            State.LEAVING: self._leaving,
            State.RELEASING: self._releasing,
        }
        moves[entry.state](entry, queue)

    def _intended(self, entry: Entry, queue: Queue) -> None:
        """Asked for, or not: whoever wrote the intent may have died. Asking again is safe."""
        if not self._is_wanted(entry, queue):
            self._release(entry, "no job waits for it any more")
        elif not self.calls.under_way(("request", entry.burst)):
            self._drain(entry, queue.drained, KEPT)
            self._request(entry)

    def _asked(self, entry: Entry, queue: Queue) -> None:
        seen = self._of(entry)
        if not set(self._ranks(entry)) & queue.down:
            self.ledger.note("up", entry.burst)
            self._idle_since[entry.burst] = queue.now_s
            if self._purse.opens(entry):
                self._open(entry, queue)
        elif not self._is_wanted(entry, queue):
            self._release(entry, "no job waits for it any more")
        elif seen is not None and seen.phase is Phase.FAILED:
            # Without capacity, or in a way that would fail again at once.
            self._set_aside(entry)
            self._release(entry, seen.reason or "the provider failed")
        elif queue.now_s >= entry.boot_by_s and self._is_enough(entry, queue):
            self.ledger.note("up", entry.burst, reason="some nodes did not come up")
        elif queue.now_s >= entry.boot_by_s:
            reason = f"{entry.burst} did not come up in {self._boot_text}"
            reason += f": {seen.reason}" if seen is not None and seen.reason else ""
            self.ledger.protect(entry.provider, reason)
            self._release(entry, reason)

    def _up(self, entry: Entry, queue: Queue) -> None:
        is_wanted = self._is_wanted(entry, queue)
        is_open = is_wanted and self._purse.opens(entry)
        if is_open:
            self._open(entry, queue)
        else:
            self._drain(entry, queue.drained, KEPT)
        if self._is_used(entry, queue):
            self._idle_since.pop(entry.burst, None)
            return
        since_s = self._idle_since.setdefault(entry.burst, queue.now_s)
        if queue.now_s - since_s >= self.settings.config.idle_timeout:
            if is_open:  # it would be rented for again, and idle again
                lost = len(set(self._ranks(entry)) & queue.down)
                why = f"{lost} of its nodes went down" if lost else "it did not start"
                reason = f"{entry.burst} was up for a job that waits, and {why}"
                self.ledger.protect(entry.provider, reason)
            reason = _NOT_COVERED if is_wanted and not is_open else "idle"
            self.ledger.note("leave", entry.burst, reason=reason)
            self._drain(entry, queue.drained, REASON)

    def _leaving(self, entry: Entry, queue: Queue) -> None:
        """Drained: what still runs there may end."""
        self._drain(entry, queue.drained, REASON)
        if not self._is_used(entry, queue):
            self._release(entry, entry.reason)

    def _releasing(self, entry: Entry, queue: Queue) -> None:
        """Gone when the provider has nothing of it, and its brokers are down."""
        # A request that was under way may rent after its release.
        if any(self.calls.under_way((verb, entry.burst)) for verb in ("request", "release")):
            return
        seen = self._seen.get(entry.provider, _Seen())
        if entry.burst not in self._released:  # by another controller, or not at all
            self._start_release(entry)
        elif seen.bursts is None or entry.burst in seen.stale:
            return  # the answer is under way
        elif entry.burst in seen.bursts:
            self._start_release(entry)
        elif set(self._ranks(entry)) <= queue.down:
            self._undrain(entry)
            self.ledger.note("gone", entry.burst)
            self._released.discard(entry.burst)
            self._idle_since.pop(entry.burst, None)

    def _request(self, entry: Entry) -> None:
        provider = self.providers.get(entry.provider)
        if provider is None:
            log.warning("%s: there is no provider %s any more", entry.burst, entry.provider)
            return
        rental = replace(entry.rental, jobs=tuple(f58(job) for job in entry.jobs))
        self.calls.start(("request", entry.burst), lambda: provider.request(rental))

    def _release(self, entry: Entry, reason: str) -> None:
        self.ledger.note("release", entry.burst, reason=reason)
        self._start_release(entry)

    def _start_release(self, entry: Entry) -> None:
        provider = self.providers.get(entry.provider)
        if provider is None:
            log.warning("%s: there is no provider %s any more", entry.burst, entry.provider)
            return
        self._released.add(entry.burst)
        self._seen[entry.provider].stale.add(entry.burst)
        self.calls.start(("release", entry.burst), lambda: provider.release(entry.burst))

    # -- its nodes and jobs ------------------------------------------------------------------------

    def _ranks(self, entry: Entry) -> tuple[int, ...]:
        slot = next((one for one in self.slots if one.name == entry.burst), None)
        return slot.ranks[: entry.rental.nodes] if slot is not None else ()

    def _of(self, entry: Entry) -> Observed | None:
        seen = self._seen.get(entry.provider)
        return seen.bursts.get(entry.burst) if seen is not None and seen.bursts else None

    def _is_used(self, entry: Entry, queue: Queue) -> bool:
        ranks = set(self._ranks(entry))
        return any(target.rank in ranks for job in queue.running for target in job.resources.ranks)

    def _is_wanted(self, entry: Entry, queue: Queue) -> bool:
        """Whether a job that it is for still waits."""
        running = {job.jobid for job in queue.running}
        return any(job in queue.jobs and job not in running for job in entry.jobs)

    def _is_enough(self, entry: Entry, queue: Queue) -> bool:
        """Whether some of the nodes are up, and all jobs that wait for them take what there is."""
        some = set(self._ranks(entry)) - queue.down
        waiting = [one.jobspec for one in queue.pending if one.jobid in entry.jobs]
        return bool(some) and all(spec.is_best_effort for spec in waiting)

    def _open(self, entry: Entry, queue: Queue) -> None:
        """Let the jobs start that it is for."""
        self._undrain(entry)
        self._let_go(entry.jobs, queue)

    def _drain(self, entry: Entry, drained: Mapping[int, str], reason: str) -> None:
        """Drain its ranks for a reason of ours. What others drained keeps their reason."""
        replaced = {KEPT, REASON} - {reason}
        ranks = [
            rank for rank in self._ranks(entry) if rank not in drained or drained[rank] in replaced
        ]
        if ranks:
            self.instance.drain(ranks, reason)

    def _undrain(self, entry: Entry) -> None:
        """Undrain its ranks. What others drained stays so."""
        drained = self.instance.drained()
        ranks = [rank for rank in self._ranks(entry) if drained.get(rank) in (KEPT, REASON)]
        if ranks:
            self.instance.undrain(ranks)

    def _let_go(self, jobs: Sequence[int], queue: Queue) -> None:
        """Jobs that were submitted held wait for the scheduler from now on."""
        for job in jobs:
            if job in queue.held:
                try:
                    self.instance.set_urgency(job, _URGENCY)
                except BadInput as error:
                    log.info("job %s: %s", f58(job), error.what)  # it ended in the meantime

    def _counted(self, queue: Queue) -> Purse:
        """What the budget leaves, before anything is opened."""
        return Purse(self.ledger.book, queue, self.settings.config)

    @property
    def _boot_text(self) -> str:
        return format_duration(self.settings.boot_deadline_s)

    # -- the decision ------------------------------------------------------------------------------

    def _decide(self, queue: Queue) -> None:
        book = self.ledger.book
        types = {t.name: t for p in self.settings.config.providers for t in p.types}
        snapshot = snapshot_of(
            queue,
            book,
            self.slots,
            types,
            self.settings.config,
            self.settings.queue_policy,
            self._closed(queue.now_s),
            waits=self.settings.waits,
        )
        plan = decide(snapshot)
        waiting = {job.jobid for job in queue.pending}
        self.decisions = {job: one for job, one in self.decisions.items() if job in waiting}
        self.decisions.update({one.job.jobid: one for one in plan.decisions})
        self._said = {job: text for job, text in self._said.items() if job in waiting}
        # The largest first: each has a slot then, as decide() has checked.
        for order in sorted(plan.orders, key=lambda one: -one.nodes):
            self._take(order, queue)
        for burst, placed in plan.joined.items():
            self.ledger.note("join", burst, jobs=[one.job.jobid for one in placed])
        for decision in plan.decisions:
            self._tell(decision)
            # Only what is larger than the nodes here has to be kept from the scheduler, which
            # would refuse it; the others would lose their place.
            if decision.fits_here:
                self._let_go([decision.job.jobid], queue)

    def _closed(self, now_s: float) -> dict[tuple[str, str], str]:
        """Why types are not asked for now, by provider and type."""
        book, hours = self.ledger.book, self.settings.hours
        closed: dict[tuple[str, str], str] = {}
        for provider in self.settings.config.providers:
            for kind in (one.name for one in provider.types):
                key = provider.name, kind
                until_s = book.aside.get(key, (0.0, 0))[0]
                if hours is not None and not _within(hours, self.settings.minute_of(now_s)):
                    closed[key] = reasons.out_of_hours(*hours)
                elif provider.name in book.protected:
                    closed[key] = reasons.protected(provider.name, book.protected[provider.name])
                elif until_s > now_s:
                    closed[key] = reasons.set_aside(kind, until_s - now_s)
        return closed

    def _take(self, order: Order, queue: Queue) -> None:
        """Rent what was decided: the intent, and then the request."""
        book = self.ledger.book
        slots = [one for one in self.slots if one.name not in order.avoid]
        slot = free_slot(slots, book, order.node_type.name, order.nodes)
        if slot is None:
            log.warning("no slot is left for %s x %s", order.nodes, order.node_type.name)
            return
        self.ledger.intend(
            Rental(slot.name, slot.type, slot.hosts[: order.nodes]),
            provider=order.provider,
            user=order.user,
            jobs=[placed.job.jobid for placed in order.placed],
            cost_per_hour_usd=order.nodes * order.node_type.price_per_hour_usd,
            boot_by_s=self.instance.now() + self.settings.boot_deadline_s,
        )
        entry = self.ledger.book.bursts[slot.name]
        # Before their brokers come.
        self._drain(entry, queue.drained, KEPT)
        self._request(entry)

    def _tell(self, decision: Decision) -> None:
        """Show a verdict with its job, when it has changed."""
        jobid, text = decision.job.jobid, f"{decision.verdict}: {decision.reason}"
        if not decision.job.jobspec.burstable or self._said.get(jobid) == text:
            return
        try:
            self.instance.memo(jobid, {MEMO: text})
        except FlexError as error:
            log.info("job %s: %s", f58(jobid), error.what)  # it ended in the meantime
        self._said[jobid] = text


def _within(hours: tuple[int, int], minute: int) -> bool:
    """Whether a minute of the day lies in hours, which may go past midnight."""
    first, end = hours
    return first <= minute < end if first < end else minute >= first or minute < end
