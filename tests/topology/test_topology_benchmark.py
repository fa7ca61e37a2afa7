"""The benchmark of the topology measures what it says: no test here looks at a time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.topology_answers import INSTANCES, TOPOLOGY, TYPES, Cluster, write_answers
from benchmarks.topology_placement import hops_of_jobs, network_of, queries
from benchmarks.topology_writing import twice
from flux_flex.simulate.files import read_json
from flux_flex.topology.answers import read_answers
from flux_flex.topology.mapping import network_of_instances

SMALL = Cluster((2, 2, 2, 4), 2)


def test_the_answers_make_the_network_that_is_placed_on(tmp_path: Path) -> None:
    write_answers(SMALL, tmp_path)
    files = [(name, read_json(tmp_path / name)) for name in (INSTANCES, TOPOLOGY, TYPES)]
    network = network_of_instances(read_answers(files), "tag")
    other = network_of(SMALL)
    assert [len(layer) for layer in network.tree.layers] == [2, 4, 8]
    assert [(p.host, p.network_nodes) for p in network.places] == [
        (p.host, p.network_nodes) for p in other.places
    ]


def test_policy_topology_is_as_near_as_can_be() -> None:
    found = hops_of_jobs(SMALL, seeds=2)
    assert found
    for hops in found.values():
        assert hops.topology == hops.nearest
        for others in (hops.first, hops.flat, hops.random):
            assert all(one <= other for one, other in zip(hops.topology, others, strict=True))


def test_each_kind_of_query_has_a_rate() -> None:
    rates: dict[str, object] = {}
    list(queries(Cluster((2, 4, 4, 4), 1), 0.0, rates))
    assert set(rates) == {"hops", "span of 2", "span of 64", *(f"nearest {n}" for n in (2, 16, 64))}


def test_files_give_the_same_bytes_again(tmp_path: Path) -> None:
    write_answers(SMALL, tmp_path)
    digests: dict[str, object] = {}
    assert all("identical" in line for line in twice(str(tmp_path), digests, ["r"]))
    assert set(digests) == {"r"}
