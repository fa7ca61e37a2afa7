"""The rights of docs/kubernetes-rbac.yaml on a real kube-apiserver: enough, and none too many."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from kube_site import QUICK, RBAC, RENTAL, Cluster, comes_to, seen, service, soon

from flux_flex.burst.providers import Phase
from flux_flex.burst.providers.kubernetes import KubernetesProvider
from flux_flex.errors import FlexError
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
from flux_flex.host.kube_errors import KubeError

pytestmark = pytest.mark.kube

DOCUMENTS: list[dict[str, Any]] = [*yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))]
RIGHTS = [
    (document["kind"], k, resource, verb)
    for document in DOCUMENTS
    for k, rule in enumerate(document.get("rules", []))
    for resource in rule["resources"]
    for verb in rule["verbs"]
]
OTHERS_SECRET = {
    "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"},
    "data": {"a": "dGhlaXJz"},
}  # fmt: skip


class Account:
    """The documented ServiceAccount in the cluster's namespace, with all its rights but one."""

    def __init__(self, cluster: Cluster, without: tuple[str, int, str, str] | None = None) -> None:
        self.cluster = cluster
        for document in copy.deepcopy(DOCUMENTS):
            self._create(document, without)
        token = self.token()
        self.kubeconfig = cluster.api.kubeconfig(cluster.folder / "account", {"token": token})
        cluster.table |= {
            "kubeconfig": str(self.kubeconfig), "create_namespace": True,
            "lead": {"name": "own0", "hosts": "own[0-1]", "service": "lead"},
            "unschedulable_after": "10m",
        }  # fmt: skip
        # Without contact it says so at once.
        cluster.bounds = replace(QUICK, stale_s=0)

    def _create(self, document: dict[str, Any], without: tuple[str, int, str, str] | None) -> None:
        """As documented, but in a namespace of its own, and cluster-wide under a name for that."""
        cluster, kind = self.cluster, document["kind"]
        unique = f"flux-flex-{cluster.namespace}"
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = cluster.namespace
        else:
            document["metadata"]["name"] = unique
        for subject in document.get("subjects", []):
            subject["namespace"] = cluster.namespace
        if document.get("roleRef", {}).get("kind") == "ClusterRole":
            document["roleRef"]["name"] = unique
        if without is not None and kind == without[0]:
            document["rules"] = _less(document["rules"], *without[1:])
        namespace = document["metadata"].get("namespace", "")
        cluster.api.create(f"{kind.lower()}s", document, namespace)

    def token(self) -> str:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = self.cluster.path("serviceaccounts", "flux-flex") + "/token"
        return str(self.cluster.api.ask("POST", path, body)["status"]["token"])


def _less(rules: list[dict[str, Any]], k: int, resource: str, verb: str) -> list[dict[str, Any]]:
    rule = rules[k]
    split = [rule | {"resources": [one]} for one in rule["resources"]]
    verbs = [one for one in rule["verbs"] if one != verb]
    left = [one if one["resources"] != [resource] else one | {"verbs": verbs} for one in split]
    return [*rules[:k], *(one for one in left if one["verbs"]), *rules[k + 1 :]]


@pytest.fixture
def lead(cluster: Cluster) -> None:
    """A lead broker in the cluster, behind a NodePort."""
    name = f"node-{cluster.namespace}"
    cluster.make_node(name, InternalIP="10.0.0.3", ExternalIP="198.51.100.3")
    body = service("NodePort", spec={"ports": [{"port": 8050}]})
    body["metadata"]["namespace"] = cluster.namespace
    cluster.create("services", {"apiVersion": "v1", "kind": "Service", **body})
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lead-0", "labels": {"app": "lead"}},
        "spec": {"containers": [{"name": "flux", "image": "x"}]},
    }  # fmt: skip
    cluster.create("pods", pod)
    cluster.bind("lead-0", name)


def live(cluster: Cluster, provider: KubernetesProvider) -> None:
    """A burst from the request until it is gone; each of the provider's watches has to work."""
    assert not provider.observe()
    provider.request(RENTAL)
    cluster.make_pods()
    comes_to(provider, Phase.COMING, "0 of 3 brokers are ready")
    pod = cluster.get("pods", "small-0-0-x7x7x")["metadata"]
    about = {"kind": "Pod", "uid": pod["uid"], "name": pod["name"]}
    cluster.warn(about, "FailedScheduling", "no nodes available to schedule pods")
    comes_to(provider, Phase.COMING, "no nodes available")
    cluster.pods_are_ready("small-0", 0, 1, 2)
    comes_to(provider, Phase.READY)
    provider.request(RENTAL)
    provider.release("small-0")
    comes_to(provider, Phase.LEAVING)
    cluster.finish_deletions()
    assert soon(lambda: seen(provider) is None)
    assert not cluster.names("secrets") & {"small-0-curve", "small-0-munge"}


@pytest.mark.usefixtures("lead")
def test_the_documented_rights_are_enough_for_the_whole_life_of_a_burst(cluster: Cluster) -> None:
    Account(cluster)
    live(cluster, cluster.open())


