"""A small world for the controller: an instance in memory, a scheduler, a scripted provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_flex.burst.calls import Inline
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig, Limits
from flux_flex.burst.config import Provider as ProviderConfig
from flux_flex.burst.controller import Controller, Settings
from flux_flex.burst.ledger import KEY
from flux_flex.burst.providers import NoCapacity, Observed, Phase, Rental
from flux_flex.burst.slots import Slot
from flux_flex.errors import FlexError
from flux_flex.host.instance import JobState
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

OWN = 2
CORES = 4
TYPE = NodeType(
    name="small", cores=CORES, vcpus=CORES, gpus=0, memory_gib=8.0, network_gbps=10.0,
    price_per_hour_usd=3.6,
)  # fmt: skip
BIG = TYPE.model_copy(update={"name": "big", "cores": 8, "vcpus": 8, "price_per_hour_usd": 9.0})
BOOT_S = 120.0
MIDDLE = "in the middle of it"


class Crash(Exception):
    """The controller's process dies here."""


def job_of(nodes: int, duration_s: float = 600.0, **user: object) -> dict[str, Any]:
    core = {"type": "core", "count": CORES}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    return {
        "version": 1,
        "resources": [{"type": "node", "count": nodes, "exclusive": True, "with": [slot]}],
        "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": duration_s, "burstable": True}, "user": user},
    }


def longer_job(nodes: int, **system: object) -> dict[str, Any]:
    spec = job_of(nodes, duration_s=7200)
    spec["attributes"]["system"].update({"burstable": False, **system})
    return spec


def slots_of(kind: str, bursts: int, nodes: int) -> list[Slot]:
    return [
        Slot(f"{kind}-{k}", kind, tuple(f"{kind}-{k}-{i}" for i in range(nodes)))
        for k in range(bursts)
    ]


