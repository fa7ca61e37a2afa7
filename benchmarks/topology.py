"""What it takes to know the network, and what it is good for: ``python -m benchmarks.topology``.

    writing     4,096 hosts of 8 and of 96 cores, from EC2's answers in files to each format
    queries     hops, span and nearest on a tree of 4,096 hosts, in a second
    fetching    2,000 and 20,000 instances through boto3 from an EC2 on loopback; linear or not
    placing     how near policy topology places jobs, against first and against chance

``--quick`` takes small sizes and some seconds. The machine is noisy: seconds are of processor time
where nothing else is said, and ratios within one run say more than they do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.topology_answers import Cluster
from benchmarks.topology_fetch import fetching
from benchmarks.topology_placement import placing, queries
from benchmarks.topology_writing import writing


@dataclass(frozen=True)
class Sizes:
    """How large everything is; ``asking_s`` is for each kind of query."""

    tree: tuple[int, ...]
    cores: tuple[int, ...]
    asking_s: float
    few: tuple[int, ...]
    many: tuple[int, ...]
    placed: tuple[int, ...]
    seeds: int


FULL = Sizes(
    tree=(4, 16, 4, 16),
    cores=(8, 96),
    asking_s=1.0,
    few=(2, 5, 10, 20),
    many=(2, 50, 10, 20),
    placed=(4, 4, 4, 8),
    seeds=20,
)
QUICK = Sizes(
    tree=(2, 4, 4, 16),
    cores=(8,),
    asking_s=0.1,
    few=(2, 5, 5, 4),
    many=(2, 5, 10, 20),
    placed=(4, 4, 2, 8),
    seeds=2,
)

Found = dict[str, object]


def _writing(sizes: Sizes, found: Found) -> Iterator[str]:
    for cores in sizes.cores:
        yield from writing(Cluster(sizes.tree, cores), found)


def _queries(sizes: Sizes, found: Found) -> Iterator[str]:
    yield from queries(Cluster(sizes.tree, 1), sizes.asking_s, found)


def _fetching(sizes: Sizes, found: Found) -> Iterator[str]:
    yield from fetching(Cluster(sizes.few, 2), Cluster(sizes.many, 2), found)


def _placing(sizes: Sizes, found: Found) -> Iterator[str]:
    yield from placing(Cluster(sizes.placed, 2), sizes.seeds, found)


SECTIONS: dict[str, Callable[[Sizes, Found], Iterator[str]]] = {
    "writing": _writing,
    "queries": _queries,
    "fetching": _fetching,
    "placing": _placing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What it takes to know the network.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", metavar="FILE", help="write what was measured to FILE as well")
    options = parser.parse_args()
    unknown = set(options.sections) - SECTIONS.keys()
    if unknown:
        parser.error(f"no section {min(unknown)}: {', '.join(SECTIONS)}")
    measured: dict[str, Found] = {}
    began = time.monotonic()
    for name in options.sections or SECTIONS:
        print(f"== {name}", flush=True)
        for line in SECTIONS[name](QUICK if options.quick else FULL, measured.setdefault(name, {})):
            print(line, flush=True)
    print(f"== {time.monotonic() - began:.0f} s in all", flush=True)
    if options.json:
        text = json.dumps(measured, indent=1) + "\n"
        Path(options.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
