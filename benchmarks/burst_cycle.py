"""What a step of the burst controller costs a large instance: ``python -m benchmarks.burst_cycle``.

    first    seconds of the first step, which reads the jobspecs and decides for all of them
    step     seconds of the steps after it with 5,000 jobs waiting on 1,000 nodes; median at most 1
    ratio    what another connection feels: the 99th percentile of the time that the broker takes to
             answer, while steps are made as fast as the reactor makes them, over that of the
             same instance left alone; at most 3

The nodes are Flux's fake resources and the jobs do not run: the broker, its job-list, and all that
the controller asks of them are real. Needs a Flux. The machine is noisy: the two sides of the ratio
are measured in turns, in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flux_flex.burst.calls import Inline
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.config import BurstConfig, Limits
from flux_flex.burst.config import Provider as ProviderConfig
from flux_flex.burst.controller import Controller, Settings
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.slots import Slot
from flux_flex.host.flux_bindings import bindings
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.instance import JobState
from flux_flex.host.reactor import pause_after

ROOT = Path(__file__).parents[1]
MOST_STEP_S = 1.0
MOST_RATIO = 3.0
CORES = 4
SLOTS, SLOT_NODES = 10, 16
TURN_S = 5.0
TYPE = NodeType(
    name="small", cores=CORES, vcpus=CORES, gpus=0, memory_gib=8.0, network_gbps=10.0,
    price_per_hour_usd=0.5,
)  # fmt: skip


class Coming:
    """A provider whose nodes are always about to come."""

    def __init__(self) -> None:
        self.rented: dict[str, int] = {}

    def types(self) -> Sequence[NodeType]:
        return (TYPE,)

    def request(self, rental: Rental) -> None:
        self.rented[rental.burst] = rental.nodes

    def observe(self) -> Sequence[Observed]:
        return [Observed(burst, Phase.COMING, nodes) for burst, nodes in self.rented.items()]

    def release(self, burst: str) -> None:
        self.rented.pop(burst, None)

    def close(self) -> None:
        pass


class FakeHosts(FluxInstance):
    """Flux does not drain fake hosts, which have no brokers; it is asked who is drained instead."""

    def drain(self, ranks: Collection[int], reason: str) -> None:  # noqa: ARG002
        self.drained()


def controller_of(instance: FluxInstance, nodes: int) -> Controller:
    """A controller over the last hosts of the instance, which stand for rented ones."""
    first = nodes - SLOTS * SLOT_NODES
    hosts = [f"fake{rank}" for rank in range(first, nodes)]
    slots = tuple(
        Slot(f"burst-{k}", TYPE.name, tuple(hosts[k * SLOT_NODES : (k + 1) * SLOT_NODES]))
        for k in range(SLOTS)
    )
    config = BurstConfig(
        threshold=60.0, idle_timeout=300.0, depth=32, limits=Limits(nodes=SLOTS * SLOT_NODES),
        providers=(ProviderConfig(name="coming", boot=300.0, types=(TYPE,)),),
    )  # fmt: skip
    return Controller(instance, {"coming": Coming()}, Settings(config, slots), Inline())


def submit(handle: Any, count: int, nodes: int) -> None:
    """One job on all nodes, and behind it so many that may burst."""
    job = bindings("flux.job")
    began = time.perf_counter()
    futures = []
    for number in range(count + 1):
        wants = nodes if number == 0 else 1 + number % 8
        core = {"type": "core", "count": CORES}
        slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
        jobspec = {
            "version": 1,
            "resources": [{"type": "node", "count": wants, "exclusive": True, "with": [slot]}],
            "tasks": [{"command": ["app"], "slot": "task", "count": {"per_slot": 1}}],
            "attributes": {
                "system": {
                    "duration": 36000.0 if number == 0 else 600.0 + number,
                    "exec": {"test": {"run_duration": "36000s"}},
                },
                "user": {"burstable": True},
            },
        }
        futures.append(job.submit_async(handle, json.dumps(jobspec), novalidate=True))
    for future in futures:
        future.get_id()
    print(f"{count} jobs submitted in {time.perf_counter() - began:.1f} s", flush=True)


def ping() -> int:
    """The pinger: for each line of input, `SECONDS`, print the milliseconds of each answer."""
    handle = bindings("flux").Flux()
    print("ready", flush=True)
    for line in sys.stdin:
        end_s = time.perf_counter() + float(line)
        found = []
        while (began := time.perf_counter()) < end_s:
            handle.rpc("broker.ping", {"seq": len(found), "pad": ""}, 0).get()
            took_s = time.perf_counter() - began
            found.append(took_s * 1e3)
            time.sleep(max(0.0, 0.001 - took_s))
        print(json.dumps(found), flush=True)
    return 0


class Pinger:
    """A process of its own, so that Python's lock is not what is measured."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.burst_cycle", "--ping"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self._line()

    def start(self, seconds: float) -> None:
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)

    def answers(self) -> list[float]:
        found: list[float] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate(timeout=30)


