"""How far a burst on Kubernetes is, from its MiniCluster, its pods and the warnings about these.

    observed("hpc-0", minicluster, pods, warnings, give_up=False)
    Observed("hpc-0", Phase.FAILED, 4, "hpc-0-1 cannot have its image: … not found")

A pure function of objects as the API has them. What is transient or can heal is COMING, with the
reason; what will not heal by itself is FAILED.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/; the scheduler's words are
those of its Fit, NodeAffinity and NodeResources plugins ("0/3 nodes are available: …").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flux_flex.burst.providers import Observed, Phase
from flux_flex.model.quoting import one_line

Object = Mapping[str, Any]

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CRASH = "CrashLoopBackOff"
# Nodes of the type are full, or there are none; a taint or a volume would not be cured by waiting.
_NO_NODES = re.compile(
    r"Insufficient |no nodes available|[Tt]oo many pods|node affinity|node\(s\) didn't match"
)
_LONGEST = 300


def observed(
    burst: str, cluster: Object, pods: Sequence[Object], warnings: Sequence[Object], *,
    give_up: bool,
) -> Observed:  # fmt: skip
    """``warnings`` are events of any object in the namespace; only those about these pods, and
    about the Job of the burst's name, count. ``give_up``: to wait for a node is to have failed."""
    nodes = int((cluster.get("spec") or {}).get("size") or 0)
    if "deletionTimestamp" in cluster["metadata"]:
        return Observed(burst, Phase.LEAVING, nodes, f"{len(pods)} of its pods are still there")
    here = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if broken := next(filter(None, (_broken(pod, warnings) for pod in here)), ""):
        return Observed(burst, Phase.FAILED, nodes, broken)
    if homeless := finds_no_node(here, warnings):
        phase = Phase.FAILED if give_up else Phase.COMING
        return Observed(burst, phase, nodes, homeless, give_up and bool(_NO_NODES.search(homeless)))
    ready = sum(_is_true(pod, "Ready") for pod in here)
    if nodes and ready >= nodes:
        return Observed(burst, Phase.READY, nodes)
    if _is_finished(cluster) or (here and all(_phase(pod) == "Succeeded" for pod in here)):
        return Observed(burst, Phase.FAILED, nodes, "its brokers have ended")
    reason = f"{ready} of {nodes} brokers are ready" if here else "it has no pods yet"
    said = [_message(one) for pod in here for one in _about(pod, warnings)]
    said += [_message(one) for one in warnings if _is_job(one, burst)]
    return Observed(burst, Phase.COMING, nodes, f"{reason}: {said[-1]}" if said else reason)


def finds_no_node(pods: Sequence[Object], warnings: Sequence[Object]) -> str:
    """Why the first pod that the scheduler could not place was not; empty if all were."""
    for pod in pods:
        if said := _unschedulable(pod, warnings):
            return f"{_host(pod)} finds no node: {said}"
    return ""


def _broken(pod: Object, warnings: Sequence[Object]) -> str:
    """A pod that does not get its image, or whose broker ends each time that it is started."""
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason in _IMAGE:
            # A back-off does not repeat why; the event before it did.
            pulls = [one for one in _about(pod, warnings) if "ull image" in _message(one)]
            own = one_line(waiting.get("message") or reason, _LONGEST)
            said = _message(pulls[-1]) if pulls else own
            image = container.get("image", "its image")
            return f"{_host(pod)} cannot have the image {image}: {said}"
        if reason == _CRASH:
            last = (container.get("lastState") or {}).get("terminated") or {}
            code, why = last.get("exitCode"), last.get("reason")
            said = f", the last time with exit code {code} ({why})" if last else ""
            return f"the broker of {_host(pod)} ends each time that it is started{said}"
    return ""


def _unschedulable(pod: Object, warnings: Sequence[Object]) -> str:
    if _phase(pod) != "Pending" or pod["spec"].get("nodeName"):
        return ""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return one_line(condition.get("message") or "it is unschedulable", _LONGEST)
    failed = [one for one in _about(pod, warnings) if one.get("reason") == "FailedScheduling"]
    return _message(failed[-1]) if failed else ""


def _containers(pod: Object) -> Iterator[Object]:
    status = pod.get("status") or {}
    for key in ("initContainerStatuses", "containerStatuses"):
        yield from status.get(key) or []


def _about(pod: Object, warnings: Sequence[Object]) -> list[Object]:
    uid = pod["metadata"]["uid"]
    return [one for one in warnings if (one.get("involvedObject") or {}).get("uid") == uid]


def _is_job(warning: Object, burst: str) -> bool:
    about = warning.get("involvedObject") or {}
    return bool(about.get("kind") == "Job" and about.get("name") == burst)


def _is_finished(cluster: Object) -> bool:
    return _is_true(cluster, "JobFinished")


def _is_true(one: Object, condition: str) -> bool:
    conditions = (one.get("status") or {}).get("conditions") or []
    return any(c.get("type") == condition and c.get("status") == "True" for c in conditions)


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def _host(pod: Object) -> str:
    """The name of its broker's host."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])


def _message(event: Object) -> str:
    return one_line(event.get("message") or event.get("reason") or "", _LONGEST)
