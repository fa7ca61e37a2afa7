"""The controller inside an instance: ``flux-flex burst serve``, and the broker module.

flux module load /usr/share/flux-flex/flex-burst.py     # calls mod_main here
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from flux_flex.burst.controller import Controller, Settings
from flux_flex.burst.providers import Provider
from flux_flex.burst.service import NAME, Service
from flux_flex.cli.burst_site import open_provider, queue_policy_of, settings_of
from flux_flex.config import load_config
from flux_flex.errors import FlexError
from flux_flex.host.flux_bindings import bindings
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.metrics import Metrics
from flux_flex.host.reactor import Reactor
from flux_flex.host.threads import Threads

# How long providers' calls may take that take nodes away when the controller is unloaded.
_UNLOAD_S = 20.0

log = logging.getLogger("flux_flex.burst")


def serve(options: argparse.Namespace) -> int:
    """Run the controller until SIGTERM or Ctrl-C. Raises FlexError where it cannot begin."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    _run(bindings("flux").Flux(), is_module=False, config=options.config)
    return 0


def mod_main(handle: Any, *args: str) -> None:
    """What ``flux module load`` calls. Raises ValueError, whose text Flux shows."""
    logging.getLogger("flux_flex").addHandler(_BrokerLog(handle))
    logging.getLogger("flux_flex").setLevel(logging.INFO)
    try:
        _run(handle, is_module=True, config=args[0] if args else None)
    except FlexError as error:
        where = f"{error.where}: " if error.where else ""
        raise ValueError(f"{where}{error.what}. {error.remedy}") from None


def _run(handle: Any, *, is_module: bool, config: str | None) -> None:
    site = load_config(Path(config) if config else None)
    instance = FluxInstance(handle=handle)
    settings: Settings = settings_of(site, queue_policy_of(instance, site.burst.queue))
    provider = open_provider(site, instance)
    providers: Mapping[str, Provider] = {site.burst.provider: provider}
    calls = Threads(on_end=lambda: reactor.wake())
    controller = Controller(instance, providers, settings, calls)
    service = Service(controller)

    metrics = Metrics(site.burst.metrics_port) if site.burst.metrics_port else None

    def step() -> float:
        controller.step()
        if metrics is not None:
            metrics.publish(service.gauges())
        return controller.next_step_s

    reactor = Reactor(handle, NAME, service.topics, step, is_module=is_module)
    try:
        reactor.run()
        if site.burst.on_unload == "drain":
            controller.retire("the controller was unloaded")
            calls.wait(_UNLOAD_S)
    finally:
        if metrics is not None:
            metrics.close()
        provider.close()


class _BrokerLog(logging.Handler):
    """Log records as lines of `flux dmesg`."""

    # syslog's numbers (RFC 5424).
    _LEVELS: ClassVar = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

    def __init__(self, handle: Any) -> None:
        super().__init__()
        self._handle = handle

    def emit(self, record: logging.LogRecord) -> None:
        self._handle.log(self._LEVELS.get(record.levelno, 6), self.format(record))
