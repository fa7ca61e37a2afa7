"""The embedded matcher: constraints, policies, levels passed, and answers in and out."""

import json

import pytest
from match_help import ask, cores, embedded, names, nodes, plant, slot, spec, vertex, whole_nodes

from flux_flex.errors import BadInput
from flux_flex.match import Busy, Unsatisfiable, open_matcher
from flux_flex.match.embedded.policies import POLICIES
from flux_flex.match.embedded.spans import OWN
from flux_flex.model.graph import graph_from_r
from flux_flex.model.jgf import jgf_document, parse_jgf
from flux_flex.model.jobspec import parse_jobspec
from flux_flex.model.network import NetworkPlace, NetworkTree
from flux_flex.model.placing import place_nodes
from flux_flex.model.rv1 import RankResources, ResourceSet, parse_r

NUMBERED_BACKWARDS = {"cluster": {"node2": {"core": 1}, "node0": {"core": 1}, "node1": {"core": 1}}}


# -- constraints, up and down -------------------------------------------------------------------

MIXED = {
    "cluster": {
        "node0": {"core": 1, "properties": ["spot"]},
        "node1": {"core": 1, "properties": ["efa", "spot"]},
        "node2": {"core": 1, "properties": ["efa"]},
    }
}


@pytest.mark.parametrize(
    ("constraint", "host"),
    [
        ({"properties": ["efa"]}, "node1"),
        ({"properties": ["efa", "^spot"]}, "node2"),
        ({"hostlist": ["node[1-2]"]}, "node1"),
        ({"ranks": ["2"]}, "node2"),
        ({"not": [{"properties": ["spot"]}]}, "node2"),
        ({"not": [{"properties": ["spot"]}, {"ranks": ["0"]}]}, "node1"),
        ({"and": [{"ranks": ["1-2"]}, {"not": [{"hostlist": ["node1"]}]}]}, "node2"),
        ({"or": [{"ranks": ["2"]}, {"hostlist": ["node1"]}]}, "node1"),
    ],
)
@pytest.mark.parametrize("wants", [slot(1, ask("core")), ask("node", 1, exclusive=True)])
def test_a_constraint_leaves_nodes_out(constraint, host, wants):
    match = embedded(plant(MIXED)).allocate(spec(wants, constraints=constraint))
    assert match.hosts == [host]


def test_a_constraint_that_no_node_meets_is_unsatisfiable():
    with pytest.raises(Unsatisfiable):
        embedded(plant(MIXED)).allocate(whole_nodes(1, constraints={"properties": ["tpu"]}))
    with pytest.raises(Unsatisfiable):
        embedded(plant(MIXED)).allocate(whole_nodes(3, constraints={"properties": ["efa"]}))


def test_a_constraint_counts_cores_outside_of_nodes_too():
    graph = plant({"cluster": {"core": 1, "node0": {"core": 1}}})
    match = embedded(graph).allocate(spec(ask("core", 1), constraints={"properties": ["efa"]}))
    assert names(match) == {"core0"}


def test_nothing_starts_on_a_node_that_is_down():
    matcher = embedded(nodes(2, core=1))
    matcher.mark([1], up=False)
    assert matcher.allocate(cores(1)).hosts == ["node1"]
    with pytest.raises(Busy):
        matcher.allocate(cores(1))
    assert matcher.satisfiable(cores(2))
    matcher.mark([1], up=True)
    assert matcher.allocate(cores(1)).hosts == ["node0"]


def test_a_constraint_and_a_node_that_is_down_leave_the_rest():
    matcher = embedded(plant(MIXED))
    matcher.mark([vertex(matcher.graph, "node1")], up=False)
    match = matcher.allocate(spec(slot(1, ask("core")), constraints={"properties": ["efa"]}))
    assert match.hosts == ["node2"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("down", "up"), [("node1", "node0"), ("node2", "node3")])
