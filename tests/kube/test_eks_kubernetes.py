"""Bursts on EKS with the real Kubernetes client: address, authority and tokens are from EKS."""

from __future__ import annotations

import base64
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

moto = pytest.importorskip("moto")

from burst_site import slots_of  # noqa: E402
from kube_certificates import make_certificates  # noqa: E402
from kube_server import KubeServer  # noqa: E402
from test_eks_provider import IDENTITY, PORT, TYPES, Site, isolate, only, status  # noqa: E402

from flux_flex.burst.providers import Phase, Rental  # noqa: E402
from flux_flex.burst.providers import eks_access as access_module  # noqa: E402
from flux_flex.burst.providers.eks import EksProvider  # noqa: E402
from flux_flex.burst.providers.eks_access import eks_kube  # noqa: E402
from flux_flex.burst.providers.eks_config import parse_eks_config  # noqa: E402
from flux_flex.burst.providers.kubernetes import (  # noqa: E402
    KubernetesProvider,
    parse_kubernetes_config,
)
from flux_flex.errors import BadInput, FlexError  # noqa: E402
from flux_flex.host.kube import MINICLUSTERS, PODS, Bounds, Kube  # noqa: E402
from flux_flex.host.kube_errors import KubeError  # noqa: E402
from flux_flex.host.kube_mirror import Mirror  # noqa: E402

NS = "bursts"
QUICK = Bounds(connect_s=2, read_s=5, call_s=10, tries=3, pause_s=(0.01, 0.05), watch_s=20)
RENTAL = Rental("small-0", "small", ("small-0-0", "small-0-1"))
QUARTER_S = 15 * 60.0


class Cluster:
    """An EKS cluster whose API server is the loopback one, which takes a token for a while."""

    def __init__(self, site: Site, server: KubeServer, folder: Path) -> None:
        self.site = site
        self.server = server
        self.folder = folder
        self.now_s = 1_000_000.0
        self.signed_s: dict[str, float] = {}
        self.refused: set[str] = set()
        self.opened: list[EksProvider | Kube] = []
        ca = base64.b64encode((server.certificates / "ca.crt").read_bytes()).decode()
        self.says(endpoint=f"https://127.0.0.1:{server.port}", certificateAuthority={"data": ca})
        server.trusts = self.trusts

    def says(self, **changes: object) -> None:
        """What EKS says of the cluster from now on."""
        before = self.site.aws.changed.get("describe_cluster", lambda _: None)

        def change(answer: dict[str, Any]) -> None:
            before(answer)
            answer["cluster"].update(changes)

        self.site.aws.changed["describe_cluster"] = change

    def token(self, *_: object) -> str:
        """In the place of one that is signed: two of a second would be the same."""
        token = f"k8s-aws-v1.signed{len(self.signed_s)}"
        self.signed_s[token] = self.now_s
        return token

    def trusts(self, token: str) -> bool:
        signed_s = self.signed_s.get(token, -QUARTER_S)
        return self.now_s - signed_s < QUARTER_S and token not in self.refused

    def kube(self, bounds: Bounds = QUICK) -> Kube:
        made = eks_kube(self.site.aws, "hpc", bounds, clock=lambda: self.now_s)
        self.opened.append(made)
        return made

    def provider(self, **changes: object) -> EksProvider:
        config = parse_eks_config(self.site.config(**changes))
        curve = self.folder / "curve.cert"
        if not curve.exists():
            curve.write_text("curve\n")
            curve.chmod(0o400)
        table: Mapping[str, Any] = {
            "namespace": NS,
            "image": "ghcr.io/example/flux:0.88",
            "lead": {"name": "own0", "address": "203.0.113.7"},
            "curve_cert": str(curve),
        }
        inner = KubernetesProvider(
            parse_kubernetes_config(table), TYPES, slots_of("small", 1, 2), IDENTITY, self.kube(),
            own_nodes=True, tolerations=config.tolerations,
        )  # fmt: skip
        made = EksProvider(
            config, TYPES, inner, IDENTITY, PORT, self.site.aws, clock=lambda: self.site.now_s
        )
        self.opened.append(made)
        return made

    def pods_are_ready(self) -> None:
        """As the Flux Operator and Kubernetes do it."""
        made = self.server.get("miniclusters", NS, RENTAL.burst)
        assert made is not None
        for k in range(RENTAL.nodes):
            metadata = {
                "name": f"{RENTAL.burst}-{k}-x7x7x", "namespace": NS,
                "labels": made["spec"]["pod"]["labels"],
                "ownerReferences": [{"uid": made["metadata"]["uid"]}],
            }  # fmt: skip
            ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            pod = {"metadata": metadata, "spec": {"nodeName": f"node{k}"}, "status": ready}
            self.server.put("pods", pod)


