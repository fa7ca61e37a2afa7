"""A service in an instance: steps when jobs move, answers RPCs, and ends at any moment.

    reactor = Reactor(handle, "flex-burst", {"status": service.status}, step)
    reactor.run()           # until reactor.stop(), a signal, or the broker says so

``handle`` is that of a broker module (``flux module load``), whose topics the broker routes, or a
connection of our own, for which the service is registered. ``step`` returns after how many
seconds it wants to be called at the latest; a job's event calls it sooner, a moment later so that
many events make one step.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flux_flex.errors import FlexError
from flux_flex.host.flux_bindings import bindings

Answer = Callable[[Mapping[str, object]], Mapping[str, object]]

# Events come in bunches; one step answers them all.
_SOON_S = 0.2
# A step lists all jobs, which a large instance feels. So it takes this part of the time at most.
_SHARE = 0.2
# After a step that failed.
_AGAIN_S = 5.0
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
        self._watchers: list[Any] = []
        self._timer: Any = None
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
        """Serve until stopped. Raises FlexError where the service is there already."""
        constants = bindings("flux.constants")
        if not self._is_module:
            self._register()
        for topic, answer in self._topics.items():
            self._watch(
                self._handle.msg_watcher_create(
                    self._answering(topic, answer),
                    constants.FLUX_MSGTYPE_REQUEST,
                    f"{self._name}.{topic}",
                )
            )
        self._watch(self._handle.fd_watcher_create(self._wake_read, self._woken))
        journal = bindings("flux.job.journal").JournalConsumer(self._handle, full=False)
        journal.set_callback(lambda *_: self._step_by(_SOON_S))
        journal.start()
        online = self._watch_brokers(constants.FLUX_RPC_STREAMING)
        self._step_by(0.0)
        try:
            with self._signals():
                self._handle.reactor_run()
        finally:
            journal.stop()
            del online
            self._close()

    def _watch_brokers(self, streaming: int) -> Any:
        """Step when a broker joins or leaves: a job may wait for it, or a release for its end."""
        online = self._handle.rpc("groups.get", {"name": "broker.online"}, 0, streaming)

        def changed(future: Any) -> None:
            try:
                future.get()
            except OSError as error:
                log.warning("brokers that join are seen late: %s", os.strerror(error.errno or 0))
                return
            future.reset()
            self._step_by(_SOON_S)

        online.then(changed)
        return online

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
        before = {number: signal.signal(number, lambda *_: None) for number in _STOPPING}
        wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            yield
        except KeyboardInterrupt:
            pass  # reactor_run has a watcher of its own for SIGINT, which may come first
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _register(self) -> None:
        try:
            self._handle.service_register(self._name).get()
        except OSError as error:
            what = os.strerror(error.errno or errno.EIO)
            if error.errno == errno.EEXIST:
                what = "it runs already, here or as a broker module"
            raise FlexError(what, f"service {self._name}", "see flux module list") from None

    def _watch(self, watcher: Any) -> None:
        watcher.start()
        self._watchers.append(watcher)

    def _close(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
        self._stop_timer()
        with self._open:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1
        if not self._is_module:
            self._handle.service_unregister(self._name).get()

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
        try:
            next_s = self._step()
        except FlexError as error:
            where = f"{error.where}: " if error.where else ""
            log.error("%s%s; trying again", where, error.what)
            next_s = _AGAIN_S
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
        def respond(handle: Any, _type: object, message: Any, _arg: object) -> None:
            try:
                handle.respond(message, dict(answer(message.payload or {})))
            except FlexError as error:
                # The payload has what an error of the broker's has no room for.
                told = {"what": error.what, "where": error.where, "remedy": error.remedy}
                handle.respond(message, {"error": told})
            if topic in ("start", "stop", "drain"):
                self._step_by(0.0)

        return respond
