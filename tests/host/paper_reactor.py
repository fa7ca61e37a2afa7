"""Flux's handle and reactor on paper: a virtual clock, and messages that a test sends and keeps.

    paper = PaperFlux()
    paper.at(3.0, lambda: paper.request("flex-burst.status"))
    paper.at(9.0, paper.reactor_stop)
    paper.reactor_run()

What flux-python 0.88 does is done here: callbacks get its arguments, timers count from when the
loop last looked at the clock, an exception in a callback ends the run and is raised from it, one
that is no Exception is printed and forgotten, a streaming future that is not reset is not called
again, and where the broker has gone the run ends with -1 and whatever is sent raises EPIPE. It
hands over one message a turn, and knows real descriptors by select().
"""

from __future__ import annotations

import errno
import json
import os
import select
from collections import deque
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from types import SimpleNamespace
from typing import Any

REQUEST, STREAMING = 1, 2
# More turns than any test needs: a loop that does not end is a failure and no hang.
TURNS = 20_000


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Watcher:
    """What waits for something, from start() to stop()."""

    def __init__(self, paper: PaperFlux, what: Any, callback: Callable[..., None]) -> None:
        self.paper, self.what, self.callback = paper, what, callback
        self.due_s = 0.0

    def start(self) -> Watcher:
        if self not in self.paper.watchers:
            self.paper.watchers.append(self)
        if isinstance(self.what, float):
            self.due_s = self.paper.loop_s + self.what
        return self

    def stop(self) -> Watcher:
        if self in self.paper.watchers:
            self.paper.watchers.remove(self)
        return self


class Message:
    """A request. ``payload_str`` as Flux has it, or the exception that reading it raises."""

    def __init__(self, topic: str, payload_str: str | Exception | None) -> None:
        self.topic, self._text = topic, payload_str
        self.answers: list[bytes] = []
        self.errno = 0

    @property
    def payload_str(self) -> str | None:
        if isinstance(self._text, Exception):
            raise self._text
        return self._text

    @property
    def payload(self) -> Any:
        return json.loads(self.payload_str)  # type: ignore[arg-type]  # None raises, as in Flux

    @property
    def answer(self) -> Any:
        (answer,) = self.answers
        return json.loads(answer)


class Future:
    """An answer that is there at once, or for then() those that the test gives."""

    def __init__(self, paper: PaperFlux, topic: str, error: OSError | None = None) -> None:
        self.paper, self.topic, self.error = paper, topic, error
        self.waited = False
        self.ready = True  # to call back: since the start, or since reset()
        self.callback: Callable[[Future], None] | None = None
        self.coming: deque[Any] = deque()

    def wait_for(self, seconds: float) -> Future:
        assert 0 < seconds < 120
        self.waited = True
        return self

    def then(self, callback: Callable[[Future], None]) -> Future:
        self.callback = callback
        return self

    def get(self) -> Any:
        assert self.waited or self.callback, "waited for without a deadline"
        if self.error is not None:
            raise self.error
        if self.coming and isinstance(self.coming[0], OSError):
            raise self.coming[0]
        return self.coming[0] if self.coming else None

    def reset(self) -> None:
        self.ready = True


