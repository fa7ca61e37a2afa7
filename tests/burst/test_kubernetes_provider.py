"""Bursts as MiniClusters, with the real client against a loopback API server."""

from __future__ import annotations

import base64
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from burst_site import BIG, BOOT_S, TYPE, World, slots_of
from kube_server import GROUPS, KubeServer, make_certificates

from flux_flex.burst.ledger import KEY
from flux_flex.burst.providers import NoCapacity, Observed, Phase, Rental
from flux_flex.burst.providers.kubernetes import (
    KubernetesProvider,
    parse_kubernetes_config,
    read_secret,
)
from flux_flex.burst.providers.kubernetes_phase import observed
from flux_flex.burst.slots import Slot
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.instance import JobState
from flux_flex.host.kube import Bounds, FieldConflict, KubeError, open_kube

NS = "bursts"
IDENTITY = "cluster0"
CURVE = 'curve\n    public-key = "pub"\n    secret-key = "S9wV0Tt7hLkq2c-curve-secret"\n'
MUNGE = "munge-secret-8Fq2Z4"
QUICK = Bounds(connect_s=2, read_s=5, call_s=10, tries=4, pause_s=(0.01, 0.05), watch_s=20)
NO_CPU = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available."
RBAC = Path(__file__).parents[2] / "docs" / "kubernetes-rbac.yaml"


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


def secret_file(path: Path, content: str) -> str:
    path.write_text(content)
    path.chmod(0o400)
    return str(path)


