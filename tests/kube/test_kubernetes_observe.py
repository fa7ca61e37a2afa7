"""What becomes of a burst on Kubernetes, as watches tell it, and how it goes away."""

from __future__ import annotations

import threading

import pytest
from kube_site import NO_CPU, NS, RENTAL, Site, comes_to, seen, soon

from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.providers.kubernetes import KubernetesProvider
from flux_flex.burst.providers.kubernetes_phase import observed
from flux_flex.host.kube_errors import KubeError


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
