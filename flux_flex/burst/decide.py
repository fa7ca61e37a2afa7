"""The decision: which waiting jobs to rent nodes for, which type, how many, at what cost.

:func:`decide` is pure. It gets a :class:`Snapshot` that cannot change under it and returns a
:class:`Plan`: one :class:`Decision` for each job that was weighed, with every alternative and
why it was or was not taken, and the bursts to ask for. It acts on nothing.

For each job in the scheduler's order it asks the matcher when the job would start here, behind
all that is ahead of it and stays; then what each way of renting would take, cost and bring. A
job bursts when that is sooner by more than the threshold and within every limit; of several ways
it takes the cheapest. The jobs behind then find its place here free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.limits import Commitment, Headroom
from flux_flex.burst.market import MAX_NODES, Placed, alone, at_least, misfit, node_numbers, pack
from flux_flex.burst.select import PendingJob, within_depth
from flux_flex.config import BurstConfig, Provider
from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.duration import format_duration

Verdict = Literal["stay", "burst", "deferred", "impossible"]
QueuePolicy = Literal["fcfs", "easy", "conservative"]


@dataclass(frozen=True, slots=True)
class Rented:
    """A burst that was asked for and is not over.

    ``matcher`` knows what runs, or will, on its ``nodes`` nodes; times are on the common clock:
    asked for at ``requested_s``, usable from ``ready_s``, needed until ``busy_until_s``.
    """

    burst: str
    provider: str
    node_type: NodeType
    nodes: int
    requested_s: float
    ready_s: float
    busy_until_s: float
    user: str
    matcher: EmbeddedMatcher = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision knows, at one moment ``now_s``.

    ``local`` holds the running jobs of this system; ``pending`` need not be sorted;
    ``spent_usd`` is what the running period has cost so far, without the bursts in ``rented``
    beyond now; ``next_burst`` numbers the next new burst.
    """

    now_s: float
    local: EmbeddedMatcher = field(repr=False)
    pending: Sequence[PendingJob] = field(repr=False)
    rented: Sequence[Rented]
    spent_usd: float
    config: BurstConfig
    queue_policy: QueuePolicy = "fcfs"
    next_burst: int = 0


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way of renting that was weighed for a job.

    ``nodes`` it would run on, of which ``new_nodes`` are rented for it; ``cost_usd`` is what it
    adds to the bill; ``start_s`` when it would start there. ``burst`` names the burst it would
    join. ``rejected`` says why it was not taken, empty for the one that was.
    """

    provider: str
    type: str
    nodes: int
    new_nodes: int
    start_s: float
    cost_usd: float
    cost_per_hour_usd: float
    burst: str = ""
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one job. ``local_start_s`` is inf where it can never start here, and None
    where that was not worked out. ``chosen`` is the alternative taken, for a burst."""

    job: PendingJob
    verdict: Verdict
    reason: str
    local_start_s: float | None
    chosen: Alternative | None = None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """A burst to ask for: ``nodes`` of ``node_type``, usable at ``ready_s``, for ``placed``."""

    burst: str
    provider: str
    node_type: NodeType
    nodes: int
    ready_s: float
    placed: tuple[Placed, ...]

    @property
    def end_s(self) -> float:
        return max(job.end_s for job in self.placed)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: decisions in the scheduler's order, bursts to ask for, and jobs that start on
    bursts that exist already, by burst."""

    decisions: tuple[Decision, ...]
    orders: tuple[Order, ...]
    joined: dict[str, tuple[Placed, ...]]


def decide(snapshot: Snapshot) -> Plan:
    """Decide for every pending job within the configured depth. Pure: see the module."""
    return _Round(snapshot).plan()


@dataclass(slots=True)
class _Way:
    """An alternative with what taking it would change."""

    seen: Alternative
    order: Order | None = None  # the new or grown order
    rented: Rented | None = None  # or the existing burst
    placed: Placed | None = None
    commitment: Commitment | None = None


class _Round:
    """One run of decide: the orders so far, and what room the limits still leave."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.at = snapshot
        self.config = snapshot.config
        self.local = snapshot.local.fork()
        self.local.advance(max(snapshot.now_s, self.local.now))
        self.rented = {one.burst: one.matcher.fork() for one in snapshot.rented}
        self.busy_until = {one.burst: one.busy_until_s for one in snapshot.rented}
        self.orders: dict[str, Order] = {}
        self.joined: dict[str, list[Placed]] = {}
        self.room = Headroom(self.config.limits, snapshot.spent_usd)
        for one in snapshot.rented:
            left_s = one.busy_until_s + self.config.idle_timeout - snapshot.now_s
            cost = _cost(one.nodes, one.node_type, max(0.0, left_s))
            hourly = one.nodes * one.node_type.price_per_hour_usd
            self.room.commit(Commitment(one.user, one.nodes, hourly, cost))

    def plan(self) -> Plan:
        decisions = tuple(self._decide(job, start) for job, start in self._local_starts())
        joined = {burst: tuple(placed) for burst, placed in self.joined.items()}
        return Plan(decisions, tuple(self.orders.values()), joined)

    # -- here ------------------------------------------------------------------------------------

    def _local_starts(self) -> Iterator[tuple[PendingJob, float]]:
        """Each job with its start here; a job that the caller bursts must be cancelled there."""
        earliest = self.at.now_s
        for job in within_depth(self.at.pending, self.config.depth):
            try:
                match = self.local.reserve(job.jobspec, job.jobid, at=earliest)
            except Unsatisfiable:
                yield job, math.inf  # Flux refuses such a job, so it holds nobody up
                continue
            except Busy:
                yield job, math.inf
                if self.at.queue_policy == "fcfs":
                    earliest = math.inf
                continue
            yield job, match.at
            if job.jobid in self.local.holders and self.at.queue_policy == "fcfs":
                earliest = match.at
                self.local.advance(earliest)

    # -- one job ----------------------------------------------------------------------------------

    def _decide(self, job: PendingJob, local_s: float) -> Decision:
        here = _here(local_s, self.at.now_s)
        if not job.jobspec.burstable:
            if math.isinf(local_s):
                return Decision(job, "impossible", f"not burstable, and {here}", local_s)
            return Decision(job, "stay", f"not burstable, {here}", local_s)
        if not job.jobspec.duration_s:
            why = "has no time limit, so what it would cost has no bound"
            return Decision(job, "impossible", why, local_s)
        if local_s - self.at.now_s <= self.config.threshold:
            return Decision(job, "stay", here, local_s)
        ways = [self._weighed(way, local_s) for way in self._ways(job, local_s)]
        ways.sort(key=lambda way: (way.seen.cost_usd, way.seen.start_s, way.seen.type))
        seen = tuple(way.seen for way in ways)
        for way in ways:
            if not way.seen.rejected:
                return self._take(way, job, local_s, seen)
        return self._refuse(job, local_s, here, seen)

    def _take(
        self, way: _Way, job: PendingJob, local_s: float, seen: tuple[Alternative, ...]
    ) -> Decision:
        if job.jobid in self.local.holders:
            self.local.cancel(job.jobid)
        if way.order is not None:
            self.orders[way.order.burst] = way.order
        if way.rented is not None and way.placed is not None:
            burst = way.rented.burst
            self.rented[burst].reserve(job.jobspec, job.jobid, at=way.placed.start_s)
            self.joined.setdefault(burst, []).append(way.placed)
            self.busy_until[burst] = max(self.busy_until[burst], way.placed.end_s)
        if way.commitment is not None:
            self.room.commit(way.commitment)
        shown = tuple(
            one if one is way.seen or one.rejected else replace(one, rejected="costs more")
            for one in seen
        )
        reason = _taken(way.seen, self.at.now_s, local_s)
        return Decision(job, "burst", reason, local_s, way.seen, shown)

    def _refuse(
        self, job: PendingJob, local_s: float, here: str, seen: tuple[Alternative, ...]
    ) -> Decision:
        """No way was left: it is too late, beyond a limit, or no type fits."""
        possible = [one for one in seen if not math.isinf(one.start_s)]
        if not possible:
            why = _common(seen)
            return Decision(job, "impossible", why, local_s, None, seen)
        late = [one for one in possible if one.rejected.startswith("not sooner")]
        if len(late) == len(possible):
            best = min(one.start_s for one in possible)
            there = format_duration(best - self.at.now_s)
            why = f"{here}, rented nodes would be ready in {there}"
            return Decision(job, "stay", why, local_s, None, seen)
        first = next(one for one in possible if one not in late)
        return Decision(job, "deferred", first.rejected, local_s, None, seen)

    def _weighed(self, way: _Way, local_s: float) -> _Way:
        """The way with the reason that rules it out, if there is one."""
        one = way.seen
        if one.rejected:
            return way
        if local_s - one.start_s <= self.config.threshold:
            gain = format_duration(max(0.0, local_s - one.start_s))
            rejected = (
                f"not sooner by more than {format_duration(self.config.threshold)}: by {gain}"
            )
        else:
            rejected = self.room.refusal(way.commitment) if way.commitment else ""
        way.seen = replace(one, rejected=rejected)
        return way

    # -- ways of renting --------------------------------------------------------------------------

    def _ways(self, job: PendingJob, local_s: float) -> Iterator[_Way]:
        useful_s = local_s - self.config.threshold  # a start after this is not soon enough
        for rented in self.at.rented:
            yield from self._onto(rented, job, useful_s)
        for provider in self.config.providers:
            for node_type in provider.types:
                why = self._unfit(job, node_type)
                if why:
                    never = Alternative(provider.name, node_type.name, 0, 0, math.inf, 0.0, 0.0)
                    yield _Way(replace(never, rejected=why))
                    continue
                if at_least(job.jobspec, node_type) > self._most():
                    yield self._too_large(provider, node_type, job)
                    continue
                for order in list(self.orders.values()):
                    if (order.provider, order.node_type) == (provider.name, node_type):
                        yield self._grown(order, job)
                yield self._new(provider, node_type, job)

    def _most(self) -> int:
        limit = self.config.limits.nodes
        return MAX_NODES if limit is None else min(limit, MAX_NODES)

    def _too_large(self, provider: Provider, node_type: NodeType, job: PendingJob) -> _Way:
        """More nodes than may ever be rented: said without trying to place the job on them."""
        nodes, price = at_least(job.jobspec, node_type), node_type.price_per_hour_usd
        start_s = self.at.now_s + provider.boot
        paid_s = provider.boot + job.jobspec.duration_s + self.config.idle_timeout
        cost = _cost(nodes, node_type, paid_s)
        why = f"at most {self._most()} nodes may be rented at once, it takes {nodes}"
        return _Way(
            Alternative(
                provider.name, node_type.name, nodes, nodes, start_s, cost, nodes * price, "", why
            )
        )

    def _unfit(self, job: PendingJob, node_type: NodeType) -> str:
        allowed = self.config.limits.types
        if allowed is not None and node_type.name not in allowed:
            return "not among the types that may be rented"
        return misfit(job.jobspec, node_type, self.config.efa_from_nodes)

    def _onto(self, rented: Rented, job: PendingJob, useful_s: float) -> Iterator[_Way]:
        """Onto nodes that are rented already, as soon as they are ready and free."""
        ready_s = max(self.at.now_s, rented.ready_s)
        if ready_s >= useful_s or self._unfit(job, rented.node_type):
            return
        match = self.rented[rented.burst].probe(job.jobspec, ready_s, useful_s)
        if match is None:
            return
        end_s = match.at + job.jobspec.duration_s
        longer_s = max(0.0, end_s - self.busy_until[rented.burst])
        cost = _cost(rented.nodes, rented.node_type, longer_s)
        hourly = rented.nodes * rented.node_type.price_per_hour_usd
        nodes = node_numbers(match.graph, match.nodes)
        seen = Alternative(
            rented.provider,
            rented.node_type.name,
            len(nodes),
            0,
            match.at,
            cost,
            hourly,
            rented.burst,
        )
        placed = Placed(job, match.at, end_s, tuple(nodes))
        commitment = Commitment(job.user, 0, 0.0, cost)
        yield _Way(seen, rented=rented, placed=placed, commitment=commitment)

    def _grown(self, order: Order, job: PendingJob) -> _Way:
        """Packed together with jobs that this round rents for anyway."""
        jobs = [placed.job for placed in order.placed] + [job]
        packing = pack(jobs, order.node_type, order.ready_s)
        grown = replace(order, nodes=packing.nodes, placed=packing.placed)
        return self._order_way(job, grown, order)

    def _new(self, provider: Provider, node_type: NodeType, job: PendingJob) -> _Way:
        burst = f"burst-{self.at.next_burst + len(self.orders)}"
        ready_s = self.at.now_s + provider.boot
        packing = alone(job, node_type, ready_s)
        order = Order(burst, provider.name, node_type, packing.nodes, ready_s, packing.placed)
        return self._order_way(job, order, None)

    def _order_way(self, job: PendingJob, order: Order, before: Order | None) -> _Way:
        cost = self._order_cost(order) - (self._order_cost(before) if before else 0.0)
        new_nodes = order.nodes - (before.nodes if before else 0)
        placed = order.placed[-1]
        price = order.node_type.price_per_hour_usd
        seen = Alternative(
            order.provider,
            order.node_type.name,
            len(placed.nodes),
            new_nodes,
            placed.start_s,
            cost,
            new_nodes * price,
            order.burst if before else "",
        )
        return _Way(
            seen,
            order=order,
            placed=placed,
            commitment=Commitment(job.user, new_nodes, new_nodes * price, cost),
        )

    def _order_cost(self, order: Order) -> float:
        """Nodes are paid from the request until they have idled away."""
        paid_s = order.end_s - self.at.now_s + self.config.idle_timeout
        return _cost(order.nodes, order.node_type, paid_s)


