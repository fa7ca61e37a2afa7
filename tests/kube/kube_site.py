"""A cluster and what is needed to rent there: with the stand-in (Site), and a real one (Cluster).

Both open providers, and do what the Flux Operator, the scheduler and kubelets would do, so that
tests read alike. What a test asks of both is in the first half.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from burst_site import BIG, TYPE, slots_of
from kube_apiserver import ApiServer
from kube_server import KubeServer

from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.providers.kubernetes import KubernetesProvider, parse_kubernetes_config
from flux_flex.burst.slots import Slot
from flux_flex.errors import FlexError
from flux_flex.host.kube import Bounds, open_kube

NS = "bursts"
IDENTITY = "cluster0"
CURVE = 'curve\n    public-key = "pub"\n    secret-key = "S9wV0Tt7hLkq2c-curve-secret"\n'
MUNGE = "munge-secret-8Fq2Z4"
QUICK = Bounds(connect_s=2, read_s=5, call_s=10, tries=4, pause_s=(0.01, 0.05), watch_s=20)
RENTAL = Rental("small-0", "small", tuple(f"small-0-{i}" for i in range(3)), ("ƒ2XwYQ37M",))
NO_CPU = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available."
RBAC = Path(__file__).parents[2] / "docs" / "kubernetes-rbac.yaml"
Object = dict[str, Any]


def soon(condition: Callable[[], object], within_s: float = 5.0) -> bool:
    """Whether something comes to be true; looked at often, for it is told in other threads."""
    end = time.monotonic() + within_s
    never = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        never.wait(0.005)
    return True


def seen(provider: KubernetesProvider, burst: str = "small-0") -> Observed | None:
    return next((one for one in provider.observe() if one.burst == burst), None)


def comes_to(
    provider: KubernetesProvider, phase: Phase, said: str = "", within_s: float = 5.0
) -> Observed:
    """What is observed once it is in a phase, for a reason that has these words."""
    found: list[Observed] = []

    def is_there() -> bool:
        one = seen(provider)
        found[:] = [one] if one is not None else []
        return one is not None and one.phase is phase and said in one.reason

    assert soon(is_there, within_s), found
    return found[0]


def just_before_it_applies(provider: KubernetesProvider, act: Any) -> None:
    """Something happens after it has looked whose the name is."""
    apply, done = provider._kube.apply, []

    def applies(*words: Any, **more: Any) -> Any:
        if not done:
            done.append(act())
        return apply(*words, **more)

    provider._kube.apply = applies  # type: ignore[method-assign]


def secret_file(path: Path, content: str) -> str:
    path.touch(mode=0o600)
    path.write_text(content)
    path.chmod(0o400)
    return str(path)


def pod_of(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": NS, "labels": labels}, "spec": {}}


def service(kind: str, **more: Any) -> Object:
    """A Service of this type in front of the lead broker."""
    port = {"port": 8050, "targetPort": 8050, "nodePort": 30093}
    spec = {"type": kind, "ports": [port], "selector": {"app": "lead"}} | more.pop("spec", {})
    return {"metadata": {"name": "lead", "namespace": NS}, "spec": spec, **more}


class Providers:
    """What is needed to open providers for a cluster."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self.folder = folder
        self.namespace = namespace
        self.bounds = QUICK
        self.opened: list[KubernetesProvider] = []
        self.table: Object = {
            "kubeconfig": str(kubeconfig),
            "namespace": namespace,
            "image": "ghcr.io/example/flux:0.88",
            "lead": {"name": "own0", "address": "203.0.113.7", "hosts": "own[0-1]"},
            "curve_cert": secret_file(folder / "curve.cert", CURVE),
            "munge_key": secret_file(folder / "munge.key", MUNGE),
            "unschedulable_after": 0,
        }

    def close(self) -> None:
        for provider in self.opened:
            provider.close()

    def open(
        self,
        identity: str = IDENTITY,
        slots: Sequence[Slot] | None = None,
        own_nodes: bool = False,
        **changes: Any,
    ) -> KubernetesProvider:
        config = parse_kubernetes_config(self.table | changes)
        kube = open_kube(config.kubeconfig, bounds=self.bounds)
        slots = slots_of("small", 2, 4) if slots is None else slots
        made = KubernetesProvider(
            config, (TYPE, BIG), slots, identity, client=kube, own_nodes=own_nodes
        )
        self.opened.append(made)
        return made

    def refuses(self, **changes: Any) -> FlexError:
        with pytest.raises(FlexError) as caught:
            self.open(**changes).request(RENTAL)
        return caught.value


class Site(Providers):
    """With the stand-in for a server."""

    def __init__(self, server: KubeServer, folder: Path) -> None:
        super().__init__(server.kubeconfig(folder / "config"), NS, folder)
        self.server = server

    # -- what the Flux Operator and Kubernetes do --------------------------------------------------

    def make_pods(self, burst: str = "small-0") -> None:
        cluster = self.server.get("miniclusters", NS, burst)
        assert cluster is not None
        for k in range(cluster["spec"]["size"]):
            metadata = {
                "name": f"{burst}-{k}-x7x7x", "namespace": NS,
                "labels": cluster["spec"]["pod"]["labels"],
                "ownerReferences": [{"uid": cluster["metadata"]["uid"]}],
            }  # fmt: skip
            spec = {"hostname": f"{burst}-{k}"}
            self.server.put("pods", {"metadata": metadata, "spec": spec, "status": {}})

    def set_pod(self, burst: str, k: int, node: str = "", **status: Any) -> None:
        pod = self.server.get("pods", NS, f"{burst}-{k}-x7x7x")
        assert pod is not None
        spec = pod["spec"] | ({"nodeName": node} if node else {})
        self.server.put("pods", pod | {"spec": spec, "status": status})

    def pods_are_ready(self, burst: str, *which: int) -> None:
        for k in which:
            ready = [{"type": "Ready", "status": "True"}]
            self.set_pod(burst, k, "node1", phase="Running", conditions=ready)

    def warn(self, about: Object, reason: str, message: str) -> None:
        event = {
            "metadata": {"name": f"event-{message[:20]}", "namespace": NS},
            "type": "Warning", "reason": reason, "message": message, "involvedObject": about,
        }  # fmt: skip
        self.server.put("events", event)


