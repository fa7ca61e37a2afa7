"""Watches and the mirrors that they keep, against the stand-in for an API server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kube_server import KubeServer
from kube_site import NS, QUICK, pod_of, soon

from flux_flex.host.kube import PODS, Kube, open_kube
from flux_flex.host.kube_errors import Expired, KubeError
from flux_flex.host.kube_mirror import Mirror


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


def test_a_watch_is_taken_up_with_credentials_that_were_renewed_in_their_file(
    server: KubeServer, mirror: Mirror, tmp_path: Path
) -> None:
    assert soon(lambda: "watch" in verbs(server))
    server.token = "another-token"
    server.cut_watches()
    server.put("pods", pod_of("second", x="1"))
    assert soon(lambda: verbs(server).count("watch") >= 3)
    assert names(mirror) == {"first"}
    server.kubeconfig(tmp_path / "config")
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
