"""EC2 asked by the real boto3 client: how seconds and memory grow with the number of instances.

EC2 is the endpoint of tests/topology on loopback, with its limits and pages, in one process; the
client is another: ``python -m benchmarks.topology_fetch serve|ask …``. Each fetch includes the
start of boto3's client, which reads all that it knows of EC2, whatever is asked. Of two fetches
the one counts that took less processor time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.topology_answers import KIND, ROOT, Cluster, child, instances_of, peak_mib
from benchmarks.topology_writing import twice

_SITE = ROOT / "tests" / "topology"
_BEST_OF = 2


@dataclass(frozen=True)
class Fetched:
    """What a process needed to fetch so many instances; ``cpu_s`` is of the client alone."""

    n_instances: int
    seconds: float
    cpu_s: float
    mib: float
    calls: int


def fetching(few: Cluster, many: Cluster, found: dict[str, object]) -> Iterator[str]:
    """Fetch one host, few and many; then write what was fetched twice, from its file."""
    yield f"{'instances':>9} {'seconds':>9} {'of the client':>14} {'calls':>6} {'MiB':>7}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fetched.json"
        rows = [
            min((_fetch(one, file) for _ in range(_BEST_OF)), key=lambda row: row.cpu_s)
            for one in (Cluster((1, 1, 1, 1), many.cores), few, many)
        ]
        for row in rows:
            yield (
                f"{row.n_instances:>9,} {row.seconds:>9.2f} {row.cpu_s:>14.2f} {row.calls:>6}"
                f" {row.mib:>7.0f}"
            )
        some, all_of_them = rows[1:]
        yield (
            f"each instance more, of {all_of_them.n_instances:,} against {some.n_instances:,}:"
            f" time x {_growth([row.cpu_s for row in rows], rows):.2f},"
            f" memory x {_growth([row.mib for row in rows], rows):.2f}"
            " (1: linear; few need nearly as much memory as many, that of one page)"
        )
        again: dict[str, object] = {}
        yield f"written twice from the file of {all_of_them.n_instances:,}, and SHA-256:"
        yield from twice(folder, again)
    found["rows"] = [vars(row) for row in rows]
    found["sha256"] = again


def _growth(used: list[float], rows: list[Fetched]) -> float:
    """What an instance adds in the largest fetch, against what it adds in the middle one."""
    least, some, most = (row.n_instances for row in rows)
    return (used[2] - used[0]) / (most - least) / ((used[1] - used[0]) / (some - least))


def _fetch(cluster: Cluster, file: Path) -> Fetched:
    with _endpoint(cluster) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        environment = _environment(server.stdout.readline().strip(), file.parent)
        asked = child("benchmarks.topology_fetch", "ask", str(file), environment=environment)
        server.stdin.close()
        calls = int(server.stdout.readline())
    return Fetched(cluster.n_hosts, asked["seconds"], asked["cpu_s"], asked["mib"], calls)


@contextmanager
def _endpoint(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    words = [*map(str, cluster.layers), str(cluster.cores)]
    line = [sys.executable, "-m", "benchmarks.topology_fetch", "serve", *words]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        try:
            yield server
        finally:
            server.kill()


def _environment(url: str, folder: Path) -> dict[str, str]:
    """Nothing of the user's own AWS configuration, and no proxies."""
    kept = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV")
    nowhere = str(folder / "none")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-2",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


# -- in the processes ----------------------------------------------------------------------------


def _serve(cluster: Cluster) -> None:
    """Serve until nothing more comes on standard input; print the URL, then how many calls."""
    sys.path.insert(0, str(_SITE))
    from ec2_endpoint import Endpoint, Machine, Shape

    machines = [
        Machine(
            one.instance_id, KIND, one.nodes, dns=one.dns_name, ip=one.address,
            name=f"compute{one.number}", group="blue",
        )
        for one in instances_of(cluster)
    ]  # fmt: skip
    with Endpoint(machines, [Shape(KIND, cluster.cores)], is_full=True) as ec2:
        print(ec2.url, flush=True)
        sys.stdin.read()
        print(len(ec2.calls), flush=True)


def _ask(file: Path) -> None:
    """Fetch everything, and write it to a file in the API's own shape."""
    import boto3.session  # noqa: F401 - what is imported is not measured

    from flux_flex.topology.aws import Account, Selection, fetch

    before_mib = peak_mib()
    began, began_cpu = time.perf_counter(), time.process_time()
    answers = fetch(Selection(), Account())
    used = {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - began_cpu,
        "mib": peak_mib() - before_mib,
    }
    file.write_text(json.dumps(answers.document()), encoding="utf-8")
    print(json.dumps(used))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        *layers, cores = map(int, sys.argv[2:])
        _serve(Cluster(tuple(layers), cores))
    else:
        _ask(Path(sys.argv[2]))
