"""How fast a replay is, and how its time grows: ``python -m benchmarks.simulate``.

A random but seeded queue on 256 nodes of 8 cores: jobs of 1 to 32 nodes or of 1 to 64 cores, from
minutes to hours, that ask for more time than they take, at a load a little above what the nodes
can do; one in five may burst. Each run replays the queue without and with bursting, as
``flux-flex simulate`` does. Rates are jobs a second of processor time on one core.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from flux_flex.burst.config import parse_burst_config
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jobspec import Jobspec, parse_jobspec
from flux_flex.simulate.replay import replay
from flux_flex.simulate.scenario import Scenario
from flux_flex.simulate.submissions import Submission

NODES, CORES = 256, 8
LOAD = 1.1

BURST = {
    "threshold": "10m",
    "idle_timeout": "5m",
    "limits": {"nodes": 64, "cost_per_hour": 400.0, "budget": 20000.0, "period": "7d"},
    "providers": [
        {
            "name": "eks",
            "boot": "6m",
            "types": [
                    {"name": "hpc7a.96xlarge", "cores": 192, "vcpus": 192, "gpus": 0, "efa": 2,
                     "memory_gib": 768.0, "network_gbps": 300.0, "price_per_hour_usd": 7.2},
                    {"name": "hpc6id.32xlarge", "cores": 64, "vcpus": 64, "gpus": 0, "efa": 2,
                     "memory_gib": 1024.0, "network_gbps": 200.0, "price_per_hour_usd": 5.7},
                    {"name": "c7i.4xlarge", "cores": 8, "vcpus": 16, "gpus": 0, "efa": 0,
                     "memory_gib": 32.0, "network_gbps": 6.25, "price_per_hour_usd": 0.714},
                    {"name": "p5.48xlarge", "cores": 96, "vcpus": 192, "gpus": 8, "efa": 32,
                     "memory_gib": 2048.0, "network_gbps": 3200.0, "price_per_hour_usd": 55.04},
            ],
        }
    ],
}  # fmt: skip


def jobspec(rng: random.Random) -> tuple[Jobspec, float]:
    """A jobspec of the mix, and the node-seconds that it asks for."""
    duration = float(rng.choice([600, 1800, 3600, 7200, 14400]))
    slot = {"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}
    if rng.random() < 0.6:
        nodes = rng.choice([1, 1, 2, 4, 8, 16, 32])
        resources = [{"type": "node", "count": nodes, "exclusive": True, "with": [slot]}]
        size = float(nodes)
    else:
        cores = rng.choice([1, 2, 4, 8, 16, 64])
        resources = [{**slot, "count": cores}]
        size = cores / CORES
    system: dict[str, object] = {"duration": duration, "job": {"name": "job"}}
    if rng.random() < 0.2:
        system["burstable"] = 1
    task = {"command": ["app"], "slot": "task", "count": {"per_slot": 1}}
    document = {
        "version": 1, "resources": resources, "tasks": [task], "attributes": {"system": system},
    }  # fmt: skip
    return parse_jobspec(document), size * duration


def scenario(jobs: int, seed: int, policy: str) -> Scenario:
    """A queue of ``jobs`` jobs whose arrivals keep the load, whatever their number."""
    rng = random.Random(seed)
    submissions, now = [], 0.0
    for jobid in range(1, jobs + 1):
        spec, node_s = jobspec(rng)
        part = rng.uniform(0.3, 1.0)
        now += rng.expovariate(LOAD * NODES / (node_s * 0.65)) if node_s else 0.0
        user = f"user{rng.randrange(20)}"
        runtime = spec.duration_s * part
        submissions.append(Submission(jobid, spec, user, 16, now, runtime))
    return Scenario(
        name="benchmark",
        path=Path("benchmark.yaml"),
        graph=uniform_graph(NODES, CORES),
        network=None,
        running=(),
        submissions=tuple(submissions),
        queue_policy=policy,  # type: ignore[arg-type]
        queue_depth=32,
        match_policy="lonode",
        horizon_s=None,
        epoch_s=0.0,
        burst=parse_burst_config(BURST),
    )


def measure(jobs: int, seed: int, policy: str) -> tuple[float, str]:
    """Processor seconds of one simulation of ``jobs`` jobs, and a line about it."""
    given = scenario(jobs, seed, policy)
    began = time.process_time()
    plain = replay(given, bursting=False)
    between = time.process_time()
    burst = replay(given, bursting=True)
    ended = time.process_time()
    took = ended - began
    line = (
        f"{policy:<13}{jobs:>7} jobs  {took:7.1f} s  {jobs / took:7.0f} jobs/s"
        f"   (without bursting {between - began:.1f} s, with {ended - between:.1f} s,"
        f" {len(burst.bursts)} bursts, makespan {plain.end_s / 3600:.0f} h"
        f" and {burst.end_s / 3600:.0f} h)"
    )
    return took, line


def main() -> None:
    parser = argparse.ArgumentParser(description="Rate and growth of a replay.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", choices=["fcfs", "easy", "conservative"], default="fcfs")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2000, 10000, 20000])
    options = parser.parse_args()
    measure(200, options.seed, options.policy)  # imports and caches
    times = {}
    for jobs in options.jobs:
        times[jobs], line = measure(jobs, options.seed, options.policy)
        print(line, flush=True)
    first, last = min(times), max(times)
    if last > first:
        growth = (times[last] / times[first]) / (last / first)
        print(f"growth from {first} to {last} jobs: {growth:.2f} times linear")


if __name__ == "__main__":
    main()
