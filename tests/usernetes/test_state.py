"""The state of a host: whose it is, and who holds a cluster's folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from flux_flex.errors import FlexError
from flux_flex.usernetes import state as states
from flux_flex.usernetes.state import Record, State

NAME = "2QT1HSJy5.0"


def record(rank: int = 0) -> Record:
    return Record(
        name=NAME, rank=rank, host="n0", uid=os.getuid(), lead=True, key="k", project="usernetes-x"
    )


def test_hosts_that_share_a_home_have_states_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLUX_FLEX_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = set()
    for host in ("n0", "n1"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        found.add(states._default_folder())
    assert found == {tmp_path / "flux-flex" / "n0", tmp_path / "flux-flex" / "n1"}


def test_a_lock_is_waited_for_and_given_up_in_time(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state")
    with (
        state.lock(NAME, create=True) as held,
        pytest.raises(FlexError, match="somebody else is at work"),
        state.lock(NAME, timeout_s=0.05),
    ):
        raise AssertionError
    held.write(record())
    with state.lock(NAME) as again:
        assert again.read() == record()


def test_whoever_waits_for_a_folder_that_goes_gets_the_new_one_and_its_lock(
    tmp_path: Path,
) -> None:
    state = State.open(tmp_path / "state")
    waiting, entered, leave = threading.Event(), threading.Event(), threading.Event()

    def waiter() -> None:
        waiting.set()
        with state.lock(NAME, timeout_s=30) as held:
            seen.append(held.read())
            entered.set()

    seen: list[Record | None] = []
    thread = threading.Thread(target=waiter)
    with state.lock(NAME, create=True) as held:
        held.write(record())
        thread.start()
        waiting.wait()
        while not threading.active_count() > 2:  # the thread inside flock
            leave.wait(0.01)
        held.remove()
        with state.lock(NAME, create=True) as second:
            second.write(record(rank=7))
            assert not entered.wait(0.2)
    # The second one holds the name until here; the waiter then finds what it wrote.
    assert entered.wait(30)
    thread.join()
    assert [one.rank for one in seen if one] == [7]