def percentile(values: Sequence[float], of: int) -> float:
    return statistics.quantiles(values, n=100)[of - 1]


def inside(count: int, nodes: int, turns: int) -> int:
    """What runs in the instance: 0 if the bounds are kept."""
    handle = bindings("flux").Flux()
    submit(handle, count, nodes)
    instance = FakeHosts()
    while len(instance.jobs(JobState.RUN)) != 1 or len(instance.jobs(JobState.SCHED)) != count:
        time.sleep(0.5)
    controller = controller_of(instance, nodes)
    steps: list[float] = []
    own: list[float] = []

    def step() -> None:
        began, began_own = time.perf_counter(), time.process_time()
        controller.step()
        steps.append(time.perf_counter() - began)
        own.append(time.process_time() - began_own)

    step()
    rented = sum(one.rental.nodes for one in controller.ledger.book.bursts.values())
    print(
        f"first     {steps.pop():.3f} s, {own.pop():.3f} s of it our own:"
        f" {rented} nodes for the first 32 jobs",
        flush=True,
    )
    pinger = Pinger()
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(turns):
        pinger.start(TURN_S)
        idle += pinger.answers()
        pinger.start(TURN_S)
        end_s = time.perf_counter() + TURN_S
        while time.perf_counter() < end_s:
            step()
            time.sleep(pause_after(steps[-1]))
        busy += pinger.answers()
    pinger.close()
    bindings("flux").Flux().rpc("job-manager.raiseall", RAISE).get()
    return said(steps, own, idle, busy)


# Ends all jobs, so that the instance can end.
RAISE = {
    "dry_run": False, "userid": os.getuid(), "states": 2 + 4 + 8 + 16, "severity": 0,
    "type": "cancel", "note": "",
}  # fmt: skip


def said(
    steps: Sequence[float], own: Sequence[float], idle: Sequence[float], busy: Sequence[float]
) -> int:
    """Print it: 0 if the bounds are kept. What is bounded is the median, on a noisy machine."""
    ratio = percentile(busy, 99) / percentile(idle, 99)
    print(
        f"step      median {statistics.median(steps):.3f} s, longest {max(steps):.3f} s of"
        f" {len(steps)}, {statistics.median(own):.3f} s our own; at most {MOST_STEP_S:g}"
    )
    for name, values in (("alone", idle), ("stepping", busy)):
        middle, last = percentile(values, 50), percentile(values, 99)
        print(
            f"{name:<9} ping p50 {middle:.2f} ms, p99 {last:.2f} ms,"
            f" longest {max(values):.1f} ms of {len(values)}"
        )
    print(f"ratio     {ratio:.2f} of p99, at most {MOST_RATIO:g}")
    return 0 if statistics.median(steps) <= MOST_STEP_S and ratio <= MOST_RATIO else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5, help="of both sides")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ping", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ping:
        return ping()
    if options.inside:
        return inside(options.jobs, options.nodes, options.turns)
    if shutil.which("flux") is None:
        print("there is no flux on PATH", file=sys.stderr)
        return 3
    configuration = (f"nnodes={options.nodes}", f"cores-per-node={CORES}")
    words = [f"--conf=fake-resources.{one}" for one in configuration]
    here = [sys.executable, "-m", "benchmarks.burst_cycle", "--inside"]
    more = [f"--{name}={getattr(options, name)}" for name in ("jobs", "nodes", "turns")]
    return subprocess.run(["flux", "start", *words, *here, *more], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
