"""Calls in threads, and the wake-up of a reactor, without a broker."""

from __future__ import annotations

import sys
import threading

from flux_flex.errors import FlexError
from flux_flex.host.reactor import Reactor
from flux_flex.host.threads import Threads

DEADLINE_S = 30.0


def test_a_call_that_ends_is_told_with_its_answer_or_its_error() -> None:
    def refused() -> None:
        raise FlexError("no", "there")

    calls = Threads()
    calls.start(("request", "a"), lambda: 7)
    calls.start(("request", "b"), refused)
    calls.start(("request", "c"), lambda: 1 // 0)
    calls.start(("request", "d"), lambda: sys.exit("a plugin ends"))
    calls.wait(DEADLINE_S)
    ended = {call.key[1]: call for call in calls.finished()}
    assert ended["a"].answer == 7
    said = {name: call.error.what for name, call in ended.items() if call.error}
    assert said.keys() == {"b", "c", "d"}
    assert "SystemExit" in said["d"]
    assert said["b"] == "no"
    assert "ZeroDivisionError" in said["c"]
    assert calls.finished() == []


def test_one_call_of_a_key_is_under_way_at_a_time() -> None:
    go, began = threading.Event(), []
    calls = Threads()

    def slow() -> None:
        began.append(1)
        go.wait(DEADLINE_S)

    for _ in range(3):
        calls.start(("observe", "a"), slow)
    assert calls.under_way(("observe", "a"))
    calls.wait(0.01)  # and does not wait for ever
    assert calls.under_way(("observe", "a"))
    go.set()
    calls.wait(DEADLINE_S)
    assert not calls.under_way(("observe", "a"))
    assert len(began) == 1


def test_whoever_wants_to_know_is_called_when_a_call_has_ended() -> None:
    told = threading.Event()
    Threads(on_end=told.set).start(("request", "a"), lambda: None)
    assert told.wait(DEADLINE_S)


def test_a_call_that_ends_after_the_reactor_writes_to_no_other_file() -> None:
    reactor = Reactor(None, "flex-burst", {}, lambda: 1.0, is_module=True)
    reactor.wake()
    reactor._close()
    reactor.wake()
