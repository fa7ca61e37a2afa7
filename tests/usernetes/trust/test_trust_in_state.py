"""The state of a host: who may write it, what garbles it, leases, and jobs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from trust_site import (
    IDS,
    TWIN,
    USER,
    Target,
    give,
    look,
    needs_root,
    precious_file,
)
from usernetes_site import JOBID, ROOT

from flux_flex.errors import FlexError
from flux_flex.model.jobid import f58
from flux_flex.usernetes import teardown
from flux_flex.usernetes.ports import Leases, PortTaken
from flux_flex.usernetes.state import Record, State

# -- the state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o702, 0o1777])
@pytest.mark.parametrize("place", ["state", "state/usernetes"])
def test_a_state_that_others_can_write_is_refused(folder: Path, place: str, mode: int) -> None:
    (folder / place).mkdir(parents=True)
    (folder / place).chmod(mode)
    with pytest.raises(FlexError, match="can write"):
        State.open(folder / "state")


@needs_root
@pytest.mark.parametrize("place", ["state", "state/usernetes"])
def test_a_state_of_somebody_else_is_refused(folder: Path, place: str) -> None:
    (folder / place).mkdir(parents=True)
    give(folder / place)
    with pytest.raises(FlexError, match="somebody else"):
        State.open(folder / "state")


@pytest.mark.parametrize("place", ["state", "state/usernetes"])
def test_a_state_that_is_a_symbolic_link_is_refused_and_not_followed(
    folder: Path, place: str
) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    others = precious_file(folder).parent
    (folder / place).symlink_to(others)
    before = look(others)
    with pytest.raises(FlexError, match="somebody else"):
        State.open(folder / "state")
    assert look(others) == before


@pytest.mark.parametrize("content", [b"", b"\0", b"[]", b"{", b'{"name": 1}', b"\xff", b"[" * 9999])
def test_a_garbled_record_or_table_is_named_and_the_host_goes_on(
    site: Target, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    site.submit()
    assert site.prolog() == 0
    record = site.state() / "usernetes" / f"{f58(JOBID)[1:]}.0" / "record.json"
    real = record.read_bytes()
    record.write_bytes(content)
    assert site.epilog() == 1
    assert "record.json" in caplog.text
    other = site.submit(jobid=JOBID + (1 << 24))
    assert site.prolog(other) == 0  # another job is none the wiser
    assert site.epilog(other) == 0
    record.write_bytes(real)
    table = site.state() / "leases.json"
    real = table.read_bytes()
    table.write_bytes(content)
    assert site.epilog() == 1
    assert "leases.json" in caplog.text
    table.write_bytes(real)
    assert site.epilog() == 0
    assert site.left() == []


@pytest.mark.parametrize("pid", [-(1 << 70), -12345, -1, 0, 1, 1 << 22, 1 << 70])
def test_a_garbled_process_id_kills_nobody(pid: int) -> None:
    given: dict[str, Any] = {"name": "a.0", "rank": 0, "host": "n0", "uid": USER, "lead": False}
    try:
        record = Record(**given, key="", pid=pid, pid_start=0)
    except ValueError:
        return
    with mock.patch.object(teardown.os, "kill") as kill:
        teardown._stop_bring_up(record)
    assert not kill.called


# -- leases --------------------------------------------------------------------------------------

LEASING = """
import sys
from flux_flex.usernetes.ports import Leases
from flux_flex.usernetes.state import State
folder, name = sys.argv[1:]
state = State.open(folder)
for number in range(15):
    with state.lock(f"{name}{number}.0", create=True):
        leases = Leases(state, range(41000, 41400), "10.77.0.0/16")
        ports = leases.ports(f"{name}{number}.0", 4, same_for="all")
        print(leases.subnet(f"{name}{number}.0", index=0, of=1), *ports)
"""


def test_processes_that_lease_at_once_never_get_the_same(folder: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LEASING, str(folder / "state"), name],
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        for name in ("a", "b", "c")
    ]
    lines = [line.split() for process in running for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(lines) == 45
    assert len({line[0] for line in lines}) == 45
    assert len({port for line in lines for port in line[1:]}) == 180


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


def known(state: State, *names: str) -> Sequence[str]:
    for name in names:
        (state.folder / "usernetes" / name).mkdir()
    return names


def test_leases_of_clusters_that_are_gone_are_void(state: State) -> None:
    leases = Leases(state, range(41400, 41408), "10.77.0.0/24")
    a, b = known(state, "a.0", "b.0")
    assert set(leases.ports(a, 8, same_for="")) == set(range(41400, 41408))
    assert leases.subnet(a, index=0, of=1) == "10.77.0.0/24"
    with pytest.raises(FlexError, match="1 ports are wanted, 0 are free"):
        leases.ports(b, 1, same_for="")
    with pytest.raises(PortTaken, match="leased by a"):
        leases.exactly(b, [41400])
    with pytest.raises(FlexError, match="no subnet is free"):
        leases.subnet(b, index=0, of=1)
    (state.folder / "usernetes" / a).rmdir()
    assert len(leases.ports(b, 8, same_for="")) == 8
    assert leases.subnet(b, index=0, of=1) == "10.77.0.0/24"


def test_nodes_of_a_cluster_have_different_subnets_whatever_its_size(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host has leases of its own, and they do not ask each other."""
    (name,) = known(state, "a.0")
    leases = Leases(state, range(41400, 41408), "10.77.0.0/16")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for size in (1, 2, 3, 7, 100, 129, 256, 300):
        found = set()
        for index in range(min(size, 256)):
            with mock.patch("flux_flex.usernetes.ports._spread", return_value=size * 31 + index):
                found.add(leases.subnet(name, index=index, of=size))
        assert len(found) == min(size, 256)
        for index in range(256, size, 20):
            with pytest.raises(FlexError, match=f"no subnet is free for node {index + 1}"):
                leases.subnet(name, index=index, of=size)


# -- epilogs of jobs that are not there ----------------------------------------------------------


@pytest.mark.parametrize("written", [f58, str, hex, lambda jobid: f"f{f58(jobid)[1:]}"])
def test_an_epilog_of_another_job_touches_nothing(
    site: Target, written: Callable[[int], str]
) -> None:
    site.submit()
    assert site.prolog() == 0
    before = look(site.name()), site.left(), site.record(JOBID)
    for other in (0, 1, TWIN, JOBID - 1, JOBID + 1, (1 << 64) - 1):
        assert site.epilog(FLUX_JOB_ID=written(other)) == 0
    assert (look(site.name()), site.left(), site.record(JOBID)) == before
    assert site.epilog(FLUX_JOB_ID=written(JOBID)) == 0
    assert site.left() == []


def test_an_epilog_with_a_forged_id_touches_nothing(
    site: Target, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.chdir(folder)
    site.submit()
    assert site.prolog() == 0
    before = look(site.name()), site.left(), site.record(JOBID)
    word = f58(JOBID)
    forged = (f"{word}.0", f"{word}/..", f"{word}*", f"../{word}", word[1:], f"{word}\n{word}")
    for text in (*IDS, *forged, str(1 << 64), f"ƒ{'z' * 11}", f"{JOBID}_0", "*"):
        assert site.epilog(FLUX_JOB_ID=text) == 1, text
    assert (look(site.name()), site.left(), site.record(JOBID)) == before
    assert site.epilog() == 0
