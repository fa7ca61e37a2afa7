"""What a job may say of bursting: what is refused when it is submitted, and with which sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.model.burst_request import check_burst_request
from flux_flex.model.jobspec import parse_jobspec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SAID = JSON | st.sampled_from([True, False, 0, 1, "best-effort"])


def jobspec(**attributes: Any) -> dict[str, Any]:
    core = {"type": "core", "count": 1}
    slot = {"type": "slot", "count": 1, "label": "task", "with": [core]}
    return {"version": 1, "resources": [slot], "attributes": attributes}


def refused(**attributes: Any) -> BadInput:
    with pytest.raises(BadInput) as got:
        check_burst_request(jobspec(**attributes))
    return got.value


@pytest.mark.parametrize("value", [True, False, 1, 0, "best-effort"])
@pytest.mark.parametrize("place", ["user", "system"])
def test_what_is_documented_is_let_in(place: str, value: object) -> None:
    check_burst_request(jobspec(**{place: {"burstable": value}}))


@pytest.mark.parametrize(
    "value", ["best-efort", "Best-Effort", "yes", "true", "", None, 2, -1, 1.0, [True], {}, "1"]
)
@pytest.mark.parametrize("place", ["user", "system"])
def test_another_value_is_refused_with_what_belongs_there(place: str, value: object) -> None:
    error = refused(**{place: {"burstable": value}})
    assert error.where == f"attributes.{place}.burstable"
    assert "true, false, 1, 0 or best-effort" in error.remedy


def test_what_the_option_burst_sets_is_let_in() -> None:
    for value in (True, "best-effort"):
        check_burst_request(jobspec(user={"burstable": value, "flex": {"held": True}}))
    check_burst_request(jobspec(user={"burstable": 1, "flex": {"held": 1}}))


@pytest.mark.parametrize(
    ("flex", "where"),
    [
        (True, "attributes.user.flex"),
        ({"hold": True}, "attributes.user.flex"),
        ({"held": "yes"}, "attributes.user.flex.held"),
        ({"held": 2}, "attributes.user.flex.held"),
        ({"held": None}, "attributes.user.flex.held"),
    ],
)
def test_a_hold_that_cannot_be_meant_is_refused(flex: object, where: str) -> None:
    assert refused(user={"burstable": True, "flex": flex}).where == where


def test_a_hold_where_nobody_looks_is_refused_with_the_right_place() -> None:
    error = refused(system={"burstable": 1, "flex": {"held": 1}})  # --setattr=flex.held
    assert error.where == "attributes.system.flex.held"
    assert "user.flex.held=true" in error.remedy


def test_yes_in_one_place_and_no_in_the_other_are_refused() -> None:
    assert refused(user={"burstable": True}, system={"burstable": False}).remedy == "say it once"
    assert refused(user={"burstable": 0}, system={"burstable": "best-effort"})
    check_burst_request(jobspec(user={"burstable": "best-effort"}, system={"burstable": 1}))


def test_jobs_that_say_nothing_of_bursting_are_let_in() -> None:
    for attributes in ({}, {"user": {"burst_buffer": "x"}}, {"system": {"duration": 1.0}}):
        check_burst_request(jobspec(**attributes))
    check_burst_request({})


def refusal(spec: dict[str, Any]) -> BadInput | None:
    try:
        check_burst_request(spec)
    except BadInput as error:
        return error
    return None


@given(user=SAID, system=SAID, flex=JSON | st.just({"held": True}))
@example(user="\x1b[2J" * 9999, system=True, flex={})
@example(user=10**5000, system=True, flex={"held": 10**5000})
def test_whatever_is_let_in_means_what_it_says(user: object, system: object, flex: object) -> None:
    attributes = {"user": {"burstable": user, "flex": flex}, "system": {"burstable": system}}
    error = refusal({"attributes": attributes})
    if error is not None:
        assert str(error).replace("\n", "").isprintable()
        assert len(str(error)) < 300
        return
    spec = parse_jobspec(jobspec(**attributes))
    assert spec.burstable == bool(user) == bool(system)
    assert spec.is_best_effort == ("best-effort" in (user, system))


@given(JSON)
def test_no_shape_of_attributes_brings_it_down(value: object) -> None:
    for spec in (
        {"attributes": value},
        {"attributes": {"user": value, "system": value}},
        {"attributes": {"user": {"flex": value}}},
    ):
        error = refusal(spec)
        assert error is None or error.where.startswith("attributes.")
