"""What the lead and the workers of a cluster do, and in which order.

    lead    up → kubeadm-init → install-flannel → kubeconfig → join-command → (workers) → sync
    worker  up → (the lead's invitation) → kubeadm-join → (all are in)

All nodes start their containers at once. They agree on ports first, because kubelets and the pod
network use one number on all nodes; if a port cannot be had somewhere, the lead begins again
with others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from flux_flex.errors import FlexError
from flux_flex.host.instance import Event
from flux_flex.usernetes.join import (
    CONFIG,
    SCRIPT,
    invitation_in,
    join_config,
    join_script,
    kubeconfig_elsewhere,
    read_join_command,
)
from flux_flex.usernetes.node import Node
from flux_flex.usernetes.ports import PortTaken
from flux_flex.usernetes.rendezvous import Rendezvous, attempt_of, ports_in, rank_of
from flux_flex.usernetes.steps import StepFailed

KUBECONFIG = "kubeconfig"

_MOST_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0

log = logging.getLogger("flux_flex.usernetes")


def bring_up(node: Node, meeting: Rendezvous, tell: Callable[[str], None]) -> None:
    """Bring one node up, until the whole cluster is. ``tell`` hears the cluster's state.

    Raises StepFailed for what failed here, Aborted for what failed elsewhere. Whatever is made is
    in the record, and undoing it is the caller's.
    """
    node.prepare()
    if node.member.is_lead:
        _lead(node, meeting, tell)
    else:
        _work(node, meeting)
    node.note(phase="up", step="")


# -- the lead ------------------------------------------------------------------------------------


def _lead(node: Node, meeting: Rendezvous, tell: Callable[[str], None]) -> None:
    refused: set[int] = set()
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        ports = _agreed(node, refused)
        meeting.post("ports", attempt=attempt, ports=ports)
        try:
            tell("starting")
            node.take_ports(ports)
            _raise_cluster(node, meeting, attempt)
        except PortTaken as error:
            log.info(
                "%s: %s: %s; trying other ports", node.member.node_name, error.where, error.what
            )
            refused.update(ports.values())
            node.down()
            continue
        meeting.post("ready")
        tell("ready")
        return
    raise StepFailed(f"no free ports in {_MOST_ATTEMPTS} attempts", "up")


def _agreed(node: Node, refused: set[int]) -> dict[str, int]:
    """Ports that the lead could lease; where it cannot, the step is ``up``."""
    try:
        return node.choose_ports(avoid=refused)
    except FlexError as error:
        raise StepFailed(f"{error.where}: {error.what}", "up", error.remedy) from None


def _raise_cluster(node: Node, meeting: Rendezvous, attempt: int) -> None:
    """One attempt of the lead, from its container to the last worker. Raises PortTaken."""
    node.up()
    for target in ("kubeadm-init", "install-flannel", "kubeconfig"):
        node.make(target)
    workers = {member.rank: member.host for member in node.cluster.members[1:]}
    if not workers:
        return
    node.make("join-command")
    with node.step("wait-workers") as limit_s:
        text = node.read(SCRIPT)
        address, name = node.address, node.member.node_name
        invitation = read_join_command(text, address=address, node_name=name)
        kubeconfig = kubeconfig_elsewhere(node.read(KUBECONFIG), node.address)
        context = {"invitation": invitation.as_context(), "kubeconfig": kubeconfig}
        meeting.post("join", attempt=attempt, **context)
        _wait_for(workers, meeting, attempt, limit_s)
    node.make("sync-external-ip")


def _wait_for(workers: dict[int, str], meeting: Rendezvous, attempt: int, limit_s: float) -> None:
    """Until all workers have joined. Raises PortTaken where one of them lacks a port."""
    end = time.monotonic() + limit_s
    while workers:
        event = meeting.next(max(0.0, end - time.monotonic()))
        if event is None:
            missing = ", ".join(f"{host} (rank {rank})" for rank, host in sorted(workers.items()))
            raise StepFailed(
                f"after {limit_s:.0f} s these have not joined: {missing}", "wait-workers"
            )
        if attempt_of(event) != attempt:
            continue
        if event.name == "joined":
            workers.pop(rank_of(event), None)
        elif event.name == "taken":
            where = workers.get(rank_of(event), "a worker")
            raise PortTaken(f"cannot be had on {where}", str(event.context.get("port", ""))[:40])


# -- a worker ------------------------------------------------------------------------------------


def _work(node: Node, meeting: Rendezvous) -> None:
    attempt, is_up = 0, False
    while True:
        event = _heard(node, meeting)
        if event.name == "ports" and attempt_of(event) > attempt:
            if is_up:
                node.down()
            attempt = attempt_of(event)
            is_up = _start(node, meeting, attempt, ports_in(event))
        elif event.name == "join" and attempt_of(event) == attempt and is_up:
            _join(node, meeting, event)
            meeting.post("joined", attempt=attempt)
        elif event.name == "ready":
            return


def _heard(node: Node, meeting: Rendezvous) -> Event:
    """The next event. Raises StepFailed where the lead is silent for too long."""
    limit_s = min(node.host.config.deadlines.wait_lead, node.left_s)
    event = meeting.next(max(limit_s, 0.0))
    if event is None:
        lead = node.cluster.lead
        what = f"nothing from the lead, {lead.host} (rank {lead.rank}), for {limit_s:.0f} s"
        raise StepFailed(what, "wait-lead")
    return event


def _start(node: Node, meeting: Rendezvous, attempt: int, ports: Mapping[str, int]) -> bool:
    """Start this node's container. False where a port cannot be had: the lead hears of it."""
    try:
        # Where another rank has the host's ports, those of this one differ.
        node.take_ports(node.choose_ports() if node.shares_host else ports)
        node.up()
    except PortTaken as error:
        log.info("%s: %s: %s", node.member.node_name, error.where, error.what)
        meeting.post("taken", attempt=attempt, port=error.where)
        return False
    except StepFailed:
        raise
    except FlexError as error:
        raise StepFailed(f"{error.where}: {error.what}", "up", error.remedy) from None
    return True


def _join(node: Node, meeting: Rendezvous, event: Event) -> None:
    """Join, and again after a failure, with growing pauses, until the step's time is over."""
    invited = event.context.get("invitation")
    if not isinstance(invited, Mapping):
        raise StepFailed("the lead sent no invitation", "kubeadm-join")
    invitation = invitation_in(invited)
    node.write(SCRIPT, join_script(invitation), mode=0o700)
    config = join_config(invitation, node.tree.kubeadm_api, node.host.labels)
    node.write(CONFIG, config, mode=0o600)
    end = time.monotonic() + node.host.config.deadlines.kubeadm_join
    pause_s = _FIRST_PAUSE_S
    for left in range(node.host.config.join_tries - 1, -1, -1):
        try:
            node.make("kubeadm-join", end - time.monotonic())
            break
        except StepFailed as error:
            if not left or time.monotonic() + pause_s >= end:
                raise
            log.info("%s: kubeadm-join: %s; trying again", node.member.node_name, error.what)
            _reset(node)
            meeting.pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    node.remove_file(CONFIG)
    node.write(KUBECONFIG, str(event.context.get("kubeconfig", "")), mode=0o600)


def _reset(node: Node) -> None:
    """Undo half a join, which would be in the way of the next one."""
    if "kubeadm-reset" in node.tree.targets:
        try:
            node.make("kubeadm-reset")
        except StepFailed as error:
            log.info("%s: kubeadm-reset: %s", node.member.node_name, error.what)
