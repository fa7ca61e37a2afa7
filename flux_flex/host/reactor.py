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
from collections.abc import Callable, Mapping
from typing import Any

from flux_flex.errors import FlexError
from flux_flex.host.flux_bindings import bindings

Answer = Callable[[Mapping[str, object]], Mapping[str, object]]

# Events come in bunches; one step answers them all.
_SOON_S = 0.2
# After a step that failed.
_AGAIN_S = 5.0

log = logging.getLogger("flux_flex.burst")


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
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def wake(self) -> None:
        """Step soon. May be called from any thread."""
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
        if not self._is_module:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._watch(self._handle.signal_watcher_create(number, lambda *_: self.stop()))
        journal = bindings("flux.job.journal").JournalConsumer(self._handle, full=False)
        journal.set_callback(lambda *_: self._step_in(_SOON_S))
        journal.start()
        self._step_in(0.0)
        try:
            self._handle.reactor_run()
        finally:
            journal.stop()
            self._close()

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
        os.close(self._wake_read)
        os.close(self._wake_write)
        if not self._is_module:
            self._handle.service_unregister(self._name).get()

    # -- steps -----------------------------------------------------------------------------------

    def _step_in(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._handle.timer_watcher_create(seconds, self._timed)
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _timed(self, *_: object) -> None:
        try:
            next_s = self._step()
        except FlexError as error:
            where = f"{error.where}: " if error.where else ""
            log.error("%s%s; trying again", where, error.what)
            next_s = _AGAIN_S
        self._step_in(next_s)

    def _woken(self, *_: object) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            self._step_in(0.0)

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
                self._step_in(0.0)

        return respond