@pytest.mark.usefixtures("lead")
@pytest.mark.parametrize("without", RIGHTS, ids=lambda right: f"{right[3]}-{right[2]}")
def test_each_documented_right_is_needed_and_the_one_that_lacks_is_named(
    cluster: Cluster, without: tuple[str, int, str, str]
) -> None:
    Account(cluster, without)
    with pytest.raises(FlexError) as caught:
        live(cluster, cluster.open())
    _, _, resource, verb = without
    # An apply that has to create is refused without a word.
    said = f'cannot {verb} resource "{resource}"', f"cannot {verb} it"
    assert any(one in caught.value.what for one in said)
    assert resource in str(caught.value)
    assert caught.value.remedy == "give the account the rights of docs/kubernetes-rbac.yaml"


# -- what stays forbidden --------------------------------------------------------------------------


@pytest.fixture
def as_account(cluster: Cluster) -> Iterator[Kube]:
    kube = open_kube(str(Account(cluster).kubeconfig), bounds=QUICK)
    yield kube
    kube.close()


def is_forbidden(call: Any) -> None:
    with pytest.raises(KubeError) as caught:
        call()
    assert caught.value.status == 403
    assert "cannot" in caught.value.what


@pytest.mark.parametrize(
    "resource", [MINICLUSTERS, SECRETS, PODS, EVENTS, SERVICES], ids=lambda one: one.plural
)
def test_nothing_is_read_in_other_namespaces(
    cluster: Cluster, as_account: Kube, resource: Resource
) -> None:
    other = f"other-{uuid.uuid4().hex[:8]}"
    metadata = {"metadata": {"name": other}}
    cluster.api.create("namespaces", {"apiVersion": "v1", "kind": "Namespace"} | metadata)
    cluster.api.create("secrets", OTHERS_SECRET, other)
    for namespace in (other, "kube-system", ""):
        is_forbidden(lambda where=namespace: as_account.list(resource, where))
        is_forbidden(lambda where=namespace: as_account.watch(resource, where, "0"))
    is_forbidden(lambda: as_account.get(resource, "theirs", other))
    is_forbidden(lambda: as_account.delete(resource, "theirs", other, uid="x"))
    body = OTHERS_SECRET | {"metadata": {"name": "theirs", "namespace": other}}
    is_forbidden(lambda: as_account.apply(resource, body, manager="flux-flex", force=True))


def test_secrets_are_not_listed_and_nothing_else_is_written(
    cluster: Cluster, as_account: Kube
) -> None:
    here = cluster.namespace
    is_forbidden(lambda: as_account.list(SECRETS, here))
    is_forbidden(lambda: as_account.watch(SECRETS, here, "0"))
    accounts, roles = Resource("serviceaccounts"), "rbac.authorization.k8s.io"
    for resource in (
        PODS, EVENTS, SERVICES, accounts, Resource("configmaps"), Resource("jobs", "batch"),
        Resource("deployments", "apps"), Resource("roles", roles),
        Resource("rolebindings", roles),
    ):  # fmt: skip
        body = {"kind": "x", "metadata": {"name": "a", "namespace": here}}
        is_forbidden(lambda r=resource, b=body: as_account.create(r, b, here))
        is_forbidden(lambda r=resource, b=body: as_account.apply(r, b, manager="flux-flex"))
        is_forbidden(lambda r=resource: as_account.delete(r, "a", here, uid="x"))


def test_of_the_cluster_only_nodes_are_read_and_namespaces_made(as_account: Kube) -> None:
    assert as_account.get(NODES, "none") is None
    for resource in (
        NODES, NAMESPACES, Resource("clusterroles", "rbac.authorization.k8s.io"),
        Resource("customresourcedefinitions", "apiextensions.k8s.io"),
    ):  # fmt: skip
        body = {"kind": "x", "metadata": {"name": "a"}}
        is_forbidden(lambda r=resource: as_account.list(r, ""))
        is_forbidden(lambda r=resource: as_account.delete(r, "a", "", uid="x"))
        is_forbidden(lambda r=resource, b=body: as_account.apply(r, b, manager="flux-flex"))
    is_forbidden(lambda: as_account.get(NAMESPACES, "default"))


# -- credentials that end --------------------------------------------------------------------------


def test_a_token_that_ended_is_said_and_a_new_one_in_its_file_is_taken(cluster: Cluster) -> None:
    account = Account(cluster)
    cluster.bounds = replace(QUICK, watch_s=1, stale_s=0)
    cluster.table["lead"] = {"name": "own0", "address": "203.0.113.7", "hosts": "own[0-1]"}
    provider = cluster.open()
    provider.request(RENTAL)
    path = cluster.path("serviceaccounts", "flux-flex")
    cluster.api.ask("DELETE", path)
    # The server believes for ten seconds what it has found out.
    assert soon(lambda: refusal(provider), 30)
    assert getattr(refusal(provider), "remedy", "") == "renew the credentials in the kubeconfig"
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "flux-flex"}}
    cluster.create("serviceaccounts", body)
    cluster.api.kubeconfig(account.kubeconfig, {"token": account.token()})
    assert soon(lambda: refusal(provider) is None, 20)
    provider.request(RENTAL)
    assert comes_to(provider, Phase.COMING)


def refusal(provider: KubernetesProvider) -> FlexError | None:
    try:
        provider.observe()
    except FlexError as error:
        return error
    return None
