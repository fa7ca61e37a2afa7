"""One prolog or epilog of a test site, in its own process: rank.py prolog|epilog JOBID RANK."""

from __future__ import annotations

import os
import sys
from typing import Any

from usernetes_site import Remote

from flux_flex.config import load_config
from flux_flex.errors import FlexError
from flux_flex.usernetes import epilog, program, prolog
from flux_flex.usernetes.state import State


def connect() -> Any:
    return Remote(os.environ["SITE_ADDRESS"])


def run_prolog(jobid: int, rank: int) -> int:
    instance = connect()
    uid = int(os.environ.get("FLUX_JOB_USERID", os.getuid()))
    owner = int(os.environ.get("SITE_OWNER", os.getuid()))
    program.log_to(sys.stdout)
    try:
        task = prolog.task_of(instance, jobid, rank=rank, uid=uid, owner=owner)
        return prolog.run(task, instance) if task is not None else 0
    except FlexError as error:
        return prolog.refuse(instance, jobid, program.error_line(error))


def run_epilog(jobid: int) -> int:
    program.log_to(sys.stdout)
    program.ignore_signals()
    state, config = State.open(), load_config().usernetes
    left = epilog.clean_up(state, jobid, config, connect)
    epilog.remove_expired(state, config, connect)
    sys.stdout.write(f"left behind: {left}\n")
    return 1 if left else 0


if __name__ == "__main__":
    # What a test changes in this process only, such as its clock.
    exec(os.environ.get("SITE_PATCH", ""))
    which, jobid, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if which == "epilog":
        sys.exit(run_epilog(jobid))
    with program.signals_raise():
        try:
            sys.exit(run_prolog(jobid, rank))
        except program.Cancelled:
            sys.exit(1)
