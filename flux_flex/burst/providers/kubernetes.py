"""Nodes of any Kubernetes cluster with the Flux Operator: one MiniCluster for each burst.

    config = parse_kubernetes_config({"kubeconfig": "/etc/flux/kubeconfig", "image": "…",
        "lead": {"name": "lead", "address": "203.0.113.7"}, "curve_cert": "/etc/flux/curve.cert"})
    provider = KubernetesProvider(config, catalog.types, slots, identity="cluster0")

A burst is a MiniCluster and the Secrets that its brokers read, all in one namespace. They carry the
burst's id and the identity of the instance as labels; what does not is never changed or deleted.
The Secrets are owned by the MiniCluster, so that they go with it whoever deletes it. What became of
a burst is told by watches on MiniClusters, their pods and the warnings about these. The rights that
it takes are in docs/kubernetes-rbac.yaml.

Sources: https://kubernetes.io/docs/reference/using-api/server-side-apply/,
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/, and the operator's sources
(v1alpha2): its condition JobMiniClusterReady says that a Job was made, so pods say what is ready.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.minicluster import (
    API_VERSION,
    BURST_LABEL,
    MANAGED_BY_LABEL,
    BurstSlot,
    LeadBroker,
    MiniClusterOptions,
    minicluster_manifest,
)
from flux_flex.burst.minicluster_options import check_options
from flux_flex.burst.providers import NoCapacity, Observed, Rental
from flux_flex.burst.providers.kubernetes_phase import finds_no_node, observed
from flux_flex.burst.slots import Slot
from flux_flex.errors import BadInput, FlexError
from flux_flex.fields import STRICT, Duration
from flux_flex.host.kube import (
    EVENTS,
    MINICLUSTERS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Kube,
    Resource,
    open_kube,
)
from flux_flex.host.kube_errors import KubeError, Object
from flux_flex.host.kube_mirror import Mirror
from flux_flex.model.hostlist import expand_hostlist
from flux_flex.pydantic_errors import bad_input

MANAGER = "flux-flex"
INSTANCE_LABEL = "flux-flex.io/instance"

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
# Suffixes of a burst's Secrets, with the keys that the manifest's brokers look for.
_CURVE, _MUNGE = ("curve", "curve.cert"), ("munge", "munge.key")
_MOST_SECRET_BYTES = 64 * 1024


class LeadConfig(BaseModel):
    """The broker that rented brokers join: at an address, or behind a Service of the cluster."""

    model_config = STRICT

    name: str = Field(description="its host name in the list of hosts")
    address: str = Field(default="", description="a host name or address that pods can reach")
    port: int = Field(default=8050, ge=1, le=65535, description="its TCP port")
    service: str = Field(
        default="", description="a Service in front of it, in the same namespace, to ask instead"
    )
    hosts: str = Field(
        default="", description="the instance's own hosts by rank, a hostlist; empty for the lead"
    )

    @model_validator(mode="after")
    def _one_way(self) -> LeadConfig:
        if bool(self.address) == bool(self.service):
            raise ValueError("should have either an address or a service")
        return self


class KubernetesConfig(BaseModel):
    """The table ``[burst.kubernetes]``: a cluster, and what brokers there need to join."""

    model_config = STRICT

    kubeconfig: str = Field(
        default="", description="path of the kubeconfig; only the provider eks needs none"
    )
    context: str = Field(default="", description="its context; empty for the current one")
    identity: str = Field(
        default="",
        pattern=rf"^({_LABEL_VALUE.pattern})?$",
        description="what this instance's objects are labelled with, and no other instance's; the"
        " same for as long as anything is rented; only the provider eks has its own",
    )
    namespace: str = Field(default="default", description="where MiniClusters are made")
    image: str = Field(description="container image that holds Flux")
    lead: LeadConfig = Field(description="the broker that rented brokers join")
    curve_cert: str = Field(description="path of the lead's certificate, its owner's alone")
    munge_key: str = Field(default="", description="path of the munge key; empty without munge")
    create_namespace: bool = Field(default=False, description="make the namespace if need be")
    force_conflicts: bool = Field(
        default=False, description="take over fields that other field managers own"
    )
    allow_exec: bool = Field(
        default=False, description="let the kubeconfig run a command for credentials"
    )
    unschedulable_after: Duration = Field(
        default=180.0,
        ge=0,
        description="how long pods may find no node, for clusters that add nodes by themselves",
    )


def parse_kubernetes_config(value: object) -> KubernetesConfig:
    """The decoded table. Raises BadInput with the key path."""
    try:
        return KubernetesConfig.model_validate(value)
    except ValidationError as error:
        raise bad_input(error, KubernetesConfig) from error


class KubernetesProvider:
    """See the module and :class:`flux_flex.burst.providers.Provider`.

    slots      all slots of the instance's list of hosts, in its order
    identity   what tells this instance's objects from others': a label value
    client     the API of the cluster; None for that of the kubeconfig
    own_nodes  whether each burst has nodes of its own, which carry its labels
    tolerations  of its pods, for nodes with taints, in Kubernetes' words
    on_change  called in another thread when the cluster has told something new

    Raises BadInput for what no manifest can be made from, and for secrets that others can read.
    """

    def __init__(
        self, config: KubernetesConfig, types: Sequence[NodeType], slots: Sequence[Slot],
        identity: str, client: Kube | None = None, *, own_nodes: bool = False,
        tolerations: Sequence[Mapping[str, str]] = (),
    ) -> None:  # fmt: skip
        if not _LABEL_VALUE.fullmatch(identity):
            raise BadInput(
                f"{identity!r} cannot be a label", "identity", "use letters, digits, '-', '_', '.'"
            )
        self._config = config
        self._types = {one.name: one for one in types}
        self._own_hosts = _own_hosts(config.lead, slots)
        self._slots = tuple(BurstSlot(slot.name, slot.nodes) for slot in slots)
        self._identity = identity
        # Of each instance its own: what two of them apply at once is then a conflict.
        self._manager = f"{MANAGER}-{identity}"
        self._own_nodes = own_nodes
        self._tolerations = tuple(tolerations)
        check_options(self._options("none", config.lead.address or "none", config.lead.port))
        for path in filter(None, (config.curve_cert, config.munge_key)):
            read_secret(path)
        self._kube = client or _opened(config)
        self._mirrors: dict[Resource, Mirror] = {}
        self._namespace_made = not config.create_namespace
        # MiniClusters that were made, until the watch has told of them: uids by burst.
        self._untold: dict[str, str] = {}
        # Since when a burst's pods find no node, by the MiniCluster's uid; monotonic seconds.
        self._homeless_s: dict[str, float] = {}
        self.on_change: Callable[[], None] = lambda: None

    def types(self) -> Sequence[NodeType]:
        return tuple(self._types.values())

    def close(self) -> None:
        self._kube.close()
        for mirror in self._mirrors.values():
            mirror.close()

    # -- making ------------------------------------------------------------------------------------

    def request(self, rental: Rental) -> None:
        """Apply the MiniCluster, then its Secrets: its pods wait for these, and it owns them.

        Raises BadInput for a type that is not rented, FlexError where the name is somebody else's
        or a burst of it still goes, FieldConflict or Replaced where somebody else is at it at the
        same time, NoCapacity for a quota.
        """
        manifest = self._manifest(rental)
        secrets = self._secrets(rental.burst)
        self._make_namespace()
        uid = self._ours(MINICLUSTERS, rental.burst, rental.burst)
        uids = [self._ours(SECRETS, one["metadata"]["name"], rental.burst) for one in secrets]
        made = self._apply(MINICLUSTERS, manifest, uid)
        if "deletionTimestamp" in made["metadata"]:
            raise FlexError("a burst of this name still goes away", rental.burst, "wait for it")
        self._untold[rental.burst] = made["metadata"]["uid"]
        for secret, uid in zip(secrets, uids, strict=True):
            self._apply(SECRETS, _owned(secret, made), uid)

    def _manifest(self, rental: Rental) -> dict[str, Any]:
        node_type = self._types.get(rental.type)
        if node_type is None:
            remedy = f"it has: {', '.join(self._types)}"
            raise BadInput(f"there is no node type {rental.type!r}", rental.burst, remedy)
        address, port = self._lead()
        manifest: dict[str, Any] = minicluster_manifest(
            rental.burst,
            nodes=rental.nodes,
            cores_per_node=node_type.cores,
            gpus_per_node=node_type.gpus,
            memory_gib=node_type.memory_gib,
            efa=node_type.efa,
            node_type=node_type.name,
            jobs=rental.jobs,
            options=self._options(rental.burst, address, port),
        )
        for labels in (manifest["metadata"]["labels"], manifest["spec"]["pod"]["labels"]):
            labels[INSTANCE_LABEL] = self._identity
        if self._own_nodes:
            # Else its pods may sit on another burst's nodes, and die with that.
            chosen = {BURST_LABEL: rental.burst, INSTANCE_LABEL: self._identity}
            manifest["spec"]["pod"]["nodeSelector"].update(chosen)
        if self._tolerations:
            # Not where there are none: operators before August 2025 do not know the field.
            manifest["spec"]["pod"]["tolerations"] = [dict(one) for one in self._tolerations]
        return manifest

    def _options(self, burst: str, address: str, port: int) -> MiniClusterOptions:
        name, others = self._config.lead.name, self._own_hosts[1:]
        return MiniClusterOptions(
            image=self._config.image,
            lead=LeadBroker(address, port, name, len(self._own_hosts), others),
            curve_secret=f"{burst}-{_CURVE[0]}",
            munge_secret=f"{burst}-{_MUNGE[0]}" if self._config.munge_key else "",
            namespace=self._config.namespace,
            slots=self._slots,
        )

    def _secrets(self, burst: str) -> list[dict[str, Any]]:
        """The Secrets of a burst, with their content."""
        config = self._config
        made = []
        for (suffix, key), path in ((_CURVE, config.curve_cert), (_MUNGE, config.munge_key)):
            if path:
                metadata = {
                    "name": f"{burst}-{suffix}",
                    "namespace": config.namespace,
                    "labels": self._labels(burst),
                }
                data = {key: base64.b64encode(read_secret(path)).decode()}
                made.append(
                    {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
                )
        return made

    def _labels(self, burst: str) -> dict[str, str]:
        return {MANAGED_BY_LABEL: MANAGER, BURST_LABEL: burst, INSTANCE_LABEL: self._identity}

    def _make_namespace(self) -> None:
        if not self._namespace_made:
            metadata = {"name": self._config.namespace, "labels": {MANAGED_BY_LABEL: MANAGER}}
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
            self._kube.create(NAMESPACES, body)
            self._namespace_made = True

    def _apply(self, resource: Resource, body: Object, uid: str) -> Object:
        """``uid``: of what was found to be ours. Nothing else is changed, whoever made it since."""
        force = bool(uid) and self._config.force_conflicts
        try:
            return self._kube.apply(resource, body, manager=self._manager, force=force, uid=uid)
        except KubeError as error:
            if error.status == 403 and "exceeded quota" in error.what:
                raise NoCapacity(error.what, error.where, "raise the namespace's quota") from None
            raise

    # -- whose is it -------------------------------------------------------------------------------

    def _is_ours(self, found: Object, burst: str) -> bool:
        labels = found["metadata"].get("labels") or {}
        return self._labels(burst).items() <= labels.items()

    def _ours(self, resource: Resource, name: str, burst: str) -> str:
        """The uid of what has this name, empty if nothing has. FlexError if it is not ours."""
        found = self._kube.get(resource, name, self._config.namespace)
        if found is None:
            return ""
        if not self._is_ours(found, burst):
            owner = (found["metadata"].get("labels") or {}).get(INSTANCE_LABEL)
            what = f"it belongs to the instance {owner}" if owner else "flux-flex did not make it"
            where = f"{self._config.namespace}/{resource.plural}/{name}"
            raise FlexError(what, where, "use a namespace of its own for each instance")
        return str(found["metadata"]["uid"])

    # -- undoing -----------------------------------------------------------------------------------

    def release(self, burst: str) -> None:
        """Delete the MiniCluster, whose pods go before it does, and its Secrets."""
        self._delete(MINICLUSTERS, burst, burst, "Foreground")
        for suffix, _ in (_CURVE, _MUNGE):
            self._delete(SECRETS, f"{burst}-{suffix}", burst, "Background")
        self._untold.pop(burst, None)

    def _delete(self, resource: Resource, name: str, burst: str, propagation: str) -> None:
        namespace = self._config.namespace
        found = self._kube.get(resource, name, namespace)
        if found is None or not self._is_ours(found, burst):
            return
        if "deletionTimestamp" not in found["metadata"]:
            uid = found["metadata"]["uid"]
            self._kube.delete(resource, name, namespace, uid=uid, propagation=propagation)

    # -- looking -----------------------------------------------------------------------------------

    def observe(self) -> Sequence[Observed]:
        """From what the watches told; the first call lists. Raises FlexError without contact."""
        if not self._mirrors:
            self._begin_to_watch()
        clusters = {
            one["metadata"]["labels"][BURST_LABEL]: one
            for one in self._mirrors[MINICLUSTERS].objects()
        }
        pods, warnings = self._mirrors[PODS].objects(), self._mirrors[EVENTS].objects()
        found = []
        for burst, cluster in (clusters | self._not_told_yet(clusters)).items():
            own = [one for one in pods if one["metadata"]["labels"].get(BURST_LABEL) == burst]
            give_up = self._gives_up(cluster, bool(finds_no_node(own, warnings)))
            found.append(observed(burst, cluster, own, warnings, give_up=give_up))
        uids = {one["metadata"]["uid"] for one in clusters.values()}
        self._homeless_s = {uid: s for uid, s in self._homeless_s.items() if uid in uids}
        return found

    def _begin_to_watch(self) -> None:
        labels = f"{MANAGED_BY_LABEL}={MANAGER},{INSTANCE_LABEL}={self._identity},{BURST_LABEL}"
        selectors = {
            MINICLUSTERS: {"labels": labels},
            PODS: {"labels": labels},
            # Events have no labels of what they are about.
            EVENTS: {"fields": "type=Warning"},
        }
        for resource, selector in selectors.items():
            mirror = Mirror(
                self._kube,
                resource,
                self._config.namespace,
                changed=lambda: self.on_change(),
                **selector,
            )
            self._mirrors[resource] = mirror
            mirror.start()

    def _not_told_yet(self, told: Mapping[str, Object]) -> dict[str, Object]:
        """MiniClusters that this process made and the watch, which is a little behind, lacks."""
        found = {}
        for burst, uid in [*self._untold.items()]:
            seen = told.get(burst)
            if seen is None or seen["metadata"]["uid"] != uid:
                seen = self._kube.get(MINICLUSTERS, burst, self._config.namespace)
                if seen is not None and seen["metadata"]["uid"] == uid:
                    found[burst] = seen
                    continue
            # Told of, or gone before that; a request may have made another one meanwhile.
            if self._untold.get(burst) == uid:
                self._untold.pop(burst, None)
        return found

    def _gives_up(self, cluster: Object, homeless: bool) -> bool:
        """Pods that find no node have failed only after a while: nodes may be on their way."""
        uid = cluster["metadata"]["uid"]
        if not homeless:
            self._homeless_s.pop(uid, None)
            return False
        since_s = self._homeless_s.setdefault(uid, time.monotonic())
        return time.monotonic() - since_s >= self._config.unschedulable_after

    # -- the lead broker ---------------------------------------------------------------------------

    def _lead(self) -> tuple[str, int]:
        """Address and port at which brokers find the lead. Raises FlexError where it has none."""
        lead = self._config.lead
        if lead.address:
            return lead.address, lead.port
        where = f"{self._config.namespace}/services/{lead.service}"
        service = self._kube.get(SERVICES, lead.service, self._config.namespace)
        if service is None:
            raise FlexError("there is no such Service", where, "see burst.kubernetes.lead.service")
        spec = service["spec"]
        port = _port_of(spec.get("ports") or [], lead.port, where)
        kind = spec.get("type", "ClusterIP")
        if kind == "ClusterIP":
            # The burst's pods are in the same cluster, or they would not have this Service.
            return f"{lead.service}.{self._config.namespace}.svc", int(port["port"])
        if kind == "NodePort":
            return self._node_address(spec, where), int(port["nodePort"])
        if kind == "LoadBalancer":
            status = (service.get("status") or {}).get("loadBalancer") or {}
            for ingress in status.get("ingress") or []:
                if found := ingress.get("hostname") or ingress.get("ip"):
                    return str(found), int(port["port"])
            raise FlexError("its load balancer has no address yet", where, "wait for it")
        what = f"a Service of type {kind} leads to no pod"
        raise FlexError(what, where, "make it a NodePort or a LoadBalancer, or give an address")

    def _node_address(self, spec: Object, where: str) -> str:
        """That of the node where the lead runs: it answers under every traffic policy."""
        labels = ",".join(f"{key}={value}" for key, value in (spec.get("selector") or {}).items())
        if not labels:
            raise FlexError("it selects no pods", where, "give burst.kubernetes.lead.address")
        pods, _ = self._kube.list(PODS, self._config.namespace, labels=labels)
        for pod in pods:
            name = pod["spec"].get("nodeName")
            node = self._kube.get(NODES, name) if name else None
            listed = (node or {}).get("status", {}).get("addresses") or []
            by_kind = {one["type"]: one["address"] for one in reversed(listed)}
            for kind in ("ExternalIP", "InternalIP", "ExternalDNS", "Hostname"):
                if kind in by_kind:
                    return str(by_kind[kind])
        raise FlexError("the lead broker's pod runs on no node", where, "see the pods it selects")


def _opened(config: KubernetesConfig) -> Kube:
    if not config.kubeconfig:
        raise BadInput("it is not set", "kubeconfig", "name the kubeconfig of the cluster")
    return open_kube(config.kubeconfig, config.context, allow_exec=config.allow_exec)


def _port_of(ports: Sequence[Object], wanted: int, where: str) -> Object:
    """The one port of a Service, or the one that leads to the lead's."""
    for port in ports:
        if len(ports) == 1 or wanted in (port.get("targetPort"), port.get("port")):
            return port
    raise FlexError(f"none of its ports leads to {wanted}", where, "see burst.kubernetes.lead.port")


