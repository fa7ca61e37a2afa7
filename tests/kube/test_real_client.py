"""The Kubernetes client against a real kube-apiserver: TLS, answers, watches that end or expire."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kube_apiserver import ApiServer
from kube_certificates import make_certificates
from kube_site import QUICK, RENTAL, Cluster, comes_to, soon
from minicluster_crd import CRD, NO_COPY, OPERATORS, SCHEMA, definition

from flux_flex.burst.providers import Phase
from flux_flex.errors import FlexError
from flux_flex.host import kube as kube_module
from flux_flex.host.kube import MINICLUSTERS, PODS, SECRETS, Kube, Resource, open_kube
from flux_flex.host.kube_errors import Expired, KubeError
from flux_flex.host.kube_mirror import Mirror

pytestmark = pytest.mark.kube

CONFIGMAPS = Resource("configmaps")
RESTART_S = 30.0


@pytest.fixture
def kube(cluster: Cluster) -> Iterator[Kube]:
    """Of the administrator."""
    opened = open_kube(cluster.table["kubeconfig"], bounds=QUICK)
    yield opened
    opened.close()


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def raised(call: Callable[[], object]) -> FlexError | None:
    try:
        call()
    except FlexError as error:
        return error
    return None


# -- TLS and answers -------------------------------------------------------------------------------


def test_a_server_of_another_authority_is_not_believed(
    cluster: Cluster, api: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_certificates(other)
    path = Path(cluster.table["kubeconfig"])
    ours = base64.b64encode((api.certificates / "ca.crt").read_bytes()).decode()
    theirs = base64.b64encode((other / "ca.crt").read_bytes()).decode()
    path.write_text(path.read_text().replace(ours, theirs))
    kube = open_kube(str(path), bounds=QUICK)
    with pytest.raises(KubeError, match="TLS: "):
        kube.get(PODS, "a", cluster.namespace)
    kube.close()


def test_the_content_of_a_secret_never_comes_back(cluster: Cluster, kube: Kube) -> None:
    body = {
        "apiVersion": "v1", "kind": "Secret", "data": {"k": "czNjcjN0"},
        "metadata": {"name": "s", "namespace": cluster.namespace},
    }  # fmt: skip
    for answer in (
        kube.apply(SECRETS, body, manager="flux-flex"),
        kube.get(SECRETS, "s", cluster.namespace),
        kube.list(SECRETS, cluster.namespace)[0][0],
    ):
        assert answer is not None
        assert answer["metadata"]["name"] == "s"
        assert "data" not in answer
    assert cluster.get("secrets", "s")["data"] == {"k": "czNjcjN0"}


def test_a_long_list_comes_in_pages(
    cluster: Cluster, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_module, "_PAGE", 2)
    for k in range(5):
        cluster.create("configmaps", configmap(f"c{k}"))
    found, version = kube.list(CONFIGMAPS, cluster.namespace)
    names = {one["metadata"]["name"] for one in found}
    assert {f"c{k}" for k in range(5)} <= names
    assert len(found) == len(names)
    assert version.isdecimal()


def test_pages_that_expire_in_between_are_asked_for_again_as_one(
    cluster: Cluster, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_module, "_PAGE", 2)
    for k in range(5):
        cluster.create("configmaps", configmap(f"c{k}"))
    call, asked = kube._call, []

    def calls(*words: Any, **more: Any) -> Any:
        answer = call(*words, **more)
        if not asked:
            cluster.create("configmaps", configmap("late"))
            cluster.api.compact()
        asked.append(more["query"])
        return answer

    monkeypatch.setattr(kube, "_call", calls)
    found, _ = kube.list(CONFIGMAPS, cluster.namespace)
    names = [one["metadata"]["name"] for one in found]
    assert {f"c{k}" for k in range(5)} <= {*names}
    assert len(names) == len({*names})
    # A server that keeps old lists in memory may go on with the next page.
    assert ("late" in names) == ("limit" not in asked[-1])


# -- what the schema refuses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"size": "three", "containers": [{"image": "x"}]}, "spec.size"),
        ({"size": 3}, "spec.containers: Required value"),
        ({"containers": [{"image": 5}]}, "image"),
    ],
)
def test_what_does_not_fit_the_schema_is_an_error_that_names_the_key(
    cluster: Cluster, kube: Kube, spec: dict[str, Any], said: str
) -> None:
    body = {
        "apiVersion": "flux-framework.org/v1alpha2", "kind": "MiniCluster", "spec": spec,
        "metadata": {"name": "a", "namespace": cluster.namespace},
    }  # fmt: skip
    with pytest.raises(KubeError) as caught:
        kube.apply(MINICLUSTERS, body, manager="flux-flex")
    assert said in caught.value.what
    assert "Flux Operator" in caught.value.remedy
    assert cluster.names("miniclusters") == set()


@pytest.fixture
def defined(api: ApiServer) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Give MiniClusters another schema for a while."""

    def define(schema: dict[str, Any]) -> object:
        path = api.path("customresourcedefinitions", name=CRD["metadata"]["name"])
        spec = definition(schema)["spec"]
        return api.ask("PATCH", path, {"spec": {"versions": spec["versions"]}})

    yield define
    define(SCHEMA)


