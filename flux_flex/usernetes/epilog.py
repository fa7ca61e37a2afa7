"""What the epilog script calls on each rank of a job that left a record on this host.

    python -I -m flux_flex.usernetes.epilog     # with FLUX_JOB_ID

It ends with 0 when nothing of the job's cluster is left here, or what is left is kept for its user
to look at; else it names what it could not remove and ends with 1, so that Flux drains the node.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from flux_flex.config import UsernetesConfig, load_config
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.instance import Instance
from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.usernetes.keeping import is_kept, keep, remove_expired
from flux_flex.usernetes.program import MEMO, error_line, ignore_signals, log_to
from flux_flex.usernetes.state import Record, State
from flux_flex.usernetes.teardown import tear_down

Connect = Callable[[], Instance | None]

log = logging.getLogger("flux_flex.usernetes")


def main() -> int:
    """Run the epilog of one rank."""
    log_to(sys.stdout)
    # A user can cancel a job while its epilog runs; that is no reason to leave things behind.
    ignore_signals()
    try:
        jobid = parse_jobid(os.environ.get("FLUX_JOB_ID", ""))
        config = load_config().usernetes
        state = State.open()
        # Opened when it is needed, which it seldom is, and once.
        connect = functools.cache(FluxInstance)
        left = clean_up(state, jobid, config, connect)
        remove_expired(state, config, connect)
    except FlexError as error:
        log.error("%s", error_line(error))
        return 1
    for line in left:
        log.error("left behind: %s", line)
    return 1 if left else 0


def clean_up(state: State, jobid: int, config: UsernetesConfig, connect: Connect) -> list[str]:
    """Take away all that this host has of a job; what is left.

    Where several brokers share the host, each takes what no other is at, and waits for the rest.
    """
    left: list[str] = []
    busy: list[str] = []
    for name in state.names_of(f58(jobid)[1:]):
        record = state.peek(name)
        if record is not None and is_kept(record):
            keep(state, name, config, connect)
            continue
        try:
            left += _taken_away(state, name, record, config, connect, wait_s=0.0)
        except FlexError:
            busy.append(name)
    for name in busy:
        try:
            left += _taken_away(state, name, state.peek(name), config, connect, wait_s=None)
        except FlexError as error:
            left.append(f"{error.where}: {error.what}")
    return left


def _taken_away(
    state: State,
    name: str,
    record: Record | None,
    config: UsernetesConfig,
    connect: Connect,
    *,
    wait_s: float | None,
) -> list[str]:
    left = tear_down(state, name, config, connect, wait_s=wait_s)
    if record is not None and record.jobid is not None and (record.lead or left):
        # A prolog that was killed could not say itself where it was.
        died = f"failed: {record.step or 'at the start'}" if record.phase == "starting" else "down"
        with suppress(FlexError):
            instance = connect()
            if instance is not None:
                instance.memo(record.jobid, {MEMO: "left behind" if left else died})
    return left


if __name__ == "__main__":
    if not os.environ.get("FLUX_JOB_ID"):
        raise SystemExit(str(BadInput("not set", "FLUX_JOB_ID", "Flux sets it for an epilog")))
    sys.exit(main())