def _owned(secret: Mapping[str, Any], owner: Object) -> Object:
    """With its MiniCluster as owner: Kubernetes deletes it with that at the latest."""
    metadata = owner["metadata"]
    reference = {
        "apiVersion": API_VERSION,
        "kind": "MiniCluster",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {**secret, "metadata": {**secret["metadata"], "ownerReferences": [reference]}}


def _own_hosts(lead: LeadConfig, slots: Sequence[Slot]) -> tuple[str, ...]:
    """The hosts before the slots. A broker's place in the list of hosts is its rank, so slots
    must follow them without a gap, and pods must get the names of the slots' hosts."""
    try:
        hosts = tuple(expand_hostlist(lead.hosts)) if lead.hosts else (lead.name,)
    except BadInput as error:
        raise error.at("lead.hosts") from None
    if hosts[0] != lead.name:
        raise BadInput(f"the first host is {hosts[0]}, not {lead.name}", "lead.hosts", "by rank")
    next_rank = len(hosts)
    for slot in slots:
        if slot.hosts != tuple(f"{slot.name}-{i}" for i in range(slot.nodes)):
            what = f"its hosts are not {slot.name}-0 and so on"
            raise BadInput(what, f"slot {slot.name}", "pods are called so; name the hosts after it")
        if slot.ranks and slot.ranks != tuple(range(next_rank, next_rank + slot.nodes)):
            what = f"its ranks do not begin with {next_rank}"
            raise BadInput(
                what, f"slot {slot.name}", "list all own hosts, and slots in their order"
            )
        next_rank += slot.nodes
    return hosts


def read_secret(path: str) -> bytes:
    """A file that its owner alone can read, who is root or this process's user. Else BadInput."""
    try:
        # Not to wait for a writer where it is a pipe.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(opened, "rb") as file:
            about = os.fstat(opened)
            content = file.read(_MOST_SECRET_BYTES + 1) if stat.S_ISREG(about.st_mode) else b""
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", path, "see the path") from None
    if not stat.S_ISREG(about.st_mode):
        raise BadInput("is not a file", path, "see the path")
    if about.st_mode & 0o077:
        what = f"others can read it: its mode is {stat.S_IMODE(about.st_mode):04o}"
        raise BadInput(what, path, "chmod 0400, and make a new one: it may be known")
    if about.st_uid not in (0, os.geteuid()):
        raise BadInput("another user owns it", path, "keep a copy that the broker's user owns")
    if not 0 < len(content) <= _MOST_SECRET_BYTES:
        raise BadInput("is empty or too large for a secret", path, "see the path")
    return content
