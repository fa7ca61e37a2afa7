"""MiniCluster manifests: their structure, what may not enter them, and that brokers join."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.burst.minicluster import (
    MAX_NAME,
    BurstSlot,
    LeadBroker,
    MiniClusterOptions,
    kube_reserved_millicpu,
    manifest_yaml,
    minicluster_manifest,
    schedulable_memory_mib,
    schedulable_millicpu,
)
from flux_flex.errors import BadInput

LEAD = LeadBroker(address="203.0.113.7", port=30093, name="lead", size=1)
OPTIONS = MiniClusterOptions(
    image="ghcr.io/example/flux:0.88",
    lead=LEAD,
    curve_secret="burst-curve",
    munge_secret="burst-munge",
)
SHAPE: dict[str, Any] = {
    "burst_id": "burst-0",
    "nodes": 4,
    "cores_per_node": 96,
    "gpus_per_node": 0,
    "memory_gib": 384.0,
    "efa": 1,
    "node_type": "hpc6a.48xlarge",
    "jobs": ["ƒ2XwYQ37M", "ƒQURAmBXV"],
    "options": OPTIONS,
}


def build(**changes: Any) -> dict[str, Any]:
    """The manifest of `SHAPE`; what is not a parameter of a burst changes its options."""
    shape = {**SHAPE, **{key: value for key, value in changes.items() if key in SHAPE}}
    options = {key: value for key, value in changes.items() if key not in SHAPE}
    shape["options"] = dataclasses.replace(shape["options"], **options)
    return minicluster_manifest(**shape)


def build_lead(**changes: Any) -> dict[str, Any]:
    return build(lead=dataclasses.replace(LEAD, **changes))


# ---- what a manifest says


def test_manifest_of_a_burst_of_four_nodes() -> None:
    manifest = build()
    spec = manifest["spec"]
    flux = dict(spec["flux"])
    config = flux.pop("brokerConfig")
    container = dict(spec["containers"][0])
    container.pop("commands")
    labels = {"app.kubernetes.io/managed-by": "flux-flex", "flux-flex.io/burst": "burst-0"}
    assert (manifest["apiVersion"], manifest["kind"]) == (
        "flux-framework.org/v1alpha2",
        "MiniCluster",
    )
    assert manifest["metadata"] == {
        "name": "burst-0",
        "namespace": "default",
        "labels": labels,
        "annotations": {"flux-flex.io/jobs": "ƒ2XwYQ37M,ƒQURAmBXV"},
    }
    assert {key: spec[key] for key in ("size", "maxSize", "tasks", "pod")} == {
        "size": 4,
        "maxSize": 4,
        "tasks": 384,
        "pod": {
            "labels": labels,
            "nodeSelector": {"node.kubernetes.io/instance-type": "hpc6a.48xlarge"},
        },
    }
    assert flux == {
        "container": {
            "disable": True,
            "image": "ghcr.io/example/flux:0.88",
            "mountPath": "/mnt/flux",
        },
        "topology": "kary:0",
        "mungeSecret": "burst-munge",
        "bursting": {
            "leadBroker": {"address": "203.0.113.7", "port": 30093, "name": "lead", "size": 1},
            "clusters": [{"name": "burst-0", "size": 4}],
        },
    }
    assert 'host = "lead", connect = "tcp://203.0.113.7:30093"' in config
    assert container == {
        "image": "ghcr.io/example/flux:0.88",
        "runFlux": True,
        "volumes": {
            "flux-flex-curve": {
                "secretName": "burst-curve",
                "path": "/mnt/flux-flex/curve",
                "readOnly": True,
            },
            "flux-flex-munge": {
                "secretName": "burst-munge",
                "path": "/mnt/flux-flex/munge",
                "readOnly": True,
            },
        },
        "resources": {
            "requests": {"cpu": "95440m", "memory": "360363Mi", "vpc.amazonaws.com/efa": "1"},
            "limits": {"memory": "360363Mi", "vpc.amazonaws.com/efa": "1"},
        },
    }


def test_gpus_are_asked_and_limited_alike() -> None:
    resources = build(gpus_per_node=8, efa=0)["spec"]["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "8"
    assert "vpc.amazonaws.com/efa" not in resources["limits"]


def test_burst_without_jobs_has_no_annotation() -> None:
    assert "annotations" not in build(jobs=[])["metadata"]


def test_without_munge_neither_key_nor_munged() -> None:
    spec = build(munge_secret="")["spec"]
    assert "munge" not in json.dumps(spec)


def bootstrap(manifest: dict[str, Any]) -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML parser")
    config: dict[str, Any] = tomllib.loads(manifest["spec"]["flux"]["brokerConfig"])
    return dict(config["bootstrap"])


def test_hosts_keep_the_lead_instance_s_ranks() -> None:
    slots = (BurstSlot("burst-0", 4), BurstSlot("burst-1", 1), BurstSlot("cloud", 9))
    manifest = build(lead=dataclasses.replace(LEAD, size=3), slots=slots, burst_id="cloud")
    assert [entry["host"] for entry in bootstrap(manifest)["hosts"]] == [
        "lead",
        "lead-[1-2]",
        "burst-0-[0-3]",
        "burst-1-0",
        "cloud-[0-8]",
    ]
    assert manifest["spec"]["size"] == 4
    assert manifest["spec"]["flux"]["bursting"]["clusters"][2] == {"name": "cloud", "size": 9}


def test_ipv6_lead_is_bracketed_and_enabled() -> None:
    table = bootstrap(build_lead(address="2001:db8::7"))
    assert table["hosts"][0]["connect"] == "tcp://[2001:db8::7]:30093"
    assert table["enable_ipv6"] is True
    assert "enable_ipv6" not in bootstrap(build())


def test_longest_name_leaves_room_for_hosts_and_volumes() -> None:
    name = "b" * MAX_NAME
    assert build(burst_id=name, nodes=100_000)["metadata"]["name"] == name
    assert len(f"{name}-99999") <= 63
    assert len(f"{name}-entrypoint") == 63
    with pytest.raises(BadInput, match="burst id"):
        build(burst_id=name + "b")


@pytest.mark.parametrize(("cores", "reserved"), [(1, 60), (2, 70), (4, 80), (8, 90), (96, 310)])
def test_cpu_request_leaves_what_the_kubelet_keeps(cores: int, reserved: int) -> None:
    assert kube_reserved_millicpu(cores) == reserved
    assert 0 < schedulable_millicpu(cores) <= cores * 1000 - reserved


@pytest.mark.parametrize(
    ("memory_gib", "cores", "allocatable_mib"),
    # advertised * 0.925 - (255 + 11 * pods) - 100, with the pods EKS allows on that type
    [(1, 2, 548), (4, 2, 3246), (16, 4, 14162), (384, 96, 360619)],
)
def test_memory_request_fits_an_empty_node(
    memory_gib: float, cores: int, allocatable_mib: int
) -> None:
    assert 0 < schedulable_memory_mib(memory_gib, cores) <= allocatable_mib


# ---- YAML


def test_yaml_is_stable_block_style_and_loads_back() -> None:
    text = manifest_yaml(build())
    assert text == manifest_yaml(build())
    assert text.startswith(
        "apiVersion: flux-framework.org/v1alpha2\nkind: MiniCluster\nmetadata:\n"
    )
    assert text.endswith("\n")
    assert "brokerConfig: |\n" in text
    assert "ƒ2XwYQ37M" in text
    assert "&id" not in text
    assert yaml.safe_load(text) == build()


TEXT = st.one_of(
    st.text(),
    st.text(alphabet="a0-.:/@_ƒ~# '|>&*!%"),
    st.sampled_from(["null", "yes", "1e3", "0x10", "012", "~", "burst-1", "2001:db8::7"]),
)


@given(TEXT, TEXT, TEXT, TEXT, TEXT)
def test_any_text_is_refused_or_loads_back(
    burst_id: str, image: str, command: str, job: str, address: str
) -> None:
    for changes in (
        {"burst_id": burst_id},
        {"image": image},
        {"command": command},
        {"jobs": [job]},
        {"node_type": job},
        {"namespace": burst_id},
        {"curve_secret": burst_id},
        {"lead": dataclasses.replace(LEAD, address=address)},
    ):
        try:
            manifest = build(**changes)
        except BadInput:
            continue
        assert yaml.safe_load(manifest_yaml(manifest)) == manifest


# ---- what is refused


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("burst id", {"burst_id": "Burst"}),
        ("burst id", {"burst_id": "0burst"}),
        ("burst id", {"burst_id": "burst-"}),
        ("burst id", {"burst_id": "burst-0\n"}),
        ("burst id", {"burst_id": ""}),
        ("nodes", {"nodes": 0}),
        ("nodes", {"nodes": True}),
        ("nodes", {"nodes": 100_001}),
        ("cores_per_node", {"cores_per_node": 0}),
        ("gpus_per_node", {"gpus_per_node": -1}),
        ("efa", {"efa": -1}),
        ("memory_gib", {"memory_gib": 0.0}),
        ("memory_gib", {"memory_gib": float("nan")}),
        ("memory_gib", {"memory_gib": float("inf")}),
        ("memory_gib", {"memory_gib": True}),
        ("node_type", {"node_type": "hpc6a/48xlarge"}),
        ("node_type", {"node_type": ""}),
        ("jobs", {"jobs": "ƒ2XwYQ37M"}),
        ("jobs", {"jobs": ["ƒ2X,ƒ3Y"]}),
        ("jobs", {"jobs": [""]}),
        ("jobs", {"jobs": ["ƒ2XwYQ37M"] * 30_000}),
        ("image", {"image": "user:password@ghcr.io/flux"}),
        ("image", {"image": "Flux"}),
        ("image", {"image": "flux:0.88\n"}),
        ("image", {"image": "a/" * 256 + "b"}),
        ("namespace", {"namespace": "kube_system"}),
        ("command", {"command": "hostname\nreboot"}),
        ("command", {"command": "echo \x1b[2J"}),
        ("command", {"command": 'echo "; reboot; "'}),
        ("command", {"command": "echo $(reboot)"}),
        ("command", {"command": "echo `reboot`"}),
        ("slots", {"slots": (BurstSlot("burst-1", 4),)}),
        ("slots", {"slots": (BurstSlot("burst-0", 3),)}),
        ("slots", {"slots": (BurstSlot("burst-0", 4), BurstSlot("burst-0", 4))}),
        ("slots[0].name", {"slots": (BurstSlot("Burst", 4),)}),
        ("slots[1].size", {"slots": (BurstSlot("burst-0", 4), BurstSlot("b", 0))}),
        ("lead.size plus slots", {"slots": tuple(BurstSlot(f"burst-{i}", 90_000) for i in (0, 1))}),
    ],
)
def test_bad_part_is_refused_by_name(where: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refusal:
        build(**changes)
    assert refusal.value.where == where
    assert refusal.value.remedy


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("lead.address", {"address": ""}),
        ("lead.address", {"address": "lead example"}),
        ("lead.address", {"address": "203.0.113.700"}),
        ("lead.address", {"address": "0.0.0.0"}),
        ("lead.address", {"address": "224.0.0.1"}),
        ("lead.address", {"address": "fe80::1%eth0"}),
        ("lead.address", {"address": "203.0.113.7:8050"}),
        ("lead.address", {"address": "a." * 130 + "b"}),
        ("lead.address", {"address": "\N{KELVIN SIGN}elvin.example"}),
        ("lead.port", {"port": 0}),
        ("lead.port", {"port": 65536}),
        ("lead.name", {"name": 'lead"'}),
        ("lead.size", {"size": 0}),
        ("slots", {"name": "burst-0-1"}),  # also the burst's second host
        ("slots", {"name": "burst-0", "size": 3}),  # burst-0-1 and -2 are the lead's own
    ],
)
def test_bad_lead_is_refused_by_name(where: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refusal:
        build_lead(**changes)
    assert refusal.value.where == where


def test_lead_may_have_a_dns_name() -> None:
    manifest = build_lead(address="Lead-1.elb.us-east-2.amazonaws.com")
    assert "tcp://Lead-1.elb.us-east-2.amazonaws.com:30093" in str(manifest)


# ---- secrets go by name

CERTIFICATE = 'curve\n    public-key = "k3y"\n    secret-key = "s3cr3t"\n'


@pytest.mark.parametrize("key", ["curve_secret", "munge_secret"])
@pytest.mark.parametrize("content", [CERTIFICATE, "s3cr3t=", "/etc/flux/s3cr3t", "s3cr3t\n"])
def test_secret_content_is_refused_and_not_repeated(key: str, content: str) -> None:
    with pytest.raises(BadInput) as refusal:
        build(**{key: content})
    assert refusal.value.where == key
    assert "s3cr3t" not in str(refusal.value)


@pytest.mark.parametrize(
    "command", ["run secret-key k3y", "run --token=k3y", "run AKIAIOSFODNN7EXAMPLE"]
)
def test_secret_looking_command_is_refused_and_not_repeated(command: str) -> None:
    with pytest.raises(BadInput, match="seems to contain a secret") as refusal:
        build(command=command)
    assert "k3y" not in str(refusal.value)
    assert "AKIA" not in str(refusal.value)


def test_manifest_has_no_place_for_secret_content() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    assert keys(build()).isdisjoint({"curveCert", "environment", "secrets", "data", "stringData"})


# ---- the shell and the configuration that the operator takes from the manifest


def install_secrets(root: Path) -> subprocess.CompletedProcess[str]:
    """Run `commands.pre` with the pod's file system at ``root``."""
    script = build(munge_secret="")["spec"]["containers"][0]["commands"]["pre"]
    script = script.replace("/mnt/", f"{root}/mnt/") + "\necho broker starts\n"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)


