"""Leads kept from match to match give the answers that leads worked out anew give."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from match_help import ask, cores, embedded, names, nodes, plant, slot, spec, vertex

from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded import EmbeddedMatcher, leads, planner, traverser
from flux_flex.match.embedded.leads import Leads


@pytest.fixture(autouse=True)
def leads_decide(monkeypatch):
    """Even in small graphs, where all slots could be compared."""
    monkeypatch.setattr(traverser, "MAX_FOLLOWED", 0)


def mixed_racks() -> Any:
    """Nodes with and without sockets, a node without cores, and cores beside nodes."""
    sockets = {"socket0": {"core": 2, "gpu": 1}, "socket1": {"core": 3}}
    return plant(
        {
            "cluster": {
                "core": 2,
                "rack0": {"node0": {"core": 3, "gpu": 1}, "node1": sockets, "node2": {"core": 1}},
                "rack1": {"node3": {"gpu": 2}, "node4": {"core": 4, "gpu": 2}, "node5": sockets},
                "node6": {"core": 2, "memory": [4, 2, 2]},
            }
        }
    )


REQUESTS = [
    spec(slot(1, ask("core")), duration=20),
    spec(slot(2, ask("core")), duration=50),
    spec(slot(2, ask("core", 2)), duration=10),
    spec(slot(1, ask("core"), ask("gpu")), duration=30),
    spec(slot({"min": 1, "max": 3}, ask("gpu")), duration=15),
    spec(slot(1, ask("memory", 2)), duration=15),
    spec(slot(1, ask("node", 1, ask("core"))), duration=25),
    spec(ask("node", 2, exclusive=True), duration=25),
    spec(ask("rack", 1, exclusive=True), duration=5),
    spec(ask("node", 1), duration=40),
    spec(slot(1, ask("core", 2)), slot(1, ask("core")), duration=20),
    spec(slot(1, ask("core")), duration=20, constraints={"ranks": ["1,4-5"]}),
]


class Twins:
    """Two matchers driven alike, of which one works its leads out anew for each match."""

    def __init__(self, policy: str, rng: random.Random) -> None:
        self.rng = rng
        graph = mixed_racks()
        self.both = [embedded(graph, policy), embedded(graph, policy)]

    def same(self, do: Callable[[EmbeddedMatcher], Any]) -> Any:
        self.both[1]._leads = Leads(self.both[1]._planner)
        cached, fresh = (self.said(matcher, do) for matcher in self.both)
        assert cached == fresh
        return cached

    def said(self, matcher: EmbeddedMatcher, do: Callable[[EmbeddedMatcher], Any]) -> Any:
        try:
            match = do(matcher)
        except (Busy, Unsatisfiable) as no:
            return type(no)
        return match and (match.jobid, match.at, match.vertices)

    def step(self) -> Any:
        rng, one = self.rng, self.both[0]
        kind = rng.choice("aaaaaarrcckmmf")
        if kind == "a":
            request, later = rng.choice(REQUESTS), rng.choice([0, 0, 0, 7])
            return self.same(lambda m: m.allocate(request, at=m.now + later))
        if kind == "r":
            request = rng.choice(REQUESTS)
            return self.same(lambda m: m.reserve(request))
        if kind == "c" and one.holders:
            jobid = rng.choice(sorted(one.holders))
            return self.same(lambda m: m.cancel(jobid))
        if kind == "k":
            now = one.now + rng.randrange(30)
            return self.same(lambda m: m.advance(now))
        if kind == "m":
            node, up = rng.choice(one.graph.of_type("node").tolist()), rng.random() < 0.7
            return self.same(lambda m: m.mark([node], up=up))
        self.both = [matcher.fork() for matcher in self.both]
        return None


@pytest.mark.parametrize("remembered", [2, 256])
@pytest.mark.parametrize("policy", ["low", "high", "lonode", "hinode", "lonodex"])
def test_kept_leads_answer_as_fresh_ones_do(policy, remembered, monkeypatch):
    monkeypatch.setattr(planner, "_REMEMBERED", remembered)
    rng = random.Random(f"{policy}{remembered}")
    for _ in range(12):
        twins = Twins(policy, rng)
        for _ in range(40):
            twins.step()


def test_leads_are_worked_out_for_changed_homes_alone(monkeypatch):
    looked_into = []
    score = traverser.Traversal._first_scores
    monkeypatch.setattr(
        traverser.Traversal,
        "_first_scores",
        lambda self, slot, homes: looked_into.append(len(homes)) or score(self, slot, homes),
    )
    matcher = embedded(nodes(20, core=2), "low")
    for _ in range(3):
        matcher.allocate(cores(2))
    assert looked_into == [20, 2, 2]


def test_a_trial_for_slots_that_compete_leaves_no_leads_of_its_own():
    """Each is looked for where those before it are taken on trial: that is not the state."""
    sizes = {f"node{i}": {"core": 2 if i == 5 else 3} for i in range(6)}
    matcher = embedded(plant({"cluster": sizes}))
    held = matcher.allocate(spec(slot(1, ask("core", 3))))
    assert held.hosts == ["node0"]
    wants = spec(slot(1, ask("core", 2)), slot(1, ask("core", 2)), slot(3, ask("core", 3)))
    with pytest.raises(Busy):  # node1 and node2 on trial, but then too little is left
        matcher.allocate(wants)
    matcher.cancel(held.jobid)
    match = matcher.allocate(wants)
    assert match.hosts == ["node0", "node1", "node2", "node3", "node4"]
    last = {name for name in names(match) if name.endswith("core2")}
    assert last == {"node2/core2", "node3/core2", "node4/core2"}


def test_a_node_that_comes_up_again_leads_again():
    matcher = embedded(nodes(4, core=1))
    matcher.allocate(cores(1))
    matcher.mark([vertex(matcher.graph, "node1")], up=False)
    assert matcher.allocate(cores(1)).hosts == ["node2"]
    matcher.mark([vertex(matcher.graph, "node1")], up=True)
    assert matcher.allocate(cores(1)).hosts == ["node1"]


def test_what_begins_or_ends_as_time_passes_changes_the_leads():
    matcher = embedded(nodes(3, core=1))
    matcher.allocate(cores(1, 10))
    matcher.allocate(cores(1, 10), at=20)
    assert matcher.allocate(cores(1, 5)).hosts == ["node1"]
    matcher.advance(12)
    assert matcher.allocate(cores(1, 8)).hosts == ["node0"]
    matcher.advance(20)
    with suppress(Busy):
        matcher.allocate(cores(3, 1))
    assert matcher.allocate(cores(2, 1)).hosts == ["node1", "node2"]


def test_leads_of_many_requests_do_not_pile_up():
    matcher = embedded(nodes(2 * leads._KEPT, core=1), "low")
    for count in range(1, 2 * leads._KEPT):
        matcher.cancel(matcher.allocate(cores(count)).jobid)
    assert len(matcher._leads._known) == leads._KEPT