@pytest.fixture
def cluster(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    isolate(monkeypatch)
    with moto.mock_aws():
        made = Cluster(Site(), server, tmp_path)
        monkeypatch.setattr(access_module, "eks_token", made.token)
        yield made
        for one in made.opened:
            one.close()


def soon(condition: Callable[[], object], within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    never = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        never.wait(0.005)
    return True


def comes_to(provider: EksProvider, phase: Phase) -> bool:
    return soon(lambda: [one.phase for one in provider.observe()] == [phase])


# -- a burst ---------------------------------------------------------------------------------------


def test_a_burst_comes_and_goes_with_credentials_from_eks_alone(cluster: Cluster) -> None:
    provider = cluster.provider()
    provider.request(RENTAL)
    status(cluster.site, "ACTIVE")
    assert comes_to(provider, Phase.COMING)
    cluster.pods_are_ready()
    assert comes_to(provider, Phase.READY)
    assert only(provider.observe()).nodes == 2
    provider.release(RENTAL.burst)
    # Kubernetes deletes in the foreground: the pods first.
    for k in range(2):
        cluster.server.remove("pods", NS, f"{RENTAL.burst}-{k}-x7x7x")
    cluster.server.remove("miniclusters", NS, RENTAL.burst)
    assert soon(lambda: provider.observe() == [])
    assert cluster.site.groups() == cluster.site.rules() == []
    assert len(cluster.signed_s) == 1


def test_to_open_the_provider_asks_neither_aws_nor_the_cluster(cluster: Cluster) -> None:
    before = len(cluster.site.aws.calls)
    cluster.provider()
    assert len(cluster.site.aws.calls) == before
    assert not cluster.server.calls
    assert not cluster.signed_s


def test_a_burst_s_pods_tolerate_the_taints_of_its_nodes(cluster: Cluster) -> None:
    taints = ["rented=yes:NoSchedule", "near:NoExecute"]
    cluster.provider(taints=taints).request(RENTAL)
    made = cluster.server.get("miniclusters", NS, RENTAL.burst)
    assert made is not None
    assert made["spec"]["pod"]["tolerations"] == [
        {"key": "rented", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "near", "operator": "Equal", "effect": "NoExecute"},
    ]
    (name,) = cluster.site.groups()
    assert cluster.site.described(name)["taints"] == [
        {"key": "rented", "value": "yes", "effect": "NO_SCHEDULE"},
        {"key": "near", "effect": "NO_EXECUTE"},
    ]


def test_without_taints_the_operator_is_not_asked_for_what_an_old_one_lacks(
    cluster: Cluster,
) -> None:
    cluster.provider().request(RENTAL)
    made = cluster.server.get("miniclusters", NS, RENTAL.burst)
    assert made is not None
    assert "tolerations" not in made["spec"]["pod"]


# -- tokens ----------------------------------------------------------------------------------------


def test_a_token_is_renewed_before_the_cluster_takes_it_no_more(cluster: Cluster) -> None:
    kube = cluster.kube()
    for passed_s, tokens in ((0.0, 1), (13 * 60.0, 1), (60.0, 2), (13 * 60.0, 2), (3600.0, 3)):
        cluster.now_s += passed_s
        assert kube.get(PODS, "a", NS) is None
        assert len(cluster.signed_s) == tokens
    assert cluster.site.aws.calls.count("describe_cluster") == 1


def test_a_token_that_is_refused_early_is_renewed(cluster: Cluster) -> None:
    kube = cluster.kube()
    assert kube.get(PODS, "a", NS) is None
    cluster.refused |= cluster.signed_s.keys()
    assert kube.get(PODS, "a", NS) is None
    assert len(cluster.signed_s) == 2


def test_a_cluster_that_has_moved_is_found_after_a_refusal(
    cluster: Cluster, certificates: Path
) -> None:
    kube = cluster.kube()
    assert kube.get(PODS, "a", NS) is None
    cluster.server.trusts = lambda _: False
    with KubeServer(certificates) as other:
        other.trusts = cluster.trusts
        cluster.says(endpoint=f"https://127.0.0.1:{other.port}")
        assert kube.get(PODS, "a", NS) is None
        assert other.calls


def test_a_watch_gets_a_new_token_as_a_call_does(cluster: Cluster) -> None:
    pods = Mirror(cluster.kube(), PODS, NS)
    pods.start()
    assert soon(lambda: any(one.verb == "watch" for one in cluster.server.calls))
    # Over time the watch ends, and its successor has to be let in.
    cluster.now_s += QUARTER_S
    cluster.server.cut_watches()
    assert soon(lambda: len(cluster.signed_s) == 2)
    # And where that is refused before its time.
    cluster.refused |= cluster.signed_s.keys()
    cluster.server.cut_watches()
    assert soon(lambda: len(cluster.signed_s) == 3)
    pod = {"metadata": {"name": "a", "namespace": NS, "labels": {}}, "spec": {}}
    cluster.server.put("pods", pod)
    assert soon(lambda: len(pods.objects()) == 1)
    pods.close()


def test_who_is_not_known_to_the_cluster_is_told_of_access_entries(cluster: Cluster) -> None:
    cluster.server.trusts = lambda _: False
    kube = cluster.kube()
    for ask in (lambda: kube.get(PODS, "a", NS), lambda: kube.watch(PODS, NS, "1")):
        with pytest.raises(KubeError, match="does not know this AWS role or user") as caught:
            ask()
        assert "aws eks create-access-entry --cluster-name hpc" in caught.value.remedy
    # Once anew for each of them, and no more.
    assert len(cluster.signed_s) == 3


def test_a_token_is_in_no_log_file_or_repr(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(cluster.folder))
    caplog.set_level(logging.DEBUG)
    provider = cluster.provider()
    provider.request(RENTAL)
    provider.observe()
    cluster.refused |= cluster.signed_s.keys()
    cluster.server.fail("GET", "miniclusters", 503)
    kube = cluster.kube()
    kube.get(MINICLUSTERS, "a", NS)
    assert len(cluster.signed_s) > 1
    said = caplog.text + repr(vars(kube)) + repr(vars(provider))
    assert "k8s-aws-v1" not in said
    files = [one for one in cluster.folder.rglob("*") if one.is_file()]
    assert [one.name for one in files] == ["curve.cert"]


# -- what cannot be reached ------------------------------------------------------------------------


def test_a_server_with_another_authority_gets_no_token(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_certificates(other)
    ca = base64.b64encode((other / "ca.crt").read_bytes()).decode()
    cluster.says(certificateAuthority={"data": ca})
    with pytest.raises(KubeError, match="certificate verify failed") as caught:
        cluster.kube().get(PODS, "a", NS)
    assert "not this cluster" in caught.value.remedy
    assert not cluster.server.calls


def test_a_server_of_another_name_gets_no_token(cluster: Cluster) -> None:
    # An address in short, which is none for certificates.
    cluster.says(endpoint=f"https://127.1:{cluster.server.port}")
    with pytest.raises(KubeError, match=r"TLS: .*(match|valid for)"):
        cluster.kube().get(PODS, "a", NS)
    assert not cluster.server.calls


def test_an_authority_that_is_no_certificate_is_said(cluster: Cluster) -> None:
    text = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    cluster.says(certificateAuthority={"data": base64.b64encode(text.encode()).decode()})
    with pytest.raises(FlexError, match="certificate authority cannot be read"):
        cluster.kube().get(PODS, "a", NS)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [("CREATING", "wait until it is ACTIVE"), ("DELETING", "describe-cluster"),
     ("FAILED", "describe-cluster")],
)  # fmt: skip
def test_a_cluster_that_is_not_active_is_told_as_it_is(
    cluster: Cluster, said: str, remedy: str
) -> None:
    cluster.says(status=said)
    with pytest.raises(FlexError, match=f"it is {said}, not ACTIVE") as caught:
        cluster.provider().observe()
    assert remedy in caught.value.remedy
    # When it is, nothing has to be started anew.
    cluster.says(status="UPDATING")
    assert cluster.kube().get(PODS, "a", NS) is None


def test_without_aws_credentials_the_way_to_get_some_is_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    from flux_flex.burst.providers.eks_aws import Aws

    with pytest.raises(FlexError, match="no AWS credentials are found") as caught:
        eks_kube(Aws("us-east-2"), "hpc", QUICK).get(PODS, "a", NS)
    assert "aws sso login" in caught.value.remedy


@pytest.mark.parametrize(
    ("network", "remedy"),
    [
        ({"endpointPublicAccess": False}, "its endpoint is private: run flux-flex in its VPC"),
        ({"endpointPublicAccess": True, "publicAccessCidrs": ["198.51.100.0/24"]},
         "answers 198.51.100.0/24 only: let this host's address in"),
        ({"endpointPublicAccess": True, "publicAccessCidrs": ["0.0.0.0/0"]}, "check the network"),
        ({}, "check the network"),
    ],
)  # fmt: skip
def test_an_endpoint_that_does_not_answer_is_told_with_who_may_reach_it(
    cluster: Cluster, network: dict[str, object], remedy: str
) -> None:
    with socket.socket() as silent:
        # Bound and not listening: nobody else can have the port.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        cluster.says(endpoint=f"https://127.0.0.1:{port}", resourcesVpcConfig=network)
        bounds = replace(QUICK, connect_s=0.2, call_s=1.0, tries=2)
        with pytest.raises(KubeError, match="no answer") as caught:
            cluster.kube(bounds).get(PODS, "a", NS)
    assert remedy in caught.value.remedy


FLEX = """
[burst]
provider = "eks"
catalog = "{folder}/catalog.yaml"
[[burst.slots]]
name = "small"
type = "small"
bursts = 1
nodes = 2
[burst.lead]
name = "own0"
address = "203.0.113.7"
[burst.eks]
cluster = "hpc"
identity = "site"
region = "us-east-2"
node_role = "arn:aws:iam::123456789012:role/nodes"
subnets = ["subnet-01234567"]
taints = ["rented:NoSchedule"]
[burst.kubernetes]
{kubeconfig}
namespace = "bursts"
image = "ghcr.io/example/flux:0.88"
lead = {{name = "own0", address = "203.0.113.7"}}
curve_cert = "{folder}/curve.cert"
"""
CATALOG = """
{source: a test, date: 2026-11-23, region: us-east-2, currency: USD, types: [{name: small, cores: 2,
vcpus: 2, gpus: 0, memory_gib: 4, network_gbps: 10, price_per_hour_usd: 0.36}]}
"""


@pytest.mark.parametrize("has_kubeconfig", [False, True])
def test_flex_toml_without_a_kubeconfig_has_eks_asked_and_one_that_is_given_wins(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, has_kubeconfig: bool
) -> None:
    from flux_flex.cli.burst_site import open_provider
    from flux_flex.config import load_config

    folder, asked = cluster.folder, []
    described = {"cluster": {"status": "ACTIVE"}}
    cluster.site.aws.changed["describe_cluster"](described)

    def describe(aws: object, name: str) -> dict[str, Any]:
        asked.append(name)
        return described["cluster"]

    monkeypatch.setattr(access_module, "describe_cluster", describe)
    kubeconfig = ""
    if has_kubeconfig:
        path = cluster.server.kubeconfig(folder / "config", user={"token": cluster.token()})
        kubeconfig = f'kubeconfig = "{path}"'
    (folder / "catalog.yaml").write_text(CATALOG)
    (folder / "flex.toml").write_text(FLEX.format(folder=folder, kubeconfig=kubeconfig))
    for name in ("catalog.yaml", "flex.toml"):
        (folder / name).chmod(0o600)
    (folder / "curve.cert").write_text("curve")
    (folder / "curve.cert").chmod(0o400)
    # Another one each time that the lead broker is started.
    instance: Any = SimpleNamespace(identity=lambda: "5f2d0c1a")
    provider = open_provider(load_config(folder / "flex.toml"), instance)
    assert asked == []
    assert provider.observe() == []
    provider.close()
    assert asked == ([] if has_kubeconfig else ["hpc"])
    selected = [call.query.get("labelSelector", "") for call in cluster.server.calls]
    assert any("flux-flex.io/instance=site," in one for one in selected)


def test_a_kubeconfig_is_needed_by_every_other_provider(cluster: Cluster) -> None:
    cluster.provider()
    table = {
        "image": "flux", "lead": {"name": "own0", "address": "203.0.113.7"},
        "curve_cert": str(cluster.folder / "curve.cert"),
    }  # fmt: skip
    with pytest.raises(BadInput, match="it is not set") as caught:
        KubernetesProvider(parse_kubernetes_config(table), TYPES, slots_of("small", 1, 2), IDENTITY)
    assert caught.value.where == "kubeconfig"
