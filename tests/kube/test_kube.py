"""The Kubernetes client against a loopback API server: what is refused, tried again and watched."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kube_certificates import make_certificates
from kube_server import TOKEN, KubeServer
from kube_site import NS, QUICK, pod_of, soon

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.kube import MINICLUSTERS, PODS, SECRETS, Bounds, Kube, open_kube
from flux_flex.host.kube_errors import FieldConflict, KubeError, Replaced


def cluster_of(name: str, size: int = 2, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "flux-framework.org/v1alpha2",
        "kind": "MiniCluster",
        "metadata": {"name": name, "namespace": NS, "labels": labels or {"a": "b"}},
        "spec": {"size": size},
    }


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
    assert "data" not in kube.list(SECRETS, NS)[0][0]
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


@pytest.mark.parametrize("items", ["[{}]", '["x"]', '{"a": 1}', '[{"metadata": "x"}]', '"x"'])
def test_a_list_of_what_are_no_objects_is_an_error(
    server: KubeServer, kube: Kube, items: str
) -> None:
    body = {"items": json.loads(items), "metadata": {"resourceVersion": "1"}}
    server.fail("GET", "pods", 200, status_body=body)
    with pytest.raises(KubeError, match="no objects"):
        kube.list(PODS, NS)


@pytest.mark.parametrize("details", ["x", {"causes": "x"}, {"causes": ["x", {"reason": 1}]}, [1]])
def test_a_status_of_another_shape_is_an_error_like_any(
    server: KubeServer, kube: Kube, details: object
) -> None:
    body = {"message": ["odd"], "reason": 5, "details": details}
    server.fail("GET", "pods", 409, status_body=body)
    with pytest.raises(KubeError, match="odd"):
        kube.get(PODS, "a", NS)


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


def test_what_is_not_in_the_schema_is_not_tried_again(server: KubeServer, kube: Kube) -> None:
    said = "failed to create typed patch object: .spec.x: field not declared in schema"
    server.fail("PATCH", "miniclusters", 500, status_body={"message": said})
    with pytest.raises(KubeError, match="not declared in schema") as caught:
        kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    assert "Flux Operator" in caught.value.remedy
    assert len(server.calls) == 1


def test_what_is_applied_to_one_object_is_not_applied_to_another_of_its_name(
    server: KubeServer, kube: Kube
) -> None:
    made = kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex")
    uid = made["metadata"]["uid"]
    kube.apply(MINICLUSTERS, cluster_of("a"), manager="flux-flex", uid=uid)
    for name, other in (("a", "another"), ("b", uid)):
        before = len(server.calls)
        with pytest.raises(Replaced):
            kube.apply(MINICLUSTERS, cluster_of(name), manager="flux-flex", force=True, uid=other)
        assert [call.verb for call in server.calls[before:]].count("patch") == 1
    assert server.names("miniclusters") == {"a"}


@pytest.mark.parametrize(
    ("message", "said", "remedy"),
    [
        ('secrets "s" is forbidden: User "u" cannot get resource "secrets" in: czNj',
         'User "u" cannot get resource "secrets"', "rbac"),
        ('secrets "s" is forbidden: ', "the account cannot create it", "rbac"),
        ('secrets "s" is forbidden: exceeded quota: q, czNj', "exceeded quota", "quotas"),
        ("czNj is not allowed here", "Forbidden", "admission"),
    ],
)  # fmt: skip
def test_why_a_secret_is_forbidden_is_said_and_no_more(
    server: KubeServer, kube: Kube, message: str, said: str, remedy: str
) -> None:
    body = {"reason": "Forbidden", "message": message}
    server.fail("GET", "secrets", 403, status_body=body)
    with pytest.raises(KubeError) as caught:
        kube.get(SECRETS, "s", NS)
    assert caught.value.what == said
    assert remedy in caught.value.remedy


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
