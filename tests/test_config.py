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

from flux_flex.config import BurstSlot, FlexConfig, load_config, parse_config, slots_of
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
    burst = found.burst
    for table in (found.usernetes.deadlines, burst, burst.limits, burst.lead, burst.local):
        assert table.model_fields_set == set(type(table).model_fields)


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


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make a file of somebody else's: run it as root"
)
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


# -- [burst]

SLOTS = {"name": "hpc7a", "type": "hpc7a.12xlarge", "bursts": 2, "nodes": 2}


def burst_refused(document: dict[str, Any]) -> BadInput:
    with pytest.raises(BadInput) as got:
        parse_config({"burst": document})
    return got.value


def test_each_burst_has_a_slot_with_hosts_named_after_it() -> None:
    gpus = {"name": "p5", "type": "p5.48xlarge", "bursts": 1, "nodes": 1}
    assert slots_of(parse_config({"burst": {"slots": [SLOTS, gpus]}}).burst) == (
        BurstSlot("hpc7a-0", "hpc7a.12xlarge", ("hpc7a-0-0", "hpc7a-0-1")),
        BurstSlot("hpc7a-1", "hpc7a.12xlarge", ("hpc7a-1-0", "hpc7a-1-1")),
        BurstSlot("p5-0", "p5.48xlarge", ("p5-0-0",)),
    )
    assert slots_of(FlexConfig().burst) == ()


def test_a_limit_of_nothing_is_a_limit_and_unlimited_is_none() -> None:
    limits = parse_config({"burst": {"limits": {"budget": 0, "nodes": "unlimited"}}}).burst.limits
    assert (limits.budget, limits.nodes, limits.per_user) == (0.0, None, None)


@pytest.mark.parametrize(
    ("hours", "minutes"), [("20:00-06:30", (1200, 390)), ("00:00-23:59", (0, 1439)), ("", None)]
)
def test_hours_are_times_of_day(hours: str, minutes: tuple[int, int] | None) -> None:
    assert parse_config({"burst": {"limits": {"hours": hours}}}).burst.limits.minutes == minutes


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "a-0"], ["a-1-2", "a"], ["b", "hpc7a-0", "hpc7a"]]
)
def test_names_of_slots_that_would_meet_are_refused(names: list[str]) -> None:
    error = burst_refused({"slots": [{**SLOTS, "name": name} for name in names]})
    assert error.where == "burst.slots"
    assert "overlap" in error.what


def test_names_of_slots_may_begin_alike() -> None:
    names = ["hpc7a", "hpc7", "hpc7a-big", "hpc7a-1b"]
    slots = [{**SLOTS, "name": name} for name in names]
    assert len(slots_of(parse_config({"burst": {"slots": slots}}).burst)) == 8


@pytest.mark.parametrize(
    ("where", "document"),
    [
        ("burst.slots[0].name", {"slots": [{**SLOTS, "name": "Hpc"}]}),
        ("burst.slots[0].name", {"slots": [{**SLOTS, "name": "7a"}]}),
        ("burst.slots[0].name", {"slots": [{**SLOTS, "name": "a-"}]}),
        ("burst.slots[0].name", {"slots": [{**SLOTS, "name": "a" * 41}]}),
        ("burst.slots[0].bursts", {"slots": [{**SLOTS, "bursts": 0}]}),
        ("burst.slots[0].bursts", {"slots": [{**SLOTS, "bursts": 101}]}),
        ("burst.slots[0].nodes", {"slots": [{**SLOTS, "nodes": 4097}]}),
        ("burst.slots[0].type", {"slots": [{**SLOTS, "type": ""}]}),
        ("burst.slots", {"slots": [{**SLOTS, "bursts": 100, "nodes": 4096}]}),
        ("burst.limits.hours", {"limits": {"hours": "20-6"}}),
        ("burst.limits.hours", {"limits": {"hours": "24:00-06:00"}}),
        ("burst.limits.hours", {"limits": {"hours": "20:00-20:00"}}),
        ("burst.limits.nodes", {"limits": {"nodes": -1}}),
        ("burst.limits.nodes", {"limits": {"nodes": "none"}}),
        ("burst.limits.cost_per_hour", {"limits": {"cost_per_hour": float("inf")}}),
        ("burst.lead.address", {"lead": {"address": "10.0.0.700"}}),
        ("burst.lead.address", {"lead": {"address": "0.0.0.0"}}),
        ("burst.lead.address", {"lead": {"address": "fe80::1%eth0"}}),
        ("burst.lead.address", {"lead": {"address": "lead:8050"}}),
        ("burst.lead.name", {"lead": {"name": 'lead"'}}),
        ("burst.lead.port", {"lead": {"port": 0}}),
        ("burst.local.rundir", {"local": {"rundir": "run"}}),
        ("burst.local.curve_cert", {"local": {"curve_cert": "curve.cert"}}),
        ("burst.local.flux", {"local": {"flux": ""}}),
        ("burst.catalog", {"catalog": "catalog.yaml"}),
        ("burst.on_unload", {"on_unload": "release"}),
        ("burst.boot_deadline", {"boot_deadline": 0}),
        ("burst.depth", {"depth": 0}),
        ("burst.provider", {"provider": "EKS"}),
    ],
)
def test_bursting_that_cannot_be_meant_is_refused_with_its_key(
    where: str, document: dict[str, Any]
) -> None:
    assert burst_refused(document).where == where


@pytest.mark.parametrize("address", ["lead", "lead-1.example.org", "10.0.0.7", "2001:db8::7", ""])
def test_a_lead_may_have_any_address_that_others_can_reach(address: str) -> None:
    assert parse_config({"burst": {"lead": {"address": address}}}).burst.lead.address == address


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20)))
def test_any_table_is_a_slot_or_bad_input(table: dict[str, Any]) -> None:
    with suppress(BadInput):
        parse_config({"burst": {"slots": [{**SLOTS, **table}], "lead": table, "limits": table}})