def test_certificate_is_copied_for_its_owner_alone_even_twice(tmp_path: Path) -> None:
    mounted = tmp_path / "mnt/flux-flex/curve/curve.cert"
    mounted.parent.mkdir(parents=True)
    mounted.write_text(CERTIFICATE)
    mounted.chmod(0o644)
    for _restart in range(2):
        assert install_secrets(tmp_path).stdout == "broker starts\n"
    copied = tmp_path / "mnt/flux/config/curve/burst.cert"
    assert copied.read_text() == CERTIFICATE
    assert stat.S_IMODE(copied.stat().st_mode) == 0o400
    assert 'curve_cert = "/mnt/flux/config/curve/burst.cert"' in str(build())


def test_pod_without_the_certificate_does_not_start_a_broker(tmp_path: Path) -> None:
    ended = install_secrets(tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""


def test_munge_lines_are_shell() -> None:
    script = build()["spec"]["containers"][0]["commands"]["pre"]
    subprocess.run(["bash", "-n", "-c", script], check=True, timeout=30)
    assert "/etc/munge/munge.key" in script


def test_broker_config_survives_the_operators_here_document() -> None:
    # flux-init.sh writes it with an unquoted `cat <<EOT`, where the shell expands these.
    assert not set(build()["spec"]["flux"]["brokerConfig"]) & set("$`\\")


@pytest.mark.flux
@pytest.mark.skipif(
    not shutil.which("flux"), reason="flux is not on PATH: install Flux, or add its bin to PATH"
)
def test_brokers_with_this_config_join_a_real_lead(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    manifest = build(lead=LeadBroker("127.0.0.1", port, "lead", 1), nodes=2)
    certificate = tmp_path / "burst.cert"
    subprocess.run(["flux", "keygen", certificate], check=True, timeout=60)
    certificate.chmod(0o400)
    joining = manifest["spec"]["flux"]["brokerConfig"].replace(
        "/mnt/flux/config/curve/burst.cert", str(certificate)
    )
    endpoint = f'connect = "tcp://127.0.0.1:{port}"'
    leading = joining.replace(endpoint, f'{endpoint}, bind = "tcp://127.0.0.1:{port}"')
    ranks = "flux R encode --hosts=lead,burst-0-[0-1] --cores=0"
    resources = subprocess.run(ranks.split(), capture_output=True, check=True, timeout=60).stdout
    (tmp_path / "R").write_bytes(resources)
    leading = leading.replace("noverify = true", f'noverify = true\npath = "{tmp_path}/R"')

    def broker(host: str, config: str, *rest: str) -> subprocess.Popen[str]:
        home = tmp_path / host
        home.mkdir()
        (home / "broker.toml").write_text(config)
        options = [f"-Shostname={host}", f"-Srundir={home}", f"--config-path={home}"]
        topology = ["-Stbon.fanout=256", f"-Stbon.topo={manifest['spec']['flux']['topology']}"]
        command = ["flux", "broker", *options, *topology, *rest]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )

    job = "flux run -N3 -n3 -o cpu-affinity=off flux getattr rank"
    joined = [broker(f"burst-0-{host}", joining) for host in range(2)]
    lead = broker("lead", leading, "-Sbroker.quorum=3", "sh", "-c", job)
    try:
        assert sorted(lead.communicate(timeout=90)[0].split()) == ["0", "1", "2"]
        assert [each.wait(timeout=30) for each in joined] == [0, 0]
    finally:
        for each in (lead, *joined):
            each.kill()
            each.communicate()


# ---- the operator's schema, where a copy lies beside the project

SCHEMA = Path(
    os.environ.get("FLUX_FLEX_MINICLUSTER_SCHEMA")
    or Path(__file__).parents[3] / "shared/data/minicluster-v1alpha2.schema.json"
)


def closed(schema: Any) -> Any:
    """``schema`` as an API server reads it, with keys that it does not name refused."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        strict["additionalProperties"] = False
    return strict


@pytest.mark.skipif(not SCHEMA.exists(), reason=f"no copy of the operator's schema at {SCHEMA}")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpus_per_node": 8, "munge_secret": "", "jobs": [], "command": "sleep 10"},
        {"slots": (BurstSlot("other", 3), BurstSlot("burst-0", 9))},
    ],
)
def test_manifest_fits_the_operators_schema(changes: dict[str, Any]) -> None:
    schema = closed(json.loads(SCHEMA.read_text()))
    manifest = build(**changes)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest, schema)
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["flux"]["bursting"]["leadBroker"]["adress"] = "lead"
    with pytest.raises(jsonschema.ValidationError, match="adress"):
        jsonschema.validate(wrong, schema)