def test_an_operator_that_refuses_a_burst_is_quoted(
    cluster: Cluster, defined: Callable[[dict[str, Any]], object]
) -> None:
    schema = json.loads(json.dumps(SCHEMA))
    schema["properties"]["spec"]["properties"]["size"]["maximum"] = 2
    defined(schema)
    provider = cluster.open()

    def asked() -> FlexError | None:
        error = raised(lambda: provider.request(RENTAL))
        if error is None:
            provider.release(RENTAL.burst)
            cluster.finish_deletions()
        return error

    # The server takes a moment to go by a new schema.
    assert soon(asked, 20)
    error = asked()
    assert "spec.size" in str(error)
    assert "less than or equal to 2" in str(error)


def sent_and_kept(cluster: Cluster) -> tuple[Any, Any]:
    """A burst's spec as it was sent, and as the server keeps it."""
    provider = cluster.open()
    sent = provider._manifest(RENTAL)["spec"]
    provider.request(RENTAL)
    return sent, cluster.get("miniclusters", RENTAL.burst)["spec"]


def is_within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and is_within(one, whole[key]) for key, one in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(is_within, part, whole))
    return bool(part == whole)


def test_the_server_drops_nothing_of_a_burst(cluster: Cluster) -> None:
    assert is_within(*sent_and_kept(cluster))


@pytest.mark.skipif(not OPERATORS.exists(), reason=NO_COPY)
def test_nothing_of_a_burst_is_dropped_with_the_operators_own_schema(
    cluster: Cluster, defined: Callable[[dict[str, Any]], object]
) -> None:
    defined(json.loads(OPERATORS.read_text(encoding="utf-8")))
    # A default that only that schema has tells that the server goes by it.
    body = {
        "apiVersion": "flux-framework.org/v1alpha2", "kind": "MiniCluster",
        "metadata": {"name": "probe"}, "spec": {"containers": [{"image": "x"}]},
    }  # fmt: skip

    def is_in_force() -> bool:
        made = cluster.create("miniclusters", body)
        cluster.api.ask("DELETE", cluster.path("miniclusters", "probe"))
        return "deadlineSeconds" in made["spec"]

    assert soon(is_in_force, 20)
    assert is_within(*sent_and_kept(cluster))


# -- watches ---------------------------------------------------------------------------------------


def named(mirror: Mirror) -> set[str]:
    return {one["metadata"]["name"] for one in mirror.objects()}


def test_a_mirror_follows_what_comes_changes_and_goes(cluster: Cluster, kube: Kube) -> None:
    labelled = configmap("first")
    labelled["metadata"]["labels"] = {"x": "1"}
    cluster.create("configmaps", labelled)
    cluster.create("configmaps", configmap("other"))
    mirror = Mirror(kube, CONFIGMAPS, cluster.namespace, labels="x=1")
    mirror.start()
    assert named(mirror) == {"first"}
    cluster.change("configmaps", "other", {"metadata": {"labels": {"x": "1"}}})
    assert soon(lambda: named(mirror) == {"first", "other"})
    cluster.change("configmaps", "first", {"metadata": {"labels": {"x": "2"}}})
    assert soon(lambda: named(mirror) == {"other"})
    cluster.api.ask("DELETE", cluster.path("configmaps", "other"))
    assert soon(lambda: named(mirror) == set())
    mirror.close()


