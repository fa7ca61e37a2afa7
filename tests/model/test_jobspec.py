"""Jobspecs: what is read from them, and what is refused and where."""

import copy
import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.count import MAX_COUNT, Count
from flux_flex.model.jobspec import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_REQUESTS,
    MAX_TEXT,
    MAX_YAML_DEPTH,
    decode,
    decode_yaml,
    load_jobspec,
    parse_jobspec,
)

V1: dict[str, Any] = {
    "version": 1,
    "resources": [
        {
            "type": "node",
            "count": 4,
            "exclusive": True,
            "with": [
                {
                    "type": "slot",
                    "count": 1,
                    "label": "task",
                    "with": [{"type": "core", "count": 2}],
                }
            ],
        }
    ],
    "tasks": [{"command": ["/bin/lmp", "-in", "x"], "slot": "task", "count": {"per_slot": 1}}],
    "attributes": {"system": {"duration": 3600, "constraints": {"properties": ["efa"]}}},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """V1 with one value set, by a path like ``resources.0.count``; ... removes the key."""
    document = copy.deepcopy(V1)
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = document
    for key in way:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def test_v1_is_read():
    spec = parse_jobspec(V1)
    (node,) = spec.resources
    assert (node.type, node.count, node.exclusive) == ("node", Count(4, 4), True)
    (slot,) = node.children
    assert (slot.is_slot, slot.label, slot.exclusive) == (True, "task", None)
    assert [r.type for r in node.walk()] == ["node", "slot", "core"]
    assert spec.duration_s == 3600
    assert spec.constraint is not None
    assert (spec.name, spec.command) == ("lmp", ("/bin/lmp", "-in", "x"))
    assert spec.raw is V1


def test_canonical_form_may_be_any_tree_with_units():
    tree = [
        {"type": "rack", "count": 1, "with": [{"type": "node", "count": {"min": 2}}]},
        {"type": "memory", "count": 8, "unit": "GB"},
    ]
    spec = parse_jobspec({"version": 9999, "resources": tree})
    assert spec.resources[0].children[0].count == Count(2, MAX_COUNT)
    assert spec.resources[1].unit == "GB"
    assert (spec.duration_s, spec.constraint, spec.name, spec.command) == (0, None, "", ())


def test_jobspecs_are_equal_that_ask_for_the_same_whatever_they_run():
    other = changed("tasks", [])
    assert parse_jobspec(other) == parse_jobspec(V1)
    assert hash(parse_jobspec(other)) == hash(parse_jobspec(V1))
    assert parse_jobspec(changed("attributes.system.duration", 1)) != parse_jobspec(V1)


def test_json_and_yaml_say_the_same():
    assert load_jobspec(json.dumps(V1)) == load_jobspec(yaml.safe_dump(V1)) == parse_jobspec(V1)


def test_the_job_name_wins_over_the_command():
    assert parse_jobspec(changed("attributes.system.job", {"name": "relax"})).name == "relax"
    assert parse_jobspec(changed("attributes.system.job", {"name": ""})).name == "lmp"
    assert parse_jobspec(changed("tasks", [{"command": "no list"}, 3])).name == ""


@pytest.mark.parametrize("place", ["system", "user"])
@pytest.mark.parametrize(
    ("value", "may"),
    [(1, True), (True, True), ("1", True), (0, False), (False, False), ("0", False), ("no", False)],
)
def test_burstable_is_said_under_system_or_user(place, value, may):
    document = changed(f"attributes.{place}", {"burstable": value})
    assert parse_jobspec(document).burstable is may


def test_nobody_is_burstable_who_does_not_say_so():
    assert not parse_jobspec(V1).burstable


# -- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "available", "most"),
    [
        (Count(3, 3), 2, 0),
        (Count(3, 3), 9, 3),
        (Count(1, 10), 7, 7),
        (Count(1, 10, "+", 3), 9, 7),
        (Count(1, 10, "*", 2), 9, 8),
        (Count(1, 10, "*", 2), 100, 8),
        (Count(2, 300, "^", 2), 300, 256),
        (Count(2, 300, "^", 2), 255, 16),
        (Count(5, 6, "^", 9), 10**9, 5),
    ],
)
def test_a_count_grows_by_its_operator_up_to_what_there_is(count, available, most):
    assert count.largest_within(available) == most


