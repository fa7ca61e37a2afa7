"""Topology labels on the nodes of a job's cluster, from the kubeadm files of lead and workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from usernetes_site import JOBID, PAPER, Site, trusted

from flux_flex.errors import FlexError
from flux_flex.model.jobid import job_kvs_key
from flux_flex.usernetes.join import Invitation, join_config
from flux_flex.usernetes.registration import registration, with_registration
from flux_flex.usernetes.tree import find_template

LABELS = {"topology.k8s.aws/network-node-layer-1": "nn-a", "topology.kubernetes.io/zone": "z-1b"}
JOINED = "topology.k8s.aws/network-node-layer-1=nn-a,topology.kubernetes.io/zone=z-1b"
INVITATION = Invitation(
    "192.0.2.7", "u7s-n0", "u7s-n0:6443", "abcdef.0123456789abcdef", ("sha256:" + 64 * "0",)
)

# Of the trees since 2025; that of the package, which is older, is read where it is.
CURRENT = """\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  bindPort: ${PORT_KUBE_APISERVER}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: "${NODE_NAME}:${PORT_KUBE_APISERVER}"
apiServer:
  certSANs:
  - localhost
  - "${NODE_NAME}"
  extraArgs:
  - name: etcd-servers
    value: https://127.0.0.1:${PORT_ETCD}
    # Default: "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP"
