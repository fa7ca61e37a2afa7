"""``usernetes_debug=yes``: what failed stays for a look, for a time that has an end.

The record says until when. The epilog leaves such a node alone and starts a timer that takes it
away. Should the timer have died, the next job of the host that asks for a cluster does it, and
`flux-flex usernetes clean`. The same holds for what a node has left that crashed.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flux_flex.config import PATH_VARIABLE, UsernetesConfig, load_config
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.instance import Instance
from flux_flex.model.duration import parse_duration
from flux_flex.usernetes.state import STATE_VARIABLE, Record, State, is_alive
from flux_flex.usernetes.teardown import forget_events, tear_down

log = logging.getLogger("flux_flex.usernetes")


def keep_until(config: UsernetesConfig, jobspec: Mapping[str, object], began: float) -> float:
    """Until when a failed cluster is kept, in seconds since the epoch.

    The administrator's ``debug_max`` from now on, but no longer than the job could have run.
    """
    until = time.time() + config.debug_max
    attributes = jobspec.get("attributes")
    system = attributes.get("system") if isinstance(attributes, Mapping) else None
    limit = system.get("duration", 0) if isinstance(system, Mapping) else 0
    try:
        duration_s = parse_duration(limit)
    except BadInput:
        duration_s = 0.0
    return min(until, began + duration_s) if duration_s else until


def is_kept(record: Record) -> bool:
    """Whether a cluster is to stay for now."""
    return (
        record.phase == "kept" and record.keep_until is not None and record.keep_until > time.time()
    )


def remove_expired(
    state: State, config: UsernetesConfig, connect: Callable[[], Instance | None]
) -> None:
    """Take away what was kept long enough, of any job. What fails is for the next one to do."""
    for record in state.records():
        if record.phase == "kept" and not is_kept(record):
            try:
                tear_down(state, record.name, config, connect, wait_s=0.0)
            except FlexError as error:
                log.error("%s: %s", record.name, error.what)


def remove_orphans(state: State, config: UsernetesConfig, instance: Instance, where: str) -> None:
    """Take away what jobs of this instance left here that are over.

    That is what a node has that crashed, or lost its broker, while it had a part of a cluster:
    Flux ran no epilog on it. Engines start such containers again when they start.
    """
    for record in state.records():
        ours = record.instance == where and record.jobid is not None and record.phase != "kept"
        if ours and not is_alive(record) and _is_over(instance, record.jobid):
            try:
                left = tear_down(state, record.name, config, lambda: instance, wait_s=0.0)
                log.info("%s: its job is over; %d things are left", record.name, len(left))
            except FlexError as error:
                log.error("%s: %s", record.name, error.what)


def _is_over(instance: Instance, jobid: int | None) -> bool:
    """Whether nothing will run any more for a job, not even an epilog."""
    if jobid is None:
        return False
    try:
        return any(event.name == "clean" for event in instance.eventlog(jobid))
    except BadInput:
        return True  # purged
    except FlexError:
        return False


def keep(
    state: State, name: str, config: UsernetesConfig, connect: Callable[[], Instance | None]
) -> None:
    """Leave a failed cluster as it is until its time is over; only its events go now."""
    with state.lock(name, timeout_s=config.deadlines.teardown) as held:
        record = held.read()
        if record is not None:
            if not forget_events(record, connect):
                # The timer is alone on its host: it has no instance to ask.
                held.write(record.model_copy(update={"key": ""}))
            start_timer(record, config)
            log.info("%s is kept for inspection", record.workdir)


def start_timer(record: Record, config: UsernetesConfig) -> None:
    """Have a kept cluster taken away at its time, whatever becomes of this process.

    systemd keeps the timer where it runs: it ends all that a unit of its own leaves behind, as
    the epilog's would. Elsewhere a process of its own session waits.
    """
    seconds = max(1.0, (record.keep_until or 0.0) - time.time())
    command = [sys.executable, "-I", "-m", "flux_flex.usernetes.keeping", record.name]
    names = (PATH_VARIABLE, STATE_VARIABLE)
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment["PATH"] = config.path
    systemd = shutil.which("systemd-run")
    if os.geteuid() == 0 and systemd and Path("/run/systemd/system").is_dir():
        settings = [f"--setenv={name}={value}" for name, value in environment.items()]
        timer = [f"--on-active={seconds:.0f}", "--timer-property=AccuracySec=1s", "--collect"]
        command = [systemd, "--quiet", *timer, *settings, "--", *command, "0"]
    else:
        command = [*command, f"{seconds:.3f}"]
    subprocess.Popen(  # noqa: S603 - a list of ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        cwd="/",
    )


def main(name: str, seconds: float) -> int:
    """The timer: wait, then take the cluster away."""
    select.select([], [], [], seconds)
    try:
        left = tear_down(State.open(), name, load_config().usernetes, lambda: None)
    except FlexError:
        return 1
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