@given(
    st.integers(2, 50),
    st.integers(0, 500),
    st.sampled_from("+*^"),
    st.integers(2, 5),
    st.integers(0, 600),
)
def test_the_largest_count_is_the_largest_of_all_permitted(least, more, operator, operand, free):
    count = Count(least, least + more, operator, operand)
    step = {"+": lambda n: n + operand, "*": lambda n: n * operand, "^": lambda n: n**operand}
    permitted, n = [], least
    while n <= count.most:
        permitted.append(n)
        n = step[operator](n)
    assert count.largest_within(free) == max([n for n in permitted if n <= free], default=0)


# -- refusals -----------------------------------------------------------------------------------

TOO_BIG = -(16**9000)  # Python prints no number of so many digits


@pytest.mark.parametrize(
    ("path", "value", "where", "what"),
    [
        ("version", ..., "version", "None is not known"),
        ("version", 2, "version", "2 is not known"),
        ("version", 1.0, "version", "1.0 is not known"),
        ("version", True, "version", "True is not known"),
        ("version", [[1]], "version", "a list is not known"),
        pytest.param(
            "version", TOO_BIG, "version", "of more than 64 bits is not known", id="big version"
        ),
        ("resources", ..., "resources", "without resources"),
        ("resources", [], "resources", "without resources"),
        ("resources", {}, "resources", "without resources"),
        ("resources.0", "node", "resources[0]", "'node' is not a mapping"),
        ("resources.0", "n" * 99, "resources[0]", "a str is not a mapping"),
        ("resources.0.type", ..., "resources[0].type", "no resource type"),
        ("resources.0.type", "", "resources[0].type", "no resource type"),
        ("resources.0.type", "a\nb", "resources[0].type", "no resource type"),
        ("resources.0.type", "n" * 65, "resources[0].type", "no resource type"),
        ("resources.0.count", ..., "resources[0].count", "no count"),
        ("resources.0.count", 0, "resources[0].count", "a count of 0"),
        ("resources.0.count", -1, "resources[0].count", "a negative count"),
        pytest.param(
            "resources.0.count", TOO_BIG, "resources[0].count", "a negative count", id="big count"
        ),
        ("resources.0.count", True, "resources[0].count", "True is not a whole number"),
        ("resources.0.count", 1.5, "resources[0].count", "1.5 is not a whole number"),
        ("resources.0.count", "four", "resources[0].count", "'four' is no count"),
        ("resources.0.count", MAX_COUNT + 1, "resources[0].count", "a count above"),
        ("resources.0.count", {}, "resources[0].count.min", "None is not a whole number"),
        ("resources.0.count", {"min": 3, "max": 2}, "resources[0].count", "max 2 is below min 3"),
        ("resources.0.count", {"min": 1, "most": 2}, "resources[0].count", "unknown key 'most'"),
        ("resources.0.count", {"min": 1, "operator": "-"}, "resources[0].count.operator", "'-' is"),
        (
            "resources.0.count",
            {"min": 1, "operator": [[]]},
            "resources[0].count.operator",
            "a list",
        ),
        ("resources.0.count", {"min": 1, "operand": 0}, "resources[0].count.operand", "count of 0"),
        ("resources.0.count", {"min": 2, "operator": "*"}, "resources[0].count", "never grows"),
        (
            "resources.0.count",
            {"min": 1, "operator": "^", "operand": 2},
            "resources[0].count",
            "never grows",
        ),
        ("resources.0.count", 10**6, "resources", "a job of 1000000 nodes"),
        ("resources.0.exclusive", "yes", "resources[0].exclusive", "'yes' is not true or false"),
        ("resources.0.exclusive", [], "resources[0].exclusive", "a list is not true or false"),
        ("resources.0.unit", 3, "resources[0].unit", "3 is not text"),
        ("resources.0.with", [], "resources[0].with", "an empty list"),
        ("resources.0.with.0.with", ..., "resources[0].with[0].with", "a slot with nothing in it"),
        ("resources.0.with.0.label", 1, "resources[0].with[0].label", "1 is not text"),
        ("resources.0.with.0.with.0.count", 0, "resources[0].with[0].with[0].count", "count of 0"),
        ("tasks", {}, "tasks", "not a list"),
        ("attributes", [], "attributes", "a list is not a mapping"),
        ("attributes.system", 1, "attributes.system", "1 is not a mapping"),
        ("attributes.user", 1, "attributes.user", "1 is not a mapping"),
        ("attributes.system.duration", -1, "attributes.system.duration", "a duration of -1"),
        ("attributes.system.duration", "1h", "attributes.system.duration", "'1h' is not a number"),
        ("attributes.system.duration", True, "attributes.system.duration", "True is not a number"),
        ("attributes.system.duration", math.nan, "attributes.system.duration", "duration of nan"),
        ("attributes.system.duration", math.inf, "attributes.system.duration", "duration of inf"),
        ("attributes.system.duration", 10**400, "attributes.system.duration", "duration of inf"),
        (
            "attributes.system.constraints",
            {"color": ["red"]},
            "attributes.system.constraints: constraint",
            "unknown operator 'color'",
        ),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(path, value, where, what):
    with pytest.raises(BadInput) as refused:
        parse_jobspec(changed(path, value))
    assert refused.value.where == where
    assert what in refused.value.what
    assert refused.value.remedy


@pytest.mark.parametrize("document", [None, [], "node", 3, [V1]])
def test_what_is_no_mapping_is_no_jobspec(document):
    with pytest.raises(BadInput, match="not a mapping"):
        parse_jobspec(document)


def test_nodes_count_by_what_they_are_in():
    racks = {"type": "rack", "count": 1024, "with": [{"type": "node", "count": 1024}]}
    with pytest.raises(BadInput, match="a job of 1048576 nodes"):
        parse_jobspec({"version": 9999, "resources": [racks]})
    assert parse_jobspec(changed("resources.0.count", MAX_NODES)).resources[0].count.least


def chain(depth: int) -> dict[str, Any]:
    below: dict[str, Any] = {"type": "core", "count": 1}
    for _ in range(depth - 1):
        below = {"type": "box", "count": 1, "with": [below]}
    return {"version": 9999, "resources": [below]}


def test_resources_nest_to_a_bound():
    assert parse_jobspec(chain(MAX_DEPTH))
    with pytest.raises(BadInput, match="nested too deeply"):
        parse_jobspec(chain(MAX_DEPTH + 1))


def test_a_resource_that_contains_itself_is_refused():
    document = chain(1)
    document["resources"][0]["with"] = document["resources"]
    with pytest.raises(BadInput, match="nested too deeply"):
        parse_jobspec(document)


def test_resources_are_counted_as_they_are_met():
    level: list[Any] = [{"type": "core", "count": 1}] * 9
    for _ in range(8):
        level = [{"type": "box", "count": 1, "with": level}] * 9
    with pytest.raises(BadInput, match=f"at most {MAX_REQUESTS}"):
        parse_jobspec({"version": 9999, "resources": level})


# -- text ---------------------------------------------------------------------------------------

NINE = ",".join(["*{0}"] * 9)


def bomb(first: str, level: str) -> str:
    lines = [f"a: &a {first}"]
    for above, name in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{name}: &{name} {level.replace('NINE', NINE.format(above))}")
    return "\n".join([*lines, "version: *l"])


@pytest.mark.parametrize(
    "text", [bomb("[x]", "[NINE]"), bomb("{x: 1}", "{<<: [NINE]}"), bomb("x", "[NINE]")]
)
def test_aliases_are_bounded_by_what_they_stand_for(text):
    with pytest.raises(BadInput, match="too many values"):
        load_jobspec(text)


def test_a_few_aliases_are_welcome():
    text = "a: &a [1, 2]\nb: &b {c: *a}\nd: [*a, *b]\ne: {<<: *b, f: &f 1}\ng: *f"
    assert decode(text) == {
        "a": [1, 2],
        "b": {"c": [1, 2]},
        "d": [[1, 2], {"c": [1, 2]}],
        "e": {"c": [1, 2], "f": 1},
        "g": 1,
    }


def test_a_value_that_contains_itself_is_refused():
    with pytest.raises(BadInput, match="'a' contains itself"):
        decode("x: &a [*a]")


@pytest.mark.parametrize(
    "text", ["[" * 10_000, '{"a":' * 10_000, "- " * 10_000, "{a: " * 10_000, "? " * 10_000]
)
@pytest.mark.parametrize("read", [decode, decode_yaml])
def test_text_nested_too_deeply_is_refused(text, read):
    with pytest.raises(BadInput, match="nested too deeply"):
        read(text)


def test_yaml_nests_to_its_bound():
    assert decode_yaml("[" * MAX_YAML_DEPTH + "]" * MAX_YAML_DEPTH)


def test_a_text_without_bound_is_refused_unread():
    with pytest.raises(BadInput, match="characters of jobspec"):
        load_jobspec(" " * (MAX_TEXT + 1))


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: [1\nb: 2", "line 2, column 2", "not valid YAML or JSON"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("--- a\n--- b", "line 2, column 1", "another document"),
        ("!!python/object:os.system x", "line 1, column 1", "constructor"),
        ("a: \x00", "", "not valid YAML or JSON"),
        ('!!int ""', "", "not valid YAML or JSON"),
        ('!!float ""', "", "not valid YAML or JSON"),
        ('!!bool "x"', "", "not valid YAML or JSON"),
        ('!!timestamp "x"', "", "not valid YAML or JSON"),
        ("1:" + "59:" * 400 + "1.5", "", "not valid YAML or JSON"),
        ("a: \ud800", "", "not valid YAML or JSON"),
    ],
)
def test_a_text_that_is_no_yaml_is_refused_with_its_place(text, where, what):
    with pytest.raises(BadInput) as refused:
        decode(text)
    assert refused.value.where == where
    assert what in refused.value.what
    assert "\n" not in refused.value.what


# -- whatever comes -----------------------------------------------------------------------------

often = settings(max_examples=200, deadline=None)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["node", "slot", "core", 1, 2, 9999, "*", "^", -1, 10**20])
)  # fmt: skip
keys = st.sampled_from(
    ["version", "resources", "type", "count", "with", "exclusive", "label", "unit", "min", "max",
     "operator", "operand", "tasks", "command", "attributes", "system", "duration", "constraints"]
) | st.text(max_size=3)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=25,
)


