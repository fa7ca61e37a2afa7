"""The ways of renting for one job: onto a burst that exists, into an order of this round, or new.

:class:`Bursts` holds what exists and what this round has ordered so far. :meth:`Bursts.ways`
lists what could be done for a job with what each would cost; :meth:`Bursts.take` does one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import Provider
from flux_flex.burst.limits import Commitment
from flux_flex.burst.market import (
    MAX_NODES,
    Placed,
    alone,
    at_least,
    misfit,
    node_numbers,
    nodes_asked,
    nodes_for,
    pack,
)
from flux_flex.burst.plan import Alternative, Order, Place, Rented, Snapshot
from flux_flex.burst.reasons import no_allowed, no_room, no_slot, too_large
from flux_flex.burst.select import PendingJob
from flux_flex.model.money import cost_of
from flux_flex.model.targets import Targets

# open: may be taken; misfit: the job never fits there; late: not soon enough; limited: a limit
# stands in the way.
Standing = Literal["open", "misfit", "late", "limited"]


@dataclass(frozen=True, slots=True)
class Way:
    """An alternative as it is ``seen``, with what taking it would change: the new or grown
    ``order``, or where the job is ``placed`` on the ``rented`` burst, and the ``commitment``."""

    seen: Alternative
    standing: Standing = "open"
    order: Order | None = None
    rented: Rented | None = None
    placed: Placed | None = None
    commitment: Commitment | None = None

    @property
    def rank(self) -> tuple[bool, float, float, str]:
        """Sorts the best first: the cheapest, then the soonest, then by type, and at the end
        what could never be. Sums and differences of prices are equal within a millionth."""
        never = self.standing == "misfit"
        return never, round(self.seen.cost_usd, 6), self.seen.start_s, self.seen.type

    def rejected(self, standing: Standing, why: str) -> Way:
        """The same way, ruled out."""
        return replace(self, seen=replace(self.seen, rejected=why), standing=standing)


class Bursts:
    """The bursts of a snapshot and the orders of this round."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.now_s = snapshot.now_s
        self.config = snapshot.config
        self.existing = snapshot.rented
        self.matchers = {one.burst: one.matcher.fork() for one in snapshot.rented}
        self.busy_until_s = {one.burst: one.busy_until_s for one in snapshot.rented}
        self.next_burst = snapshot.next_burst
        self.rooms = snapshot.rooms
        self.largest = snapshot.largest
        self.closed = snapshot.closed
        self.longest_s = snapshot.longest_s
        self.places = snapshot.places
        self.targets = Targets(snapshot.resources.ranks if snapshot.resources else ())
        self.met: dict[int, int] = {}  # by job with a constraint, the bits of hosts that meet it
        self.orders: dict[str, Order] = {}
        self.joined: dict[str, list[Placed]] = {}

    def commitments(self) -> Iterator[Commitment]:
        """What the bursts of the snapshot take of the limits, and will have cost from now on."""
        for one in self.existing:
            left_s = max(0.0, self._paid_s(max(one.busy_until_s, one.at_most_s)))
            hourly = one.cost_per_hour_usd
            yield Commitment(one.user, one.nodes, hourly, cost_of(hourly, left_s))

    def ways(self, job: PendingJob, before_s: float) -> Iterator[Way]:
        """All that could be done for a job, also what is ruled out whatever else is rented.

        Existing bursts on which it does not start by ``before_s`` are left out.
        """
        self._ask_hosts(job)
        for rented in self.existing:
            yield from self._onto(rented, job, before_s)
        bare = self._bare(job)
        for provider in self.config.providers:
            for node_type in provider.types:
                yield from self._of_type(provider, node_type, bare)

    def take(self, way: Way) -> None:
        """Order what an open way orders, or place its job where it joins."""
        if way.order is not None:
            self.orders[way.order.burst] = way.order
        if way.rented is not None and way.placed is not None:
            burst, placed = way.rented.burst, way.placed
            self.matchers[burst].reserve(placed.job.jobspec, placed.job.jobid, placed.start_s)
            self.joined.setdefault(burst, []).append(placed)
            self.busy_until_s[burst] = max(self.busy_until_s[burst], placed.end_s)

    # -- onto what exists ----------------------------------------------------------------------

    def _onto(self, rented: Rented, job: PendingJob, before_s: float) -> Iterator[Way]:
        """Onto nodes that are rented already, as soon as they are ready and free. The whole burst
        is paid for as long as this job keeps it."""
        ready_s = max(self.now_s, rented.ready_s)
        node_type = rented.node_type
        if ready_s >= before_s or node_type is None or not self._allowed(node_type):
            return
        if misfit(self._bare(job).jobspec, node_type, self.config.efa_from_nodes):
            return
        match = self.matchers[rented.burst].probe(job.jobspec, ready_s, before_s)
        if match is None:
            return
        end_s = match.at + job.jobspec.duration_s
        longer_s = max(0.0, end_s - self.busy_until_s[rented.burst])
        cost = cost_of(rented.cost_per_hour_usd, longer_s)
        nodes = tuple(node_numbers(match.graph, match.nodes))
        name = node_type.name
        yield Way(
            Alternative(
                rented.provider,
                name,
                len(nodes),
                0,
                match.at,
                _finite(cost),
                0.0,
                burst=rented.burst,
            ),
            rented=rented,
            placed=Placed(job, match.at, end_s, nodes),
            commitment=Commitment(job.user, 0, 0.0, cost),
        )

    # -- with what is ordered ------------------------------------------------------------------

    def _of_type(self, provider: Provider, node_type: NodeType, job: PendingJob) -> Iterator[Way]:
        limit, name = self.config.limits.nodes, node_type.name
        most = MAX_NODES if limit is None else min(limit, MAX_NODES)
        room = most if self.largest is None else self.largest.get(name, 0)
        why = misfit(job.jobspec, node_type, self.config.efa_from_nodes, min(most, room))
        if why or (why := self._nowhere(name, job, 1)):
            yield self._never(provider, name, 0, why)
            return
        bound = at_least(job.jobspec, node_type)
        # Beyond the limit the bound is enough, and nothing large is built to know better.
        within = min(most, room)
        nodes = nodes_for(job.jobspec, node_type, within) if bound <= within else None
        if nodes is None and (bound > most or most <= room):
            exact = nodes_asked(job.jobspec) == bound
            yield self._refused(
                provider, node_type, job, bound, too_large(most, bound, exact=exact)
            )
        elif nodes is None:
            exact = nodes_asked(job.jobspec) == bound
            yield self._never(provider, name, bound, no_slot(name, room, bound, exact=exact))
        elif why := self._nowhere(name, job, nodes):
            yield self._never(provider, name, nodes, why)
        elif not self._allowed(node_type):
            why = f"{name} is not among the types that may be rented"
            yield self._refused(provider, node_type, job, nodes, why)
        elif why := self.closed.get((provider.name, name), ""):
            yield self._refused(provider, node_type, job, nodes, why)
        else:
            for order in self.orders.values():
                if (order.provider, order.node_type) == (provider.name, node_type):
                    yield from self._grown(order, job)
            yield self._new(provider, node_type, job)

    def _allowed(self, node_type: NodeType) -> bool:
        allowed = self.config.limits.types
        return allowed is None or node_type.name in allowed

    def _never(self, provider: Provider, kind: str, nodes: int, why: str) -> Way:
        never = Alternative(provider.name, kind, nodes, nodes, math.inf, 0.0, 0.0)
        return Way(never).rejected("misfit", why)

    def _refused(
        self, provider: Provider, node_type: NodeType, job: PendingJob, nodes: int, why: str
    ) -> Way:
        """What no room below the limits could ever allow, priced without placing the job."""
        start_s = self.now_s + provider.boot
        hourly = nodes * node_type.price_per_hour_usd
        cost = cost_of(hourly, self._paid_s(start_s + job.jobspec.duration_s))
        name = node_type.name
        seen = Alternative(provider.name, name, nodes, nodes, start_s, _finite(cost), hourly)
        return Way(seen).rejected("limited", why)

    def _grown(self, order: Order, job: PendingJob) -> Iterator[Way]:
        """Packed together with jobs that this round rents for anyway."""
        packing = pack(
            [*(placed.job for placed in order.placed), job], order.node_type, order.ready_s
        )
        if packing is None:
            return
        # A burst counts to one user: with a limit for each, nobody adds to another's.
        counted = self.config.limits.per_user is not None
        if counted and packing.nodes > order.nodes and job.user != order.user:
            return
        grown = self._somewhere(replace(order, nodes=packing.nodes, placed=packing.placed))
        if not self._has_room(grown):
            return
        cost = self._cost_usd(grown) - self._cost_usd(order)
        worst = self._worst_usd(grown) - self._worst_usd(order)
        if math.isnan(cost):  # beyond all numbers, both
            return
        yield _ordering(grown, grown.nodes - order.nodes, cost, worst, joins=order.burst)

    def _new(self, provider: Provider, node_type: NodeType, job: PendingJob) -> Way:
        burst = f"burst-{self.next_burst + len(self.orders)}"
        ready_s = self.now_s + provider.boot
        packing = alone(job, node_type, ready_s)
        order = self._somewhere(
            Order(burst, provider.name, node_type, packing.nodes, ready_s, packing.placed)
        )
        cost, worst = self._cost_usd(order), self._worst_usd(order)
        way = _ordering(order, order.nodes, cost, worst, joins="")
        if self._has_room(order):
            return way
        return way.rejected("limited", no_room(node_type.name, order.nodes))

    def _has_room(self, order: Order) -> bool:
        """Whether this order and those taken so far each have a slot that they fit into."""
        if self.rooms is None:
            return True
        taken = {**self.orders, order.burst: order}.values()
        kind = order.node_type.name
        sizes = sorted((one.nodes for one in taken if one.node_type.name == kind), reverse=True)
        rooms = sorted(self.rooms.get(kind, ()), reverse=True)
        enough = len(sizes) <= len(rooms) and all(
            size <= room for size, room in zip(sizes, rooms, strict=False)
        )
        return enough and self._have_places([one for one in taken if one.node_type.name == kind])

    # -- the hosts that nodes would be -----------------------------------------------------------

    def _ask_hosts(self, job: PendingJob) -> None:
        """Ask the hosts that there are, once, which of them the job's constraint allows."""
        if self.places is not None and job.jobspec.constraint is not None:
            self.met[job.jobid] = self.targets.matching(job.jobspec.constraint)

    def _bare(self, job: PendingJob) -> PendingJob:
        """The job without a constraint that the places of rented nodes are asked about."""
        if self.places is None or job.jobspec.constraint is None:
            return job
        return replace(job, jobspec=replace(job.jobspec, constraint=None))

    def _nowhere(self, kind: str, job: PendingJob, nodes: int) -> str:
        """Why no place for a type, free or not, has so many nodes that a job may be given."""
        met = self.met.get(job.jobid)
        places = self.places.get(kind, ()) if self.places is not None else ()
        if not places or met is None or any(self._meets(one, nodes, met) for one in places):
            return ""
        return no_allowed(kind, nodes)

    def _meets(self, place: Place, nodes: int, met: int) -> bool:
        """Whether all nodes of a burst there would be among some bits."""
        first = self.targets.of_ranks(place.ranks[:nodes])
        return len(place.ranks) >= nodes and not first & ~met

    def _somewhere(self, order: Order) -> Order:
        """The order with the places that its jobs refuse."""
        met = [self.met[one.job.jobid] for one in order.placed if one.job.jobid in self.met]
        if self.places is None or not met:
            return order
        places = self.places.get(order.node_type.name, ())
        refused = (
            place.name
            for place in places
            if not all(self._meets(place, order.nodes, one) for one in met)
        )
        return replace(order, avoid=frozenset(refused))

    def _have_places(self, orders: Sequence[Order]) -> bool:
        """Whether orders of one type find places as they are taken: the largest first, each the
        smallest that takes it."""
        if self.places is None or not orders:
            return True
        places = self.places.get(orders[0].node_type.name, ())
        free = sorted((one for one in places if one.is_free), key=lambda one: len(one.ranks))
        for order in sorted(orders, key=lambda one: -one.nodes):
            fitting = (
                one for one in free if len(one.ranks) >= order.nodes and one.name not in order.avoid
            )
            place = next(fitting, None)
            if place is None:
                return False
            free.remove(place)
        return True

    # -- what it costs ---------------------------------------------------------------------------

    def _cost_usd(self, order: Order) -> float:
        hourly = order.nodes * order.node_type.price_per_hour_usd
        return cost_of(hourly, self._paid_s(order.end_s))

    def _worst_usd(self, order: Order) -> float:
        """The same if the longest job that may take its nodes starts as soon as they are up."""
        hourly = order.nodes * order.node_type.price_per_hour_usd
        longest_s = self.longest_s.get(order.node_type.name, 0.0)
        return cost_of(hourly, self._paid_s(max(order.end_s, order.ready_s + longest_s)))

    def _paid_s(self, end_s: float) -> float:
        """Nodes are paid from the request, which is now, until they have idled and are gone."""
        return end_s - self.now_s + self.config.idle_timeout + self.config.release


def _finite(cost_usd: float) -> float:
    """A cost as it is shown and compared, in numbers that JSON has."""
    return min(cost_usd, sys.float_info.max)


def _ordering(order: Order, new_nodes: int, cost: float, worst: float, *, joins: str) -> Way:
    """The way for the last job of an order that adds ``new_nodes`` and ``cost`` US dollars, or
    ``worst`` for the budget."""
    placed, node_type = order.placed[-1], order.node_type
    hourly = new_nodes * node_type.price_per_hour_usd
    return Way(
        Alternative(
            order.provider,
            node_type.name,
            len(placed.nodes),
            new_nodes,
            placed.start_s,
            _finite(cost),
            hourly,
            burst=joins,
        ),
        order=order,
        commitment=Commitment(placed.job.user, new_nodes, hourly, worst),
    )