class Site:
    """A cluster, and what is needed to open providers for it."""

    def __init__(self, server: KubeServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.opened: list[KubernetesProvider] = []
        self.table: dict[str, Any] = {
            "kubeconfig": str(server.kubeconfig(folder / "config")),
            "namespace": NS,
            "image": "ghcr.io/example/flux:0.88",
            "lead": {"name": "own0", "address": "203.0.113.7", "hosts": "own[0-1]"},
            "curve_cert": secret_file(folder / "curve.cert", CURVE),
            "munge_key": secret_file(folder / "munge.key", MUNGE),
            "unschedulable_after": 0,
        }

    def open(
        self,
        identity: str = IDENTITY,
        slots: Sequence[Slot] | None = None,
        own_nodes: bool = False,
        **changes: Any,
    ) -> KubernetesProvider:
        config = parse_kubernetes_config(self.table | changes)
        kube = open_kube(config.kubeconfig, bounds=QUICK)
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

    def warn(self, about: dict[str, Any], reason: str, message: str) -> None:
        event = {
            "metadata": {"name": f"event-{message[:20]}", "namespace": NS},
            "type": "Warning", "reason": reason, "message": message, "involvedObject": about,
        }  # fmt: skip
        self.server.put("events", event)


RENTAL = Rental("small-0", "small", tuple(f"small-0-{i}" for i in range(3)), ("ƒ2XwYQ37M",))


@pytest.fixture
def site(server: KubeServer, tmp_path: Path) -> Iterator[Site]:
    made = Site(server, tmp_path)
    yield made
    for provider in made.opened:
        provider.close()


def soon(condition: Callable[[], object], within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    never = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        never.wait(0.005)
    return True


def seen(provider: KubernetesProvider, burst: str = "small-0") -> Observed | None:
    return next((one for one in provider.observe() if one.burst == burst), None)


def comes_to(provider: KubernetesProvider, phase: Phase, said: str = "") -> Observed:
    """What is observed once it is in a phase, for a reason that has these words."""
    found: list[Observed] = []

    def is_there() -> bool:
        one = seen(provider)
        found[:] = [one] if one is not None else []
        return one is not None and one.phase is phase and said in one.reason

    assert soon(is_there), found
    return found[0]


# -- what is made ----------------------------------------------------------------------------------


def test_a_burst_is_a_minicluster_and_the_secrets_that_it_owns(site: Site) -> None:
    site.open().request(RENTAL)
    cluster = site.server.get("miniclusters", NS, "small-0")
    assert cluster is not None
    labels = {
        "app.kubernetes.io/managed-by": "flux-flex",
        "flux-flex.io/burst": "small-0",
        "flux-flex.io/instance": IDENTITY,
    }
    assert cluster["metadata"]["labels"] == cluster["spec"]["pod"]["labels"] == labels
    assert cluster["spec"]["size"] == 3
    hosts = cluster["spec"]["flux"]["brokerConfig"]
    assert 'connect = "tcp://203.0.113.7:8050"' in hosts
    assert hosts.index('"own1"') < hosts.index('"small-0-[0-3]"') < hosts.index('"small-1-[0-3]"')
    for name, key, content in (("curve", "curve.cert", CURVE), ("munge", "munge.key", MUNGE)):
        secret = site.server.get("secrets", NS, f"small-0-{name}")
        assert secret is not None
        assert base64.b64decode(secret["data"][key]).decode() == content
        assert secret["metadata"]["labels"] == labels
        assert secret["metadata"]["ownerReferences"][0]["uid"] == cluster["metadata"]["uid"]
    names = [one["secretName"] for one in cluster["spec"]["containers"][0]["volumes"].values()]
    assert names == ["small-0-curve", "small-0-munge"]


@pytest.mark.parametrize("own_nodes", [True, False])
def test_pods_keep_to_the_nodes_of_their_burst_where_it_has_its_own(
    site: Site, own_nodes: bool
) -> None:
    site.open(own_nodes=own_nodes).request(RENTAL)
    cluster = site.server.get("miniclusters", NS, RENTAL.burst)
    assert cluster is not None
    wanted = {"node.kubernetes.io/instance-type": RENTAL.type}
    if own_nodes:
        wanted |= {"flux-flex.io/burst": RENTAL.burst, "flux-flex.io/instance": IDENTITY}
    assert cluster["spec"]["pod"]["nodeSelector"] == wanted


def test_asked_again_it_changes_nothing(site: Site) -> None:
    site.open().request(RENTAL)
    before = dict(site.server.objects)
    site.open().request(RENTAL)
    assert site.server.objects == before


def test_without_a_munge_key_there_is_no_secret_for_it(site: Site) -> None:
    site.open(munge_key="").request(RENTAL)
    assert site.server.names("secrets") == {"small-0-curve"}


def test_the_namespace_is_made_only_if_that_is_configured(site: Site) -> None:
    site.open().request(RENTAL)
    assert not site.server.names("namespaces")
    site.open(create_namespace=True).request(RENTAL)
    site.open(create_namespace=True).request(RENTAL)
    assert site.server.names("namespaces") == {NS}


def test_what_another_manager_owns_is_left_to_it_and_it_is_named(site: Site) -> None:
    provider = site.open()
    provider.request(RENTAL)
    cluster = site.server.get("miniclusters", NS, "small-0")
    assert cluster is not None
    site.server.put("miniclusters", cluster | {"spec": cluster["spec"] | {"size": 1}}, "argocd")
    with pytest.raises(FieldConflict, match=r'\.spec\.size.*"argocd"'):
        provider.request(RENTAL)
    assert (site.server.get("miniclusters", NS, "small-0") or {})["spec"]["size"] == 1
    site.open(force_conflicts=True).request(RENTAL)
    assert (site.server.get("miniclusters", NS, "small-0") or {})["spec"]["size"] == 3


def test_a_minicluster_of_somebody_else_is_not_touched(site: Site) -> None:
    foreign = {"metadata": {"name": "small-0", "namespace": NS}, "spec": {"size": 7}}
    site.server.put("miniclusters", foreign)
    assert "flux-flex did not make it" in str(site.refuses())
    assert (site.server.get("miniclusters", NS, "small-0") or {})["spec"] == {"size": 7}
    assert not site.server.names("secrets")


def test_a_burst_of_another_instance_is_not_touched(site: Site) -> None:
    site.open("other").request(RENTAL)
    assert "belongs to the instance other" in str(site.refuses())
    ours = site.open()
    ours.release("small-0")
    assert site.server.names("miniclusters") == {"small-0"}
    assert site.server.names("secrets") == {"small-0-curve", "small-0-munge"}
    assert not ours.observe()


def test_a_secret_of_somebody_else_is_not_touched(site: Site) -> None:
    foreign = {"metadata": {"name": "small-0-munge", "namespace": NS}, "data": {"a": "b"}}
    site.server.put("secrets", foreign)
    assert "secrets/small-0-munge" in str(site.refuses())
    assert not site.server.names("miniclusters")
    site.open().release("small-0")
    assert site.server.names("secrets") == {"small-0-munge"}


def test_a_burst_that_still_goes_is_not_asked_for_again(site: Site) -> None:
    provider = site.open()
    provider.request(RENTAL)
    provider.release("small-0")
    with pytest.raises(FlexError, match="still goes away"):
        provider.request(RENTAL)


def test_a_quota_is_no_capacity(site: Site) -> None:
    body = {"reason": "Forbidden", "message": 'miniclusters "small-0" is forbidden: exceeded quota'}
    site.server.fail("PATCH", "miniclusters", 403, status_body=body)
    assert isinstance(site.refuses(), NoCapacity)


def test_a_refusal_names_the_rights_that_are_missing(site: Site) -> None:
    site.server.fail("PATCH", "miniclusters", 403)
    assert "kubernetes-rbac.yaml" in site.refuses().remedy


def test_a_type_that_is_not_rented_is_said(site: Site) -> None:
    with pytest.raises(BadInput, match="no node type 'huge'"):
        site.open().request(Rental("small-0", "huge", RENTAL.hosts))
    assert [one.name for one in site.open().types()] == ["small", "big"]


@pytest.mark.parametrize("status", [429, 500, 503, 409, 0])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_request_gets_over_what_passes(site: Site, status: int, after: bool) -> None:
    for plural in ("miniclusters", "secrets"):
        site.server.fail("PATCH", plural, status, times=2, after=after)
    site.open().request(RENTAL)
    assert site.server.names("secrets") == {"small-0-curve", "small-0-munge"}


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = Path(secret_file(tmp_path / "key", MUNGE))
    path.chmod(mode)
    with pytest.raises(BadInput, match=f"others can read it: its mode is {mode:04o}") as caught:
        read_secret(str(path))
    assert MUNGE not in str(caught.value)


def test_a_secret_is_a_file_with_something_in_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, said in (
        (tmp_path / "pipe", "not a file"), (tmp_path, "cannot be read|not a file"),
        (tmp_path / "none", "No such file"), (secret_file(tmp_path / "empty", ""), "empty"),
        (secret_file(tmp_path / "large", "x" * 70_000), "too large"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            read_secret(str(path))


def test_a_secret_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_file(tmp_path / "key", MUNGE)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BadInput, match="another user owns it"):
        read_secret(path)


def test_bad_secrets_are_refused_before_anything_is_asked(site: Site) -> None:
    Path(site.table["curve_cert"]).chmod(0o644)
    with pytest.raises(BadInput, match="others can read it"):
        site.open()
    assert not site.server.calls


def test_secrets_are_seen_nowhere_but_in_the_secrets(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def tell(error: FlexError) -> None:
        said.extend([str(error), repr(error), *traceback.format_exception(error)])

    provider = site.open()
    provider.request(RENTAL)
    site.make_pods()
    comes_to(provider, Phase.COMING)
    echo = site.server.calls[-1].body + CURVE + base64.b64encode(CURVE.encode()).decode()
    for status in (422, 503):
        site.server.fail("PATCH", "secrets", status, times=9, status_body={"message": echo})
        tell(site.refuses())
        site.server.faults.clear()
    secret = site.server.get("secrets", NS, "small-0-curve")
    assert secret is not None
    site.server.put("secrets", secret | {"data": {"curve.cert": "bWluZQ=="}}, "argocd")
    tell(site.refuses())
    provider.release("small-0")
    for call in site.server.calls:
        said += [call.url, *call.headers.values(), call.body if call.plural != "secrets" else ""]
    for key in ("miniclusters", "pods", "events"):
        said += [str(one) for (plural, *_), one in site.server.objects.items() if plural == key]
    text = "\n".join([*said, caplog.text])
    assert "argocd" in text
    for secret_text in (CURVE, MUNGE):
        encoded = base64.b64encode(secret_text.encode()).decode()
        for part in (encoded, encoded[8:24], *secret_text.split()):
            assert len(part) < 8 or part in ("public-key", "secret-key") or part not in text


# -- what is observed ------------------------------------------------------------------------------


@pytest.fixture
def provider(site: Site) -> KubernetesProvider:
    """A provider that has asked for a burst, whose pods have been made."""
    made = site.open()
    made.observe()
    made.request(RENTAL)
    site.make_pods()
    return made


def test_a_burst_is_seen_as_soon_as_it_was_asked_for(site: Site) -> None:
    made = site.open()
    assert not made.observe()
    site.server.fail("WATCH", "miniclusters", 503, times=20)
    site.server.cut_watches()
    made.request(RENTAL)
    assert seen(made) == Observed("small-0", Phase.COMING, 3, "it has no pods yet")


def test_a_burst_that_was_taken_away_before_the_watch_told_of_it_is_gone(site: Site) -> None:
    made = site.open()
    made.observe()
    site.server.fail("WATCH", "miniclusters", 503, times=10**6)
    site.server.cut_watches()
    made.request(RENTAL)
    assert seen(made) is not None
    site.server.remove("miniclusters", NS, "small-0")
    assert seen(made) is None


def test_it_is_ready_when_all_its_pods_are(site: Site, provider: KubernetesProvider) -> None:
    comes_to(provider, Phase.COMING, "0 of 3 brokers are ready")
    site.pods_are_ready("small-0", 0, 1)
    comes_to(provider, Phase.COMING, "2 of 3 brokers are ready")
    site.pods_are_ready("small-0", 2)
    assert comes_to(provider, Phase.READY) == Observed("small-0", Phase.READY, 3)


def test_observing_asks_nothing_of_the_server(site: Site, provider: KubernetesProvider) -> None:
    comes_to(provider, Phase.COMING, "0 of 3")
    assert soon(lambda: [call.verb for call in site.server.calls].count("watch") == 3)
    before = len(site.server.calls)
    for _ in range(20):
        provider.observe()
    assert len(site.server.calls) == before


def test_a_change_wakes_whoever_waits_for_it(site: Site, provider: KubernetesProvider) -> None:
    comes_to(provider, Phase.COMING, "0 of 3")
    woken = threading.Event()
    provider.on_change = woken.set
    site.pods_are_ready("small-0", 0)
    assert woken.wait(5)


def test_pods_that_find_no_node_fail_for_want_of_capacity(
    site: Site, provider: KubernetesProvider
) -> None:
    unscheduled = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_CPU,
    }  # fmt: skip
    site.set_pod("small-0", 1, phase="Pending", conditions=[unscheduled])
    failed = comes_to(provider, Phase.FAILED)
    assert failed.no_capacity
    assert failed.reason == f"small-0-1 finds no node: {NO_CPU}"


def test_the_schedulers_event_says_it_where_the_pod_does_not(
    site: Site, provider: KubernetesProvider
) -> None:
    pod = site.server.get("pods", NS, "small-0-0-x7x7x")
    assert pod is not None
    about = {"kind": "Pod", "uid": pod["metadata"]["uid"]}
    site.warn(about, "FailedScheduling", "no nodes available to schedule pods")
    failed = comes_to(provider, Phase.FAILED)
    assert failed.no_capacity
    assert failed.reason == "small-0-0 finds no node: no nodes available to schedule pods"


def test_pods_that_a_cluster_may_still_make_nodes_for_are_waited_for(site: Site) -> None:
    patient = site.open(unschedulable_after="10m")
    patient.request(RENTAL)
    site.make_pods()
    unscheduled = {"type": "PodScheduled", "reason": "Unschedulable", "message": NO_CPU}
    site.set_pod("small-0", 1, phase="Pending", conditions=[unscheduled])
    assert not comes_to(patient, Phase.COMING, "finds no node").no_capacity


def test_a_taint_is_no_want_of_capacity(site: Site, provider: KubernetesProvider) -> None:
    said = "0/3 nodes are available: 3 node(s) had untolerated taint {hpc: true}."
    unscheduled = {"type": "PodScheduled", "reason": "Unschedulable", "message": said}
    site.set_pod("small-0", 1, phase="Pending", conditions=[unscheduled])
    assert not comes_to(provider, Phase.FAILED, "untolerated taint").no_capacity


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_a_pod_without_its_image_has_failed(
    site: Site, provider: KubernetesProvider, reason: str, kind: str
) -> None:
    waiting = {"reason": reason, "message": "manifest unknown"}
    status = {"image": "ghcr.io/example/flux:0.88", "state": {"waiting": waiting}}
    site.set_pod("small-0", 2, "node1", phase="Pending", **{kind: [status]})
    failed = comes_to(provider, Phase.FAILED)
    assert failed.reason == (
        "small-0-2 cannot have the image ghcr.io/example/flux:0.88: manifest unknown"
    )
    assert not failed.no_capacity


def test_a_back_off_is_explained_by_the_pull_that_failed(
    site: Site, provider: KubernetesProvider
) -> None:
    pod = site.server.get("pods", NS, "small-0-2-x7x7x")
    assert pod is not None
    about = {"kind": "Pod", "uid": pod["metadata"]["uid"]}
    site.warn(about, "Failed", 'Failed to pull image "x": unauthorized')
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    status = {"state": {"waiting": waiting}}
    site.set_pod("small-0", 2, "node1", phase="Pending", containerStatuses=[status])
    comes_to(provider, Phase.FAILED, "unauthorized")


def test_a_broker_that_ends_again_and_again_has_failed(
    site: Site, provider: KubernetesProvider
) -> None:
    status = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    site.set_pod("small-0", 0, "node1", phase="Running", containerStatuses=[status])
    comes_to(provider, Phase.FAILED, "exit code 1 (Error)")


def test_what_holds_a_burst_up_is_said(site: Site, provider: KubernetesProvider) -> None:
    site.warn({"kind": "Job", "name": "small-1"}, "FailedCreate", "of another burst")
    site.warn({"kind": "Job", "name": "small-0"}, "FailedCreate", "exceeded quota: pods=3")
    comes_to(provider, Phase.COMING, "0 of 3 brokers are ready: exceeded quota: pods=3")


def test_a_burst_that_is_deleted_is_leaving_until_it_is_gone(
    site: Site, provider: KubernetesProvider
) -> None:
    site.pods_are_ready("small-0", 0, 1, 2)
    comes_to(provider, Phase.READY)
    provider.release("small-0")
    comes_to(provider, Phase.LEAVING, "3 of its pods are still there")
    site.server.finish_deletions()
    assert soon(lambda: seen(provider) is None)


def test_brokers_that_have_all_ended_have_failed() -> None:
    pod = {"metadata": {"uid": "1", "labels": {}}, "spec": {}, "status": {"phase": "Succeeded"}}
    cluster = {"metadata": {}, "spec": {"size": 1}}
    found = observed("a", cluster, [pod], [], give_up=False)
    assert (found.phase, found.reason) == (Phase.FAILED, "its brokers have ended")


def test_a_pod_that_is_being_replaced_does_not_count() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    old = {"metadata": {"uid": "1", "deletionTimestamp": "x"}, "spec": {}, "status": ready}
    new = {"metadata": {"uid": "2"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}
    cluster = {"metadata": {}, "spec": {"size": 1}}
    assert observed("a", cluster, [old, new], [], give_up=False).phase is Phase.COMING


def test_a_new_process_sees_what_the_old_one_made(site: Site) -> None:
    first = site.open()
    first.request(RENTAL)
    site.make_pods()
    site.pods_are_ready("small-0", 0, 1, 2)
    first.close()
    second = site.open()
    assert [*second.observe()] == [Observed("small-0", Phase.READY, 3)]
    second.request(RENTAL)
    second.release("small-0")
    site.server.finish_deletions()
    assert not site.server.names("miniclusters")
    assert not site.server.names("secrets")


@pytest.mark.parametrize("trouble", ["410", "cut", "half", "429", "503"])
def test_readiness_is_seen_through_trouble(
    site: Site, provider: KubernetesProvider, trouble: str
) -> None:
    comes_to(provider, Phase.COMING, "0 of 3")
    if trouble.isdecimal():
        for plural in ("pods", "miniclusters", "events"):
            site.server.fail("WATCH", plural, int(trouble), times=2)
    site.server.cut_watches(half_a_line=trouble == "half")
    site.pods_are_ready("small-0", 0, 1, 2)
    comes_to(provider, Phase.READY)


def test_history_that_is_gone_is_listed_again_for_bursts(
    site: Site, provider: KubernetesProvider
) -> None:
    comes_to(provider, Phase.COMING, "0 of 3")
    site.server.forget()
    site.pods_are_ready("small-0", 0, 1, 2)
    comes_to(provider, Phase.READY)


def test_a_cluster_without_the_operator_is_said(site: Site) -> None:
    site.server.fail("GET", "miniclusters", 404, times=9)
    with pytest.raises(KubeError, match="scripted") as caught:
        site.open().observe()
    assert "Flux Operator" in caught.value.remedy


# -- what is taken away ----------------------------------------------------------------------------


def test_release_takes_away_what_was_made_and_nothing_else(
    site: Site, provider: KubernetesProvider
) -> None:
    for plural, name in (
        ("miniclusters", "small-00"), ("miniclusters", "small"), ("secrets", "small-0-curve2"),
        ("secrets", "small-0"), ("pods", "small-0-9"),
    ):  # fmt: skip
        site.server.put(plural, {"metadata": {"name": name, "namespace": NS}})
    provider.request(Rental("small-1", "small", ("small-1-0",)))
    provider.release("small-0")
    provider.release("small-0")
    site.server.finish_deletions()
    provider.release("small-0")
    assert site.server.names("miniclusters") == {"small-00", "small", "small-1"}
    left = {"small-0-curve2", "small-0", "small-1-curve", "small-1-munge"}
    assert site.server.names("secrets") == left
    assert site.server.names("pods") == {"small-0-9"}
    deletions = [call for call in site.server.calls if call.verb == "delete"]
    assert [call.name for call in deletions] == ["small-0", "small-0-curve", "small-0-munge"]
    assert all('"preconditions": {"uid"' in call.body for call in deletions)
    assert '"propagationPolicy": "Foreground"' in deletions[0].body


def test_secrets_without_their_minicluster_are_taken_away(site: Site) -> None:
    provider = site.open()
    provider.request(RENTAL)
    with site.server.news:
        del site.server.objects["miniclusters", NS, "small-0"]
    provider.release("small-0")
    assert not site.server.names("secrets")


def test_secrets_go_with_their_minicluster_whoever_deletes_it(site: Site) -> None:
    site.open().request(RENTAL)
    site.server.remove("miniclusters", NS, "small-0")
    assert not site.server.names("secrets")


# -- the lead broker -------------------------------------------------------------------------------


def service(kind: str, **more: Any) -> dict[str, Any]:
    port = {"port": 8050, "targetPort": 8050, "nodePort": 30093}
    spec = {"type": kind, "ports": [port], "selector": {"app": "lead"}} | more.pop("spec", {})
    return {"metadata": {"name": "lead", "namespace": NS}, "spec": spec, **more}


def connects_to(site: Site) -> str:
    lead = {"name": "own0", "hosts": "own[0-1]", "service": "lead"}
    site.open(lead=lead).request(RENTAL)
    cluster = site.server.get("miniclusters", NS, "small-0")
    assert cluster is not None
    address = cluster["spec"]["flux"]["bursting"]["leadBroker"]
    return f"{address['address']}:{address['port']}"


def balanced(**ingress: str) -> dict[str, Any]:
    return service("LoadBalancer", status={"loadBalancer": {"ingress": [ingress]}})


@pytest.mark.parametrize(
    ("body", "address"),
    [
        (balanced(ip="198.51.100.9"), "198.51.100.9:8050"),
        (balanced(hostname="lb.example.org"), "lb.example.org:8050"),
        (service("NodePort"), "198.51.100.3:30093"),
        (service("ClusterIP"), "lead.bursts.svc:8050"),
    ],
)
def test_the_lead_broker_is_found_by_its_service(
    site: Site, body: dict[str, Any], address: str
) -> None:
    site.server.put("services", body)
    pod = {"name": "lead-0", "namespace": NS, "labels": {"app": "lead"}}
    site.server.put("pods", {"metadata": pod, "spec": {"nodeName": "node1"}})
    addresses = [
        {"type": "InternalIP", "address": "10.0.0.3"},
        {"type": "ExternalIP", "address": "198.51.100.3"},
    ]
    site.server.put("nodes", {"metadata": {"name": "node1"}, "status": {"addresses": addresses}})
    assert connects_to(site) == address


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, "no such Service"),
        (service("LoadBalancer"), "no address yet"),
        (service("ExternalName"), "leads to no pod"),
        (service("NodePort"), "runs on no node"),
        (service("NodePort", spec={"selector": {}}), "selects no pods"),
        (service("NodePort", spec={"ports": [{"port": 1}, {"port": 2}]}), "leads to 8050"),
    ],
)
def test_a_service_that_leads_nowhere_is_said_before_anything_is_made(
    site: Site, body: dict[str, Any] | None, said: str
) -> None:
    if body is not None:
        site.server.put("services", body)
    with pytest.raises(FlexError, match=said):
        connects_to(site)
    assert not site.server.names("miniclusters")


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lead": {"name": "own0"}}, "either an address or a service"),
        ({"lead": {"name": "own0", "address": "a", "service": "b"}}, "either an address"),
        ({"kubeconfg": "x"}, "did you mean 'kubeconfig'"),
        ({"allow_exec": "yes"}, "allow_exec"),
        ({"image": "user:pass@x/y"}, "not an image reference"),
        ({"namespace": "Not-So"}, "namespace"),
        ({"lead": {"name": "own0", "address": "a b"}}, "lead.address"),
        ({"lead": {"name": "own0", "address": "a", "hosts": "other[0-1]"}}, "first host is other0"),
        ({"lead": {"name": "own0", "address": "a", "hosts": "own["}}, "lead.hosts"),
    ],
)
def test_what_no_manifest_can_be_made_from_is_refused_at_once(
    site: Site, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        site.open(**changes)


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        (Slot("s", "small", ("a", "b")), "not s-0 and so on"),
        (Slot("s", "small", ("s-0", "s-1"), (5, 6)), "do not begin with 2"),
    ],
)
def test_slots_that_pods_cannot_fill_are_refused(site: Site, slot: Slot, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        site.open(slots=[slot])


def test_an_identity_is_a_label(site: Site) -> None:
    with pytest.raises(BadInput, match="cannot be a label"):
        site.open("local:///run/flux")


def test_the_client_is_opened_by_the_configuration(site: Site) -> None:
    provider = KubernetesProvider(parse_kubernetes_config(site.table), (TYPE,), [], IDENTITY)
    assert [*provider.observe()] == []
    provider.close()


# -- rights ----------------------------------------------------------------------------------------


def test_the_rights_are_those_that_are_used_and_no_more(site: Site) -> None:
    site.server.put("services", service("NodePort"))
    pod = {"name": "lead-0", "namespace": NS, "labels": {"app": "lead"}}
    site.server.put("pods", {"metadata": pod, "spec": {"nodeName": "node1"}})
    status = {"addresses": [{"type": "InternalIP", "address": "10.0.0.3"}]}
    site.server.put("nodes", {"metadata": {"name": "node1"}, "status": status})
    lead = {"name": "own0", "hosts": "own[0-1]", "service": "lead"}
    provider = site.open(lead=lead, create_namespace=True)
    provider.observe()
    provider.request(RENTAL)
    comes_to(provider, Phase.COMING)
    assert soon(lambda: [call.verb for call in site.server.calls].count("watch") == 3)
    provider.release("small-0")
    used = {
        ("Role" if call.namespace else "ClusterRole", GROUPS.get(call.plural, ""), call.plural,
         call.verb)
        for call in site.server.calls
    }  # fmt: skip
    allowed = {
        (role["kind"], group, plural, verb)
        for role in yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
        for rule in role.get("rules", [])
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
    }
    assert used == allowed


# -- with the controller ---------------------------------------------------------------------------


class OnCluster(World):
    """A world whose bursts are MiniClusters, and where the operator acts as time passes."""

    def __init__(self, site: Site) -> None:
        self.site: Site | None = None
        super().__init__()
        self.site = site
        self.real = site.open(slots=self.controller.slots)
        site.server.bookmark_s = 0.01
        self.controller = self.started()

    def started(self) -> Any:
        if self.site is not None:
            self.provider = _Watched(self)  # type: ignore[assignment]
        return super().started()

    def _brokers(self) -> None:
        assert self.site is not None
        server = self.site.server
        now_s = self.instance.now()
        for name in server.names("miniclusters"):
            cluster = server.get("miniclusters", NS, name)
            assert cluster is not None
            made_s = self.provider.made.setdefault(cluster["metadata"]["uid"], now_s)  # type: ignore[attr-defined]
            if "deletionTimestamp" in cluster["metadata"]:
                server.finish_deletions()
            elif not any(pod.startswith(f"{name}-") for pod in server.names("pods")):
                self.site.make_pods(name)
            elif now_s >= made_s + BOOT_S:
                self.site.pods_are_ready(name, *range(cluster["spec"]["size"]))
        super()._brokers()


class _Watched:
    """The provider, which answers when its watches have told all; and what World asks of one."""

    def __init__(self, world: OnCluster) -> None:
        self.world = world
        self.real = world.real
        self.made: dict[str, float] = {}
        self.types, self.request, self.release = (
            self.real.types, self.real.request, self.real.release,
        )  # fmt: skip

    def observe(self) -> Sequence[Observed]:
        self.real.observe()
        server = self.world.site.server  # type: ignore[union-attr]
        mirrors = self.real._mirrors.values()
        assert soon(lambda: all(one._version == str(server._version) for one in mirrors))
        return self.real.observe()

    @property
    def rented(self) -> dict[str, tuple[Rental, float]]:
        server = self.world.site.server  # type: ignore[union-attr]
        found = {}
        for name in server.names("miniclusters"):
            size = (server.get("miniclusters", NS, name) or {})["spec"]["size"]
            up = any(
                "nodeName" in one["spec"]
                for (plural, _, pod), one in [*server.objects.items()]
                if plural == "pods" and pod.startswith(f"{name}-")
            )
            hosts = tuple(f"{name}-{i}" for i in range(size))
            found[name] = Rental(name, "small", hosts), 0.0 if up else float("inf")
        return found


def test_a_job_runs_on_a_minicluster_that_then_goes(site: Site) -> None:
    world = OnCluster(site)
    job = world.submit(4)
    world.run(30)
    assert site.server.names("miniclusters") == {"small-0"}
    world.run(BOOT_S + 120)
    assert world.state(job) is JobState.RUN
    world.run(3600, until=lambda: world.over)
    assert world.over
    told = [event.name for event in world.instance.log(KEY)]
    assert told == ["intend", "asked", "up", "leave", "release", "gone"]
    assert not site.server.names("secrets")
    assert not site.server.names("pods")