def _cost(nodes: int, node_type: NodeType, seconds: float) -> float:
    return nodes * node_type.price_per_hour_usd * seconds / 3600


def _here(local_s: float, now_s: float) -> str:
    if math.isinf(local_s):
        return "cannot start here"
    wait = local_s - now_s
    return f"starts here in {format_duration(wait)}" if wait >= 0.5 else "starts here now"


def _taken(way: Alternative, now_s: float, local_s: float) -> str:
    ready, here = format_duration(way.start_s - now_s), format_duration(local_s - now_s)
    instead = f"in {ready} instead of {here}"
    if way.new_nodes == way.nodes and not way.burst:
        return f"{way.nodes} x {way.type}, ${way.cost_per_hour_usd:,.2f}/h, ready {instead}"
    if way.new_nodes:
        return f"joins {way.burst} with {way.new_nodes} more x {way.type}, ready {instead}"
    return f"joins {way.burst} on {way.nodes} x {way.type}, no more nodes, starts {instead}"


def _common(seen: Sequence[Alternative]) -> str:
    """One sentence for why no type fits: the reason that most types share."""
    reasons = [one.rejected for one in seen]
    most = max(reasons, key=lambda why: (reasons.count(why), -reasons.index(why)))
    if len(set(reasons)) == 1:
        return f"no type here fits: {most}"
    return f"no type here fits: {seen[reasons.index(most)].type}: {most}"


__all__ = [
    "Alternative",
    "Decision",
    "Order",
    "Plan",
    "QueuePolicy",
    "Rented",
    "Snapshot",
    "Verdict",
    "decide",
]
