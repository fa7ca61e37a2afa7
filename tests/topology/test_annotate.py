"""What is written for R, fluxion, Slurm and Graphviz, and that engines load it and answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fluxion_library_here import ENGINES
from topology_site import (
    EXAMPLES,
    HOSTS,
    network,
    place,
    recorded,
    recorded_network,
    recorded_r,
)

from flux_flex.errors import BadInput, Busy, Unsatisfiable
from flux_flex.match import open_matcher
from flux_flex.model.graph import uniform_graph
from flux_flex.model.jgf import jgf_document, parse_jgf
from flux_flex.model.network import NetworkPlace
from flux_flex.model.rv1 import parse_r
from flux_flex.topology.annotate import (
    amend,
    annotated_r,
    graph_document_of_r,
    graph_of,
    merged_jgf,
    write,
)
from flux_flex.topology.mapping import Network, network_of_instances

LEAF = "nn-fae923d5a4fd12aab"


def job(*resources: Mapping[str, object], requires: list[str] | None = None) -> dict[str, Any]:
    system: dict[str, object] = {"duration": 60}
    if requires:
        system["constraints"] = {"properties": requires}
    return {
        "version": 1,
        "resources": list(resources),
        "tasks": [{"command": ["a"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": system},
    }


def whole_nodes(count: int) -> dict[str, object]:
    core = {"type": "core", "count": 1}
    node = {"type": "node", "count": 1, "exclusive": True, "with": [core]}
    return {"type": "slot", "label": "task", "count": count, "with": [node]}


# -- R --------------------------------------------------------------------


def test_each_layer_zone_and_type_is_a_property_of_its_ranks() -> None:
    R: Any = annotated_r(recorded_r(), recorded_network())
    ranks = R["execution"]["properties"]
    assert ranks["us-east-2b"] == ranks["hpc7a.12xlarge"] == "0-15"
    assert ranks[LEAF] == "2,5,7,15"
    tree = recorded_network().tree
    assert {name for layer in tree.layers for name in layer} <= ranks.keys()


def test_properties_that_r_has_already_stay() -> None:
    R = recorded_r()
    R["execution"]["properties"] = {"debug": "0-1"}
    found: Any = annotated_r(R, recorded_network())
    assert found["execution"]["properties"]["debug"] == "0-1"


def test_ranks_without_a_place_keep_what_they_have() -> None:
    known = Network(recorded_network().places[:1])
    found = parse_r(annotated_r(recorded_r(), known))
    assert found.ranks[0].properties
    assert not any(rank.properties for rank in found.ranks[1:])


def test_the_graph_under_the_scheduling_key_has_r_s_own_nodes_and_cores() -> None:
    R: Any = annotated_r(recorded_r(), recorded_network())
    graph = parse_jgf(R["scheduling"])
    assert graph.total("core") == 16 * 8
    nodes = graph.of_type("node").tolist()
    assert {(int(graph.rank[v]), graph.names[v]) for v in nodes} == set(enumerate(HOSTS))
    assert graph.total("memory") == 16 * 786432


def test_a_graph_that_r_brings_along_is_kept_and_its_nodes_are_placed() -> None:
    R = recorded_r()
    first: Any = annotated_r(R, recorded_network())
    again: Any = annotated_r(first, recorded_network())
    assert again == first
    flat = jgf_document(uniform_graph(16, 4, prefix="compute"))
    found: Any = annotated_r({**R, "scheduling": flat}, recorded_network())
    assert parse_jgf(found["scheduling"]).total("core") == 16 * 4


def test_a_graph_with_other_nodes_than_r_is_refused() -> None:
    R = {**recorded_r(), "scheduling": jgf_document(uniform_graph(3, 4, prefix="compute"))}
    with pytest.raises(BadInput, match="other nodes than R has"):
        annotated_r(R, recorded_network())


def moved_network(leaf: str, moved: str = "compute2") -> Network:
    places = recorded_network().places
    return Network(
        tuple(
            replace(one, network_nodes=(*one.network_nodes[:-1], leaf))
            if one.host == moved
            else one
            for one in places
        ),
        shapes=recorded_network().shapes,
    )


def node_properties(document: Any, host: str) -> set[str]:
    graph = parse_jgf(document)
    return set(graph.properties[graph.names.index(host)])


@pytest.mark.parametrize("leaf", ["nn-00000000000000001", "leaf9"])
def test_a_host_that_moved_loses_the_leaf_that_it_was_under(leaf: str) -> None:
    R = recorded_r()
    R["execution"]["properties"] = {"debug": "2"}
    before: Any = annotated_r(R, moved_network(leaf))
    assert before["execution"]["properties"][leaf] == "2"
    after: Any = annotated_r(before, recorded_network())
    assert after["execution"]["properties"] == {
        **annotated_r(recorded_r(), recorded_network())["execution"]["properties"],  # type: ignore[index]
        "debug": "2",
    }
    assert node_properties(before["scheduling"], "compute2") >= {leaf, "debug"}
    held = node_properties(after["scheduling"], "compute2")
    assert leaf not in held
    assert held >= {LEAF, "debug"}
    graph = merged_jgf(before["scheduling"], recorded_network())
    assert node_properties(graph, "compute2") == held


def test_a_host_that_moved_loses_its_leaf_without_a_graph_too() -> None:
    leaf = "nn-00000000000000001"
    before = annotated_r(recorded_r(), moved_network(leaf), scheduling=False)
    after: Any = annotated_r(before, recorded_network(), scheduling=False)
    assert leaf not in after["execution"]["properties"]
    assert after["execution"]["properties"][LEAF] == "2,5,7,15"
    # Two that changed places: each name is still known, and holds for the other only.
    turned: Any = annotated_r(after, moved_network("nn-3f16947ccf25ec84d"), scheduling=False)
    assert turned["execution"]["properties"][LEAF] == "5,7,15"


def test_a_graph_that_r_brings_along_gets_no_memory() -> None:
    flat = jgf_document(uniform_graph(16, 4, prefix="compute"))
    found: Any = annotated_r({**recorded_r(), "scheduling": flat}, recorded_network())
    assert parse_jgf(found["scheduling"]).total("memory") == 0


def test_what_another_scheduler_keeps_in_r_is_never_replaced() -> None:
    R = {**recorded_r(), "scheduling": {"other": 1}, "attributes": {"system": {}}}
    with pytest.raises(BadInput, match="another scheduler") as got:
        annotated_r(R, recorded_network())
    assert "--no-scheduling" in got.value.remedy
    found = annotated_r(R, recorded_network(), scheduling=False)
    assert found["scheduling"] == {"other": 1}
    assert found["attributes"] == {"system": {}}


def test_the_graph_of_an_r_is_the_one_that_stands_in_it() -> None:
    found = annotated_r(recorded_r(), recorded_network())
    assert graph_document_of_r(recorded_r(), recorded_network()) == found["scheduling"]


def test_without_scheduling_only_properties_are_added() -> None:
    R = annotated_r(recorded_r(), recorded_network(), scheduling=False)
    assert "scheduling" not in R


# -- JGF, loaded and asked --------------------------------------------------------------------


def test_edges_speak_both_dialects() -> None:
    document = json.loads(write("jgf", recorded_network()))
    for edge in document["graph"]["edges"]:
        assert edge["metadata"] == {
            "subsystem": "containment",
            "name": {"containment": "contains"},
        }


def test_ids_are_unique_and_paths_lead_through_the_edges() -> None:
    document = json.loads(write("jgf", recorded_network()))
    nodes = {node["id"]: node["metadata"] for node in document["graph"]["nodes"]}
    assert len(nodes) == len(document["graph"]["nodes"])
    assert len({metadata["uniq_id"] for metadata in nodes.values()}) == len(nodes)
    for edge in document["graph"]["edges"]:
        above, below = (nodes[edge[end]]["paths"]["containment"] for end in ("source", "target"))
        assert below == f"{above}/{nodes[edge['target']]['name']}"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("made", ["alone", "R", "R without its graph", "JGF"])
def test_every_graph_that_is_written_loads_and_answers_the_example_jobspecs(
    engine: str, made: str
) -> None:
    found = recorded_network()
    documents: dict[str, Any] = {
        "alone": lambda: json.loads(write("jgf", found)),
        "R": lambda: annotated_r(recorded_r(), found)["scheduling"],
        "R without its graph": lambda: annotated_r(recorded_r(), found),
        "JGF": lambda: merged_jgf(jgf_document(uniform_graph(16, 8, prefix="compute")), found),
    }
    graph = documents[made]()
    leaves = {one.host: one.network_nodes[-1] for one in found.places}

    def hosts(name: str) -> list[str]:
        matcher = open_matcher(graph, engine=engine, policy="low")
        return matcher.allocate((EXAMPLES / name).read_text()).hosts

    two = hosts("two-under-one-leaf.yaml")
    assert len(two) == 2
    assert len({leaves[host] for host in two}) == 1
    four = hosts("four-under-one-leaf.yaml")
    assert len(four) == 4
    assert len({leaves[host] for host in four}) == 1
    named = hosts("two-by-property.yaml")
    assert {leaves[host] for host in named} == {LEAF}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_several_depths_regions_and_bare_zones_loads(engine: str) -> None:
    places = (
        place("a0", "t", "l1", zone="us-east-2b", region="us-east-2"),
        place("a1", "t", "l1", zone="us-east-2b", region="us-east-2"),
        place("b0", "u", "m", "m1", "m2", zone="us-west-2a", region="us-west-2"),
        place("dark", zone="us-west-2a", region="us-west-2"),
    )
    matcher = open_matcher(
        write("jgf", network(*places, gpus=2, memory=1024)), engine=engine, policy="low"
    )
    pair = job({"type": "nn2", "count": 1, "with": [whole_nodes(2)]})
    assert sorted(matcher.allocate(pair).hosts) == ["a0", "a1"]
    with pytest.raises((Busy, Unsatisfiable)):
        matcher.allocate(pair)
    assert matcher.allocate(job(whole_nodes(1), requires=["m2"])).hosts == ["b0"]
    assert matcher.allocate(job(whole_nodes(1))).hosts == ["dark"]


@pytest.mark.parametrize("engine", ENGINES)
def test_slots_of_nodes_are_gathered_from_hosts_of_every_depth(engine: str) -> None:
    places = (place("a", "t", "l1"), place("b", "u", "m", "m1"), place("c", "t"), place("dark"))
    matcher = open_matcher(write("jgf", network(*places)), engine=engine, policy="low")
    assert sorted(matcher.allocate(job(whole_nodes(4))).hosts) == ["a", "b", "c", "dark"]


def test_nodes_have_the_cores_gpus_and_memory_of_their_type() -> None:
    graph = graph_of(network(place("a", "n1"), place("b", "n1"), cores=3, gpus=4, memory=2048))
    assert [graph.total(kind) for kind in ("node", "core", "gpu", "memory")] == [2, 6, 8, 4096]


def test_a_type_that_ec2_was_not_asked_about_is_refused_with_the_command_to_ask() -> None:
    with pytest.raises(BadInput) as got:
        write("jgf", Network((place("a", "n1"),)))
    assert "describe-instance-types --output json --instance-types t" in got.value.remedy


def test_the_same_network_is_the_same_bytes_whatever_the_order_of_the_answers() -> None:
    document: Any = recorded().document()
    turned = {key: value[::-1] for key, value in document.items()}
    from flux_flex.topology.answers import read_answers

    one, other = (
        network_of_instances(read_answers([("x", found)]), "tag") for found in (document, turned)
    )
    for form in ("jgf", "r", "slurm", "dot"):
        assert write(form, one) == write(form, other)


# -- Slurm and Graphviz --------------------------------------------------------------------


def test_slurm_has_a_switch_for_each_network_node_and_every_host_once() -> None:
    conf = write("slurm", recorded_network())
    lines = [line for line in conf.splitlines() if not line.startswith("#")]
    assert "SwitchName=nn-fae923d5a4fd12aab Nodes=compute[2,5,7,15]" in lines
    assert lines[0] == "SwitchName=ec2 Switches=us-east-2b"
    assert all(re.fullmatch(r"SwitchName=\S+ (Switches|Nodes)=\S+", line) for line in lines)
    assert sum("Nodes=" in line for line in lines) == 4


def test_slurm_switches_have_nodes_or_switches_and_never_both() -> None:
    bare = network(place("a", "n1"), place("dark"))
    conf = write("slurm", bare)
    assert "SwitchName=us-east-2b-unplaced Nodes=dark" in conf
    assert "SwitchName=us-east-2b Switches=n1,us-east-2b-unplaced" in conf


def slurm_lines(*places: NetworkPlace) -> list[str]:
    return write("slurm", network(*places)).splitlines()[1:]


def test_slurm_names_have_nothing_that_slurm_separates_with() -> None:
    assert slurm_lines(place("a", "n:1=[x]"))[-1] == "SwitchName=n_1__x_ Nodes=a"


def test_slurm_never_gives_one_name_to_two_switches_or_blocks() -> None:
    lines = slurm_lines(
        place("a", "ec2", capacity_block="b.x"),
        place("b", "n.a", capacity_block="b:x"),
        place("c", "n:a"),
        place("d", "n_a"),
        place("e", "n_a", "n_a-unplaced"),
    )
    assert lines == [
        "SwitchName=ec2 Switches=us-east-2b",
        "SwitchName=us-east-2b Switches=ec2-2,n_a-[2-3],n_a",
        "SwitchName=ec2-2 Nodes=a",
        "SwitchName=n_a-2 Nodes=b",
        "SwitchName=n_a-3 Nodes=c",
        "SwitchName=n_a-unplaced-2 Nodes=d",
        "SwitchName=n_a Switches=n_a-unplaced,n_a-unplaced-2",
        "SwitchName=n_a-unplaced Nodes=e",
        "BlockName=b_x Nodes=a",
        "BlockName=b_x-2 Nodes=b",
    ]


def test_slurm_blocks_are_the_accelerator_domains() -> None:
    found = network(
        place("a", "n1", capacity_block="cb-1"), place("b", "n1", capacity_block="cb-1")
    )
    assert "BlockName=cb-1 Nodes=a,b\n" in write("slurm", found)


def test_graphviz_boxes_are_quoted() -> None:
    text = write("dot", network(place("a", 'n1"]; evil ["')))
    assert r"n1\"]; evil [\"" in text
    assert text.count("{") == text.count("}") == 1


# -- amend --------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "topology.json"
    path.write_text(json.dumps(recorded().document()))
    config = tmp_path / "flex.toml"
    config.write_text(f'[topology]\nfile = "{path}"\n')
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(config))
    return path


def test_the_amender_annotates_r_from_the_site_s_file(site: Path) -> None:
    assert amend(recorded_r()) == annotated_r(recorded_r(), recorded_network())
    assert amend(recorded_r(), hwloc_xml="<topology/>") == amend(recorded_r())


def test_the_amender_says_which_file_is_missing(site: Path) -> None:
    site.unlink()
    with pytest.raises(BadInput, match="no such file") as got:
        amend(recorded_r())
    assert got.value.where == str(site)


def test_the_amender_believes_no_file_that_others_can_write(site: Path) -> None:
    site.chmod(0o666)
    with pytest.raises(BadInput, match="others can write it"):
        amend(recorded_r())
