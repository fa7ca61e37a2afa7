"""Job constraints (RFC 31): what they match, how they read, what is refused and where."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import assert_reads_as_one_line

from flux_flex.errors import BadInput
from flux_flex.model.constraints import MAX_DEPTH, MAX_TERMS, Constraint, parse_constraint

EFA = {"properties": ["efa"]}
SPOT = {"properties": ["spot"]}

json_trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["efa", "^spot", "node[0-3]", "0-3", "^", "3-1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["properties", "hostlist", "ranks", "and", "or", "not"])
            | st.text(max_size=8),
            inner,
            max_size=2,
        )
    ),
    max_leaves=20,
)
valid_trees = st.recursive(
    st.one_of(
        st.fixed_dictionaries(
            {"properties": st.lists(st.sampled_from(["efa", "ssd", "^efa", "^spot"]), max_size=3)}
        ),
        st.fixed_dictionaries({"hostlist": st.lists(st.sampled_from(["n[0-2]", "m1"]))}),
        st.fixed_dictionaries({"ranks": st.lists(st.sampled_from(["0-1", "3"]))}),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"or": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"not": st.lists(inner, max_size=1)}),
    ),
    max_leaves=10,
)


def parsed(value: object) -> Constraint:
    constraint = parse_constraint(value)
    assert constraint is not None
    return constraint


@pytest.mark.parametrize("nothing", [None, {}])
def test_absent_or_empty_constraint_is_none(nothing: object) -> None:
    assert parse_constraint(nothing) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"properties": ["efa"]}, True),
        ({"properties": ["efa", "ssd"]}, True),
        ({"properties": ["efa", "gpu"]}, False),
        ({"properties": ["^spot"]}, True),
        ({"properties": ["efa", "^ssd"]}, False),
        ({"properties": []}, True),
        ({"hostlist": ["login1", "compute[0-3]"]}, True),
        ({"hostlist": ["compute[0-1]"]}, False),
        ({"hostlist": []}, False),
        ({"ranks": ["0", "5-7"]}, True),
        ({"ranks": ["0-4"]}, False),
        ({"ranks": []}, False),
        ({"and": [EFA, SPOT]}, False),
        ({"or": [EFA, SPOT]}, True),
        ({"or": [SPOT]}, False),
        ({"not": [SPOT]}, True),
        ({"not": [{"properties": ["efa", "gpu"]}]}, True),
        # RFC 31 defines the empty conditionals
        ({"and": []}, True),
        ({"or": []}, True),
        ({"not": []}, False),
        ({"not": [{}]}, False),
    ],
)
def test_operators_match_as_rfc31_says(value: object, expected: bool) -> None:
    node = frozenset({"efa", "ssd"})
    assert parsed(value).matches(node, "compute2", 6) is expected


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        ({"properties": ["efa", "^spot"]}, "properties efa and not spot"),
        ({"hostlist": ["compute[0-3]", "login1"]}, "hosts compute[0-3],login1"),
        ({"ranks": ["0-3"]}, "ranks 0-3"),
        ({"or": [EFA, SPOT]}, "properties efa or properties spot"),
        (
            {"and": [EFA, {"or": [SPOT, {"ranks": ["1"]}]}]},
            "properties efa and (properties spot or ranks 1)",
        ),
        ({"not": [{"properties": ["a", "b"]}]}, "not (properties a and b)"),
        ({"not": [SPOT]}, "not properties spot"),
        ({"and": [EFA]}, "properties efa"),
        ({"and": []}, "anything"),
        ({"properties": []}, "anything"),
        ({"not": []}, "nothing"),
        ({"hostlist": []}, "no host"),
        ({"ranks": []}, "no rank"),
    ],
)
def test_constraint_reads_as_a_phrase(value: object, phrase: str) -> None:
    assert parsed(value).describe() == phrase


def test_phrase_stays_short() -> None:
    many = {"or": [{"properties": [f"p{i}-{j}" for j in range(50)]} for i in range(50)]}
    assert len(parsed(many).describe()) == 200


def test_equal_constraints_are_equal_keys_however_they_are_spelled() -> None:
    one = parsed({"hostlist": ["n[0-1]"]})
    other = parsed({"hostlist": ["n1", "n0"]})
    assert {one: "found"}[other] == "found"


@pytest.mark.parametrize(
    ("value", "where", "what", "remedy"),
    [
        ({"propertys": ["a"]}, "constraint", "unknown operator 'propertys'", "mean properties?"),
        ({"hosts": ["a"]}, "constraint", "unknown operator 'hosts'", "mean hostlist?"),
        ({"rank": ["1"]}, "constraint", "unknown operator 'rank'", "mean ranks?"),
        ({"zebra": ["1"]}, "constraint", "unknown operator 'zebra'", "The operators are"),
        ({3: ["1"]}, "constraint", "an operator is a string, not a number", "one operator"),
        ({**EFA, "ranks": ["0"]}, "constraint", "this one has 2", '{"and": ['),
        ([], "constraint", "a constraint is an object, not a list", "one operator"),
        ({"properties": "efa"}, "constraint.properties", "are a string, not a list", '["efa"]'),
        ({"properties": [1]}, "constraint.properties[0]", "a string, not a number", '["efa"'),
        ({"properties": ["a", "^"]}, "constraint.properties[1]", "empty", "Name the property"),
        ({"properties": ["a|b"]}, "constraint.properties[0]", "contains '|'", "printable"),
        ({"properties": ["^^a"]}, "constraint.properties[0]", "contains '^'", "printable"),
        ({"properties": ["a\nb"]}, "constraint.properties[0]", r"contains '\n'", "printable"),
        ({"properties": ["\ud800"]}, "constraint.properties[0]", r"contains '\ud800'", "printable"),
        (
            {"and": [EFA, {"hostlist": ["n[2-1]"]}]},
            "constraint.and[1].hostlist[0]: hostlist 'n[2-1]'",
            "the range 2-1 runs backwards",
            "Write 1-2.",
        ),
        (
            {"ranks": ["0", "x"]},
            "constraint.ranks[1]: idset 'x', item 1",
            "'x' is neither an id nor a range",
            "0-3,7",
        ),
        ({"ranks": [0]}, "constraint.ranks[0]", "an idset is a string, not a number", '["0-3"]'),
        ({"or": [None]}, "constraint.or[0]", "a constraint is an object, not null", "operator"),
    ],
)
def test_malformed_constraint_is_refused_with_its_place(
    value: object, where: str, what: str, remedy: str
) -> None:
    with pytest.raises(BadInput) as refused:
        parse_constraint(value)
    assert refused.value.where == where
    assert what in refused.value.what
    assert remedy in refused.value.remedy


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = EFA
    for _ in range(depth - 1):
        value = {"not": [value]}
    return value


def test_nesting_is_bounded() -> None:
    deepest = parsed(nested(MAX_DEPTH))
    assert deepest.matches({"efa"}, "n", 0) is False
    assert deepest == parsed(nested(MAX_DEPTH))
    assert hash(deepest) == hash(parsed(nested(MAX_DEPTH)))
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(BadInput, match="nest deeper than 64"):
            parse_constraint(nested(depth))


def test_yaml_aliases_that_multiply_are_refused() -> None:
    value: dict[str, Any] = EFA
    for _ in range(MAX_DEPTH - 2):
        value = {"or": [value, value]}
    with pytest.raises(BadInput, match="more than 10,000 operators and values"):
        parse_constraint(value)


@pytest.mark.parametrize("leaf", [{"ranks": ["0-600000"]}, {"hostlist": ["n[0-600000]"]}])
def test_expansion_is_bounded_over_the_whole_constraint(leaf: object) -> None:
    with pytest.raises(BadInput, match="more than 1,000,000 hosts and ranks"):
        parse_constraint({"or": [leaf] * 1000})


def test_huge_unknown_operator_is_refused_quickly() -> None:
    started = time.perf_counter()
    with pytest.raises(BadInput, match="unknown operator") as refused:
        parse_constraint({"properties" * 100_000: []})
    assert time.perf_counter() - started < 1
    assert len(str(refused.value)) < 300


@given(valid_trees, st.sets(st.sampled_from(["efa", "ssd", "spot"])), st.integers(0, 4))
@settings(deadline=None)
def test_negation_turns_every_answer_round(value: object, node: set[str], rank: int) -> None:
    plain, negated = parsed(value), parsed({"not": [value]})
    host = f"n{rank}"
    assert plain.matches(node, host, rank) is not negated.matches(node, host, rank)
    assert plain == parsed(value)
    assert hash(plain) == hash(parsed(value))


@given(json_trees)
@settings(deadline=None, max_examples=500)
def test_any_tree_is_a_constraint_or_bad_input(tree: object) -> None:
    try:
        constraint = parse_constraint(tree)
    except BadInput as error:
        assert_reads_as_one_line(error)
    else:
        if constraint is not None:
            assert "\n" not in constraint.describe()
            constraint.matches(frozenset({"efa"}), "node1", 1)


def test_each_operand_and_value_counts_once_towards_the_bound() -> None:
    one = {"properties": ["a"]}  # as an operand and with its value: two
    parse_constraint({"or": [one] * (MAX_TERMS // 2)})
    with pytest.raises(BadInput, match="more than 10,000"):
        parse_constraint({"or": [one] * (MAX_TERMS // 2 + 1)})
