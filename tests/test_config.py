"""flex.toml: the file that is shipped, what is refused with which place, and who may write it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.config import FlexConfig, load_config, parse_config
from flux_flex.errors import BadInput

SHIPPED = Path(__file__).parents[1] / "etc" / "flux" / "flex.toml"


def refused(document: dict[str, Any]) -> BadInput:
    with pytest.raises(BadInput) as got:
        parse_config({"usernetes": document})
    return got.value


def test_the_shipped_file_changes_nothing() -> None:
    assert load_config(SHIPPED) == FlexConfig()


def test_the_shipped_file_has_every_key_with_its_default(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z_-]+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE)
    everything = tmp_path / "flex.toml"
    everything.write_text(text)
    found = load_config(everything)
    assert found == FlexConfig()
    assert found.usernetes.model_fields_set == set(type(found.usernetes).model_fields)
    assert found.topology.model_fields_set == set(type(found.topology).model_fields)
    deadlines = found.usernetes.deadlines
    assert deadlines.model_fields_set == set(type(deadlines).model_fields)


def test_without_a_file_everything_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLUX_FLEX_CONFIG", raising=False)
    monkeypatch.setattr("flux_flex.config.DEFAULT_PATH", "/nonexistent/flex.toml")
    assert load_config() == FlexConfig()


def test_a_file_that_is_named_has_to_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load_config(tmp_path / "none.toml")
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(BadInput, match="no such file") as got:
        load_config()
    assert "FLUX_FLEX_CONFIG" in got.value.remedy


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flex.toml"
    path.write_text("[usernetes.deadlines]\nkubeadm-init = '7m'\n")
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(path))
    assert load_config().usernetes.deadlines.of("kubeadm-init") == 420.0


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "flex.toml"
    path.write_text("")
    path.chmod(mode)
    with pytest.raises(BadInput, match="others can write it") as got:
        load_config(path)
    assert "chmod go-w" in got.value.remedy


def test_a_pipe_is_no_configuration_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "flex.toml")
    with pytest.raises(BadInput, match="no regular file"):
        load_config(tmp_path / "flex.toml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of somebody else's")
def test_a_file_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "flex.toml"
    path.write_text("")
    os.chown(path, 12345, 12345)
    with pytest.raises(BadInput, match="belongs to somebody else"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[usernetes", "not TOML"), ("a = " + "[" * 5000, "TOML|nested"), ("\xff", "UTF-8|TOML")],
)
def test_what_is_no_toml_is_refused_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "flex.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=said) as got:
        load_config(path)
    assert str(path) in str(got.value)


@pytest.mark.parametrize(
    ("document", "where", "remedy"),
    [
        ({"deadlines": {"kubeadm-int": 5}}, "usernetes.deadlines.kubeadm-int", "'kubeadm-init'"),
        ({"workdirs": "/tmp"}, "usernetes.workdirs", "'workdir'"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_one(
    document: dict[str, Any], where: str, remedy: str
) -> None:
    error = refused(document)
    assert error.where == where
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "document",
    [
        {"workdir": "tmp"},
        {"workdir": "/tmp/../etc"},
        {"template": "/tmp/\n"},
        {"ports": "30000"},
        {"ports": "0-70000"},
        {"ports": "30000-30003"},
        {"ports": "32767-30000"},
        {"subnets": "10.0.0.0/30"},
        {"subnets": "10.0.0.1/16"},
        {"subnets": "ten"},
        {"container_engine": "lxc"},
        {"environment": {"A-B": "1"}},
        {"environment": {"A": "\0"}},
        {"environment": {"A": 1}},
        {"join_tries": 0},
        {"debug_max": -1},
        {"deadlines": {"up": 0}},
        {"deadlines": {"up": "soon"}},
    ],
)
def test_values_that_cannot_be_meant_are_refused_with_their_key(document: dict[str, Any]) -> None:
    error = refused(document)
    (key,) = document
    assert error.where.startswith(f"usernetes.{key}")


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20)))
def test_any_document_is_a_configuration_or_bad_input(document: dict[str, Any]) -> None:
    with suppress(BadInput):
        parse_config({"usernetes": document})