def test_a_rack_with_a_node_that_is_down_is_not_given_whole(policy, down, up):
    racks = [{f"node{i + j}": {"core": 1} for j in range(2)} for i in (0, 2)]
    graph = plant({"cluster": {f"rack{i}": rack for i, rack in enumerate(racks)}})
    matcher = embedded(graph, policy)
    matcher.mark([vertex(graph, down)], up=False)
    given, left = ("rack1", "rack0") if down == "node1" else ("rack0", "rack1")
    match = matcher.allocate(spec(ask("rack", 1, exclusive=True)))
    assert given in names(match)
    assert left not in names(match)
    with pytest.raises(Busy):
        matcher.allocate(spec(slot(1, ask("rack"))))
    assert matcher.allocate(cores(1)).hosts == [up]


def test_only_whole_nodes_go_down():
    matcher = embedded(nodes(1, core=2))
    with pytest.raises(BadInput, match="a part of a node"):
        matcher.mark([2], up=False)


# -- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "host"),
    [
        ("low", "node0"),
        ("lonode", "node0"),
        ("lonodex", "node0"),
        ("high", "node2"),
        ("hinode", "node2"),
        ("hinodex", "node2"),
        ("first", "node1"),  # the last of the graph, whatever its number
        ("topology", "node2"),  # the first of the graph, since all are equally near
    ],
)
def test_a_policy_prefers_by_number_or_by_place_in_the_graph(policy, host):
    match = embedded(plant(NUMBERED_BACKWARDS), policy).allocate(whole_nodes(1))
    assert match.hosts == [host]


@pytest.mark.parametrize(
    ("policy", "core"),
    [("low", 0), ("lonode", 0), ("topology", 0), ("high", 3), ("hinode", 3), ("first", 3)],
)
def test_a_policy_prefers_by_number_within_a_node(policy, core):
    match = embedded(nodes(1, core=4), policy).allocate(cores(1))
    assert names(match) == {"node0", f"node0/core{core}"}


def test_equal_numbers_are_taken_in_the_order_of_the_graph():
    match = embedded(nodes(3, core=2), "low").allocate(cores(3))
    assert {name for name in names(match) if "core" in name} == {
        "node0/core0",
        "node1/core0",
        "node2/core0",
    }


@pytest.mark.parametrize(
    ("policy", "given"),
    [
        ("lonode", {"node0/core0", "node0/core1", "node1/core0"}),
        ("hinode", {"node2/core0", "node2/core1", "node1/core1"}),
    ],
)
def test_a_node_centric_policy_fills_one_node_after_the_other(policy, given):
    match = embedded(nodes(3, core=2), policy).allocate(cores(3))
    assert {name for name in names(match) if "core" in name} == given


@pytest.mark.parametrize(("policy", "node"), [("lonodex", "node0"), ("hinodex", "node1")])
def test_a_policy_of_whole_nodes_gives_all_of_a_node_for_one_core(policy, node):
    matcher = embedded(nodes(2, core=2, gpu=1), policy)
    match = matcher.allocate(cores(1))
    assert match.vertices == {
        "/cluster0": (1, False),
        f"/cluster0/{node}": (1, True),
        f"/cluster0/{node}/core0": (1, True),
        f"/cluster0/{node}/core1": (1, True),
        f"/cluster0/{node}/gpu0": (1, True),
    }
    assert matcher.allocate(cores(2)).hosts != [node]
    with pytest.raises(Busy):
        matcher.allocate(cores(1))


@pytest.mark.parametrize("policy", ["lonodex", "hinodex"])
def test_a_node_of_which_others_hold_a_part_is_not_taken_whole(policy):
    matcher = embedded(nodes(2, core=2), policy)
    node = {"lonodex": 0, "hinodex": 1}[policy]
    matcher.update(7, r_of(f"node{node}", node, "0"), at=0, duration=10)
    assert matcher.allocate(cores(1, 5)).hosts == [f"node{1 - node}"]
    with pytest.raises(Busy):
        matcher.allocate(cores(1, 5))
    assert matcher.reserve(cores(2, 5)).at == 5
    assert matcher.reserve(spec(slot(2, ask("core", 2)))).at == 10


