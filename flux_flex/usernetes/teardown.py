"""Take one node's part of a cluster away, from its record alone.

It does not matter how far the bring-up came, nor whether the directory, the template or the engine
are as they were. Each thing is looked for, removed, and gone from the record last. Running it again
finds nothing to do; running it twice at once does the work once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from flux_flex.config import UsernetesConfig
from flux_flex.errors import FlexError
from flux_flex.host.engines import Engine
from flux_flex.host.instance import Instance
from flux_flex.usernetes.account import Account, account_of
from flux_flex.usernetes.node import Host, remove_containers
from flux_flex.usernetes.ports import Leases
from flux_flex.usernetes.state import Held, Record, State, is_alive
from flux_flex.usernetes.steps import clean_line, kill_marked
from flux_flex.usernetes.workdir import remove_directory, remove_links

_KILL_S = 5.0

log = logging.getLogger("flux_flex.usernetes")


def tear_down(
    state: State,
    name: str,
    config: UsernetesConfig,
    connect: Callable[[], Instance | None],
    *,
    wait_s: float | None = None,
) -> list[str]:
    """Take away what the record ``name`` knows of; what is left, each with its reason.

    ``connect`` gives the instance whose KVS holds the cluster's events, when it is needed.
    ``wait_s`` is how long to wait for somebody else who is at it. Raises FlexError where that
    takes longer.
    """
    record = state.peek(name)
    if record is not None:
        _stop_bring_up(record)
    with state.lock(
        name, timeout_s=config.deadlines.teardown if wait_s is None else wait_s
    ) as held:
        record = held.read()
        if record is None:
            held.remove()
            return []
        return undo(held, record, state, config, connect)


def undo(
    held: Held,
    record: Record,
    state: State,
    config: UsernetesConfig,
    connect: Callable[[], Instance | None],
) -> list[str]:
    """The same with the lock held already; the record goes if nothing is left."""
    began = time.monotonic()
    end = began + config.deadlines.teardown
    left = [f"process {pid}" for pid in kill_marked(record.project, _KILL_S)]
    stuck = _containers(record, state, config, max(1.0, end - time.monotonic()))
    # A container that is still there has the directory mounted.
    left += stuck or _directory(record, max(5.0, end - time.monotonic()))
    left += _leases(record, state, config)
    left += forget_events(record, connect)
    # Engines are the user's: what they say, and how their things are called, is anything.
    left = [clean_line(line) for line in left]
    if left:
        held.write(record.model_copy(update={"phase": "leaving", "left": tuple(left)}))
    else:
        held.remove()
    node = f"{record.host} (rank {record.rank})"
    log.info("%s: teardown took %.1f s", node, time.monotonic() - began)
    return left


def _stop_bring_up(record: Record) -> None:
    """Kill a bring-up that is still alive: whoever takes away has the last word."""
    if record.pid <= 1 or record.pid == os.getpid() or not is_alive(record):
        return
    with suppress(ProcessLookupError, PermissionError):
        os.kill(record.pid, signal.SIGKILL)


def _containers(record: Record, state: State, config: UsernetesConfig, limit_s: float) -> list[str]:
    """Containers, networks, volumes and image names, removed as the user whose they are."""
    if not record.ports:
        return []  # ports are recorded before anything is asked of the engine
    try:
        engine = Engine(record.engine, config.compose, record.socket)
        leases = Leases(state, config.port_range, config.subnets)
        host = Host(config, state, leases, _user_of(record), engine)
        return remove_containers(record, host, limit_s)
    except FlexError as error:
        return [f"containers of {record.project}: {error.where}: {error.what}"]


def _user_of(record: Record) -> Account:
    """The user that the record names. It was checked when the record was made."""
    return account_of(record.uid, owner=record.uid)


def _directory(record: Record, limit_s: float) -> list[str]:
    if not record.workdir:
        return []
    try:
        if record.inode is not None:  # else no link was made, and those there are another job's
            remove_links(record.workdir, record.links, record.uid)
        remove_directory(record.workdir, record.device, record.inode, record.uid, limit_s=limit_s)
    except (FlexError, OSError) as error:
        what = error.what if isinstance(error, FlexError) else error.strerror
        return [f"directory {record.workdir}: {what}"]
    return []


def _leases(record: Record, state: State, config: UsernetesConfig) -> list[str]:
    try:
        Leases(state, config.port_range, config.subnets).release(record.name)
    except FlexError as error:
        return [f"leases of {record.name}: {error.where}: {error.what}"]
    return []


def forget_events(record: Record, connect: Callable[[], Instance | None]) -> list[str]:
    """The lead removes the key where the nodes met, and with it the token; what is left."""
    # Where the bring-up failed, a worker may have posted after the lead had removed the key.
    if not record.key or (record.phase == "up" and not record.lead):
        return []
    try:
        instance = connect()
        if instance is None:
            return [f"KVS key {record.key}: no Flux instance here"]
        instance.kvs_put(record.key, None)
    except FlexError as error:
        return [f"KVS key {record.key}: {error.what}"]
    return []
