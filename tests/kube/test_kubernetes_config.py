"""What the table [burst.kubernetes] says: the lead broker's address, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from burst_site import TYPE
from kube_site import IDENTITY, NS, RENTAL, Site, service

from flux_flex.burst.providers.kubernetes import KubernetesProvider, parse_kubernetes_config
from flux_flex.burst.slots import Slot
from flux_flex.errors import BadInput, FlexError

# -- the lead broker -------------------------------------------------------------------------------


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


# -- refused ---------------------------------------------------------------------------------------


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
