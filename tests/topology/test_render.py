"""The tree of lines: what each says, and that it is folded until it can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flux_flex.model.network import NetworkPlace
from flux_flex.topology.mapping import Network
from flux_flex.topology.render import MOST_LINES, Drawing, cut, draw, hostlist
from flux_flex.topology.standing import EMPTY, HostState, Standing, placed_job

HOSTILE = "n\x1b[31m\u202e\ud800\n<&\"'" + "x" * 10_000


def network(n_hosts: int, leaf: int = 4, mid: int = 2, zones: int = 1) -> Network:
    """``leaf`` hosts on each leaf, ``mid`` leaves on each nn2, two of them on each nn1."""
    places = []
    for i in range(n_hosts):
        nodes = (f"top{i // leaf // mid // 2}", f"mid{i // leaf // mid}", f"leaf{i // leaf}")
        zone = f"use2-az{i // leaf // mid // 2 % zones}"
        places.append(NetworkPlace(f"n{i}", nodes, f"i-{i}", "c7i.large", zone))
    return Network(tuple(places))


def one_state(n_hosts: int, state: HostState = "free") -> Standing:
    return Standing({f"n{i}": state for i in range(n_hosts)})


def lines(drawing: Drawing) -> list[str]:
    notes = ["".join(text for text, _ in note) for note in drawing.notes]
    return [*(twig.text for twig in drawing.root), *notes]


def test_a_small_network_has_a_line_for_each_host_with_its_state_and_jobs() -> None:
    standing = Standing(
        {"n0": "free", "n1": "partly", "n2": "allocated", "n3": "down"},
        {"n1": (58,), "n2": (58, 59)},
    )
    assert lines(draw(network(4), standing)) == [
        "4 hosts, 1 zone, 3 network nodes; all c7i.large",
        "use2-az0  4 hosts: 1 free, 1 partly, 1 allocated, 1 down",
        "top0  4 hosts: 1 free, 1 partly, 1 allocated, 1 down",
        "mid0  4 hosts: 1 free, 1 partly, 1 allocated, 1 down",
        "leaf0  4 hosts: 1 free, 1 partly, 1 allocated, 1 down",
        "n0  free",
        "n1  partly allocated  ƒ21",
        "n2  allocated  ƒ21 ƒ22",
        "n3  down",
    ]


def test_states_are_roles_as_well_as_words() -> None:
    standing = Standing({"n0": "drained"})
    pieces = [piece for twig in draw(network(1), standing).root for piece in twig.pieces]
    assert ("1 drained", "drained") in pieces
    assert ("drained", "drained") in pieces


def test_without_an_instance_no_states_are_told() -> None:
    assert lines(draw(network(2), EMPTY))[-3:] == ["leaf0  2 hosts", "n0", "n1"]


def test_hosts_whose_state_is_not_known_among_others_are_counted() -> None:
    assert "leaf0  2 hosts: 1 free, 1 unknown" in lines(draw(network(2), one_state(1)))


def test_types_are_with_the_hosts_where_there_are_several() -> None:
    places = network(2).places
    mixed = Network((places[0], replace(places[1], instance_type="p5.48xlarge")))
    assert lines(draw(mixed, one_state(2)))[0] == "2 hosts, 1 zone, 3 network nodes"
    assert lines(draw(mixed, one_state(2)))[-2:] == ["n0  free  c7i.large", "n1  free  p5.48xlarge"]


def test_zones_have_their_ids_and_regions_are_there_if_several() -> None:
    places = [
        NetworkPlace("a", ("nn-1",), "i-1", "", "us-east-2a", "use2-az1", "us-east-2"),
        NetworkPlace("b", ("nn-2",), "i-2", "", "eu-west-1a", "euw1-az1", "eu-west-1"),
    ]
    said = lines(draw(Network(tuple(places)), EMPTY))
    assert said[0] == "2 hosts, 2 regions, 2 zones, 2 network nodes"
    assert "us-east-2  1 host" in said
    assert "us-east-2a (use2-az1)  1 host" in said


def test_a_host_with_many_jobs_names_four_and_counts_the_rest() -> None:
    standing = Standing({"n0": "allocated"}, {"n0": tuple(range(64))})
    assert lines(draw(network(1), standing))[-1] == "n0  allocated  ƒ1 ƒ2 ƒ3 ƒ4 and 60 more"


# -- folding -------------------------------------------------------------------------------------


def test_more_than_forty_lines_fold_hosts_that_are_alike() -> None:
    standing = Standing({**one_state(64).states, "n3": "down"})
    said = lines(draw(network(64, leaf=16), standing))
    assert said[5:8] == ["n[0-2,4-15]  free", "n3           down", "leaf1  16 hosts: 16 free"]
    assert said[-1] == "--all shows each host"


def test_hosts_with_other_jobs_are_not_alike() -> None:
    standing = Standing(one_state(64, "allocated").states, {"n0": (58,), "n1": (58,), "n2": (59,)})
    said = lines(draw(network(64, leaf=16), standing))
    assert said[5:8] == [
        "n[0-1]   allocated  ƒ21",
        "n2       allocated  ƒ22",
        "n[3-15]  allocated",
    ]


def test_too_many_leaves_fold_into_the_line_above_them() -> None:
    standing = Standing({**one_state(1_000).states, **one_state(28, "allocated").states})
    said = lines(draw(network(1_000, leaf=8, mid=16), standing))
    assert "mid0  16 leaves, 128 hosts: 100 free, 28 allocated" in said
    assert not any(line.startswith("leaf") for line in said)


def test_everything_shows_each_host_however_many_there_are() -> None:
    said = lines(draw(network(1_000, leaf=8), one_state(1_000), everything=True))
    assert sum(line.endswith("  free") for line in said) == 1_000
    assert "--all shows each host" not in said


@pytest.mark.parametrize(
    "shape",
    [
        network(1_000, leaf=8, mid=16),
        network(1_000, leaf=1, mid=1),
        network(1_000, leaf=1_000),
        network(1_000, leaf=1, mid=1, zones=500),
        network(20_000, leaf=8, mid=8),
    ],
    ids=["balanced", "all apart", "one leaf", "500 zones", "20,000 hosts"],
)
@pytest.mark.parametrize("n_hosts_of_the_job", [0, 1, 4, 1_000])
def test_however_many_hosts_there_are_the_tree_can_be_read(
    shape: Network, n_hosts_of_the_job: int
) -> None:
    hosts = shape.tree.hosts
    states: dict[str, HostState] = dict.fromkeys(hosts, "free")
    every = max(len(hosts) // n_hosts_of_the_job, 1) if n_hosts_of_the_job else 0
    of_job = hosts[::every][:n_hosts_of_the_job] if every else ()
    # Each host has a job of its own as well, so that no two are alike.
    jobs = {host: (1000 + i,) for i, host in enumerate(hosts)} | dict.fromkeys(of_job, (1,))
    standing = Standing(states, jobs)
    job = placed_job(shape.tree, standing, "1") if of_job else None
    drawing = draw(shape, standing, job)
    assert sum(1 for _ in drawing.root) <= MOST_LINES
    assert all(len(line) < 300 for line in lines(drawing))


def test_no_host_is_lost_by_folding() -> None:
    shape = network(1_000, leaf=8, mid=16)
    shown = draw(shape, one_state(1_000)).root
    ends = [twig.text for twig in shown if not twig.twigs]
    counts = [int(line.split(" hosts")[0].split()[-1].replace(",", "")) for line in ends]
    assert sum(counts) == 1_000


# -- one job -------------------------------------------------------------------------------------


def test_hosts_of_the_job_are_marked_and_branches_without_it_are_one_line() -> None:
    standing = Standing(one_state(16).states, {"n0": (58,), "n1": (58,), "n4": (58,)})
    shape = network(16)
    job = placed_job(shape.tree, standing, "58")
    assert lines(draw(shape, standing, job)) == [
        "16 hosts, 1 zone, 7 network nodes; all c7i.large",
        "use2-az0  16 hosts (* 3 of the job): 16 free",
        "top0  16 hosts (* 3 of the job): 16 free",
        "mid0  8 hosts (* 3 of the job): 8 free",
        "leaf0  4 hosts (* 2 of the job): 4 free",
        "* n0  free  ƒ21",
        "* n1  free  ƒ21",
        "  n2  free",
        "  n3  free",
        "leaf1  4 hosts (* 1 of the job): 4 free",
        "* n4  free  ƒ21",
        "  n5  free",
        "  n6  free",
        "  n7  free",
        "mid1  2 leaves, 8 hosts: 8 free",
        "* job ƒ21: 3 hosts under 2 leaves (nn3), 1 nn2, 1 nn1; at most 4 hops, 3.3 on average",
        "--all shows each host",
    ]


def test_hosts_beside_those_of_the_job_fold_where_there_are_many() -> None:
    shape, standing = network(200, leaf=50), Standing(one_state(200).states, {"n7": (58,)})
    said = lines(draw(shape, standing, placed_job(shape.tree, standing, "58")))
    assert said[5:7] == ["  n[0-6,8-49]  free", "* n7           free  ƒ21"]


def test_everything_with_a_job_folds_nothing_and_still_marks() -> None:
    shape, standing = network(64), Standing(one_state(64).states, {"n7": (58,)})
    job = placed_job(shape.tree, standing, "58")
    said = lines(draw(shape, standing, job, everything=True))
    assert "* n7  free  ƒ21" in said
    assert sum(line.startswith("  n") for line in said) == 63


def test_a_job_of_one_host_has_no_hops() -> None:
    standing = Standing({}, {"n0": (58,)})
    job = placed_job(network(4).tree, standing, "58")
    assert lines(draw(network(4), standing, job))[-1] == (
        "* job ƒ21: 1 host under 1 leaf (nn3), 1 nn2, 1 nn1"
    )


def test_a_job_in_zones_without_network_nodes_is_under_the_zones() -> None:
    places = [NetworkPlace(f"n{i}", (), f"i-{i}", "", f"az{i}") for i in range(2)]
    shape, standing = Network(tuple(places)), Standing({}, {"n0": (58,), "n1": (58,)})
    job = placed_job(shape.tree, standing, "58")
    assert lines(draw(shape, standing, job))[-1] == (
        "* job ƒ21: 2 hosts under 2 zones; at most 4 hops, 4.0 on average"
    )


def test_hosts_of_the_job_that_have_no_place_are_told() -> None:
    shape, standing = network(4), Standing({}, {"n0": (58,), "x1": (58,), "x2": (58, 59)})
    job = placed_job(shape.tree, standing, "58")
    assert lines(draw(shape, standing, job))[-1].endswith(
        "; no place is known of 2 more hosts: x[1-2]"
    )
    nowhere = placed_job(shape.tree, standing, "59")
    assert "* job ƒ22: no place is known of its 1 host: x2" in lines(draw(shape, standing, nowhere))


# -- under the tree ------------------------------------------------------------------------------


def test_accelerator_domains_have_a_line_each() -> None:
    places = [replace(p, capacity_block=f"cr-{i // 2}") for i, p in enumerate(network(4).places)]
    said = lines(draw(Network(tuple(places)), one_state(4)))
    assert said[-2:] == [
        "accelerator domain cr-0  2 hosts: 2 free  n[0-1]",
        "accelerator domain cr-1  2 hosts: 2 free  n[2-3]",
    ]


def test_many_domains_and_many_hosts_without_a_place_do_not_bury_the_tree() -> None:
    places = [replace(p, capacity_block=f"cr-{i}") for i, p in enumerate(network(400).places)]
    claimed = {f"c{i}": ("i-1", "i-2") for i in range(400)}
    shape = Network(tuple(places), tuple(f"u{2 * i}" for i in range(400)), claimed)
    drawing = draw(shape, EMPTY)
    said = lines(drawing)
    assert len(drawing.notes) <= 20
    assert "392 more accelerator domains" in said
    assert "and of 392 more claimed hosts" in said
    assert len(draw(shape, EMPTY, everything=True).notes) == 801


def test_hosts_without_a_place_are_told_at_the_end() -> None:
    shape = replace(network(2), unmapped=("login1", "login2"), claimed={"b": ("i-1", "i-2")})
    assert lines(draw(shape, EMPTY))[-2:] == [
        "no place known: login[1-2] (2 hosts)",
        "no place known: b, which is claimed by i-1, i-2",
    ]


def test_a_network_without_hosts_is_one_line() -> None:
    assert lines(draw(Network((), ("a",)), EMPTY)) == [
        "0 hosts, 0 zones, 0 network nodes",
        "no place known: a (1 host)",
    ]


def test_long_and_odd_names_are_cut_and_break_nothing() -> None:
    places = [
        NetworkPlace(f"{i}{HOSTILE}", (f"{HOSTILE}{i}",), "", f"t{HOSTILE}{i}", HOSTILE, HOSTILE)
        for i in range(60)
    ]
    blocks = [replace(place, capacity_block=HOSTILE) for place in places]
    shape = Network(tuple(blocks), (HOSTILE, ""), {HOSTILE: (HOSTILE, HOSTILE)})
    for everything in (False, True):
        assert all(len(x) < 400 for x in lines(draw(shape, EMPTY, everything=everything)))


def test_hostlists_are_in_the_order_of_the_numbers_and_cut() -> None:
    assert hostlist(["n10", "n2", "n1", "m3"]) == "m3,n[1-2,10]"
    assert hostlist(["b x", "a"]) == "a, b x"
    assert len(hostlist([f"n{2 * i}" for i in range(1_000)], 60)) == 60
    assert cut("x" * 10, 5) == "xxxx…"
