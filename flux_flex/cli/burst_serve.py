"""The controller inside an instance: ``flux-flex burst serve``, and the broker module.

flux module load /usr/share/flux-flex/flex-burst.py     # calls mod_main here
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any, ClassVar

from flux_flex.burst.controller import Controller, Settings
from flux_flex.burst.providers import Provider
from flux_flex.burst.service import NAME, Service
from flux_flex.cli.burst_site import naming, open_provider, queue_policy_of, settings_of, waits_of
from flux_flex.config import config_path, load_config
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import reason_of
from flux_flex.host.flux_bindings import bindings
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.metrics import Metrics
from flux_flex.host.reactor import Reactor
from flux_flex.host.threads import Threads
from flux_flex.model.quoting import printable

# How long providers' calls may take that take nodes away when the controller is unloaded.
_UNLOAD_S = 20.0

log = logging.getLogger("flux_flex.burst")


def serve(options: argparse.Namespace) -> int:
    """Run the controller until SIGTERM or Ctrl-C. Raises FlexError where it cannot begin, and
    where the instance ends before."""
    printed = logging.StreamHandler(sys.stderr)
    printed.setFormatter(_Lines())
    logging.basicConfig(handlers=[printed], level=logging.INFO)
    try:
        handle = bindings("flux").Flux()
    except OSError as error:
        remedy = "run inside an instance (flux start, flux alloc), or set FLUX_URI"
        raise FlexError(reason_of(error), os.environ.get("FLUX_URI", ""), remedy) from None
    _run(handle, is_module=False, config=options.config)
    return 0


def mod_main(handle: Any, *args: str) -> None:
    """What ``flux module load`` calls. Raises ValueError, whose text Flux shows."""
    ours, told = logging.getLogger("flux_flex"), _BrokerLog(handle)
    ours.addHandler(told)
    ours.setLevel(logging.INFO)
    try:
        if len(args) > 1:
            raise BadInput("it takes one word", "flex-burst", "name the flex.toml, or nothing")
        _run(handle, is_module=True, config=args[0] if args else None, on_step=told.flush)
    except FlexError as error:
        where = f"{error.where}: " if error.where else ""
        raise ValueError(printable(f"{where}{error.what}. {error.remedy}".strip())) from None
    finally:
        told.flush()
        ours.removeHandler(told)


def _run(
    handle: Any,
    *,
    is_module: bool,
    config: str | None,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    site = load_config(config)
    file = config_path(config)
    instance = FluxInstance(handle=handle)
    queue = site.burst.queue
    policy, waits = queue_policy_of(instance, queue), waits_of(instance, queue)
    with naming(file):
        settings: Settings = settings_of(site, policy, waits=waits)
    with ExitStack() as at_end:
        with naming(file):
            provider = at_end.enter_context(closing(open_provider(site, instance)))
        providers: Mapping[str, Provider] = {site.burst.provider: provider}
        calls = Threads(on_end=lambda: reactor.wake())
        controller = Controller(instance, providers, settings, calls)
        service = Service(controller)
        metrics = None
        if site.burst.metrics_port:
            metrics = at_end.enter_context(closing(Metrics(site.burst.metrics_port)))

        def step() -> float:
            on_step()
            controller.step()
            if metrics is not None:
                metrics.publish(service.gauges())
            return controller.next_step_s

        reactor = Reactor(handle, NAME, service.topics, step, is_module=is_module)
        reactor.run()
        if site.burst.on_unload == "drain":
            _retire(controller, calls)


def _retire(controller: Controller, calls: Threads) -> None:
    """Drain what is rented. A module that fails would end the instance, so what cannot be done is
    left to the next controller, which finds it in the ledger."""
    try:
        controller.retire("the controller was unloaded")
    except FlexError as error:
        log.error("not all that is rented is drained: %s", error.what)
    calls.wait(_UNLOAD_S)


class _Lines(logging.Formatter):
    """Records as lines that steer no terminal: they quote what clouds and users say."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).splitlines()))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))


class _BrokerLog(logging.Handler):
    """Log records as lines of `flux dmesg`.

    A handle belongs to one thread, and providers' calls have their own. What they log waits until
    that thread logs something or flushes.
    """

    # syslog's numbers (RFC 5424).
    _LEVELS: ClassVar = {50: 2, 40: 3, 30: 4, 20: 6, 10: 7}

    def __init__(self, handle: Any) -> None:
        super().__init__()
        self._handle = handle
        self._owner = threading.get_ident()
        self._waiting: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self.setFormatter(_Lines())

    def emit(self, record: logging.LogRecord) -> None:
        level = self._LEVELS.get(record.levelno, 6)
        for line in self.format(record).splitlines():
            self._waiting.put((level, line))
        self.flush()

    def flush(self) -> None:
        if threading.get_ident() != self._owner:
            return
        while not self._waiting.empty():
            level, line = self._waiting.get()
            # Flux takes what it logs for a format of printf's.
            self._handle.log(level, line.replace("%", "%%"))