@pytest.mark.parametrize("policy", ["lonodex", "hinodex"])
def test_a_rack_of_nodes_is_taken_whole_only_once(policy):
    """By itself, not a second time by the nodes that the policy takes whole."""
    rack = {"node0": {"core": 1}, "node1": {"core": 1}}
    matcher = embedded(plant({"cluster": {"rack0": rack, "node2": {"core": 1}}}), policy)
    match = matcher.allocate(spec(ask("rack", 1, exclusive=True)))
    assert names(match) == {
        *("rack0", "rack0/node0", "rack0/node1", "rack0/node0/core0", "rack0/node1/core0")
    }
    assert matcher._planner.state[OWN].min() == 0
    matcher.cancel(match.jobid)
    assert matcher.idle_nodes() == matcher.graph.of_type("node").tolist()
    assert matcher.allocate(whole_nodes(3)).amount("core") == 3


# -- levels that a request does not name --------------------------------------------------------


def test_sockets_that_a_request_does_not_name_are_passed():
    graph = plant({"cluster": {"node0": {"socket0": {"core": 2}, "socket1": {"core": 2}}}})
    match = embedded(graph).allocate(spec(ask("node", 1, slot(1, ask("core", 2)))))
    assert "node0/socket0/core0" in names(match)
    assert embedded(graph).satisfiable(spec(ask("node", 1, slot(4, ask("core")))))


def test_network_layers_that_a_request_does_not_name_are_passed():
    network = NetworkTree.from_places(
        [
            NetworkPlace(f"n{i}", ("top", f"mid{i // 4}", f"leaf{i // 2}"), f"i-{i}", "hpc", "z")
            for i in range(8)
        ]
    )
    ranks = tuple(RankResources(i, f"n{i}", (0, 1), ()) for i in range(8))
    graph = place_nodes(graph_from_r(ResourceSet(ranks)), network)
    matcher = embedded(graph)
    four = ask("nn2", 1, ask("node", 4, exclusive=True))
    assert matcher.allocate(spec(four)).hosts == ["n0", "n1", "n2", "n3"]
    assert matcher.allocate(spec(ask("nn3", 1, ask("node", 2)))).hosts == ["n4", "n5"]
    assert not matcher.satisfiable(spec(ask("nn3", 1, ask("node", 3))))
    assert matcher.satisfiable(spec(ask("cluster", 1, ask("node", 8))))


def test_a_vertex_never_serves_as_what_it_contains():
    graph = plant({"cluster": {"box0": {"core": 1, "box1": {"core": 1}}, "box2": {"core": 2}}})
    matcher = embedded(graph)
    assert not matcher.satisfiable(spec(ask("box", 3, exclusive=True)))
    assert not matcher.satisfiable(spec(ask("box", 1, ask("box", 1))))
    assert matcher.allocate(spec(ask("box", 2, exclusive=True))).amount("core") == 4


def test_a_type_that_the_graph_does_not_have_is_unsatisfiable():
    matcher = embedded(nodes(1, core=1))
    for wants in (ask("tpu"), slot(1, ask("tpu")), ask("node", 1, ask("tpu", 1, ask("core")))):
        assert not matcher.satisfiable(spec(wants))
        assert not matcher.satisfiable(spec(wants, ask("core")))


# -- what others allocated ----------------------------------------------------------------------


def r_of(host: str, rank: int, core_ids: str, **more: str) -> dict:
    execution = {"R_lite": [{"rank": str(rank), "children": {"core": core_ids, **more}}]}
    return {"version": 1, "execution": {**execution, "nodelist": [host]}}