class PaperFlux:
    """A handle. ``dmesg`` has what flux_log would print, ``asked`` the topics of what was sent."""

    def __init__(self, services: tuple[str, ...] = (), *, is_module: bool = False) -> None:
        self.now_s = 1000.0
        self.loop_s = self.now_s
        self.services = {*services}
        self.is_module = is_module
        self.watchers: list[Watcher] = []
        self.asked: list[str] = []
        self.dmesg: list[tuple[int, str]] = []
        self.forgotten: list[BaseException] = []  # what flux-python prints and goes on
        self.refusals: dict[str, OSError] = {}  # by the topic that is asked
        self.gone = False  # whether the broker is
        self._plan: list[tuple[float, Callable[[], object]]] = []
        self._futures: list[Future] = []
        self._requests: deque[Message] = deque()
        self._stopped = self._interrupted = False
        self._raised: Exception | None = None

    # -- what a test says ------------------------------------------------------------------------

    def at(self, seconds: float, happen: Callable[[], object]) -> None:
        """Have this happen so many seconds after the beginning."""
        self._plan.append((1000.0 + seconds, happen))

    def request(self, topic: str, payload: object = None) -> Message:
        """Send a request: a mapping as JSON, text as it is, an exception to be raised by it."""
        text = json.dumps(payload) if isinstance(payload, Mapping) else payload
        message = Message(topic, text)  # type: ignore[arg-type]
        self._requests.append(message)
        return message

    def stream(self, topic: str, answer: object = None) -> None:
        """The next answer to a streaming request."""
        for future in self._futures:
            if future.topic == topic:
                future.coming.append(answer)

    def interrupt(self) -> None:
        """Ctrl-C, which reactor_run's own watcher sees first."""
        self._interrupted = True
        self.reactor_stop()

    def lose(self) -> None:
        self.gone = True

    def spend(self, seconds: float) -> None:
        """Let time pass, which the loop does not notice."""
        self.now_s += seconds

    # -- what flux-python has --------------------------------------------------------------------

    def timer_watcher_create(self, after: float, callback: Callable[..., None]) -> Watcher:
        if after < 0:
            raise os_error(errno.EINVAL)
        return Watcher(self, float(after), callback)

    def fd_watcher_create(self, fd_int: int, callback: Callable[..., None]) -> Watcher:
        return Watcher(self, fd_int, callback)

    def msg_watcher_create(
        self, callback: Callable[..., None], type_mask: int, topic_glob: str
    ) -> Watcher:
        assert type_mask == REQUEST
        return Watcher(self, topic_glob, callback)

    def rpc(self, topic: str, payload: object = None, nodeid: int = -1, flags: int = 0) -> Future:
        self._send(topic)
        future = Future(self, topic)
        if flags == STREAMING:
            self._futures.append(future)
        return future

    def respond(self, message: Message, payload: object = None) -> None:
        self._send("respond")
        text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
        message.answers.append(text.encode("utf-8", "surrogateescape"))

    def service_register(self, name: str) -> Future:
        self._send("service.add")
        taken = os_error(errno.EEXIST) if name in self.services else None
        self.services.add(name)
        return Future(self, "service.add", taken)

    def service_unregister(self, name: str) -> Future:
        self._send("service.remove")
        unknown = None if name in self.services else os_error(errno.ENOENT)
        self.services.discard(name)
        return Future(self, "service.remove", unknown)

    def log(self, level: int, text: str) -> None:
        text.encode()
        assert "%" not in text.replace("%%", ""), "printf would look for an argument"
        self.dmesg.append((level, text.replace("%%", "%")))

    def reactor_stop(self) -> None:
        self._stopped = True

    def reactor_run(self) -> int:
        self._stopped = self._interrupted = False
        for _ in range(TURNS):
            self.loop_s = self.now_s
            if not self._turn():
                self._pass()
            if self._stopped:
                break
            if self.gone:
                return -1
        else:
            raise AssertionError("the reactor does not end")
        if self._interrupted:
            raise KeyboardInterrupt
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        return 0

    # -- the loop --------------------------------------------------------------------------------

    def _send(self, topic: str) -> None:
        self.asked.append(topic)
        if self.gone:
            raise os_error(errno.EPIPE)
        if topic in self.refusals:
            raise self.refusals[topic]

    def _turn(self) -> bool:
        """Do what is due. Whether there was anything."""
        return self._planned() + self._timers() + self._files() + self._calls() + self._asking() > 0

    def _planned(self) -> int:
        due = [one for one in self._plan if one[0] <= self.now_s]
        self._plan = [one for one in self._plan if one not in due]
        for _, happen in due:
            happen()
        return len(due)

    def _timers(self) -> int:
        kind = [one for one in self.watchers if isinstance(one.what, float)]
        due = [one for one in kind if one.due_s <= self.loop_s]
        for one in due:
            if one in self.watchers:
                one.stop()  # it does not repeat
                self._call(one.callback, self, one, 0, None)
        return len(due)

    def _files(self) -> int:
        kind = [one for one in self.watchers if isinstance(one.what, int)]
        ready, _, _ = select.select([one.what for one in kind], [], [], 0)
        for one in kind:
            if one.what in ready and one in self.watchers:
                self._call(one.callback, self, one, one.what, 1, None)
        return len(ready)

    def _calls(self) -> int:
        due = [one for one in self._futures if one.ready and one.coming and one.callback]
        for future in due:
            future.ready = False
            assert future.callback is not None
            self._call(future.callback, future)
            future.coming.popleft()
        return len(due)

    def _asking(self) -> int:
        if not self._requests:
            return 0
        message = self._requests.popleft()
        served = self.is_module or message.topic.partition(".")[0] in self.services
        kind = [one for one in self.watchers if isinstance(one.what, str) and served]
        wanted = [one for one in kind if fnmatch(message.topic, one.what)]
        if not wanted:
            message.errno = errno.ENOSYS
        for one in wanted[-1:]:
            self._call(one.callback, self, one, message, None)
        return 1

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001 - as flux-python
            self._raised = error
            self.reactor_stop()
        except BaseException as error:  # noqa: BLE001
            self.forgotten.append(error)

    def _pass(self) -> None:
        """Nothing is due, so time passes until something is."""
        times = [at_s for at_s, _ in self._plan]
        times += [one.due_s for one in self.watchers if isinstance(one.what, float)]
        assert times, "nothing will ever happen"
        self.now_s = max(self.now_s, min(times))


class Journal:
    """flux.job.journal.JournalConsumer: events come by paper.stream("job-manager.events-journal").

    None is the end of the stream.
    """

    TOPIC = "job-manager.events-journal"

    def __init__(self, paper: PaperFlux, full: bool = True) -> None:
        assert not full, "the past is of no use here"
        self.paper = paper

    def set_callback(self, callback: Callable[..., None]) -> None:
        self.callback = callback

    def start(self) -> None:
        def answered(future: Future) -> None:
            self.callback(future.get())
            future.reset()

        self.paper.rpc(self.TOPIC, {"full": False}, 0, STREAMING).then(answered)

    def stop(self) -> None:
        self.paper.rpc(f"{self.TOPIC}-cancel", {"matchtag": 1}, 0, 1)


def paper_bindings(name: str) -> Any:
    """In place of flux_flex.host.flux_bindings.bindings."""
    return {
        "flux.constants": SimpleNamespace(
            FLUX_MSGTYPE_REQUEST=REQUEST, FLUX_RPC_STREAMING=STREAMING
        ),
        "flux.job.journal": SimpleNamespace(JournalConsumer=Journal),
    }[name]