def test_a_watch_that_the_server_ends_in_time_is_taken_up_where_it_was(
    cluster: Cluster,
) -> None:
    kube = open_kube(cluster.table["kubeconfig"], bounds=replace(QUICK, watch_s=1))
    begun: list[str] = []
    lists: list[object] = []
    watch, list_ = kube.watch, kube.list

    def watches(resource: Resource, namespace: str, since: str, **more: Any) -> Any:
        begun.append(since)
        return watch(resource, namespace, since, **more)

    def listing(*words: Any, **more: Any) -> Any:
        lists.append(words)
        return list_(*words, **more)

    kube.watch, kube.list = watches, listing  # type: ignore[method-assign]
    mirror = Mirror(kube, CONFIGMAPS, cluster.namespace)
    mirror.start()
    mirror.objects()
    assert soon(lambda: len(begun) >= 3, 10)
    cluster.create("configmaps", configmap("late"))
    assert soon(lambda: "late" in named(mirror))
    assert len(lists) == 1
    kube.close()
    mirror.close()


def is_expired(kube: Kube, cluster: Cluster) -> bool:
    """Of a watch from the cluster's beginning; a server that has just started may say 429."""
    error = raised(lambda: next(iter(kube.watch(PODS, cluster.namespace, "1"))))
    return isinstance(error, Expired) and "too old" in error.what


def test_a_mirror_lists_again_where_a_restarted_server_has_forgotten(
    cluster: Cluster, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[object] = []
    listing = kube.list

    def counted(*words: Any, **more: Any) -> Any:
        lists.append(words)
        return listing(*words, **more)

    monkeypatch.setattr(kube, "list", counted)
    mirror = Mirror(kube, PODS, cluster.namespace)
    mirror.start()
    assert named(mirror) == set()
    for k in range(3):
        cluster.create("configmaps", configmap(f"c{k}"))
    cluster.api.restart()
    assert soon(lambda: is_expired(kube, cluster), RESTART_S)
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"},
        "spec": {"containers": [{"name": "x", "image": "x"}]},
    }  # fmt: skip
    cluster.create("pods", pod)
    assert soon(lambda: named(mirror) == {"late"}, RESTART_S)
    assert len(lists) >= 2
    mirror.close()


def test_a_burst_is_followed_through_a_restart_of_the_server(cluster: Cluster) -> None:
    provider = cluster.open()
    provider.request(RENTAL)
    cluster.make_node("node1")
    cluster.make_pods()
    comes_to(provider, Phase.COMING, "0 of 3")
    cluster.api.restart()
    comes_to(provider, Phase.COMING, "0 of 3")
    cluster.pods_are_ready("small-0", 0, 1, 2)
    comes_to(provider, Phase.READY, within_s=RESTART_S)


def test_a_server_that_is_away_is_said_and_is_found_again(cluster: Cluster) -> None:
    cluster.bounds = replace(QUICK, stale_s=0.5, call_s=1)
    provider = cluster.open()
    provider.request(RENTAL)
    comes_to(provider, Phase.COMING)
    cluster.api.stop()
    try:
        assert soon(lambda: raised(provider.observe), 10)
        for call in (provider.observe, lambda: provider.release("small-0")):
            error = raised(call)
            assert isinstance(error, KubeError)
            assert "no answer" in error.what
    finally:
        cluster.api.restart()
    assert soon(lambda: raised(provider.observe) is None, RESTART_S)
    comes_to(provider, Phase.COMING)


def test_a_mirror_that_waits_for_news_can_be_closed(cluster: Cluster, kube: Kube) -> None:
    before = {*threading.enumerate()}
    mirrors = [Mirror(kube, one, cluster.namespace) for one in (PODS, CONFIGMAPS, MINICLUSTERS)]
    for mirror in mirrors:
        mirror.start()
        mirror.objects()
    for mirror in mirrors:
        mirror.close()
    assert {*threading.enumerate()} <= before
