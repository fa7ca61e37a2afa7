"""A service in an instance: steps when jobs move, answers RPCs, and ends at any moment.

    reactor = Reactor(handle, "flex-burst", {"status": service.status}, step, is_module=False)
    reactor.run()           # until reactor.stop(), a signal, or the broker says so

``handle`` is that of a broker module (``flux module load``), whose topics the broker routes, or a
connection of our own, for which the service is registered. ``step`` returns after how many
seconds it wants to be called at the latest; a job's event calls it sooner, a moment later so that
many events make one step.

An exception that leaves a callback ends the reactor, that ends a broker module, and a module that
fails ends the whole instance. So neither a request nor a bug in a step or an answer gets that far:
they are logged, and the next one has its turn.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import reason_of
from flux_flex.host.flux_bindings import bindings
from flux_flex.host.flux_instance import ANSWER_DEADLINE_S

Answer = Callable[[Mapping[str, object]], Mapping[str, object]]

# Events come in bunches; one step answers them all.
_SOON_S = 0.2
# A step lists all jobs, which a large instance feels. So it takes this part of the time at most.
_SHARE = 0.2
# After a step that failed.
_AGAIN_S = 5.0
# A timer that comes earlier than this before its time has come on time.
_EXACT_S = 0.001
# No wake-up has such a number: it writes a letter.
_STOPPING = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("flux_flex.burst")


def pause_after(took_s: float) -> float:
    """How many seconds there are at least between a step that took so long and the next one."""
    return took_s * (1 / _SHARE - 1)


class Reactor:
    """Flux's reactor with a step in it. See the module."""

    def __init__(
        self,
        handle: Any,
        name: str,
        topics: Mapping[str, Answer],
        step: Callable[[], float],
        *,
        is_module: bool,
    ) -> None:
        self._handle = handle
        self._name = name
        self._topics = topics
        self._step = step
        self._is_module = is_module
        self._timer: Any = None
        self._online: Any = None
        self._due_s = 0.0
        self._rested_s = 0.0
        self._open = threading.Lock()  # so that nobody writes to a number that is another file's
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def wake(self) -> None:
        """Step soon. May be called from any thread, also when :meth:`run` has ended."""
        with self._open:
            if self._wake_write < 0:
                return
            try:
                os.write(self._wake_write, b"x")
            except BlockingIOError:
                return  # it has been woken often enough

    def stop(self) -> None:
        """End :meth:`run`."""
        self._handle.reactor_stop()

    def run(self) -> None:
        """Serve until stopped. Raises FlexError where the service is there already, and where the
        broker ends. Whatever ends this, nothing of it is left in the instance."""
        ended = 0
        with ExitStack() as at_end:
            at_end.callback(self._close)
            try:
                self._begin(at_end)
                with self._signals():
                    ended = self._handle.reactor_run()
            except OSError as error:
                raise self._lost(reason_of(error)) from error
            if ended < 0:  # so Flux says that the connection broke
                raise self._lost("the connection to the broker is lost")

    def _begin(self, at_end: ExitStack) -> None:
        constants = bindings("flux.constants")
        if not self._is_module:
            self._register()
            at_end.callback(self._tried, self._unregister)
        at_end.callback(self._stop_timer)
        for topic, answer in self._topics.items():
            watcher = self._handle.msg_watcher_create(
                self._answering(topic, answer),
                constants.FLUX_MSGTYPE_REQUEST,
                f"{self._name}.{topic}",
            )
            at_end.callback(self._tried, watcher.stop)
            watcher.start()
        woken = self._handle.fd_watcher_create(self._wake_read, self._woken)
        at_end.callback(self._tried, woken.stop)
        woken.start()
        journal = bindings("flux.job.journal").JournalConsumer(self._handle, full=False)
        journal.set_callback(lambda *_: self._step_by(_SOON_S))
        journal.start()
        at_end.callback(self._tried, journal.stop)
        self._watch_brokers(constants.FLUX_RPC_STREAMING)
        self._step_by(0.0)

    def _watch_brokers(self, streaming: int) -> None:
        """Step when a broker joins or leaves: a job may wait for it, or a release for its end."""
        self._online = self._handle.rpc("groups.get", {"name": "broker.online"}, 0, streaming)

        def changed(future: Any) -> None:
            try:
                future.get()
            except OSError as error:
                log.warning("brokers that join are seen late: %s", reason_of(error))
                return
            future.reset()
            self._step_by(_SOON_S)

        self._online.then(changed)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop us, in whichever thread they arrive.

        Flux's own signal watchers block a signal in this thread and read it from a descriptor. A
        library that has threads of its own by then, as numpy does, would take it there and die.
        Python's handlers write the number to our pipe from any thread.
        """
        if self._is_module:
            yield
            return
        wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in _STOPPING}
        try:
            yield
        except KeyboardInterrupt:
            pass  # reactor_run has a watcher of its own for SIGINT, which may come first
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)

    def _register(self) -> None:
        try:
            self._handle.service_register(self._name).wait_for(ANSWER_DEADLINE_S).get()
        except OSError as error:
            what, remedy = reason_of(error), "see flux module list"
            if error.errno == errno.EEXIST:
                what = "it runs already, here or as a broker module"
                remedy = "flux-flex burst status says how it is"
            raise FlexError(what, f"service {self._name}", remedy) from None

    def _unregister(self) -> None:
        self._handle.service_unregister(self._name).wait_for(ANSWER_DEADLINE_S).get()

    def _lost(self, what: str) -> FlexError:
        return FlexError(what, f"service {self._name}", "start it again when the instance runs")

    def _tried(self, end: Callable[[], object]) -> None:
        """Where the broker is gone, so is what it had of us."""
        try:
            end()
        except OSError as error:
            log.warning("service %s: it does not end well: %s", self._name, reason_of(error))

    def _close(self) -> None:
        self._online = None
        with self._open:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1

    # -- steps -----------------------------------------------------------------------------------

    def _step_by(self, seconds: float) -> None:
        """Step in so many seconds at the latest. What comes later does not put it off: where jobs
        never cease to come and go, there would be no step."""
        now_s = time.monotonic()
        due_s = max(now_s + seconds, self._rested_s)
        if self._timer is not None and self._due_s <= due_s:
            return
        self._stop_timer()
        self._due_s = due_s
        self._timer = self._handle.timer_watcher_create(due_s - now_s, self._timed)
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _timed(self, *_: object) -> None:
        self._stop_timer()
        began_s = time.monotonic()
        early_s = self._due_s - began_s
        if early_s > _EXACT_S:
            # Flux counts from when it last looked at the clock, which was before a long step.
            self._step_by(early_s)
            return
        next_s = _AGAIN_S
        try:
            next_s = self._step()
        except FlexError as error:
            where = f"{error.where}: " if error.where else ""
            log.error("%s%s; trying again", where, error.what)
        except Exception as error:  # noqa: BLE001 - it would end the instance, see the module
            log.error("%s; trying again", _bug(error))
        finally:  # also after SystemExit, which Flux prints and forgets
            ended_s = time.monotonic()
            self._rested_s = ended_s + pause_after(ended_s - began_s)
            self._step_by(next_s)

    def _woken(self, *_: object) -> None:
        """Read the pipe: numbers of signals, and what :meth:`wake` wrote."""
        said = b""
        try:
            while more := os.read(self._wake_read, 4096):
                said += more
        except BlockingIOError:
            self._step_by(0.0)
        if any(number in said for number in _STOPPING):
            self.stop()

    # -- answers ---------------------------------------------------------------------------------

    def _answering(self, topic: str, answer: Answer) -> Callable[..., None]:
        place = f"{self._name}.{topic}"

        def respond(handle: Any, _type: object, message: Any, _arg: object) -> None:
            told = _answer_of(answer, message, place)
            try:
                handle.respond(message, told)
            except OSError as error:
                log.warning("%s: whoever asked is not told: %s", place, reason_of(error))
            if topic in ("start", "stop", "drain"):
                self._step_by(0.0)

        return respond


def _answer_of(answer: Answer, message: Any, place: str) -> str:
    """The answer as JSON in ASCII, since what is quoted from a request need not be Unicode."""
    try:
        return json.dumps(dict(answer(_payload(message, place))))
    except FlexError as error:
        refused = error
    except Exception as error:  # noqa: BLE001 - it would end the instance, see the module
        refused = FlexError(_bug(error), place, "this is a bug; report what its log says")
        log.error("%s: %s", place, refused.what)
    # The payload has what an error of the broker's has no room for.
    told = {"what": refused.what, "where": refused.where, "remedy": refused.remedy}
    return json.dumps({"error": told})


def _payload(message: Any, place: str) -> Mapping[str, object]:
    """What a request says: names with plain values. Raises BadInput for anything else."""
    remedy = 'send an object such as {"burst": "hpc-0"}, or nothing'
    try:
        text = message.payload_str
        payload = None if text is None else json.loads(text)
    except (OSError, ValueError, RecursionError):
        raise BadInput("the payload is not JSON", place, remedy) from None
    if payload is None:
        return {}
    if not isinstance(payload, dict):
        raise BadInput("the payload is no object", place, remedy)
    if any(isinstance(value, (dict, list)) for value in payload.values()):
        raise BadInput("the payload has more than plain values", place, remedy)
    return payload


def _bug(error: Exception) -> str:
    """An exception that nobody expected, and where it came from, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return f"internal error: {type(error).__name__} at {place}: {error}"[:300]
