"""The life of a burst on a real kube-apiserver, where the test is the operator and the kubelets."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest
from kube_site import (
    CURVE,
    IDENTITY,
    MUNGE,
    NO_CPU,
    RENTAL,
    Cluster,
    comes_to,
    just_before_it_applies,
    seen,
    service,
    soon,
)

from flux_flex.burst.providers import NoCapacity, Observed, Phase, Rental
from flux_flex.burst.providers.kubernetes import KubernetesProvider
from flux_flex.errors import FlexError
from flux_flex.host.kube_errors import FieldConflict, KubeError, Replaced

pytestmark = pytest.mark.kube

MADE = (("miniclusters", "small-0"), ("secrets", "small-0-curve"), ("secrets", "small-0-munge"))


@pytest.fixture
def asked(cluster: Cluster) -> KubernetesProvider:
    """A provider that has asked for a burst, whose pods have been made."""
    made = cluster.open()
    made.observe()
    made.request(RENTAL)
    cluster.make_pods()
    return made


def foreign(plural: str, name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    bodies: dict[str, dict[str, Any]] = {
        "miniclusters": {
            "apiVersion": "flux-framework.org/v1alpha2", "kind": "MiniCluster",
            "spec": {"size": 7, "containers": [{"image": "theirs"}]},
        },
        "secrets": {"apiVersion": "v1", "kind": "Secret", "data": {"theirs": "dGhlaXJz"}},
        "pods": {
            "apiVersion": "v1", "kind": "Pod",
            "spec": {"containers": [{"name": "theirs", "image": "theirs"}]},
        },
        "configmaps": {"apiVersion": "v1", "kind": "ConfigMap"},
    }  # fmt: skip
    return bodies[plural] | {"metadata": metadata}


# -- what is made ----------------------------------------------------------------------------------


def test_a_burst_is_made_of_what_the_operator_and_pods_read(cluster: Cluster) -> None:
    cluster.open().request(RENTAL)
    made = cluster.get("miniclusters", "small-0")
    assert (made["spec"]["size"], made["spec"]["maxSize"]) == (3, 3)
    assert made["spec"]["flux"]["bursting"]["leadBroker"]["address"] == "203.0.113.7"
    for name, key, content in (("curve", "curve.cert", CURVE), ("munge", "munge.key", MUNGE)):
        secret = cluster.get("secrets", f"small-0-{name}")
        assert base64.b64decode(secret["data"][key]).decode() == content
        owner = secret["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"]) == ("MiniCluster", made["metadata"]["uid"])


def test_what_is_asked_again_changes_nothing(cluster: Cluster) -> None:
    cluster.open().request(RENTAL)
    before = [cluster.get(*one)["metadata"] for one in MADE]
    again = cluster.open()
    again.request(RENTAL)
    again.request(RENTAL)
    assert [cluster.get(*one)["metadata"] for one in MADE] == before
    assert all(len(one["managedFields"]) == 1 for one in before)


def test_what_the_operator_writes_is_not_undone_by_asking_again(cluster: Cluster) -> None:
    provider = cluster.open()
    provider.request(RENTAL)
    cluster.make_pods()
    cluster.change("miniclusters", "small-0", {"metadata": {"annotations": {"theirs": "x"}}})
    before = cluster.get("miniclusters", "small-0")
    provider.request(RENTAL)
    assert cluster.get("miniclusters", "small-0") == before
    assert before["status"]["jobid"] == "small-0"


def test_a_field_that_another_manager_took_stays_its_own_and_it_is_named(cluster: Cluster) -> None:
    provider = cluster.open()
    provider.request(RENTAL)
    cluster.change("miniclusters", "small-0", {"spec": {"size": 1}})
    with pytest.raises(FieldConflict, match=r'"argocd".*\.spec\.size|\.spec\.size.*"argocd"') as e:
        provider.request(RENTAL)
    assert "force_conflicts" in e.value.remedy
    assert cluster.get("miniclusters", "small-0")["spec"]["size"] == 1
    cluster.open(force_conflicts=True).request(RENTAL)
    assert cluster.get("miniclusters", "small-0")["spec"]["size"] == 3


def test_a_secret_that_another_manager_changed_is_named_without_its_content(
    cluster: Cluster,
) -> None:
    provider = cluster.open()
    provider.request(RENTAL)
    cluster.change("secrets", "small-0-curve", {"data": {"curve.cert": "bWluZQ=="}})
    with pytest.raises(FieldConflict, match="argocd") as caught:
        provider.request(RENTAL)
    encoded = base64.b64encode(CURVE.encode()).decode()
    assert not any(part in str(caught.value) for part in (encoded, "bWluZQ", CURVE))


def test_a_namespace_is_made_where_that_is_configured(cluster: Cluster) -> None:
    other = f"{cluster.namespace}-new"
    for _ in range(2):
        cluster.open(namespace=other, create_namespace=True).request(RENTAL)
    made = cluster.api.ask("GET", cluster.api.path("miniclusters", other, "small-0"))
    assert made["spec"]["size"] == 3


def test_a_namespace_that_is_not_there_is_said(cluster: Cluster) -> None:
    said = cluster.refuses(namespace="nowhere")
    assert 'namespaces "nowhere" not found' in str(said)
    assert "see that the namespace is there" in said.remedy


def test_a_namespace_that_goes_away_is_said(cluster: Cluster) -> None:
    cluster.api.ask("DELETE", f"/api/v1/namespaces/{cluster.namespace}")
    said = cluster.refuses()
    assert "being terminated" in str(said)
    assert "rbac" not in said.remedy


@pytest.mark.parametrize("what", ["miniclusters.flux-framework.org", "secrets"])
def test_a_quota_is_no_capacity(cluster: Cluster, what: str) -> None:
    hard = {"hard": {f"count/{what}": "0"}}
    body = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": hard,
    }  # fmt: skip
    cluster.create("resourcequotas", body)
    used = hard | {"used": {f"count/{what}": "0"}}
    cluster.change("resourcequotas", "q", {"status": used}, "status")
    provider = cluster.open()

    def is_refused() -> bool:
        try:
            provider.request(RENTAL)
        except NoCapacity as error:
            assert "quota" in str(error)  # noqa: PT017
            return True
        provider.release(RENTAL.burst)
        cluster.finish_deletions()
        return False

    assert soon(is_refused, 20)
    assert cluster.names("secrets") == set()


# -- the lead broker -------------------------------------------------------------------------------


def connects_to(cluster: Cluster) -> str:
    lead = {"name": "own0", "hosts": "own[0-1]", "service": "lead"}
    cluster.open(lead=lead).request(RENTAL)
    lead = cluster.get("miniclusters", "small-0")["spec"]["flux"]["bursting"]["leadBroker"]
    return f"{lead['address']}:{lead['port']}"


def make_service(cluster: Cluster, kind: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "flux", "port": 8050}, {"name": "other", "port": 80}]
    body = service(kind, spec={"ports": ports} | spec)
    body["metadata"]["namespace"] = cluster.namespace
    return cluster.create("services", {"apiVersion": "v1", "kind": "Service", **body})


@pytest.mark.parametrize(
    ("ingress", "address"),
    [({"ip": "198.51.100.9"}, "198.51.100.9"), ({"hostname": "lb.example.org"}, "lb.example.org")],
)
def test_the_lead_broker_is_found_behind_a_load_balancer_once_that_has_an_address(
    cluster: Cluster, ingress: dict[str, str], address: str
) -> None:
    make_service(cluster, "LoadBalancer")
    with pytest.raises(FlexError, match="no address yet"):
        connects_to(cluster)
    assert cluster.names("miniclusters") == set()
    status = {"status": {"loadBalancer": {"ingress": [ingress]}}}
    cluster.change("services", "lead", status, "status")
    assert connects_to(cluster) == f"{address}:8050"


def test_the_lead_broker_is_found_inside_the_cluster(cluster: Cluster) -> None:
    make_service(cluster, "ClusterIP")
    assert connects_to(cluster) == f"lead.{cluster.namespace}.svc:8050"


def test_the_lead_broker_is_found_on_the_node_where_it_runs(cluster: Cluster) -> None:
    port = make_service(cluster, "NodePort")["spec"]["ports"][0]["nodePort"]
    with pytest.raises(FlexError, match="runs on no node"):
        connects_to(cluster)
    cluster.make_node("away", ExternalIP="198.51.100.1")
    cluster.make_node("here", Hostname="here", InternalIP="10.0.0.3", ExternalIP="198.51.100.3")
    for name in ("lead-0", "waiting"):
        pod = foreign("pods", name, app="lead")
        cluster.create("pods", pod)
    cluster.bind("lead-0", "here")
    assert connects_to(cluster) == f"198.51.100.3:{port}"


# -- what is observed ------------------------------------------------------------------------------


def test_a_burst_is_followed_until_all_its_pods_are_ready(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    cluster.make_node("node1")
    comes_to(asked, Phase.COMING, "0 of 3 brokers are ready")
    cluster.pods_are_ready("small-0", 0, 1)
    comes_to(asked, Phase.COMING, "2 of 3 brokers are ready")
    cluster.pods_are_ready("small-0", 2)
    assert comes_to(asked, Phase.READY) == Observed("small-0", Phase.READY, 3)


def test_pods_that_find_no_node_fail_for_want_of_capacity(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    unscheduled = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_CPU,
    }  # fmt: skip
    cluster.set_pod("small-0", 1, phase="Pending", conditions=[unscheduled])
    failed = comes_to(asked, Phase.FAILED)
    assert failed.no_capacity
    assert failed.reason == f"small-0-1 finds no node: {NO_CPU}"


def test_the_schedulers_event_says_it_before_the_pod_does(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    pod = cluster.get("pods", "small-0-0-x7x7x")
    about = {"kind": "Pod", "uid": pod["metadata"]["uid"], "name": pod["metadata"]["name"]}
    cluster.warn(about, "FailedScheduling", "no nodes available to schedule pods")
    assert comes_to(asked, Phase.FAILED, "no nodes available").no_capacity


def test_an_image_that_cannot_be_pulled_is_named_with_the_reason(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    cluster.make_node("node1")
    pod = cluster.get("pods", "small-0-2-x7x7x")
    about = {"kind": "Pod", "uid": pod["metadata"]["uid"], "name": pod["metadata"]["name"]}
    cluster.warn(about, "Failed", 'Failed to pull image "x": manifest unknown')
    container = {
        "name": "flux", "image": "ghcr.io/example/flux:0.88", "imageID": "", "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
    }  # fmt: skip
    cluster.set_pod("small-0", 2, "node1", phase="Pending", containerStatuses=[container])
    failed = comes_to(asked, Phase.FAILED, "manifest unknown")
    assert "small-0-2 cannot have the image ghcr.io/example/flux:0.88" in failed.reason
    assert not failed.no_capacity


def test_a_job_that_may_make_no_pods_is_said(cluster: Cluster) -> None:
    provider = cluster.open()
    provider.request(RENTAL)
    about = {"kind": "Job", "name": "small-0"}
    cluster.warn(about, "FailedCreate", "forbidden: exceeded quota: pods")
    comes_to(provider, Phase.COMING, "it has no pods yet: forbidden: exceeded quota: pods")


def test_a_new_process_sees_what_the_old_one_made(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    cluster.make_node("node1")
    cluster.pods_are_ready("small-0", 0, 1, 2)
    asked.close()
    second = cluster.open()
    assert [*second.observe()] == [Observed("small-0", Phase.READY, 3)]


def test_closing_ends_every_thread_at_once(cluster: Cluster) -> None:
    before = {*threading.enumerate()}
    provider = cluster.open()
    provider.request(RENTAL)
    assert soon(lambda: seen(provider))
    assert len({*threading.enumerate()} - before) == 3
    provider.close()
    assert soon(lambda: {*threading.enumerate()} <= before, 1)


# -- what is taken away ----------------------------------------------------------------------------


def test_a_burst_that_was_released_leaves_and_is_gone(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    cluster.make_node("node1")
    cluster.pods_are_ready("small-0", 0, 1, 2)
    comes_to(asked, Phase.READY)
    asked.release("small-0")
    comes_to(asked, Phase.LEAVING, "3 of its pods are still there")
    with pytest.raises(FlexError, match="still goes away"):
        asked.request(RENTAL)
    asked.release("small-0")
    cluster.finish_deletions()
    assert soon(lambda: seen(asked) is None)
    for plural in ("miniclusters", "secrets", "pods"):
        assert cluster.names(plural) == set()
    asked.request(RENTAL)
    assert cluster.names("miniclusters") == {"small-0"}
    assert cluster.names("secrets") == {"small-0-curve", "small-0-munge"}


def test_a_release_takes_what_was_made_and_nothing_that_looks_like_it(
    cluster: Cluster, asked: KubernetesProvider
) -> None:
    ours = cluster.get("miniclusters", "small-0")["metadata"]["labels"]
    others = [
        ("miniclusters", "small-00", ours), ("miniclusters", "small", {}),
        ("miniclusters", "small-0-0", ours), ("secrets", "small-0", ours),
        ("secrets", "small-0-curve2", ours), ("secrets", "curve", {}),
        ("configmaps", "small-0", ours), ("pods", "small-0-9", ours),
    ]  # fmt: skip
    for plural, name, labels in others:
        cluster.create(plural, foreign(plural, name, **labels))
    asked.request(Rental("small-1", "small", ("small-1-0",)))
    asked.release("small-0")
    cluster.finish_deletions()
    asked.release("small-0")
    assert cluster.names("miniclusters") == {"small-00", "small", "small-0-0", "small-1"}
    left = {"small-0", "small-0-curve2", "curve", "small-1-curve", "small-1-munge"}
    assert cluster.names("secrets") == left
    assert "small-0" in cluster.names("configmaps")
    assert cluster.names("pods") == {"small-0-9"}


@pytest.mark.parametrize(("plural", "name"), MADE)
def test_what_somebody_else_made_under_that_name_is_neither_changed_nor_deleted(
    cluster: Cluster, plural: str, name: str
) -> None:
    cluster.create(plural, foreign(plural, name))
    before = cluster.get(plural, name)
    assert "flux-flex did not make it" in str(cluster.refuses(force_conflicts=True))
    cluster.open().release("small-0")
    assert cluster.get(plural, name) == before


def test_a_burst_of_another_instance_is_neither_changed_nor_deleted(cluster: Cluster) -> None:
    cluster.open("other").request(RENTAL)
    before = [cluster.get(*one) for one in MADE]
    assert "belongs to the instance other" in str(cluster.refuses(force_conflicts=True))
    ours = cluster.open()
    ours.release("small-0")
    assert not ours.observe()
    assert [cluster.get(*one) for one in MADE] == before


# -- two at a time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_of_two_instances_that_ask_at_once_one_has_the_name(cluster: Cluster, force: bool) -> None:
    other, late = cluster.open("other"), cluster.open(force_conflicts=force)
    just_before_it_applies(late, lambda: other.request(RENTAL))
    with pytest.raises(FieldConflict, match='conflict with "flux-flex-other"'):
        late.request(RENTAL)
    for one in MADE:
        metadata = cluster.get(*one)["metadata"]
        assert metadata["labels"]["flux-flex.io/instance"] == "other"
        assert len(metadata["managedFields"]) == 1


@pytest.mark.parametrize("force", [False, True])
def test_a_name_that_changed_hands_in_between_is_not_taken(cluster: Cluster, force: bool) -> None:
    late, other = cluster.open(force_conflicts=force), cluster.open("other")
    late.request(RENTAL)

    def changes_hands() -> None:
        late.release("small-0")
        cluster.finish_deletions()
        other.request(RENTAL)

    just_before_it_applies(late, changes_hands)
    with pytest.raises((Replaced, FieldConflict)):
        late.request(RENTAL)
    for one in MADE:
        labels = cluster.get(*one)["metadata"]["labels"]
        assert labels["flux-flex.io/instance"] == "other"


def test_of_two_processes_of_one_instance_both_have_the_one_burst(cluster: Cluster) -> None:
    first, second = cluster.open(), cluster.open()
    just_before_it_applies(second, lambda: first.request(RENTAL))
    second.request(RENTAL)
    assert cluster.names("miniclusters") == {"small-0"}
    labels = cluster.get("miniclusters", "small-0")["metadata"]["labels"]
    assert labels["flux-flex.io/instance"] == IDENTITY


def test_a_secret_that_changed_hands_in_between_is_not_taken(cluster: Cluster) -> None:
    provider = cluster.open(force_conflicts=True)
    provider.request(RENTAL)
    apply = provider._kube.apply

    def applies(resource: Any, body: Any, **more: Any) -> Any:
        if body["metadata"]["name"] == "small-0-munge":
            cluster.api.ask("DELETE", cluster.path("secrets", "small-0-munge"))
            cluster.create("secrets", foreign("secrets", "small-0-munge"))
        return apply(resource, body, **more)

    provider._kube.apply = applies  # type: ignore[method-assign]
    with pytest.raises(Replaced):
        provider.request(RENTAL)
    assert cluster.get("secrets", "small-0-munge")["data"] == {"theirs": "dGhlaXJz"}


def test_what_is_made_anew_by_somebody_else_is_not_deleted(cluster: Cluster) -> None:
    provider = cluster.open()
    provider.request(RENTAL)
    delete = provider._kube.delete

    def deletes(resource: Any, name: str, *words: Any, **more: Any) -> None:
        if name == "small-0":
            cluster.api.ask("DELETE", cluster.path("miniclusters", name))
            cluster.create("miniclusters", foreign("miniclusters", name))
        delete(resource, name, *words, **more)

    provider._kube.delete = deletes  # type: ignore[method-assign]
    provider.release("small-0")
    left = cluster.get("miniclusters", "small-0")
    assert left["spec"]["size"] == 7
    assert "deletionTimestamp" not in left["metadata"]
    assert cluster.names("secrets") == set()


def test_errors_are_not_tracebacks_of_the_client(cluster: Cluster) -> None:
    cluster.api.ask("DELETE", f"/api/v1/namespaces/{cluster.namespace}")
    with pytest.raises(KubeError) as caught:
        cluster.open().request(RENTAL)
    assert caught.value.__cause__ is None
    assert "\n" not in caught.value.what
