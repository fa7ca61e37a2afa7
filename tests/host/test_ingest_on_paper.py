"""The job validator: what `flux submit` prints for attributes that cannot be meant."""

from __future__ import annotations

import errno
import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

INGEST = "flux_flex.host.ingest"
FILE = Path(__file__).parents[2] / "etc" / "flux" / "flux-flex-validator.py"


@pytest.fixture
def validate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plugin's method, over a class of plugins that does nothing."""
    plugins = ModuleType("flux.job.validator")
    plugins.ValidatorPlugin = object  # type: ignore[attr-defined]
    for name in ("flux", "flux.job"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "flux.job.validator", plugins)
    monkeypatch.delitem(sys.modules, INGEST, raising=False)
    validator = importlib.import_module(INGEST).Validator()
    yield lambda **user: validator.validate(
        SimpleNamespace(jobspec={"version": 1, "attributes": {"user": user}})
    )
    sys.modules.pop(INGEST, None)


def test_a_misspelt_best_effort_is_refused_with_what_belongs_there(validate: Any) -> None:
    number, said = validate(burstable="best-efort")
    assert number == errno.EINVAL
    assert said == (
        "attributes.user.burstable: 'best-efort' says nothing of bursting; "
        "say true, false, 1, 0 or best-effort, or leave it away"
    )


def test_wrong_attributes_of_usernetes_are_refused_too(validate: Any) -> None:
    number, said = validate(usernetes="perhaps", burstable=True)
    assert number == errno.EINVAL
    assert said.startswith("attributes.user.usernetes: ")


def test_jobs_that_may_burst_are_let_in(validate: Any) -> None:
    assert validate() is None
    assert validate(burstable=True, flex={"held": True}) is None
    assert validate(burstable="best-effort", usernetes="yes") is None


def test_where_flux_flex_does_not_load_only_jobs_that_ask_for_it_are_refused(
    validate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, INGEST, None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    validator = runpy.run_path(str(FILE))["Validator"]()

    def said(attributes: object) -> Any:
        return validator.validate(SimpleNamespace(jobspec={"attributes": attributes}))

    assert said(None) is None
    assert said({"system": {"duration": 1.0}, "user": None}) is None
    for asks in (
        {"user": {"usernetes": 1}},
        {"user": {"burstable": 1}},
        {"system": {"burstable": 1}},
    ):
        number, why = said(asks)
        assert number == errno.EINVAL
        assert "does not load" in why
