"""Targets: what all of them answer at once is what each of them answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.model.constraints import parse_constraint
from flux_flex.model.rv1 import RankResources
from flux_flex.model.targets import Targets, count_of

NAMES = st.sampled_from(["efa", "spot", "gpu"])
HOSTS = st.sampled_from(["a0", "a1", "b[0-3]", "c7"])
LEAVES = st.one_of(
    st.builds(
        lambda names, without: {"properties": [*names, *(f"^{name}" for name in without)]},
        st.lists(NAMES, max_size=2),
        st.lists(NAMES, max_size=2),
    ),
    st.builds(lambda hosts: {"hostlist": hosts}, st.lists(HOSTS, max_size=2)),
    st.builds(
        lambda ranks: {"ranks": ranks}, st.lists(st.sampled_from(["0", "2-4", "9"]), max_size=2)
    ),
    st.just({}),
)
CONSTRAINTS = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.builds(lambda some: {"and": some}, st.lists(below, max_size=3)),
        st.builds(lambda some: {"or": some}, st.lists(below, max_size=3)),
        st.builds(lambda some: {"not": some}, st.lists(below, max_size=2)),
    ),
    max_leaves=12,
)
TARGETS = st.lists(
    st.builds(
        lambda host, rank, names: RankResources(rank, host, (0,), (), tuple(sorted(names))),
        st.sampled_from(["a0", "a1", "b0", "b3", "c7"]),
        st.integers(0, 9),
        st.sets(NAMES),
    ),
    max_size=20,
)


@given(TARGETS, CONSTRAINTS)
def test_all_targets_answer_as_each_of_them(targets: list[RankResources], document: Any) -> None:
    constraint = parse_constraint(document)
    all_of_them = Targets(targets)
    found = all_of_them.answers(all_of_them.matching(constraint))
    assert found == [
        constraint is None or constraint.matches(one.properties, one.host, one.rank)
        for one in targets
    ]


@pytest.mark.parametrize("ranks", [[], [1], [1, 3, 99]])
def test_bits_of_ranks_are_those_of_their_targets(ranks: list[int]) -> None:
    targets = Targets(RankResources(rank, f"n{rank}", (0,), ()) for rank in range(5))
    assert count_of(targets.of_ranks(ranks)) == len([rank for rank in ranks if rank < 5])