class Slow(Inline):
    """Calls that are made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[tuple[str, str], Callable[[], object]] = {}

    def start(self, key: tuple[str, str], call: Callable[[], object]) -> None:
        self.waiting.setdefault(key, call)

    def under_way(self, key: tuple[str, str]) -> bool:
        return key in self.waiting

    def abandon(self, key: tuple[str, str]) -> None:
        self.waiting.pop(key, None)

    def end(self, verb: str) -> None:
        for key in [key for key in self.waiting if key[0] == verb]:
            super().start(key, self.waiting.pop(key))


@dataclass
class Scripted:
    """A provider whose nodes come up by themselves, and that dies or refuses when it is told to.

    ``rented`` has all that exists, by burst, with when it is ready; ``requests`` counts how many
    sets were really rented.
    """

    world: World
    rented: dict[str, tuple[Rental, float]] = field(default_factory=dict)
    rents: int = 0
    no_capacity: set[str] = field(default_factory=set)
    broken: str = ""
    never_up: bool = False
    failing: dict[str, Observed] = field(default_factory=dict)

    def types(self) -> Sequence[NodeType]:
        return (TYPE, BIG)

    def request(self, rental: Rental) -> None:
        self.world.point("request")
        if rental.type in self.no_capacity:
            raise NoCapacity(f"no {rental.type} left", "scripted")
        if rental.burst not in self.rented:
            self.rents += 1
            ready_s = float("inf") if self.never_up else self.world.instance.now() + BOOT_S
            self.rented[rental.burst] = rental, ready_s
        self.world.point("request")
        if self.broken:
            raise FlexError(self.broken, "scripted")

    def observe(self) -> Sequence[Observed]:
        self.world.point("observe")
        now_s = self.world.instance.now()
        found = [
            Observed(burst, Phase.READY if now_s >= ready_s else Phase.COMING, rental.nodes)
            for burst, (rental, ready_s) in self.rented.items()
        ]
        return [self.failing.get(one.burst, one) for one in found]

    def release(self, burst: str) -> None:
        self.world.point("release")
        self.rented.pop(burst, None)
        self.world.point("release")

    def close(self) -> None:
        pass


class Recorded(MemoryInstance):
    """An instance in memory, with a point before and after each line of an eventlog."""

    world: World

    def post(self, key: str, name: str, context: Mapping[str, object]) -> None:
        self.world.point(f"before {name}")
        super().post(key, name, context)
        self.world.point(f"after {name}")


class World:
    """Time, a scheduler that starts jobs on whole nodes that are up, and one controller."""

    def __init__(
        self, *, slots: Sequence[Slot] | None = None, limits: Limits | None = None,
        crash_at: int | None = None, boot_s: float = BOOT_S, release_s: float = 0.0,
        **settings: Any,
    ) -> None:  # fmt: skip
        self.points: list[str] = []
        self.crash_at = crash_at
        self.slots = tuple(slots_of("small", 2, 4) if slots is None else slots)
        hosts = [f"own{i}" for i in range(OWN)] + [h for slot in self.slots for h in slot.hosts]
        cores = {"small": CORES, "big": 8}
        of_type = {host: slot.type for slot in self.slots for host in slot.hosts}
        targets = [
            RankResources(rank, host, tuple(range(cores[of_type.get(host, "small")])), ())
            for rank, host in enumerate(hosts)
        ]
        self.ranks = {target.host: target.rank for target in targets}
        self.targets = targets
        self.instance = Recorded(ResourceSet(tuple(targets)).to_r(), now=1_000_000.0)
        self.instance.world = self
        self.instance.lose(range(OWN, len(hosts)))
        self.provider = Scripted(self)
        config = BurstConfig(
            threshold=60.0, idle_timeout=300.0, release=release_s, limits=limits or Limits(),
            providers=(ProviderConfig(name="scripted", boot=boot_s, types=(TYPE, BIG)),),
        )  # fmt: skip
        self.settings = Settings(config, self.slots, boot_deadline_s=600.0, **settings)
        self.crashes = 0
        self.late: set[str] = set()  # hosts that do not come up
        self.controller = self.started()

    def point(self, name: str) -> None:
        """A place where the controller may die."""
        self.points.append(name)
        if self.crash_at == len(self.points) - 1:
            raise Crash(name)

    def started(self) -> Controller:
        while True:
            try:
                return Controller(
                    self.instance, {"scripted": self.provider}, self.settings, Inline()
                )
            except Crash:
                self.crashes += 1

    def submit(self, nodes: int, duration_s: float = 600.0, **more: Any) -> int:
        user = more.pop("attributes", {})
        return self.instance.submit(job_of(nodes, duration_s, **user), **more)

    # -- time ------------------------------------------------------------------------------------

    def run(
        self, seconds: float, *, every_s: float = 30.0, until: Callable[[], bool] = bool
    ) -> None:
        """Let time pass: brokers come and go, jobs start and end, the controller steps."""
        end_s = self.instance.now() + seconds
        while self.instance.now() < end_s and not until():
            self.instance.advance(self.instance.now() + every_s)
            self._brokers()
            self._jobs()
            try:
                self.controller.step()
            except Crash:
                self.crashes += 1
                self.controller = self.started()
            self._brokers()

    def _brokers(self) -> None:
        now_s = self.instance.now()
        up = {
            self.ranks[host]
            for rental, ready_s in self.provider.rented.values()
            if now_s >= ready_s
            for host in rental.hosts
            if host not in self.late
        }
        rented = {self.ranks[host] for slot in self.slots for host in slot.hosts}
        self.instance.join(up)
        self.instance.lose(rented - up)

    def _jobs(self) -> None:
        now_s = self.instance.now()
        for job in self.instance.jobs(JobState.RUN):
            limit_s = self.instance.jobspec(job.jobid)["attributes"]["system"]["duration"]  # type: ignore[index]
            if job.t_run is not None and now_s >= job.t_run + limit_s:
                self.instance.finish(job.jobid)
        waiting = {job.jobid: job for job in self.instance.jobs(JobState.SCHED)}
        for jobid in [*self.instance.queue()]:
            if waiting[jobid].urgency and not self._start(jobid):
                return

    def _start(self, jobid: int) -> bool:
        wanted: int = self.instance.jobspec(jobid)["resources"][0]["count"]  # type: ignore[index]
        taken = {
            target.rank
            for job in self.instance.jobs(JobState.RUN)
            for target in parse_r(self.instance.allocation(job.jobid)).ranks
        }
        away = taken | {*self.instance.down()} | self.instance.drained().keys()
        free = [target for target in self.targets if target.rank not in away]
        if len(free) < wanted:
            return False
        self.instance.start(jobid, ResourceSet(tuple(free[:wanted])).to_r())
        return True

    # -- what is asserted --------------------------------------------------------------------------

    def state(self, jobid: int) -> JobState:
        return next(job.state for job in self.instance.jobs() if job.jobid == jobid)

    def verdict(self, jobid: int) -> str:
        job = next(job for job in self.instance.jobs() if job.jobid == jobid)
        return str(job.memo.get("flex.burst", ""))

    @property
    def over(self) -> bool:
        """No job waits or runs, nothing is rented, and the ledger knows that."""
        done = all(job.state is JobState.INACTIVE for job in self.instance.jobs())
        return done and not self.provider.rented and not self.controller.ledger.book.bursts


def names(world: World) -> list[str]:
    """The ledger's events so far."""
    return [event.name for event in world.instance.log(KEY)]


def own_busy(world: World) -> None:
    """A job of ten days on all own nodes."""
    spec = longer_job(OWN)
    spec["attributes"]["system"]["duration"] = 864000.0
    job = world.instance.submit(spec, urgency=31)
    world.instance.start(job, ResourceSet(tuple(world.targets[:OWN])).to_r())
