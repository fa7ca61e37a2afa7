"""The life of a burst on Kubernetes under the controller, and the rights that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from burst_site import BOOT_S, World
from kube_server import GROUPS
from kube_site import NS, RBAC, RENTAL, Site, comes_to, service, soon

from flux_flex.burst.ledger import KEY
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.host.instance import JobState


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