class Cluster(Providers):
    """A namespace of its own on a real kube-apiserver, which runs no controller: the test is all
    of them."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self.api = api
        namespace = f"t-{uuid.uuid4().hex[:8]}"
        super().__init__(api.kubeconfig(folder / "config"), namespace, folder)
        self._nodes: list[str] = []
        metadata = {"name": namespace}
        api.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def close(self) -> None:
        super().close()
        for name in self._nodes:
            self.api.ask("DELETE", f"/api/v1/nodes/{name}")

    def path(self, plural: str, name: str = "") -> str:
        return self.api.path(plural, self.namespace, name)

    def create(self, plural: str, body: Mapping[str, Any]) -> Object:
        return self.api.create(plural, body, self.namespace)

    def get(self, plural: str, name: str) -> Object:
        return self.api.ask("GET", self.path(plural, name))

    def names(self, plural: str) -> set[str]:
        items = self.api.ask("GET", self.path(plural))["items"]
        return {one["metadata"]["name"] for one in items}

    def change(self, plural: str, name: str, change: Object, part: str = "") -> Object:
        """A merge patch by somebody else, of ``status`` where that is the part."""
        path = self.path(plural, name) + (f"/{part}" if part else "")
        return self.api.ask("PATCH", path + "?fieldManager=argocd", change)

    # -- what the Flux Operator and Kubernetes do --------------------------------------------------

    def make_pods(self, burst: str = "small-0") -> None:
        """As the indexed Job would: pod k has the host name BURST-k. Its own status, too."""
        cluster = self.get("miniclusters", burst)
        owner = {key: cluster[key] for key in ("apiVersion", "kind")}
        owner |= {key: cluster["metadata"][key] for key in ("name", "uid")}
        for k in range(cluster["spec"]["size"]):
            container = cluster["spec"]["containers"][0]
            body = {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": f"{burst}-{k}-x7x7x", "labels": cluster["spec"]["pod"]["labels"],
                    "ownerReferences": [owner],
                },
                "spec": {
                    "hostname": f"{burst}-{k}", "subdomain": "flux-service",
                    "nodeSelector": cluster["spec"]["pod"]["nodeSelector"],
                    "containers": [
                        {"name": "flux", "image": container["image"],
                         "resources": container["resources"]}
                    ],
                },
            }  # fmt: skip
            self.create("pods", body)
        made = {
            "type": "JobMiniClusterReady", "status": "True", "reason": "Reconciled",
            "message": "made", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        size = cluster["spec"]["size"]
        status = {"jobid": burst, "maximumSize": size, "size": size, "selector": "a=b"}
        self.change("miniclusters", burst, {"status": status | {"conditions": [made]}}, "status")

    def bind(self, pod: str, node: str) -> None:
        """As the scheduler."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        self.api.ask("POST", self.path("pods", pod) + "/binding", body)

    def set_pod(self, burst: str, k: int, node: str = "", **status: Any) -> None:
        name = f"{burst}-{k}-x7x7x"
        if node and not self.get("pods", name)["spec"].get("nodeName"):
            self.bind(name, node)
        self.change("pods", name, {"status": status}, "status")

    def pods_are_ready(self, burst: str, *which: int) -> None:
        for k in which:
            ready = [{"type": "Ready", "status": "True"}]
            self.set_pod(burst, k, "node1", phase="Running", conditions=ready)

    def warn(self, about: Object, reason: str, message: str) -> None:
        event = {
            "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason,
            "message": message, "involvedObject": {"namespace": self.namespace} | about,
            "metadata": {"name": f"event-{uuid.uuid4().hex[:8]}"},
        }  # fmt: skip
        self.create("events", event)

    def make_node(self, name: str, **addresses: str) -> None:
        """A Node with addresses by their type."""
        listed = [{"type": kind, "address": one} for kind, one in addresses.items()]
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        self.api.create("nodes", body)
        self._nodes.append(name)
        path = f"/api/v1/nodes/{name}/status"
        self.api.ask("PATCH", path, {"status": {"addresses": listed}})

    def finish_deletions(self) -> None:
        """As the garbage collector and kubelets: what is owned goes, then what waited for it."""
        api, alive = self.api, set()
        for one in api.ask("GET", self.path("miniclusters"))["items"]:
            if "deletionTimestamp" not in one["metadata"]:
                alive.add(one["metadata"]["uid"])
        for plural in ("pods", "secrets"):
            for one in api.ask("GET", self.path(plural))["items"]:
                owners = {ref["uid"] for ref in one["metadata"].get("ownerReferences", [])}
                if owners and not owners & alive:
                    options = {"gracePeriodSeconds": 0}
                    api.ask("DELETE", self.path(plural, one["metadata"]["name"]), options)
        for one in api.ask("GET", self.path("miniclusters"))["items"]:
            if "deletionTimestamp" in one["metadata"]:
                gone = {"metadata": {"finalizers": None}}
                self.change("miniclusters", one["metadata"]["name"], gone)
