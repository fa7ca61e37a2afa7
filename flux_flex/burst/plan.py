"""The nouns of a decision: the :class:`Snapshot` that it sees and the :class:`Plan` that it makes.

Times are seconds on one clock, money is US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig
from flux_flex.burst.market import Placed
from flux_flex.burst.select import PendingJob
from flux_flex.match.embedded import EmbeddedMatcher
from flux_flex.model.rv1 import ResourceSet

Verdict = Literal["stay", "burst", "deferred", "impossible"]
QueuePolicy = Literal["fcfs", "easy", "conservative"]


@dataclass(frozen=True, slots=True)
class Rented:
    """A burst that was asked for and is not over.

    ``matcher`` knows what runs, or will, on its ``nodes`` nodes: asked for at ``requested_s``,
    usable from ``ready_s``, needed until ``busy_until_s``. All of them count to ``user``. The
    budget has to cover it until ``at_most_s``, when that is later. ``hourly_usd`` is what all cost
    in an hour, where that is not the price of the type now. A type that nobody knows any more is
    None: the nodes are paid for, and nothing new is placed there.
    """

    burst: str
    provider: str
    node_type: NodeType | None
    nodes: int
    requested_s: float
    ready_s: float
    busy_until_s: float
    user: str
    matcher: EmbeddedMatcher = field(repr=False)
    at_most_s: float = 0.0
    hourly_usd: float | None = None

    @property
    def cost_per_hour_usd(self) -> float:
        if self.hourly_usd is not None:
            return self.hourly_usd
        return self.nodes * self.node_type.price_per_hour_usd if self.node_type else 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Hosts of the instance that nodes of one type may be rented for: a burst of n nodes takes the
    first n of ``ranks``. ``is_free``: no burst is there."""

    name: str
    ranks: tuple[int, ...]
    is_free: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision knows, at one moment ``now_s``.

    ``local`` holds the running jobs of this system; ``pending`` need not be sorted;
    ``spent_usd`` is what the running period has cost so far, without the bursts in ``rented``
    beyond now; ``next_burst`` numbers the next new burst. ``rooms`` has, by node type, how many
    nodes each of the hosts' slots takes that no burst is in, and ``largest`` what the largest one
    takes, be it free or not; None where none are needed.
    ``closed`` says of a provider's type, by both names, why it is not asked for now.
    ``longest_s`` has, by node type, the longest time limit of any job that may come to run on nodes
    of it instead of the one that they are rented for, while the budget has to cover it.
    For jobs in ``shunned`` nodes were open, and they did not start.
    ``resources`` are all hosts of the instance, those of nodes that may be rented among them, and
    ``places`` says which those are, by node type; None where rented nodes have names of their own.
    ``waits``: the scheduler lets a job wait for hosts that are down.
    ``flux_tells``: what jobs have as Flux's own estimate is of this moment, so it is believed.
    """

    now_s: float
    local: EmbeddedMatcher = field(repr=False)
    pending: Sequence[PendingJob] = field(repr=False)
    rented: Sequence[Rented]
    spent_usd: float
    config: BurstConfig
    queue_policy: QueuePolicy = "fcfs"
    next_burst: int = 0
    rooms: Mapping[str, Sequence[int]] | None = None
    largest: Mapping[str, int] | None = None
    closed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    longest_s: Mapping[str, float] = field(default_factory=dict)
    shunned: frozenset[int] = frozenset()
    flux_tells: bool = False
    resources: ResourceSet | None = field(default=None, repr=False)
    places: Mapping[str, Sequence[Place]] | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way of renting that was weighed for a job.

    ``nodes`` it would run on, of which ``new_nodes`` are rented for it; ``cost_usd`` is what it
    adds to the bill in the end, and ``cost_per_hour_usd`` to that of an hour; ``start_s`` when it
    would start there, inf where it never could. ``burst`` names the burst it would join.
    ``rejected`` says why it was not taken, empty for the one that was.
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
    """The verdict on one job. ``local_start_s`` is inf where no start here is in sight, and
    ``fits_here`` says whether there could be one. ``chosen`` is the alternative taken, for a
    burst; ``alternatives`` come cheapest first."""

    job: PendingJob
    verdict: Verdict
    reason: str
    local_start_s: float
    chosen: Alternative | None = None
    alternatives: tuple[Alternative, ...] = ()
    fits_here: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """A burst to ask for: ``nodes`` of ``node_type``, usable at ``ready_s``, for ``placed``, in any
    place but those that ``avoid`` names: a job of it refuses their hosts."""

    burst: str
    provider: str
    node_type: NodeType
    nodes: int
    ready_s: float
    placed: tuple[Placed, ...]
    avoid: frozenset[str] = frozenset()

    @property
    def end_s(self) -> float:
        """When the last of its jobs reaches its time limit."""
        return max(job.end_s for job in self.placed)

    @property
    def user(self) -> str:
        """Whom its nodes count to: the user that it was first rented for."""
        return self.placed[0].job.user


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: decisions in the scheduler's order, bursts to ask for, and jobs that start on
    bursts that exist already, by burst."""

    decisions: tuple[Decision, ...]
    orders: tuple[Order, ...]
    joined: dict[str, tuple[Placed, ...]]
