"""One rank's part of `flux-flex usernetes …` on a whole instance, for systems without a prolog.

    python -I -m flux_flex.usernetes.whole up|down|status|logs|clean [--nodes N] [--all] [JOBID …]

`flux exec` starts it on the ranks, and reads what it prints: one JSON object a line, with ``rank``
and ``host``, and ``step``, ``failed``, ``left``, ``record`` or ``line``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from flux_flex.config import load_config
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.instance import JobState
from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.model.usernetes import UsernetesRequest
from flux_flex.usernetes.cluster import KUBECONFIG
from flux_flex.usernetes.members import Member, members_of
from flux_flex.usernetes.node import LOG, Cluster
from flux_flex.usernetes.program import (
    KEY,
    Cancelled,
    error_line,
    ignore_signals,
    signals_raise,
)
from flux_flex.usernetes.prolog import Task, run
from flux_flex.usernetes.state import Record, State, is_alive
from flux_flex.usernetes.steps import clean_line
from flux_flex.usernetes.teardown import tear_down

INSTANCE = "instance"

_MOST_LOG_BYTES = 1 << 20


def main() -> int:
    """Do one command's part on this rank. 0 if it went well."""
    parser = argparse.ArgumentParser(prog="flux_flex.usernetes.whole")
    parser.add_argument("command", choices=sorted(_COMMANDS))
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--run", default="")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("jobids", nargs="*")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, handlers=[logging.NullHandler()])
    with signals_raise():
        try:
            return _COMMANDS[options.command](options)
        except FlexError as error:
            say(failed=error_line(error))
        except Cancelled as error:
            say(failed=str(error))
    return 1


def say(**fields: object) -> None:
    """One line for whoever reads all ranks."""
    line = {"host": socket.gethostname(), **fields}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def identity_of(instance: FluxInstance) -> tuple[str, int | None]:
    """What a cluster over a whole instance is called: by the job that the instance is, if it is.

    That is the name that `usernetes attr` computes inside it.
    """
    text = instance.attribute("jobid")
    if text is None:
        return f"{INSTANCE}-{instance.identity()}", None
    jobid = parse_jobid(text)
    return f58(jobid)[1:], jobid


# -- the commands ----------------------------------------------------------------------------------


def _up(options: argparse.Namespace) -> int:
    instance = FluxInstance()
    identity, jobid = identity_of(instance)
    members = members_of(instance.resources(), options.nodes)
    rank = instance.rank()
    if all(member.rank != rank for member in members):
        return 0
    request, key = UsernetesRequest(nodes=options.nodes), f"{KEY}-{options.run}"
    cluster = Cluster(identity, jobid, key, members, request, instance=instance.identity())
    uid, owner = os.geteuid(), int(instance.attribute("security.owner") or -1)

    def tell(member: Member, step: str) -> None:
        say(rank=member.rank, node=member.node_name, step=step)

    config = load_config()
    task = Task(
        cluster, rank, uid, owner, config.usernetes, config.topology, {}, tell, _tell_failure
    )
    code = run(task, instance)
    if code == 0:
        mine = next(member for member in members if member.rank == rank)
        record = State.open().peek(f"{identity}.{rank}")
        place = record.workdir if record is not None else ""
        say(rank=rank, node=mine.node_name, step="ready", kubeconfig=f"{place}/{KUBECONFIG}")
    return code


def _tell_failure(text: str) -> None:
    say(failed=text)


def _down(_options: argparse.Namespace) -> int:
    instance = FluxInstance()
    here, name = instance.identity(), f"{identity_of(instance)[0]}.{instance.rank()}"
    return _take_away(lambda record: record.name == name and record.instance in ("", here))


def _clean(options: argparse.Namespace) -> int:
    """Take away what is left of jobs that are over, or of those that are named."""
    named = {f58(parse_jobid(text))[1:] for text in options.jobids}
    instance = _instance()
    if not _speaks_for_host(instance):
        return 0
    if named:
        return _take_away(lambda record: record.name.rpartition(".")[0] in named)
    if options.all:
        return _take_away(lambda _: True)
    if instance is None:
        remedy = "run it inside an instance, name the jobs, or say --all"
        raise BadInput("no Flux here to say which jobs are over", "", remedy)
    here, running = instance.identity(), {job.jobid for job in instance.jobs(JobState.RUN)}

    def is_over(record: Record) -> bool:
        # A cluster over a whole instance is nobody's job: `down` takes it away. And what jobs of
        # other instances are doing is not known here.
        ours = record.instance == here and record.key.startswith("job.")
        return ours and record.jobid not in running and not is_alive(record)

    return _take_away(is_over)


def _take_away(wanted: Callable[[Record], bool]) -> int:
    """Take away the clusters of this host that are wanted; say what is left of each."""
    ignore_signals()
    state, config = State.open(), load_config().usernetes
    left = 0
    for record in list(state.records()):
        if wanted(record):
            found = tear_down(state, record.name, config, _instance)
            left += len(found)
            say(rank=record.rank, cluster=record.name, left=found)
    return 1 if left else 0


def _status(_options: argparse.Namespace) -> int:
    if not _speaks_for_host(_instance()):
        return 0
    for record in State.open().records():
        say(rank=record.rank, record=record.model_dump(mode="json"))
    return 0


def _logs(options: argparse.Namespace) -> int:
    if not _speaks_for_host(_instance()):
        return 0
    named = {f58(parse_jobid(text))[1:] for text in options.jobids}
    for record in State.open().records():
        if not named or record.name.rpartition(".")[0] in named:
            for line in _log_lines(record):
                say(rank=record.rank, line=line)
    return 0


def _speaks_for_host(instance: FluxInstance | None) -> bool:
    """Whether this rank tells of the host's clusters: the first of the ranks that share it."""
    if instance is None:
        return True
    rank = instance.rank()
    members = members_of(instance.resources())
    return all(member.local_index == 0 for member in members if member.rank == rank)


def _log_lines(record: Record) -> Iterator[str]:
    # The directory is the user's by now, and what has its name or the log's may be anything.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(OSError):
        folder = os.open(record.workdir, flags | os.O_DIRECTORY)
        try:
            descriptor = os.open(LOG, flags, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != record.uid:
                return
            text = stream.read(_MOST_LOG_BYTES).decode("utf-8", "replace")
        yield from (clean_line(line) for line in text.splitlines())


def _instance() -> FluxInstance | None:
    """The instance around this process, or that of the system; None where neither answers."""
    try:
        return FluxInstance()
    except FlexError:
        return None


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "logs": _logs,
    "clean": _clean,
}

if __name__ == "__main__":
    sys.exit(main())