---
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
port: ${PORT_KUBELET}
"""


def packaged() -> str:
    return (find_template() / "kubeadm-config.yaml").read_text()


def init_of(text: str) -> dict[str, Any]:
    (found,) = (d for d in yaml.safe_load_all(text) if d.get("kind") == "InitConfiguration")
    return dict(found)


# -- the configuration files -----------------------------------------------------------------------


def test_each_version_of_kubeadm_gets_extra_arguments_in_its_own_form() -> None:
    as_map = {"kubeletExtraArgs": {"node-labels": JOINED}}
    as_list = {"kubeletExtraArgs": [{"name": "node-labels", "value": JOINED}]}
    for version in ("v1alpha3", "v1beta2", "v1beta3"):
        assert registration(LABELS, f"kubeadm.k8s.io/{version}") == as_map
    for version in ("v1beta4", "v1beta5", "v1"):
        assert registration(LABELS, f"kubeadm.k8s.io/{version}") == as_list


@pytest.mark.parametrize("text", [packaged(), CURRENT], ids=["packaged", "current"])
def test_the_lead_registers_with_its_labels_and_nothing_else_changes(text: str) -> None:
    made = with_registration(text, LABELS)
    api = init_of(text)["apiVersion"]
    assert init_of(made)["nodeRegistration"] == registration(LABELS, api)
    gone = [line for line in text.splitlines() if line not in made.splitlines()]
    assert gone == []
    added = len(made.splitlines()) - len(text.splitlines())
    lines = iter(made.splitlines())
    assert all(line in lines for line in text.splitlines()), "the order stays"
    assert added == (3 if api.endswith("v1beta3") else 4)
    assert made.count("${") == text.count("${"), "envsubst finds what it found"


def test_a_file_that_ends_with_the_kind_gets_its_lines_too() -> None:
    text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: InitConfiguration"
    assert "nodeRegistration" in init_of(with_registration(text, LABELS))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not one InitConfiguration"),
        ("apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n", "not one Init"),
        (f"{CURRENT}---\n{CURRENT}", "not one InitConfiguration"),
        (CURRENT.replace("localAPIEndpoint", "nodeRegistration"), "nodeRegistration of its own"),
        (CURRENT.replace("bindPort:", "nodeRegistration:"), ""),
        (CURRENT.replace("kubeadm.k8s.io/v1beta4\nkind: Init", "x/v1\nkind: Init"), "no kubeadm"),
        ('{"kind": "InitConfiguration", "apiVersion": "kubeadm.k8s.io/v1beta4"}', "not one Init"),
        ("apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n  more\n", "not one Init"),
        ("a: |\n  kind: InitConfiguration\n", "not one InitConfiguration"),
        ("--- |\nkind: InitConfiguration\n", "not YAML|not one"),
        ("[${A}\nkind: InitConfiguration\n", "not YAML"),
        ("kind: InitConfiguration\napiVersion: [1]\n", "no kubeadm"),
        (CURRENT.replace("\n", "\r\n"), "not one InitConfiguration"),
        ("[" * 5000, "not YAML"),
        ("- kind: InitConfiguration\n", "not one InitConfiguration"),
        (CURRENT.replace("---", "...\n---", 1), ""),
    ],
)
def test_a_file_unlike_those_that_are_known_is_refused_or_right(text: str, why: str) -> None:
    if not why:  # unusual, and yet the same document
        assert "nodeRegistration" in init_of(with_registration(text, LABELS))
        return
    with pytest.raises(FlexError, match=why):
        with_registration(text, LABELS)


def test_a_kind_that_the_parser_sees_elsewhere_than_the_text_is_refused() -> None:
    # The only line that looks like the kind is in a text; the document's own is written otherwise.
    text = (
        "apiVersion: kubeadm.k8s.io/v1beta4\n"
        '"kind": InitConfiguration\n'
        "note: '\n"
        "kind: InitConfiguration\n"
        "'\n"
    )
    with pytest.raises(FlexError, match="nothing can be put into"):
        with_registration(text, LABELS)


def test_a_worker_joins_with_its_labels() -> None:
    for api in ("kubeadm.k8s.io/v1beta3", "kubeadm.k8s.io/v1beta4"):
        document = json.loads(join_config(INVITATION, api, LABELS))
        assert document.pop("nodeRegistration") == registration(LABELS, api)
        assert document == json.loads(join_config(INVITATION, api))
        assert join_config(INVITATION, api, {}) == join_config(INVITATION, api)


# -- clusters --------------------------------------------------------------------------------------


def labels_on(site: Site, rank: int) -> dict[str, str]:
    """What the kubelet of a rank was told, by what kubeadm was given."""
    text = (site.directory(JOBID, rank) / ".registered").read_text()
    document = init_of(text) if rank == 0 else json.loads(text)
    (argument,) = document["nodeRegistration"]["kubeletExtraArgs"]
    assert argument["name"] == "node-labels"
    return dict(pair.split("=") for pair in argument["value"].split(","))


def span(site: Site) -> object:
    (job,) = (job for job in site.instance.jobs() if job.jobid == JOBID)
    return job.memo.get("flex.span")


def test_lead_and_workers_know_where_they_are_and_the_job_knows_its_span(site: Site) -> None:
    site.measured = True
    site.locate(n0=["nn-a", "nn-b"], n1=["nn-a", "nn-c"], n2=["nn-a", "nn-c"])
    site.submit(["n0", "n1", "n2"])
    assert site.prologs(JOBID, 3) == [0, 0, 0], site.output()
    leaves = [labels_on(site, rank)["topology.k8s.aws/network-node-layer-2"] for rank in range(3)]
    assert leaves == ["nn-b", "nn-c", "nn-c"]
    assert (
        labels_on(site, 0) | labels_on(site, 1)
        == labels_on(site, 1)
        == {
            "topology.k8s.aws/network-node-layer-1": "nn-a",
            "topology.k8s.aws/network-node-layer-2": "nn-c",
            "topology.k8s.aws/zone-id": "use2-az2",
            "topology.kubernetes.io/zone": "us-east-2b",
            "topology.kubernetes.io/region": "us-east-2",
            "node.kubernetes.io/instance-type": "hpc7a.12xlarge",
        }
    )
    config = site.directory(JOBID) / "kubeadm-config.yaml"
    assert config.stat().st_mode & 0o777 == 0o600
    assert (site.template / config.name).read_text() == (PAPER / config.name).read_text()
    assert span(site) == "nn1:1 nn2:2 4 hops"
    assert site.epilogs(JOBID, 3) == [0, 0, 0]
    # The span is the job's history: it stays when the cluster goes.
    assert span(site) == "nn1:1 nn2:2 4 hops"
    key = job_kvs_key(JOBID, "flex-topology")
    assert site.left() == [f"key {key}"]
    assert site.memo(JOBID) == "down"


def test_without_a_topology_the_files_are_those_of_the_tree(site: Site) -> None:
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [0, 0], site.output()
    files = [site.directory(JOBID, rank) / "kubeadm-config.yaml" for rank in (0, 1)]
    assert {file.read_bytes() for file in files} == {(PAPER / files[0].name).read_bytes()}
    joined = json.loads((site.directory(JOBID, 1) / ".registered").read_text())
    assert set(joined) == {"apiVersion", "kind", "discovery"}
    assert span(site) is None
    assert "topology" not in site.output()
    site.epilogs(JOBID, 2)
    assert site.left() == []


def test_a_host_without_a_place_has_no_labels_and_the_others_have_theirs(site: Site) -> None:
    site.locate(n1=["nn-a"])
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [0, 0], site.output()
    assert "nodeRegistration" not in (site.directory(JOBID) / ".registered").read_text()
    assert labels_on(site, 1)["topology.k8s.aws/network-node-layer-1"] == "nn-a"
    assert span(site) == "nn1:1 0 hops 1 unplaced"
    site.epilogs(JOBID, 2)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 9999, '{"Instances": [{"InstanceId": 1}]}'])
def test_a_hostile_topology_fails_no_job(site: Site, text: str) -> None:
    site.topology_file.write_text(text)
    site.topology_file.chmod(0o644)
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [0, 0], site.output()
    assert site.memo(JOBID) == "ready"
    assert site.exceptions(JOBID) == []
    assert span(site) is None
    site.epilogs(JOBID, 2)
    assert site.left() == []
    assert site.output().count("no topology labels: ") == 2
    assert "is not recorded: " in site.output()


def test_names_of_ec2_that_are_no_labels_are_left_out(site: Site) -> None:
    site.locate(n0=["nn:a", "n" * 64, "nn-c"])
    site.submit()
    assert site.prologs(JOBID, 1) == [0], site.output()
    found = labels_on(site, 0)
    layers = {name: value for name, value in found.items() if "layer" in name}
    assert layers == {"topology.k8s.aws/network-node-layer-3": "nn-c"}
    site.epilogs(JOBID, 1)


@pytest.mark.parametrize("kind", ["other", "own", "link"])
def test_a_tree_that_is_not_known_is_left_alone_and_the_log_says_so(site: Site, kind: str) -> None:
    config = site.template / "kubeadm-config.yaml"
    if kind == "other":
        config.write_text("apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n")
    elif kind == "own":
        config.write_text(config.read_text().replace("localAPIEndpoint", "nodeRegistration"))
    else:
        config.rename(site.template / "other.yaml")
        config.symlink_to("other.yaml")
    trusted(site.template)
    before = config.read_bytes()
    site.locate(n0=["nn-a"], n1=["nn-a"])
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [0, 0], site.output()
    assert (site.directory(JOBID) / config.name).read_bytes() == before
    assert (site.directory(JOBID) / config.name).is_symlink() == (kind == "link")
    assert labels_on(site, 1)["topology.k8s.aws/network-node-layer-1"] == "nn-a"
    site.epilogs(JOBID, 2)
    assert "u7s-n0: no topology labels: kubeadm-config.yaml: " in site.output()


def test_a_failed_bring_up_has_its_span_all_the_same(site: Site) -> None:
    site.locate(n0=["nn-a"], n1=["nn-a"])
    site.faults("kubeadm-init fail")
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [1, 1], site.output()
    assert span(site) == "nn1:1 2 hops"


def test_the_span_is_that_of_all_hosts_though_the_cluster_is_smaller(site: Site) -> None:
    site.locate(n0=["nn-a"], n1=["nn-a"], n2=["nn-b"])
    site.submit(["n0", "n1", "n2"], {"usernetes": {"kubernetes": {"nodes": 1}}})
    assert site.prologs(JOBID, 3) == [0, 0, 0], site.output()
    assert span(site) == "nn1:2 4 hops"
    site.epilogs(JOBID, 3)