def test_an_allocation_made_elsewhere_is_held_until_it_ends():
    matcher = embedded(nodes(2, core=2, gpu=1))
    match = matcher.update(7, r_of("node1", 1, "0-1", gpu="0"), at=0, duration=10)
    assert names(match) == {"node1", "node1/core0", "node1/core1", "node1/gpu0"}
    assert matcher.reserve(whole_nodes(2)).at == 10
    assert 7 in matcher.holders


def test_an_allocation_that_is_over_holds_nothing():
    matcher = embedded(nodes(1, core=1))
    matcher.advance(100)
    matcher.update(7, r_of("node0", 0, "0"), at=0, duration=50)
    assert 7 not in matcher.holders
    assert matcher.allocate(cores(1)).at == 100


def test_an_allocation_that_began_in_the_past_ends_in_time():
    matcher = embedded(nodes(1, core=1))
    matcher.advance(100)
    matcher.update(7, r_of("node0", 0, "0"), at=60, duration=50)
    assert matcher.reserve(cores(1)).at == 110


def test_an_allocation_of_what_is_held_is_busy_and_names_it():
    matcher = embedded(nodes(1, core=2))
    matcher.update(7, r_of("node0", 0, "0"), at=0, duration=0)
    with pytest.raises(Busy, match="/cluster0/node0/core0"):
        matcher.update(8, r_of("node0", 0, "0-1"), at=0, duration=0)
    matcher.update(8, r_of("node0", 0, "1"), at=0, duration=0)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (r_of("node9", 0, "0"), "no node node9 of rank 0"),
        (r_of("node0", 4, "0"), "no node node0 of rank 4"),
        (r_of("node0", 0, "0-5"), "node0 has no core2"),
        ({"version": 2}, "version"),
    ],
)
def test_an_r_of_another_system_is_refused(given, what):
    with pytest.raises(BadInput, match=what):
        embedded(nodes(1, core=2)).update(1, given, at=0, duration=0)


def test_an_update_of_a_job_that_holds_something_is_refused():
    matcher = embedded(nodes(1, core=2))
    matcher.update(7, r_of("node0", 0, "0"), at=0, duration=0)
    with pytest.raises(BadInput, match="job 7 holds resources already"):
        matcher.update(7, r_of("node0", 0, "1"), at=0, duration=0)


# -- answers out --------------------------------------------------------------------------------


def test_a_match_reads_as_r():
    matcher = embedded(nodes(3, core=2, gpu=1))
    matcher.advance(100)
    match = matcher.allocate(
        spec(ask("node", 2, slot(1, ask("core", 2), ask("gpu")), exclusive=True), duration=60)
    )
    resources = parse_r(match.to_r())
    assert [(r.rank, r.host, r.cores, r.gpus) for r in resources.ranks] == [
        (0, "node0", (0, 1), (0,)),
        (1, "node1", (0, 1), (0,)),
    ]
    assert (resources.starttime, resources.expiration) == (100, 160)


def test_a_match_without_limit_reads_as_r_that_never_expires():
    resources = parse_r(embedded(nodes(1, core=1)).allocate(cores(1)).to_r())
    assert resources.expiration == 0


@pytest.mark.parametrize("wants", [ask("rack", 1), ask("node", 2)])
def test_the_r_of_what_is_given_whole_has_all_that_is_in_it(wants):
    rack = {"node0": {"core": 2}, "node1": {"core": 1}}
    matcher = embedded(plant({"cluster": {"rack0": rack}}))
    match = matcher.allocate(spec(slot(1, wants)))
    assert [r.cores for r in parse_r(match.to_r()).ranks] == [(0, 1), (0,)]
    assert match.hosts == ["node0", "node1"]


def test_the_r_of_a_part_of_an_exclusive_node_has_that_part():
    match = embedded(nodes(1, core=4)).allocate(spec(slot(1, ask("node", 1, ask("core", 2)))))
    assert [r.cores for r in parse_r(match.to_r()).ranks] == [(0, 1)]


