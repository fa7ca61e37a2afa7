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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from flux_flex.burst import reasons
from flux_flex.burst.budget import Purse
from flux_flex.burst.calls import Calls
from flux_flex.burst.config import BurstConfig
from flux_flex.burst.decide import decide
from flux_flex.burst.ledger import Aside, Entry, Ledger, State
from flux_flex.burst.plan import Decision, Order, QueuePolicy
from flux_flex.burst.providers import NoCapacity, Phase, Provider, Rental
from flux_flex.burst.queue import LET_GO, Known, Queue, read_queue
from flux_flex.burst.renting import Renting
from flux_flex.burst.slots import (
    KEPT,
    REASON,
    Slot,
    free_slot,
    placed_slots,
    usable_slots,
)
from flux_flex.burst.snapshot import snapshot_of
from flux_flex.burst.verdicts import Verdicts
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.instance import Instance, JobState
from flux_flex.model.duration import format_duration
from flux_flex.model.jobid import f58
from flux_flex.model.quoting import one_line
from flux_flex.model.rv1 import parse_r

_NOT_COVERED = "the budget does not cover what may start there"
_NOT_WANTED = "no job waits for it any more"

# How long a type without capacity is set aside, first and at the most, and how long a job that did
# not start on nodes that were open for it.
_FIRST_ASIDE_S = 60.0
_LONGEST_ASIDE_S = 3600.0
_SHUN_S = 3600.0
# How long a provider may list nothing of a burst that it has taken on.
_UNLISTED_S = 60.0
# How often providers are asked what they have while something is going on, and else.
_BUSY_LOOK_S = 5.0
_IDLE_LOOK_S = 60.0
_URGENCY = 16
_MOST_SAID = 300

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
        self.settings = settings
        self.ledger = Ledger(instance)
        self.renting = Renting(providers, calls, instance.now)
        self.slots = placed_slots(settings.slots, parse_r(instance.resources()))
        self.decisions: dict[int, Decision] = {}
        self.deciding = True  # else nothing more is rented; jobs may join what is
        self._verdicts = Verdicts(instance)
        self._known = Known()
        self._idle_since: dict[str, float] = {}
        self._unlisted_since: dict[str, float] = {}
        self._failed: dict[str, str] = {}
        self._purse: Purse

    # -- one step ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Look, move bursts on, decide. Raises FlexError where the instance does not answer."""
        self._take_answers()
        queue = read_queue(
            self.instance, self._known, depth=self.settings.config.depth,
            queue=self.settings.queue, also=self.ledger.book.jobs,
        )  # fmt: skip
        self._purse = Purse(self.ledger.book, queue, self.settings.config)
        self._failed = {}
        for entry in [*self.ledger.book.bursts.values()]:
            try:
                self._move(entry, queue)
            except FlexError as error:  # the others go their way
                self._failed[entry.burst] = one_line(error.what, _MOST_SAID)
                log.error("%s: %s; trying again", entry.burst, self._failed[entry.burst])
        self._decide(queue)
        self.renting.look(self.next_step_s)
        # Inline calls have ended by now.
        self._take_answers()

    @property
    def next_step_s(self) -> float:
        """How many seconds a step may wait if nothing happens."""
        return _BUSY_LOOK_S if self.ledger.book.bursts else _IDLE_LOOK_S

    @property
    def troubles(self) -> dict[str, str]:
        """By burst or provider, what does not go on, for people."""
        lost = {
            entry.burst: f"flex.toml does not have its provider {entry.provider} any more"
            for entry in self.ledger.book.bursts.values()
            if entry.provider not in self.renting.providers
        }
        return {**self.renting.troubles(self.next_step_s), **lost, **self._failed}

    def let_go(self, burst: str, reason: str) -> None:
        """Take a burst away when what runs on it has ended. Raises BadInput for an unknown one."""
        entry = self.ledger.book.bursts.get(burst)
        if entry is None:
            raise BadInput("no such burst", burst, "see flux-flex burst list")
        if entry.state in (State.INTENDED, State.ASKED):
            self._release(entry, reason)
        elif entry.state is State.UP:
            self.ledger.note("leave", burst, reason=reason)

    def retire(self, reason: str) -> None:
        """Let all bursts go, and take away at once what nothing runs on. What runs may end; the
        next controller takes those away. Raises FlexError."""
        self.deciding = False
        for burst in [*self.ledger.book.bursts]:
            self.let_go(burst, reason)
        self.step()

    # -- what providers say ------------------------------------------------------------------------

    def _take_answers(self) -> None:
        ours = {slot.name for slot in self.slots}
        for burst, error in self.renting.take(self.ledger.book.bursts, ours):
            self._requested(burst, error)

    def _requested(self, burst: str, error: FlexError | None) -> None:
        entry = self.ledger.book.bursts.get(burst)
        if entry is None or entry.state is not State.INTENDED:
            return
        if error is None:
            self.ledger.note("asked", burst)
            return
        said = one_line(error.what, _MOST_SAID)
        self._set_aside(entry, "" if isinstance(error, NoCapacity) else said)
        if isinstance(error, NoCapacity):
            self._undrain(entry.rental.hosts)
            self.ledger.note("refused", burst, reason=said)
        else:
            # It may have gone half through, and would fail again at once.
            self._release(entry, said)

    def _set_aside(self, entry: Entry, why: str = "") -> None:
        """Do not ask for a type for a while; ``why`` is empty where there is no capacity."""
        times = self.ledger.book.aside.get((entry.provider, entry.rental.type), Aside()).times
        pause_s = min(_FIRST_ASIDE_S * 2.0 ** min(times, 10), _LONGEST_ASIDE_S)
        until_s = self.instance.now() + pause_s
        self.ledger.set_aside(entry.provider, entry.rental.type, until_s, why)
        said = why or f"{entry.provider} has no {entry.rental.type} now"
        log.warning("%s: %s; trying again in %s", entry.burst, said, format_duration(pause_s))

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
        lost = self._lost(entry, queue)
        if lost and entry.state in (State.INTENDED, State.ASKED, State.UP):
            self.ledger.note("leave", entry.burst, reason=lost)
            entry = self.ledger.book.bursts[entry.burst]
        moves[entry.state](entry, queue)

    def _lost(self, entry: Entry, queue: Queue) -> str:
        """Why a burst cannot go on: the configuration that it was rented under has changed."""
        if entry.provider not in self.renting.providers:
            return f"flex.toml does not have the provider {entry.provider} any more"
        if len(queue.ranks_of(entry.rental.hosts)) < entry.rental.nodes:
            return "the instance's R does not have its hosts any more"
        return ""

    def _intended(self, entry: Entry, queue: Queue) -> None:
        """Asked for, or not: whoever wrote the intent may have died. Asking again is safe."""
        if not self._is_wanted(entry, queue):
            self._release(entry, _NOT_WANTED)
        elif queue.now_s >= entry.boot_by_s:
            self._give_up(entry, "the request was not answered")
        elif not self.renting.is_busy(entry.burst):
            self._drain(entry, queue, KEPT)
            rental = replace(entry.rental, jobs=tuple(f58(job) for job in entry.jobs))
            self.renting.request(entry.provider, rental)

    def _asked(self, entry: Entry, queue: Queue) -> None:
        seen = self.renting.of(entry) if self.renting.has_said(entry) else None
        if not set(queue.ranks_of(entry.rental.hosts)) & queue.down:
            self.ledger.note("up", entry.burst)
            self._idle_since[entry.burst] = queue.now_s
            if self._purse.opens(entry):
                self._open(entry, queue)
        elif not self._is_wanted(entry, queue):
            self._release(entry, _NOT_WANTED)
        elif seen is not None and seen.phase is Phase.FAILED:
            # Without capacity, or in a way that would fail again at once.
            why = seen.reason or "the provider failed"
            self._set_aside(entry, "" if seen.no_capacity else why)
            self._release(entry, why)
        elif self._is_unlisted(entry, queue):
            self._set_aside(entry, why := f"{entry.provider} does not have it any more")
            self._release(entry, why)
        elif queue.now_s >= entry.boot_by_s and self._is_enough(entry, queue):
            self.ledger.note("up", entry.burst, reason="some nodes did not come up")
        elif queue.now_s >= entry.boot_by_s:
            self._give_up(entry, seen.reason if seen is not None else "")

    def _give_up(self, entry: Entry, why: str) -> None:
        """Nodes that did not come up: nothing more is rented there until somebody has looked."""
        deadline = format_duration(self.settings.boot_deadline_s)
        reason = f"{entry.burst} did not come up in {deadline}" + (f": {why}" if why else "")
        self.ledger.protect(entry.provider, reason)
        self._release(entry, reason)

    def _up(self, entry: Entry, queue: Queue) -> None:
        is_wanted = self._is_wanted(entry, queue)
        is_open = is_wanted and self._purse.opens(entry)
        if is_open:
            self._open(entry, queue)
        else:
            self._drain(entry, queue, KEPT)
        if self._is_used(entry, queue):
            self._idle_since.pop(entry.burst, None)
            return
        # A clock may be put back.
        since_s = min(self._idle_since.get(entry.burst, queue.now_s), queue.now_s)
        self._idle_since[entry.burst] = since_s
        if queue.now_s - since_s >= self.settings.config.idle_timeout:
            if is_open:  # it would be rented for again, and idle again
                self._note_unused(entry, queue)
            reason = _NOT_COVERED if is_wanted and not is_open else "idle"
            self.ledger.note("leave", entry.burst, reason=reason)
            self._drain(entry, queue, REASON)

    def _note_unused(self, entry: Entry, queue: Queue) -> None:
        """Nodes were open, and the job that they are for did not start. Where some went down that
        is the provider's doing, else the job's."""
        lost = len(set(queue.ranks_of(entry.rental.hosts)) & queue.down)
        if lost:
            reason = f"{entry.burst} was up for a job that waits, and {lost} of its nodes went down"
            self.ledger.protect(entry.provider, reason)
            return
        waiting = [job for job in entry.jobs if self._waits(job, queue)]
        self.ledger.shun(waiting, queue.now_s + _SHUN_S)

    def _leaving(self, entry: Entry, queue: Queue) -> None:
        """Drained: what still runs there may end."""
        self._drain(entry, queue, REASON)
        if not self._is_used(entry, queue):
            self._release(entry, entry.reason)

    def _releasing(self, entry: Entry, queue: Queue) -> None:
        """Gone when the provider has nothing of it, and its brokers are down."""
        # A request that is under way may rent after a release.
        if self.renting.is_busy(entry.burst):
            return
        if not self.renting.was_released(entry.burst):  # by another controller, or not at all
            self.renting.release(entry.provider, entry.burst)
        elif not self.renting.has_said(entry):
            return  # the answer is under way
        elif self.renting.of(entry) is not None:
            self.renting.release(entry.provider, entry.burst)
        elif set(queue.ranks_of(entry.rental.hosts)) <= queue.down:
            self._undrain(entry.rental.hosts)
            self.ledger.note("gone", entry.burst)
            self._forget(entry.burst)

    def _forget(self, burst: str) -> None:
        self.renting.forget(burst)
        self._idle_since.pop(burst, None)
        self._unlisted_since.pop(burst, None)

    def _release(self, entry: Entry, reason: str) -> None:
        self.ledger.note("release", entry.burst, reason=reason)
        self.renting.release(entry.provider, entry.burst)

    # -- its nodes and jobs ------------------------------------------------------------------------

    def _is_used(self, entry: Entry, queue: Queue) -> bool:
        ranks = set(queue.ranks_of(entry.rental.hosts))
        return any(target.rank in ranks for job in queue.running for target in job.resources.ranks)

    def _is_wanted(self, entry: Entry, queue: Queue) -> bool:
        """Whether a job that it is for still waits."""
        return any(self._waits(job, queue) for job in entry.jobs)

    def _waits(self, jobid: int, queue: Queue) -> bool:
        """Whether a job waits for nodes, and not for a person who holds it."""
        job = queue.jobs.get(jobid)
        if job is None or job.state is not JobState.SCHED:
            return False
        return job.urgency > 0 or jobid in queue.held

    def _is_unlisted(self, entry: Entry, queue: Queue) -> bool:
        """Whether its provider has not listed a burst for a while that it has taken on."""
        if self.renting.of(entry) is not None or not self.renting.has_said(entry):
            self._unlisted_since.pop(entry.burst, None)
            return False
        since_s = self._unlisted_since.setdefault(entry.burst, queue.now_s)
        return queue.now_s - since_s >= _UNLISTED_S

    def _is_enough(self, entry: Entry, queue: Queue) -> bool:
        """Whether some of the nodes are up, and all jobs that wait for them take what there is."""
        some = set(queue.ranks_of(entry.rental.hosts)) - queue.down
        waiting = [one.jobspec for one in queue.pending if one.jobid in entry.jobs]
        return bool(some and waiting) and all(spec.is_best_effort for spec in waiting)

    def _open(self, entry: Entry, queue: Queue) -> None:
        """Let the jobs start that it is for."""
        self._undrain(entry.rental.hosts)
        self._let_go(entry.jobs, queue)

    def _drain(self, entry: Entry, queue: Queue, reason: str) -> None:
        """Drain its ranks for a reason of ours. What others drained keeps their reason."""
        replaced = {KEPT, REASON} - {reason}
        ranks = [
            rank
            for rank in queue.ranks_of(entry.rental.hosts)
            if rank not in queue.drained or queue.drained[rank] in replaced
        ]
        if ranks:
            self.instance.drain(ranks, reason)

    def _undrain(self, hosts: Collection[str]) -> None:
        """Undrain what we drained. What others drained stays so."""
        drained = self.instance.drained()
        R = parse_r(self.instance.resources())
        ours = {rank for rank, reason in drained.items() if reason in (KEPT, REASON)}
        ranks = [target.rank for target in R.ranks if target.host in hosts and target.rank in ours]
        if ranks:
            self.instance.undrain(ranks)

    def _let_go(self, jobs: Sequence[int], queue: Queue) -> None:
        """Jobs that were submitted held wait for the scheduler from now on. It is noted with them,
        so that one that a person holds later stays held."""
        for job in jobs:
            if job in queue.held:
                try:
                    self.instance.memo(job, {LET_GO: True})
                    self.instance.set_urgency(job, _URGENCY)
                except BadInput as error:
                    log.info("job %s: %s", f58(job), error.what)  # it ended in the meantime

    # -- the decision ------------------------------------------------------------------------------

    def _decide(self, queue: Queue) -> None:
        book = self.ledger.book
        types = {t.name: t for p in self.settings.config.providers for t in p.types}
        usable = self._usable(queue)
        shunned = {job for job, until_s in book.shunned.items() if until_s > queue.now_s}
        snapshot = snapshot_of(
            queue,
            book,
            self.slots,
            types,
            self.settings.config,
            self.settings.queue_policy,
            self._closed(queue.now_s),
            waits=self.settings.waits,
            usable=usable,
        )
        plan = decide(replace(snapshot, shunned=frozenset(shunned)))
        waiting = {job.jobid for job in queue.pending}
        # Also those of jobs that run by now: people ask why.
        self.decisions = {job: one for job, one in self.decisions.items() if job in queue.jobs}
        self.decisions.update({one.job.jobid: one for one in plan.decisions})
        # The largest first: each has a slot then, as decide() has checked.
        for order in sorted(plan.orders, key=lambda one: -one.nodes):
            self._take(order, queue, usable)
        for burst, placed in plan.joined.items():
            self.ledger.note("join", burst, jobs=[one.job.jobid for one in placed])
        self._verdicts.keep(waiting | queue.senseless.keys())
        for jobid, why in queue.senseless.items():
            self._verdicts.tell(jobid, f"impossible: {why}")
        for decision in plan.decisions:
            if decision.job.jobspec.burstable:
                text = f"{decision.verdict}: {decision.reason}"
                self._verdicts.tell(decision.job.jobid, text)
            # Only what is larger than the nodes here has to be kept from the scheduler, which
            # would refuse it; the others would lose their place.
            if decision.fits_here:
                self._let_go([decision.job.jobid], queue)

    def _usable(self, queue: Queue) -> tuple[Slot, ...]:
        """The slots that may be rented into, with the hosts that nobody else has drained."""
        taken = self.renting.taken(self.ledger.book.bursts)
        free = [slot for slot in self.slots if slot.name not in taken]
        return usable_slots(free, queue.drained)

    def _closed(self, now_s: float) -> dict[tuple[str, str], str]:
        """Why types are not asked for now, by provider and type."""
        book, hours = self.ledger.book, self.settings.hours
        closed: dict[tuple[str, str], str] = {}
        for provider in self.settings.config.providers:
            for kind in (one.name for one in provider.types):
                key = provider.name, kind
                aside = book.aside.get(key, Aside())
                if hours is not None and not _within(hours, self.settings.minute_of(now_s)):
                    closed[key] = reasons.out_of_hours(*hours)
                elif provider.name in book.protected:
                    closed[key] = reasons.protected(provider.name, book.protected[provider.name])
                elif not self.deciding:
                    closed[key] = reasons.STOPPED
                elif aside.until_s > now_s:
                    closed[key] = reasons.set_aside(kind, aside.until_s - now_s, aside.why)
        return closed

    def _take(self, order: Order, queue: Queue, usable: Sequence[Slot]) -> None:
        """Rent what was decided: the intent, and then the request."""
        usable = [one for one in usable if one.name not in order.avoid]
        slot = free_slot(usable, self.ledger.book, order.node_type.name, order.nodes)
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
        self._forget(slot.name)  # of whoever was there before
        # Drains them before their brokers come, and asks for them.
        self._intended(self.ledger.book.bursts[slot.name], queue)


def _within(hours: tuple[int, int], minute: int) -> bool:
    """Whether a minute of the day lies in hours, which may go past midnight."""
    first, end = hours
    return first <= minute < end if first < end else minute >= first or minute < end