def reads_or_refuses(read: Any, value: object) -> None:
    try:
        read(value)
    except BadInput as error:
        assert len(str(error)) < 2000  # noqa: PT017 - whichever comes


@often
@given(trees)
def test_any_tree_is_read_or_refused(tree):
    reads_or_refuses(parse_jobspec, tree)


@often
@given(st.data())
def test_any_change_of_a_jobspec_is_read_or_refused(data):
    document = copy.deepcopy(V1)
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(range(len(place)) if isinstance(place, list) else [*place]))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(trees)
            break
        place = place[key]
    reads_or_refuses(parse_jobspec, document)


@often
@given(st.text(max_size=60) | st.text("{}[]:,-&*a1!<|> \n\"'?", max_size=40))
def test_any_text_is_read_or_refused(text):
    reads_or_refuses(load_jobspec, text)


@often
@given(trees)
def test_any_yaml_of_a_tree_is_read_or_refused(tree):
    try:
        text = json.dumps(tree)
    except ValueError:  # a number of thousands of digits
        return
    reads_or_refuses(load_jobspec, text)
    reads_or_refuses(load_jobspec, "# not JSON\n" + text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("budget: 1\nbudget: 2\n", "line 2, column 1"),
        ("a: {b: [1, {c: 1, d: {}, c: 2}]}", "line 1, column 26"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_place(text, place):
    with pytest.raises(BadInput, match="twice") as caught:
        decode_yaml(text)
    assert caught.value.where == place


def test_equal_keys_of_different_mappings_and_values_like_keys_are_fine():
    assert decode_yaml("a: a\nb: {a: b, b: a}\nc: [a, a, {a: 1}]") == {
        "a": "a",
        "b": {"a": "b", "b": "a"},
        "c": ["a", "a", {"a": 1}],
    }


def test_counts_that_multiply_beyond_what_any_system_has_are_refused() -> None:
    core = {"type": "core", "count": 10**9}
    slot = {"type": "slot", "count": 10**9, "label": "task", "with": [core]}
    with pytest.raises(BadInput, match="counts that multiply to 1e\\+18"):
        parse_jobspec(changed("resources.0", slot))