def test_the_r_of_a_match_can_be_told_to_another_matcher():
    graph = nodes(2, core=2)
    match = embedded(graph, policy="high").allocate(cores(2, 10))
    other = embedded(graph)
    told = other.update(match.jobid, match.to_r(), match.at, match.duration_s)
    assert names(told) == names(match)


def test_what_lies_outside_of_nodes_has_no_place_in_an_r():
    match = embedded(plant({"cluster": {"core": 1, "node0": {"core": 1}}})).allocate(
        spec(ask("core", 2))
    )
    assert [r.cores for r in parse_r(match.to_r()).ranks] == [(0,)]


def test_a_match_reads_as_jgf_of_the_chosen_vertices():
    match = embedded(nodes(2, core=2), policy="high").allocate(cores(1))
    graph = parse_jgf(match.to_jgf())
    assert [graph.path(v) for v in range(len(graph))] == [
        "/cluster0",
        "/cluster0/node0",
        "/cluster0/node0/core1",
    ]


# -- opening ------------------------------------------------------------------------------------


def test_a_graph_opens_from_objects_text_and_files(tmp_path):
    document = jgf_document(nodes(1, core=3))
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(document))
    for graph in (nodes(1, core=3), document, json.dumps(document), path, str(path)):
        assert open_matcher(graph).allocate(cores(3)).amount("core") == 3


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        ("missing.json", "missing.json: cannot be read: No such file"),
        ("{\n[]: 1}", "line 2, column 1: not valid JSON"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ("[]", r"\[\]: cannot be read"),
        ('{"graph": 1}', "graph: not a mapping"),
    ],
)
def test_a_graph_that_cannot_be_read_is_refused(graph, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=what):
        open_matcher(graph)


def test_a_file_that_is_no_text_or_no_mapping_is_refused(tmp_path):
    path = tmp_path / "graph.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        open_matcher(path)
    path.write_text("other.json")  # what a file says is never taken for another path
    with pytest.raises(BadInput, match=r"graph\.json: line 1, column 1: not valid JSON"):
        open_matcher(path)
    path.write_text("[]")
    with pytest.raises(BadInput, match=r"graph\.json: not a mapping"):
        open_matcher(path)


def test_a_graph_may_be_much_larger_than_a_jobspec():
    text = json.dumps(jgf_document(nodes(1, core=1))) + " " * (5 << 20)
    assert open_matcher(text).satisfiable(cores(1))


def test_unknown_engines_and_policies_are_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="use one of auto, live, fluxion, embedded"):
        open_matcher(nodes(1, core=1), engine="quantum")
    with pytest.raises(BadInput, match="first, low, high"):
        open_matcher(nodes(1, core=1), policy="best")


def test_jobspecs_come_as_objects_mappings_and_text():
    matcher = embedded(nodes(1, core=3))
    for jobspec in (cores(1), json.dumps(cores(1)), parse_jobspec(cores(1))):
        assert matcher.allocate(jobspec).amount("core") == 1
    with pytest.raises(BadInput, match="resources"):
        matcher.allocate({"version": 1})


def test_many_different_requests_do_not_pile_up():
    matcher = embedded(nodes(1, core=1))
    for duration in range(1, 4200):
        matcher.satisfiable(cores(1, duration))
    assert len(matcher._compiled) <= 4096
    assert matcher.satisfiable(cores(1, 1))


def test_an_r_opens_like_the_graph_that_it_describes(tmp_path):
    R = {
        "version": 1,
        "execution": {
            "R_lite": [{"rank": "0-1", "children": {"core": "0-3"}}],
            "nodelist": ["node[0-1]"],
            "starttime": 0,
            "expiration": 0,
        },
    }
    path = tmp_path / "R.json"
    path.write_text(json.dumps(R), encoding="utf-8")
    for given in (R, json.dumps(R), path, str(path)):
        matcher = open_matcher(given, engine="embedded", policy="low")
        assert [matcher.graph.path(v) for v in matcher.graph.of_type("node")] == [
            "/cluster0/node0",
            "/cluster0/node1",
        ]
