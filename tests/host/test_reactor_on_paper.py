"""The reactor over a handle on paper: when it steps, what it answers, and how it ends."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from paper_reactor import Journal, Message, PaperFlux, os_error, paper_bindings

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.reactor import Reactor, pause_after

NAME = "flex-burst"
ONLINE = "groups.get"
Topics = Mapping[str, Callable[[Mapping[str, object]], Mapping[str, object]]]


def said(payload: Mapping[str, object]) -> Mapping[str, object]:
    return {"said": dict(payload)}


def refuse(payload: Mapping[str, object]) -> Mapping[str, object]:
    raise BadInput("no such burst", str(payload.get("burst")), "see flux-flex burst list")


class Served:
    """A reactor on paper. ``steps`` has when there were steps, in seconds since the beginning."""

    def __init__(
        self, patch: pytest.MonkeyPatch, topics: Topics | None = None, *, is_module: bool = False
    ) -> None:
        self.paper = PaperFlux(is_module=is_module)
        patch.setattr("flux_flex.host.reactor.bindings", paper_bindings)
        clock = SimpleNamespace(monotonic=lambda: self.paper.now_s)
        patch.setattr("flux_flex.host.reactor.time", clock)
        self.steps: list[float] = []
        self.wishes: list[float | BaseException] = []  # what steps give or raise; then a minute
        self.took_s = 0.0
        topics = topics or {"status": said, "drain": refuse, "start": said, "stop": said}
        self.reactor = Reactor(self.paper, NAME, topics, self.step, is_module=is_module)
        self.pipe = self.reactor._wake_read, self.reactor._wake_write

    def step(self) -> float:
        self.steps.append(round(self.paper.now_s - 1000.0, 3))
        self.paper.spend(self.took_s)
        wish = self.wishes.pop(0) if self.wishes else 60.0
        if isinstance(wish, BaseException):
            raise wish
        return wish

    def run(self, seconds: float) -> list[float]:
        self.paper.at(seconds, self.reactor.stop)
        self.reactor.run()
        return self.steps

    def event(self) -> None:
        """Something happened to a job."""
        self.paper.stream(Journal.TOPIC, SimpleNamespace(name="submit"))

    def ask(self, topic: str, payload: object = None) -> Message:
        """Run until it has answered."""
        kept = self.paper.request(f"{NAME}.{topic}", payload)
        self.run(0.5)
        return kept

    def nothing_is_left(self) -> bool:
        for number in self.pipe:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
        asked = self.paper.asked
        assert f"{Journal.TOPIC}-cancel" in asked
        assert ("service.remove" in asked) is not self.paper.is_module
        return not self.paper.watchers and not self.paper.services


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    return Served(monkeypatch)


# -- steps ---------------------------------------------------------------------------------------


def test_the_first_step_is_at_once_and_the_next_when_it_wishes(served: Served) -> None:
    served.wishes = [7.0, 3.0, 40.0]
    assert served.run(45.0) == [0.0, 7.0, 10.0]


def test_events_soon_after_each_other_make_one_step(served: Served) -> None:
    for k in range(10):
        served.paper.at(5.0 + 0.015 * k, served.event)
    assert served.run(9.0) == [0.0, 5.2]


def test_events_that_never_cease_do_not_put_steps_off(served: Served) -> None:
    for k in range(100):
        served.paper.at(5.0 + 0.1 * k, served.event)
    steps = [moment for moment in served.run(15.0) if moment >= 5.0]
    assert len(steps) > 30
    assert max(later - first for first, later in pairwise(steps)) < 0.31


def test_an_event_does_not_put_a_step_off_that_is_due(served: Served) -> None:
    served.wishes = [5.0]
    served.paper.at(4.95, served.event)
    assert served.run(9.0) == [0.0, 5.0]


def test_a_broker_that_joins_or_leaves_causes_a_step(served: Served) -> None:
    served.paper.at(3.0, lambda: served.paper.stream(ONLINE, {"members": "0"}))
    served.paper.at(4.0, lambda: served.paper.stream(ONLINE, {"members": "0-1"}))
    assert served.run(9.0) == [0.0, 3.2, 4.2]


def test_a_group_that_is_not_told_any_more_is_said_once_and_steps_go_on(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.wishes = [5.0]
    served.paper.at(3.0, lambda: served.paper.stream(ONLINE, os_error(errno.ENOSYS)))
    served.paper.at(4.0, lambda: served.paper.stream(ONLINE, os_error(errno.ENOSYS)))
    assert served.run(9.0) == [0.0, 5.0]
    assert caplog.messages == ["brokers that join are seen late: Function not implemented"]


@pytest.mark.parametrize("wish", [0.0, 3.0])
def test_after_a_step_that_took_long_there_is_a_rest_in_proportion(
    served: Served, wish: float
) -> None:
    assert pause_after(0.0) == 0.0
    assert pause_after(1.0) == 4.0  # a fifth of the time
    served.took_s, served.wishes = 10.0, [wish] * 2
    served.paper.at(1.0, served.event)
    served.paper.at(12.0, served.reactor.wake)
    assert served.run(120.0) == [0.0, 50.0, 100.0]


def test_a_wish_counts_from_the_end_of_a_step_though_flux_counts_from_its_beginning(
    served: Served,
) -> None:
    served.took_s, served.wishes = 1.0, [30.0]
    assert served.run(40.0) == [0.0, 31.0]


def test_a_step_that_is_refused_is_logged_and_tried_again(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.wishes = [FlexError("the KVS does not answer", "kvs.commit", "wait"), FlexError("no")]
    assert served.run(30.0) == [0.0, 5.0, 10.0]
    assert caplog.messages == [
        "kvs.commit: the KVS does not answer; trying again",
        "no; trying again",
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize("error", [TypeError("no\nnumber"), OSError(2, "gone"), ValueError()])
def test_a_bug_in_a_step_is_logged_with_its_place_and_does_not_end_the_instance(
    served: Served, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    served.wishes = [error]
    assert served.run(8.0) == [0.0, 5.0]
    (told,) = caplog.messages
    assert f"internal error: {type(error).__name__} at test_reactor_on_paper.py:" in told
    assert served.nothing_is_left()


def test_what_flux_prints_and_forgets_does_not_end_the_steps(served: Served) -> None:
    served.wishes = [SystemExit(1)]
    assert served.run(8.0) == [0.0, 5.0]
    assert [type(error) for error in served.paper.forgotten] == [SystemExit]


def test_a_wake_up_from_a_thread_causes_a_step(served: Served) -> None:
    def woken() -> None:
        threads = [threading.Thread(target=served.reactor.wake) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(30.0)

    served.paper.at(3.0, woken)
    assert served.run(9.0) == [0.0, 3.0]
    served.reactor.wake()  # from a call that ends later than all


def test_more_wake_ups_than_a_pipe_holds_block_nobody(served: Served) -> None:
    served.paper.at(3.0, lambda: [served.reactor.wake() for _ in range(70_000)])
    assert served.run(9.0) == [0.0, 3.0]


# -- answers -------------------------------------------------------------------------------------


def test_a_request_is_answered_by_its_topic(served: Served) -> None:
    assert served.ask("status", {"id": 7, "all": True}).answer == {"said": {"id": 7, "all": True}}
    assert served.steps == [0.0]


def test_a_topic_that_is_not_there_is_not_ours_to_answer(served: Served) -> None:
    assert served.ask("nothing").errno == errno.ENOSYS


def test_a_refusal_comes_as_an_error_in_the_payload(served: Served) -> None:
    told = served.ask("drain", {"burst": "hpc-9"}).answer["error"]
    assert told == {
        "what": "no such burst", "where": "hpc-9", "remedy": "see flux-flex burst list"
    }  # fmt: skip


@pytest.mark.parametrize("topic", ["start", "stop", "drain"])
def test_what_steers_the_controller_causes_a_step(served: Served, topic: str) -> None:
    served.paper.at(3.0, lambda: served.paper.request(f"{NAME}.{topic}", {}))
    served.paper.at(4.0, lambda: served.paper.request(f"{NAME}.status", {}))
    assert served.run(9.0) == [0.0, 3.0]


@pytest.mark.parametrize("payload", [None, "null", "{}"])
def test_a_request_may_have_no_payload(served: Served, payload: str | None) -> None:
    assert served.ask("status", payload).answer == {"said": {}}


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        ("not json", "the payload is not JSON"),
        ("", "the payload is not JSON"),
        ("[" * 100_000, "the payload is not JSON"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "the payload is not JSON"),
        (os_error(errno.EPROTO), "the payload is not JSON"),
        ("[1]", "the payload is no object"),
        ("7", "the payload is no object"),
        ('"drain"', "the payload is no object"),
        ("false", "the payload is no object"),
        ('{"burst": []}', "the payload has more than plain values"),
        ('{"burst": {"a": 1}}', "the payload has more than plain values"),
    ],
)
def test_a_payload_that_makes_no_sense_is_refused(
    served: Served, payload: str | Exception, what: str
) -> None:
    error = served.ask("status", payload).answer["error"]
    assert (error["what"], error["where"]) == (what, f"{NAME}.status")
    assert "an object" in error["remedy"]


def test_what_is_quoted_from_a_request_need_not_be_unicode(served: Served) -> None:
    message = served.ask("drain", '{"burst": "\\ud800\\u0000\\udc80é"}')
    assert message.answer["error"]["where"] == "\ud800\0\udc80é"
    assert message.answers[0].isascii()


def test_no_payload_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    source, letters = random.Random(7), '{}[]":,0e-1\\u d8ntfalse\x00\x7fé'
    served = Served(monkeypatch)
    texts = ["".join(source.choices(letters, k=source.randrange(12))) for _ in range(2000)]
    texts += ['{"id": ' + "9" * 5000 + "}", '{"id": NaN, "a": -Infinity}', '{"id": 1e999}']
    kept = [served.paper.request(f"{NAME}.status", text) for text in texts]
    served.run(1.0)
    assert all({*one.answer} <= {"said", "error"} for one in kept)


@pytest.mark.parametrize("wrong", [KeyError("x"), TypeError("x"), OSError(5, "x")])
def test_a_bug_in_an_answer_is_told_and_logged_and_the_service_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: Exception
) -> None:
    def fail(_: Mapping[str, object]) -> Mapping[str, object]:
        raise wrong

    served = Served(monkeypatch, {"budget": fail, "status": said})
    first = served.paper.request(f"{NAME}.budget", {})
    assert served.ask("status", {}).answer == {"said": {}}
    what = first.answer["error"]["what"]
    assert f"internal error: {type(wrong).__name__} at test_reactor_on_paper.py:" in what
    assert caplog.messages == [f"{NAME}.budget: {what}"]


def test_an_answer_that_is_no_json_is_a_bug_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(monkeypatch, {"status": lambda _: {"when": object()}})
    assert "TypeError" in served.ask("status").answer["error"]["what"]


def test_an_answer_that_cannot_be_sent_is_logged_and_the_service_goes_on(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.paper.refusals["respond"] = os_error(errno.EHOSTUNREACH)
    served.paper.at(3.0, lambda: served.paper.request(f"{NAME}.drain", {}))
    assert served.run(9.0) == [0.0, 3.0]
    assert caplog.messages == [f"{NAME}.drain: whoever asked is not told: No route to host"]


# -- the end -------------------------------------------------------------------------------------


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_all_handlers_are_as_before(
    served: Served, number: signal.Signals
) -> None:
    before = handlers()
    served.paper.at(3.0, lambda: signal.raise_signal(number))
    served.paper.at(4.0, lambda: pytest.fail("it goes on"))
    served.reactor.run()
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == -1
    assert served.nothing_is_left()


def test_a_signal_to_the_process_while_a_step_is_under_way_ends_it_after_that_step(
    served: Served,
) -> None:
    def step() -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 60.0

    served.reactor._step = step
    served.reactor.run()
    assert served.paper.now_s == 1000.0


def test_ctrl_c_that_flux_takes_first_is_an_end_like_any_other(served: Served) -> None:
    before = handlers()
    served.paper.at(3.0, served.paper.interrupt)
    served.reactor.run()
    assert handlers() == before
    assert served.nothing_is_left()


def test_as_a_module_it_touches_no_signal_and_registers_no_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served, before, during = Served(monkeypatch, is_module=True), handlers(), []
    served.paper.at(2.0, lambda: during.extend(handlers()))
    kept = served.paper.request(f"{NAME}.status", {})
    assert served.run(3.0) == [0.0]
    assert handlers() == during == before
    assert kept.answer == {"said": {}}
    assert not {"service.add", "service.remove"} & {*served.paper.asked}
    assert served.nothing_is_left()


def test_a_name_that_is_taken_is_said_and_left_to_whom_it_belongs(served: Served) -> None:
    served.paper.services.add(NAME)
    with pytest.raises(FlexError) as error:
        served.reactor.run()
    assert error.value.what == "it runs already, here or as a broker module"
    assert error.value.where == f"service {NAME}"
    assert served.paper.services == {NAME}
    assert "service.remove" not in served.paper.asked
    assert not served.paper.watchers
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(served.pipe[0])


def test_any_other_refusal_of_the_name_says_why(served: Served) -> None:
    served.paper.refusals["service.add"] = os_error(errno.EPERM)
    with pytest.raises(FlexError, match="Operation not permitted"):
        served.reactor.run()


@pytest.mark.parametrize("topic", [Journal.TOPIC, ONLINE])
def test_a_beginning_that_fails_leaves_nothing(served: Served, topic: str) -> None:
    served.paper.refusals[topic] = os_error(errno.ENOSYS)
    with pytest.raises(FlexError, match="Function not implemented"):
        served.reactor.run()
    assert not served.paper.watchers
    assert not served.paper.services
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(served.pipe[1])


def test_bindings_that_are_not_there_leave_no_pipe(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise FlexError("Flux's Python bindings", "flux")

    monkeypatch.setattr("flux_flex.host.reactor.bindings", missing)
    with pytest.raises(FlexError, match="bindings"):
        served.reactor.run()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(served.pipe[0])


def test_a_broker_that_ends_first_is_an_error_and_not_a_quiet_end(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    before = handlers()
    served.paper.at(3.0, served.paper.lose)
    with pytest.raises(FlexError) as error:
        served.reactor.run()
    assert error.value.what == "the connection to the broker is lost"
    assert handlers() == before
    assert not served.paper.watchers
    assert caplog.messages == [f"service {NAME}: it does not end well: Broken pipe"] * 2


def test_whatever_leaves_the_reactor_leaves_nothing_of_it(served: Served) -> None:
    def broken() -> int:
        raise ZeroDivisionError

    before = handlers()
    served.paper.reactor_run = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        served.reactor.run()
    assert handlers() == before
    assert served.nothing_is_left()


def test_a_part_that_cannot_be_ended_keeps_no_other_from_ending(served: Served) -> None:
    served.paper.refusals[f"{Journal.TOPIC}-cancel"] = os_error(errno.EIO)
    served.run(3.0)
    assert served.nothing_is_left()


# -- the paper itself ----------------------------------------------------------------------------


def test_on_paper_as_in_flux_an_exception_of_a_callback_ends_the_run_and_is_raised() -> None:
    paper = PaperFlux()
    paper.timer_watcher_create(1.0, lambda *_: 1 // 0).start()
    with pytest.raises(ZeroDivisionError):
        paper.reactor_run()


def test_on_paper_as_in_flux_a_timer_counts_from_when_the_loop_looked_at_the_clock() -> None:
    paper, fired = PaperFlux(), []

    def slow(*_: object) -> None:
        paper.spend(1.0)
        later = paper.timer_watcher_create(0.5, lambda *_: fired.append(paper.now_s))
        later.start()
        paper.at(5.0, paper.reactor_stop)

    paper.timer_watcher_create(0.0, slow).start()
    paper.reactor_run()
    assert fired == [1001.0]
