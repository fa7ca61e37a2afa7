"""What a burst on Kubernetes makes, whose objects it leaves alone, what it gets over."""

from __future__ import annotations

import base64

import pytest
from kube_site import CURVE, IDENTITY, MUNGE, NS, RENTAL, Site, just_before_it_applies

from flux_flex.burst.providers import NoCapacity, Rental
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.kube_errors import FieldConflict


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


@pytest.mark.parametrize("force", [False, True])
def test_of_two_instances_that_ask_at_once_one_has_the_name(site: Site, force: bool) -> None:
    other, late = site.open("other"), site.open(force_conflicts=force)
    just_before_it_applies(late, lambda: other.request(RENTAL))
    with pytest.raises(FieldConflict, match='conflict with "flux-flex-other"'):
        late.request(RENTAL)
    for plural, name in (("miniclusters", "small-0"), ("secrets", "small-0-curve")):
        made = site.server.get(plural, NS, name)
        assert made is not None
        assert made["metadata"]["labels"]["flux-flex.io/instance"] == "other"


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
