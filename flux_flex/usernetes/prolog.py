"""What the prolog script calls on each rank of a job that asks for a cluster.

    python -I -m flux_flex.usernetes.prolog     # with FLUX_JOB_ID and FLUX_JOB_USERID

It ends with 0 when the whole cluster is up, and the job starts. Where a step fails, it undoes what
was done here and puts the reason, with host, rank, step and the last lines of output, into a fatal
exception on the job. Flux then ends the prologs of the other ranks, which undo theirs, and runs
the epilog everywhere. Such a job drains no node: its reason is the job's more often than the
node's. What cannot be undone drains it, by way of the epilog.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from flux_flex.config import TopologyConfig, UsernetesConfig, load_config
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.engines import find_engine
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.instance import Instance
from flux_flex.model.jobid import f58, job_kvs_key, parse_jobid
from flux_flex.model.quoting import quoted
from flux_flex.model.usernetes import usernetes_request
from flux_flex.topology.jobs import record_span
from flux_flex.topology.labels import labels_of_host
from flux_flex.usernetes.account import account_of
from flux_flex.usernetes.cluster import bring_up
from flux_flex.usernetes.keeping import keep_until, remove_expired, remove_orphans
from flux_flex.usernetes.members import members_of
from flux_flex.usernetes.node import Cluster, Host, Node, StepListener
from flux_flex.usernetes.ports import Leases
from flux_flex.usernetes.program import (
    KEY,
    MEMO,
    Cancelled,
    TooLate,
    error_line,
    ignore_signals,
    log_to,
    signals_raise,
    time_limit,
)
from flux_flex.usernetes.rendezvous import Aborted, Rendezvous
from flux_flex.usernetes.state import State
from flux_flex.usernetes.steps import clean_line
from flux_flex.usernetes.teardown import undo

# The type of the exceptions that a job gets from here (RFC 21).
KIND = "usernetes"

_LONGEST_NOTE = 1200
_LOCK_S = 5.0

log = logging.getLogger("flux_flex.usernetes")


@dataclass(frozen=True)
class Task:
    """What a prolog has to do: a cluster, this host's part of it, and the configuration.

    ``topology`` says where the site keeps what it knows of its network.
    """

    cluster: Cluster
    rank: int
    uid: int
    owner: int
    config: UsernetesConfig
    topology: TopologyConfig
    jobspec: Mapping[str, object]
    on_step: StepListener | None = None
    on_failure: Callable[[str], None] | None = None


def main() -> int:
    """Run the prolog of one rank. Returns 0 when the cluster is up, or when none is wanted."""
    log_to(sys.stdout)
    with signals_raise():
        try:
            return _serve()
        except Cancelled as error:
            log.info("%s before anything was made", error)
            return 1


def _serve() -> int:
    jobid = None
    instance: Instance | None = None
    try:
        jobid, uid = parse_jobid(_variable("FLUX_JOB_ID")), _user_id()
        flux = instance = FluxInstance()
        owner = int(flux.attribute("security.owner") or -1)
        where = flux.identity()
        task = task_of(instance, jobid, rank=flux.rank(), uid=uid, owner=owner, where=where)
        if task is None:
            return 0
        return run(task, instance)
    except (FlexError, OSError, ValueError) as error:
        text = error_line(error) if isinstance(error, FlexError) else clean_line(str(error))
        return refuse(instance, jobid, text)


def task_of(
    instance: Instance, jobid: int, *, rank: int, uid: int, owner: int, where: str = ""
) -> Task | None:
    """What a job asks of this rank; None where it asks for nothing, or for other ranks only.

    ``owner`` is the user that owns the instance, ``where`` a name of the instance. Raises
    FlexError for a request that cannot be met, whatever the node.
    """
    jobspec = instance.jobspec(jobid)
    request = usernetes_request(jobspec)
    if request is None:
        return None
    config = load_config()
    members = members_of(instance.allocation(jobid), request.nodes)
    if all(member.rank != rank for member in members):
        return None
    key = job_kvs_key(jobid, KEY)
    cluster = Cluster(f58(jobid)[1:], jobid, key, members, request, jobid, where)
    return Task(cluster, rank, uid, owner, config.usernetes, config.topology, jobspec)


def run(task: Task, instance: Instance) -> int:
    """Bring this rank's node up, or undo what was done and say why. The exit code."""
    config, cluster = task.config, task.cluster
    member = next(one for one in cluster.members if one.rank == task.rank)
    try:
        host = _host_of(task, instance, member.host)
    except FlexError as error:
        raise error.at(f"{member.host} (rank {member.rank})") from None
    state = host.state
    name = f"{cluster.identity}.{task.rank}"
    with state.lock(name, timeout_s=_LOCK_S, create=True) as held:
        if held.read() is not None:
            raise FlexError("it has been brought up already", name, "take it away first")
        node = Node(cluster, member, host, held, task.on_step)
        meeting = Rendezvous(instance, cluster.key, task.rank)
        try:
            with time_limit(config.deadlines.total):
                if member.is_lead and cluster.told_job is not None:
                    record_span(instance, cluster.told_job, task.topology)
                bring_up(node, meeting, lambda text: _tell(instance, cluster, text))
        except (FlexError, Cancelled, OSError) as error:
            ignore_signals()
            return _give_up(task, node, instance, meeting, error)
        except BaseException as error:
            # A bug of ours: nobody else may have to wait for it, and nothing may stay.
            ignore_signals()
            _give_up(task, node, instance, meeting, error)
            raise
        finally:
            node.close()
    return 0


