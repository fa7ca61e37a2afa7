"""The Kubernetes client against a loopback API server: what is refused, tried again and watched."""

from __future__ import annotations

import base64
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "burst"))

from kube_server import TOKEN, KubeServer, make_certificates

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.kube import (
    MINICLUSTERS,
    PODS,
    SECRETS,
    Bounds,
    Expired,
    FieldConflict,
    Kube,
    KubeError,
    open_kube,
)
from flux_flex.host.kube_mirror import Mirror

NS = "bursts"
QUICK = Bounds(
    connect_s=2, read_s=2, call_s=5, tries=4, pause_s=(0.01, 0.05), watch_s=10, stale_s=60
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server(certificates: Path) -> Iterator[KubeServer]:
    with KubeServer(certificates) as running:
        yield running


@pytest.fixture
def kube(server: KubeServer, tmp_path: Path) -> Iterator[Kube]:
    opened = open_kube(str(server.kubeconfig(tmp_path / "config")), bounds=QUICK)
    yield opened
    opened.close()


def cluster_of(name: str, size: int = 2, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "flux-framework.org/v1alpha2",
        "kind": "MiniCluster",
        "metadata": {"name": name, "namespace": NS, "labels": labels or {"a": "b"}},
        "spec": {"size": size},
    }


def pod_of(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": NS, "labels": labels}, "spec": {}}


def soon(condition: Callable[[], object], within_s: float = 5.0) -> bool:
    """Whether something comes to be true; looked at often, for it is told in other threads."""
    end = time.monotonic() + within_s
    never = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        never.wait(0.005)
    return True


# -- kubeconfig and TLS ----------------------------------------------------------------------------


def test_a_kubeconfig_that_does_not_verify_tls_is_refused(
    server: KubeServer, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    run = {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(ran)]}
    path = server.kubeconfig(
        tmp_path / "config", cluster={"insecure-skip-tls-verify": True}, user={"exec": run}
    )
    with pytest.raises(BadInput, match="insecure-skip-tls-verify") as caught:
        open_kube(str(path), allow_exec=True)
    assert not ran.exists()
    assert "certificate-authority-data" in caught.value.remedy
    assert not server.calls


def test_a_server_without_tls_is_refused(server: KubeServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "config", cluster={"server": "http://127.0.0.1:1"})
    with pytest.raises(BadInput, match="not https"):
        open_kube(str(path))


def test_a_server_with_another_certificate_is_not_believed(
    server: KubeServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_certificates(other)
    ca = base64.b64encode((other / "ca.crt").read_bytes()).decode()
    path = server.kubeconfig(tmp_path / "config", cluster={"certificate-authority-data": ca})
    kube = open_kube(str(path), bounds=QUICK)
    with pytest.raises(KubeError, match="TLS: "):
        kube.get(PODS, "a", NS)
    kube.close()
    assert not server.calls


def test_a_command_for_credentials_runs_only_where_it_is_allowed(
    server: KubeServer, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!/bin/sh\ntouch {ran}\n"
        'echo \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
        f' "status": {{"token": "{TOKEN}"}}}}\'\n'
    )
    plugin.chmod(0o700)
    run = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}
    path = server.kubeconfig(tmp_path / "config", user={"exec": run})
    with pytest.raises(BadInput, match="runs the command") as caught:
        open_kube(str(path))
    assert "allow_exec" in caught.value.remedy
    assert not ran.exists()
    kube = open_kube(str(path), allow_exec=True, bounds=QUICK)
    assert kube.get(PODS, "a", NS) is None
    assert ran.exists()
    kube.close()


def test_auth_providers_which_run_commands_or_do_not_verify_are_refused(
    server: KubeServer, tmp_path: Path
) -> None:
    user = {"auth-provider": {"name": "oidc", "config": {}}}
    with pytest.raises(BadInput, match="auth-provider"):
        open_kube(str(server.kubeconfig(tmp_path / "config", user=user)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not YAML"), ("[]", "no current context"), ("a: b", "no current context"),
        ("current-context: x", "no context 'x'"), (None, "No such file"),
        ("{current-context: x, contexts: [{name: x, context: y}]}", "no context 'x'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_kubeconfig_is_said(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=said):
        open_kube(str(path))


def test_a_context_is_chosen_by_its_name(server: KubeServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "config")
    open_kube(str(path), "test").close()
    with pytest.raises(BadInput, match="no context 'other'"):
        open_kube(str(path), "other")


def test_credentials_that_were_renewed_in_their_file_are_read_again(
    server: KubeServer, tmp_path: Path
) -> None:
    path = server.kubeconfig(tmp_path / "config", user={"token": "old"})
    kube = open_kube(str(path), bounds=QUICK)
    with pytest.raises(KubeError, match="Unauthorized") as caught:
        kube.get(PODS, "a", NS)
    assert "renew" in caught.value.remedy
    server.kubeconfig(path)
    assert kube.get(PODS, "a", NS) is None
    kube.close()


def test_a_file_that_the_package_cannot_use_is_said(server: KubeServer, tmp_path: Path) -> None:
    user = {"client-certificate": str(tmp_path / "none"), "client-key": str(tmp_path / "none")}
    with pytest.raises(BadInput, match=r"cannot be used: .*does not exist"):
        open_kube(str(server.kubeconfig(tmp_path / "config", user=user)))


# -- verbs -----------------------------------------------------------------------------------------


def test_what_is_applied_is_there_and_applied_again_is_not_changed(
    server: KubeServer, kube: Kube
) -> None:
    first = kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    again = kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
    changed = kube.apply(MINICLUSTERS, cluster_of("a", size=3), manager="flux-flex")
    assert changed["spec"] == {"size": 3}


def test_a_field_of_another_manager_is_not_taken_and_its_owner_is_named(
    server: KubeServer, kube: Kube
) -> None:
    server.put("miniclusters", cluster_of("a", size=9), manager="argocd")
    with pytest.raises(FieldConflict, match=r'\.spec\.size: conflict with "argocd"') as caught:
        kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    assert "force_conflicts" in caught.value.remedy
    assert [call.verb for call in server.calls] == ["patch"]
    forced = kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex", force=True)
    assert forced["spec"] == {"size": 2}


def test_the_content_of_a_secret_never_comes_back(server: KubeServer, kube: Kube) -> None:
    body = {
        "apiVersion": "v1", "kind": "Secret", "data": {"k": "czNjcjN0"},
        "metadata": {"name": "s", "namespace": NS},
    }  # fmt: skip
    made = kube.apply(SECRETS, body, manager="flux-flex")
    assert "data" not in made
    found = kube.get(SECRETS, "s", NS)
    assert found is not None
    assert "data" not in found
    server.fail("PATCH", "secrets", 422, status_body={"reason": "Invalid", "message": "czNjcjN0"})
    with pytest.raises(KubeError) as caught:
        kube.apply(SECRETS, body, manager="flux-flex")
    assert "czNjcjN0" not in str(caught.value)
    assert "Invalid" in str(caught.value)


def test_only_the_object_of_that_uid_is_deleted(server: KubeServer, kube: Kube) -> None:
    uid = server.put("pods", pod_of("a"))["metadata"]["uid"]
    kube.delete(PODS, "a", NS, uid="another")
    assert server.names("pods") == {"a"}
    kube.delete(PODS, "a", NS, uid=uid)
    kube.delete(PODS, "a", NS, uid=uid)
    assert not server.names("pods")


def test_a_long_list_comes_in_pages(server: KubeServer, kube: Kube) -> None:
    server.page = 2
    for k in range(5):
        server.put("pods", pod_of(f"p{k}", x="1"))
    server.put("pods", pod_of("other", x="2"))
    found, version = kube.list(PODS, NS, labels="x=1")
    assert [one["metadata"]["name"] for one in found] == [f"p{k}" for k in range(5)]
    assert version


def test_pages_that_have_expired_are_asked_for_again_as_one(server: KubeServer, kube: Kube) -> None:
    server.put("pods", pod_of("a"))
    server.fail("GET", "pods", 410)
    assert len(kube.list(PODS, NS)[0]) == 1
    assert "limit" not in server.calls[-1].query


def test_create_says_whether_it_was_there(kube: Kube) -> None:
    assert kube.create(PODS, pod_of("a"), NS)
    assert not kube.create(PODS, pod_of("a"), NS)


# -- what is tried again ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 0])
def test_what_may_pass_is_tried_again(server: KubeServer, kube: Kube, status: int) -> None:
    server.fail("PATCH", "miniclusters", status, times=2)
    kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    assert [call.verb for call in server.calls].count("patch") == 3


def test_a_conflict_of_versions_is_tried_again(server: KubeServer, kube: Kube) -> None:
    server.fail("PATCH", "miniclusters", 409)
    kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    assert server.names("miniclusters") == {"a"}


def test_a_server_that_asks_to_wait_is_given_that_time(server: KubeServer, kube: Kube) -> None:
    server.fail("GET", "pods", 429, headers={"Retry-After": "1"})
    began_s = time.monotonic()
    kube.get(PODS, "a", NS)
    assert 1.0 <= time.monotonic() - began_s < 3


def test_a_wait_that_is_longer_than_the_call_may_take_is_an_error_at_once(
    server: KubeServer, kube: Kube
) -> None:
    server.fail("GET", "pods", 429, headers={"Retry-After": "3600"})
    with pytest.raises(KubeError) as caught:
        kube.get(PODS, "a", NS)
    assert caught.value.status == 429
    assert len(server.calls) == 1


def test_tries_are_bounded(server: KubeServer, kube: Kube) -> None:
    server.fail("GET", "pods", 503, times=100)
    with pytest.raises(KubeError) as caught:
        kube.get(PODS, "a", NS)
    assert caught.value.status == 503
    assert len(server.calls) == QUICK.tries


@pytest.mark.parametrize("status", [400, 403, 405, 422])
def test_what_is_refused_is_not_tried_again(server: KubeServer, kube: Kube, status: int) -> None:
    server.fail("PATCH", "miniclusters", status)
    with pytest.raises(KubeError, match="scripted") as caught:
        kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    assert caught.value.status == status
    assert len(server.calls) == 1
    assert ("kubernetes-rbac.yaml" in caught.value.remedy) == (status == 403)


def test_a_slow_answer_ends_in_time(server: KubeServer, tmp_path: Path) -> None:
    bounds = Bounds(connect_s=1, read_s=0.1, call_s=1, tries=2, pause_s=(0.01, 0.01))
    kube = open_kube(str(server.kubeconfig(tmp_path / "config")), bounds=bounds)
    server.fail("GET", "pods", 200, times=2, slow_s=0.5)
    with pytest.raises(KubeError, match="no answer"):
        kube.get(PODS, "a", NS)
    kube.close()


def test_an_answer_that_only_drips_ends_in_time(server: KubeServer, tmp_path: Path) -> None:
    bounds = Bounds(connect_s=1, read_s=1, call_s=0.3, tries=2, pause_s=(0.01, 0.01))
    kube = open_kube(str(server.kubeconfig(tmp_path / "config")), bounds=bounds)
    server.fail("GET", "pods", 200, times=2, drip_s=0.05)
    began_s = time.monotonic()
    with pytest.raises(KubeError, match=r"took longer than 0\.3 s"):
        kube.get(PODS, "a", NS)
    assert time.monotonic() - began_s < 3
    kube.close()


def test_a_server_that_is_not_there_is_said_with_its_place(
    server: KubeServer, tmp_path: Path
) -> None:
    cluster = {"server": "https://127.0.0.1:1"}
    path = server.kubeconfig(tmp_path / "config", cluster=cluster)
    kube = open_kube(str(path), bounds=QUICK)
    with pytest.raises(KubeError, match="no answer") as caught:
        kube.get(PODS, "a", NS)
    assert caught.value.where == "https://127.0.0.1:1 bursts/pods/a"
    kube.close()


def test_closing_ends_the_waiting_for_another_try(server: KubeServer, tmp_path: Path) -> None:
    bounds = Bounds(call_s=60, pause_s=(30, 30))
    kube = open_kube(str(server.kubeconfig(tmp_path / "config")), bounds=bounds)
    server.fail("GET", "pods", 503, times=9)
    errors: list[FlexError] = []

    def ask() -> None:
        try:
            kube.get(PODS, "a", NS)
        except FlexError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert soon(lambda: server.calls)
    kube.close()
    thread.join(5)
    assert len(errors) == 1


# -- watches ---------------------------------------------------------------------------------------


@pytest.fixture
def mirror(server: KubeServer, kube: Kube) -> Iterator[Mirror]:
    server.put("pods", pod_of("first", x="1"))
    server.put("pods", pod_of("other", x="2"))
    made = Mirror(kube, PODS, NS, labels="x=1")
    made.start()
    yield made
    kube.close()
    made.close()


def names(mirror: Mirror) -> set[str]:
    return {one["metadata"]["name"] for one in mirror.objects()}


def verbs(server: KubeServer) -> list[str]:
    return [call.verb for call in server.calls]


def test_a_mirror_has_what_is_there_and_what_comes_and_goes(
    server: KubeServer, mirror: Mirror
) -> None:
    assert names(mirror) == {"first"}
    server.put("pods", pod_of("second", x="1"))
    server.put("pods", pod_of("third", x="2"))
    assert soon(lambda: names(mirror) == {"first", "second"})
    server.remove("pods", NS, "first")
    assert soon(lambda: names(mirror) == {"second"})
    assert verbs(server) == ["list", "watch"]


def test_an_event_may_come_in_pieces(server: KubeServer, mirror: Mirror) -> None:
    assert soon(lambda: "watch" in verbs(server))
    server.pieces = 3
    server.put("pods", pod_of("second", x="1"))
    assert soon(lambda: names(mirror) == {"first", "second"})
    assert verbs(server) == ["list", "watch"]


def test_a_mirror_tells_when_something_has_changed(server: KubeServer, kube: Kube) -> None:
    told = threading.Event()
    mirror = Mirror(kube, PODS, NS, changed=told.set)
    mirror.start()
    assert told.wait(5)
    mirror.objects()
    told.clear()
    server.put("pods", pod_of("a"))
    assert told.wait(5)
    mirror.close()


@pytest.mark.parametrize("half", [False, True], ids=["between lines", "in a line"])
def test_a_watch_that_is_cut_goes_on_where_it_was(
    server: KubeServer, mirror: Mirror, half: bool
) -> None:
    assert soon(lambda: verbs(server) == ["list", "watch"])
    server.cut_watches(half_a_line=half)
    server.put("pods", pod_of("second", x="1"))
    assert soon(lambda: names(mirror) == {"first", "second"})
    assert verbs(server).count("list") == 1
    assert verbs(server).count("watch") >= 2


def test_a_bookmark_spares_listing_again(server: KubeServer, mirror: Mirror) -> None:
    server.bookmark_s = 0.02
    assert soon(lambda: "watch" in verbs(server))
    server.put("pods", pod_of("third", x="2"))
    version = str(server._version)
    watched = "allowWatchBookmarks"
    assert soon(lambda: mirror._version == version)
    server.cut_watches()
    assert soon(lambda: verbs(server).count("watch") == 2)
    assert server.calls[-1].query["resourceVersion"] == version
    assert server.calls[-1].query[watched] == "true"


def test_history_that_is_gone_is_listed_again(server: KubeServer, mirror: Mirror) -> None:
    assert soon(lambda: "watch" in verbs(server))
    with server.news:
        del server.objects["pods", NS, "first"]  # nobody hears of it
        server.forget()
    assert soon(lambda: names(mirror) == set())
    assert verbs(server).count("list") == 2
    server.put("pods", pod_of("second", x="1"))
    assert soon(lambda: names(mirror) == {"second"})


def test_a_watch_that_is_refused_with_410_is_listed_again(
    server: KubeServer, mirror: Mirror
) -> None:
    assert soon(lambda: "watch" in verbs(server))
    server.fail("WATCH", "pods", 410)
    server.cut_watches()
    assert soon(lambda: verbs(server).count("list") == 2)
    server.put("pods", pod_of("second", x="1"))
    assert soon(lambda: names(mirror) == {"first", "second"})


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_watch_that_fails_is_taken_up_with_pauses(
    server: KubeServer, mirror: Mirror, status: int
) -> None:
    assert soon(lambda: "watch" in verbs(server))
    server.fail("WATCH", "pods", status, times=3)
    server.cut_watches()
    server.put("pods", pod_of("second", x="1"))
    assert soon(lambda: len(server.calls) >= 6)
    assert soon(lambda: names(mirror) == {"first", "second"})
    assert verbs(server).count("list") == 1


def test_without_contact_a_mirror_answers_only_for_a_while(
    server: KubeServer, tmp_path: Path
) -> None:
    bounds = replace(QUICK, stale_s=0.2)
    kube = open_kube(str(server.kubeconfig(tmp_path / "config")), bounds=bounds)
    server.put("pods", pod_of("first"))
    mirror = Mirror(kube, PODS, NS)
    mirror.start()
    assert names(mirror) == {"first"}
    assert soon(lambda: "watch" in verbs(server))
    server.fail("WATCH", "pods", 503, times=10**6)
    server.cut_watches()
    assert names(mirror) == {"first"}

    def fails() -> bool:
        try:
            mirror.objects()
        except KubeError as error:
            return error.status == 503 or "no answer" in error.what
        return False

    assert soon(fails)
    server.faults.clear()
    assert soon(lambda: not fails())
    assert names(mirror) == {"first"}
    kube.close()
    mirror.close()


def test_a_first_list_that_is_refused_is_raised(server: KubeServer, kube: Kube) -> None:
    server.fail("GET", "pods", 403, times=10**6)
    mirror = Mirror(kube, PODS, NS)
    mirror.start()
    with pytest.raises(KubeError, match="scripted") as caught:
        mirror.objects()
    assert caught.value.status == 403
    kube.close()
    mirror.close()


def test_a_mirror_that_waits_for_news_can_be_closed(server: KubeServer, kube: Kube) -> None:
    server.bookmark_s = 60
    mirror = Mirror(kube, PODS, NS)
    mirror.start()
    mirror.objects()
    assert soon(lambda: "watch" in verbs(server))
    began_s = time.monotonic()
    mirror.close()
    assert time.monotonic() - began_s < 1
    assert not mirror._thread.is_alive()


def test_a_watch_from_a_forgotten_version_is_expired(server: KubeServer, kube: Kube) -> None:
    server.forget()
    with pytest.raises(Expired):
        kube.watch(PODS, NS, "1")