def _host_of(task: Task, instance: Instance, name: str) -> Host:
    """What this host gives: its state, the user's account and engine, and where it sits."""
    config, state = task.config, State.open()
    remove_expired(state, config, lambda: instance)
    if task.cluster.instance:
        remove_orphans(state, config, instance, task.cluster.instance)
    account = account_of(task.uid, owner=task.owner)
    engine = find_engine(config.container_engine, config.compose, uid=task.uid, path=config.path)
    leases = Leases(state, config.port_range, config.subnets)
    labels = labels_of_host(task.topology, name, instance)
    return Host(config, state, leases, account, engine, labels)


def _give_up(
    task: Task, node: Node, instance: Instance, meeting: Rendezvous, error: BaseException
) -> int:
    """After a failure: tell the job and the other nodes, then undo. The exit code."""
    told = isinstance(error, (Aborted, Cancelled)) and not isinstance(error, TooLate)
    text = f"{node.member.host} (rank {node.member.rank}): {_said(error)}"[:_LONGEST_NOTE]
    log.error("%s", text)
    if task.on_failure is not None and not told:
        task.on_failure(text)
    others = told and _failed_elsewhere(error, meeting)
    if told and not others and node.member.is_lead:
        with suppress(FlexError):
            _tell(instance, task.cluster, "cancelled")
    if not told:
        with suppress(FlexError):
            meeting.post("failed", note=text)
        with suppress(FlexError):
            _tell(instance, task.cluster, f"failed: {node.record.step or 'at the start'}")
        if task.cluster.told_job is not None:
            with suppress(FlexError):
                instance.raise_exception(task.cluster.told_job, KIND, text)
    if task.cluster.request.debug and (others or not told):
        until = keep_until(task.config, task.jobspec, node.record.began)
        with suppress(FlexError):
            node.note(phase="kept", keep_until=until)
            log.info("%s: kept for inspection in %s", node.member.node_name, node.record.workdir)
            return 1
    for line in undo(node.held, node.record, node.host.state, task.config, lambda: instance):
        log.error("%s: left behind: %s", node.member.host, line)
    return 1


def _failed_elsewhere(error: BaseException, meeting: Rendezvous) -> bool:
    try:
        return isinstance(error, Aborted) or meeting.has_failed()
    except FlexError:
        return False  # nothing can be heard any more


def refuse(instance: Instance | None, jobid: int | None, text: str) -> int:
    """A job that cannot be served: an exception where there is somebody to tell."""
    log.error("%s", text)
    if instance is not None and jobid is not None:
        with suppress(FlexError):
            instance.raise_exception(jobid, KIND, text[:_LONGEST_NOTE])
    return 1


def _tell(instance: Instance, cluster: Cluster, text: str) -> None:
    if cluster.told_job is not None:
        instance.memo(cluster.told_job, {MEMO: text})


def _said(error: BaseException) -> str:
    if isinstance(error, FlexError):
        return error_line(error)
    return clean_line(str(error) or type(error).__name__)


def _user_id() -> int:
    text = _variable("FLUX_JOB_USERID")
    if not re.fullmatch("[0-9]{1,10}", text):
        raise BadInput(f"{quoted(text)} is no user id", "FLUX_JOB_USERID", "Flux sets it")
    return int(text)


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise BadInput("not set", name, "Flux sets it for a prolog; see docs/usernetes.md")
    return value


if __name__ == "__main__":
    sys.exit(main())
