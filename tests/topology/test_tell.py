"""A running instance is told where its hosts sit: on paper, and a real Flux with its fluxion."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from topology_site import EXAMPLES, HOSTS, ROOT, recorded, recorded_network, recorded_r

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import RpcError
from flux_flex.topology.annotate import annotated_r
from flux_flex.topology.answers import Answers
from flux_flex.topology.live import FLUXION, tell, whole_r
from flux_flex.topology.mapping import Network, network_of_hosts
from flux_flex.topology.site import KVS_KEY

LEAF = "nn-fae923d5a4fd12aab"


class Paper:
    """An instance whose fluxion keeps the properties of its vertices by path."""

    def __init__(self, R: Any, *modules: str, lists: bool = True) -> None:
        self.store: dict[str, object] = {"resource.R": R}
        self.R: Mapping[str, object] = {key: R[key] for key in ("version", "execution")}
        self.loaded = modules
        self.lists = lists
        self.properties: dict[str, dict[str, str]] = {}
        self.calls = 0
        self.refuses = ""

    def resources(self) -> Mapping[str, object]:
        """What the resource module says: without the scheduling key."""
        return self.R

    def modules(self) -> tuple[str, ...]:
        return self.loaded

    def kvs_get(self, key: str) -> object:
        if key not in self.store:
            raise BadInput("No such file or directory", key)
        return self.store[key]

    def kvs_put(self, key: str, value: object) -> None:
        self.store[key] = json.loads(json.dumps(value))

    def rpc(
        self, topic: str, payload: Mapping[str, Any] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]:
        assert payload is not None
        self.calls += 1
        if topic.endswith(self.refuses or "nothing"):
            raise RpcError("no", topic, "", errno.EIO)
        if topic == f"{FLUXION}.set_property":
            paths = payload["sp_resource_path"]
            if isinstance(paths, list) and not self.lists:
                raise RpcError("could not unpack payload", topic, "", errno.EPROTO)
            name, _, value = payload["sp_keyval"].partition("=")
            for path in paths if isinstance(paths, list) else [paths]:
                self.properties.setdefault(path, {})[name] = value
        else:
            assert topic == f"{FLUXION}.remove_property"
            # As fluxion has it: to remove what is not there is no error.
            self.properties.get(payload["resource_path"], {}).pop(payload["key"], None)
        return {}

    def of(self, host: str) -> dict[str, str]:
        return self.properties.get(f"/cluster0/{host}", {})


def changed(host: str, **fields: Any) -> tuple[Answers, Network]:
    """The recorded answers with something else said of a host's instance."""
    answers = recorded()
    (old,) = network_of_hosts(answers, [host]).places
    located = dict(answers.located)
    located[old.instance_id] = replace(located[old.instance_id], **fields)
    return told_of(replace(answers, located=located))


def replaced(host: str, **fields: Any) -> tuple[Answers, Network]:
    """The same where the host is another instance, and nothing is said of the old one."""
    answers = recorded()
    (old,) = network_of_hosts(answers, [host]).places
    instances, located = dict(answers.instances), dict(answers.located)
    new = "i-0newnewnewnewnew0"
    instances[new] = replace(instances.pop(old.instance_id), instance_id=new)
    located[new] = replace(located.pop(old.instance_id), instance_id=new, **fields)
    return told_of(replace(answers, instances=instances, located=located))


def told_of(answers: Answers) -> tuple[Answers, Network]:
    return answers, network_of_hosts(answers, HOSTS)


def test_fluxion_gets_a_property_for_each_layer_with_what_it_is() -> None:
    instance = Paper(recorded_r(), FLUXION)
    told = tell(instance, recorded(), recorded_network())
    assert told == 16 * 5
    assert instance.properties["/cluster0/compute2"] == {
        "nn-a4c123b1612dd272d": "nn1",
        "nn-1371c17149d439536": "nn2",
        LEAF: "nn3",
        "us-east-2b": "zone",
        "hpc7a.12xlarge": "instance-type",
    }


def test_paths_are_those_of_the_graph_under_the_scheduling_key() -> None:
    instance = Paper(annotated_r(recorded_r(), recorded_network()), FLUXION)
    tell(instance, recorded(), recorded_network())
    assert all(path.count("/") == 6 for path in instance.properties)


def test_a_fluxion_that_takes_one_path_at_a_time_gets_them_so() -> None:
    instance = Paper(recorded_r(), FLUXION, lists=False)
    tell(instance, recorded(), recorded_network())
    other = Paper(recorded_r(), FLUXION)
    tell(other, recorded(), recorded_network())
    assert instance.properties == other.properties


def test_what_holds_no_longer_is_removed_when_it_is_told_again() -> None:
    instance = Paper(recorded_r(), FLUXION)
    tell(instance, recorded(), recorded_network())
    places = recorded_network().places
    moved = replace(places[2], network_nodes=(*places[2].network_nodes[:2], "nn-new"))
    answers = recorded()
    located = {**answers.located}
    located[moved.instance_id] = replace(
        located[moved.instance_id], network_nodes=moved.network_nodes
    )
    tell(
        instance,
        replace(answers, located=located),
        Network((*places[:2], moved, *places[3:])),
    )
    assert instance.properties["/cluster0/compute2"]["nn-new"] == "nn3"
    assert LEAF not in instance.properties["/cluster0/compute2"]
    assert LEAF in instance.properties["/cluster0/compute5"]


OLD = {"network_nodes": ("nn-a4c123b1612dd272d", "nn-1371c17149d439536", LEAF)}
NEW = {"network_nodes": (*OLD["network_nodes"][:2], "nn-new")}


@pytest.mark.parametrize(
    ("before", "after", "gone", "come"),
    [
        (OLD, NEW, LEAF, ("nn-new", "nn3")),
        ({"capacity_block": "cr-old"}, {"capacity_block": "cr-new"}, "cr-old",
         ("cr-new", "capacity-block")),
        ({"zone": "us-east-2b"}, {"zone": "us-east-2c", "zone_id": "use2-az3"}, "us-east-2b",
         ("us-east-2c", "zone")),
        ({"instance_type": "hpc7a.12xlarge"}, {"instance_type": "p5.48xlarge"}, "hpc7a.12xlarge",
         ("p5.48xlarge", "instance-type")),
    ],
)  # fmt: skip
def test_a_host_that_is_another_instance_now_loses_what_the_old_one_had(
    before: dict[str, Any], after: dict[str, Any], gone: str, come: tuple[str, str]
) -> None:
    instance = Paper(recorded_r(), FLUXION)
    tell(instance, *changed("compute2", **before))
    others = {host: dict(instance.of(host)) for host in HOSTS if host != "compute2"}
    assert gone in instance.of("compute2")
    tell(instance, *replaced("compute2", **after))
    assert gone not in instance.of("compute2")
    assert come in instance.of("compute2").items()
    assert {host: instance.of(host) for host in others} == others


def test_a_host_without_a_place_now_loses_all_that_it_was_told() -> None:
    instance = Paper(recorded_r(), FLUXION)
    tell(instance, recorded(), recorded_network())
    tell(instance, recorded(), Network(recorded_network().places[:2]))
    assert [host for host in HOSTS if instance.of(host)] == ["compute0", "compute1"]
    told = instance.store[KVS_KEY]
    assert isinstance(told, dict)
    assert set(told["HostMap"]) == {"compute0", "compute1"}


def test_hosts_that_only_a_map_knew_lose_what_they_were_told() -> None:
    ids = sorted(recorded().located)
    instance = Paper(recorded_r(), FLUXION)
    by_map = network_of_hosts(recorded(), HOSTS, {"compute2": ids[0], "compute3": ids[0]})
    tell(instance, recorded(), by_map)
    before = {host: dict(instance.of(host)) for host in ("compute2", "compute3")}
    tell(instance, recorded(), recorded_network())
    plain = Paper(recorded_r(), FLUXION)
    tell(plain, recorded(), recorded_network())
    assert instance.properties == plain.properties
    assert {host: instance.of(host) for host in before} != before


def test_what_was_told_before_there_was_a_map_is_found_by_name() -> None:
    instance = Paper(recorded_r(), FLUXION)
    tell(instance, recorded(), recorded_network())
    instance.store[KVS_KEY] = recorded().document()
    tell(instance, *replaced("compute2", **NEW))
    assert LEAF not in instance.of("compute2")


@pytest.mark.parametrize("hosts", [[], {"compute2": 1}, {"compute2": "i-none"}, {"": "i-none"}])
def test_a_document_that_makes_no_sense_is_told_over(hosts: object) -> None:
    instance = Paper(recorded_r(), FLUXION)
    instance.store[KVS_KEY] = {**recorded().document(), "HostMap": hosts}
    assert tell(instance, recorded(), recorded_network()) == 16 * 5


@pytest.mark.parametrize("refuses", ["remove_property", "set_property"])
def test_what_fluxion_refused_is_done_by_calling_it_again(refuses: str) -> None:
    instance = Paper(recorded_r(), FLUXION)
    tell(instance, recorded(), recorded_network())
    instance.refuses = refuses
    with pytest.raises(FlexError):
        tell(instance, *replaced("compute2", **NEW))
    instance.refuses = ""
    tell(instance, *replaced("compute2", **NEW))
    fresh = Paper(recorded_r(), FLUXION)
    tell(fresh, *replaced("compute2", **NEW))
    assert instance.properties == fresh.properties
    assert instance.store[KVS_KEY] == fresh.store[KVS_KEY]


def test_an_r_that_makes_no_sense_is_refused_before_anything_is_told() -> None:
    R = annotated_r(recorded_r(), recorded_network())
    instance = Paper({**R, "scheduling": {"graph": {"nodes": []}}}, FLUXION)
    with pytest.raises(BadInput):
        tell(instance, recorded(), recorded_network())
    assert instance.calls == 0
    assert KVS_KEY not in instance.store


# -- R and its paths -------------------------------------------------------------------------------


def test_the_whole_r_has_the_scheduling_key_that_the_resource_module_leaves_out() -> None:
    R = annotated_r(recorded_r(), recorded_network())
    instance = Paper(R)
    assert "scheduling" not in instance.resources()
    assert whole_r(instance) == R


def of_hosts(*hosts: str) -> dict[str, Any]:
    lite = [{"rank": f"0-{len(hosts) - 1}", "children": {"core": "0-1"}}]
    execution = {"R_lite": lite, "nodelist": list(hosts), "starttime": 0, "expiration": 0}
    return {"version": 1, "execution": execution}


@pytest.mark.parametrize("kept", [None, "text", {}, {"version": 2}, of_hosts("a"),
                                  of_hosts("b", "a"), of_hosts("a", "b", "c")])  # fmt: skip
def test_an_r_of_other_ranks_or_hosts_than_the_instance_has_is_not_believed(kept: object) -> None:
    instance = Paper(of_hosts("a", "b"))
    instance.store["resource.R"] = kept
    assert whole_r(instance) == of_hosts("a", "b")
    del instance.store["resource.R"]
    assert whole_r(instance) == of_hosts("a", "b")


def test_hosts_that_came_after_the_instance_began_are_told_too() -> None:
    instance = Paper(recorded_r(), FLUXION)
    instance.store["resource.R"] = of_hosts("compute0")
    assert tell(instance, recorded(), recorded_network()) == 16 * 5


def test_brokers_that_share_a_host_share_one_path_that_is_told_once() -> None:
    instance = Paper(of_hosts("compute2", "compute2", "compute5"), FLUXION)
    network = network_of_hosts(recorded(), ["compute2", "compute5"])
    assert tell(instance, recorded(), network) == 2 * 5
    assert set(instance.properties) == {"/cluster0/compute2", "/cluster0/compute5"}


@pytest.mark.parametrize("racks", [["r0", "r1"], ["r0", "r0"]])
def test_brokers_that_share_a_host_in_a_graph_are_told_at_each_of_their_paths(
    racks: list[str],
) -> None:
    paths = [f"/k/{rack}/compute2" for rack in racks]
    vertices: list[object] = [
        {"id": str(rank), "metadata": {"type": "node", "name": "compute2", "rank": rank,
                                       "paths": {"containment": path}}}
        for rank, path in enumerate(paths)
    ]  # fmt: skip
    vertices += [{"id": "k", "metadata": {"type": "cluster", "name": "k"}}, {}, None]
    R = {**of_hosts("compute2", "compute2"), "scheduling": {"graph": {"nodes": vertices}}}
    instance = Paper(R, FLUXION)
    told = tell(instance, recorded(), network_of_hosts(recorded(), ["compute2"]))
    assert told == 5 * len(instance.properties)
    assert set(instance.properties) == set(paths)


@pytest.mark.parametrize("graph", [None, [], {}, {"nodes": None}, {"nodes": [{"metadata": 1}]}])
def test_a_graph_of_shared_hosts_that_states_no_path_leaves_fluxion_alone(graph: object) -> None:
    instance = Paper({**of_hosts("a", "a"), "scheduling": {"graph": graph}}, FLUXION)
    assert tell(instance, recorded(), recorded_network()) == 0
    assert KVS_KEY in instance.store


def test_other_schedulers_get_it_in_the_key_value_store_alone() -> None:
    instance = Paper(recorded_r(), "sched-simple")
    assert tell(instance, recorded(), recorded_network()) is None
    assert instance.calls == 0
    assert KVS_KEY in instance.store


# -- a real Flux ---------------------------------------------------------------------------------


def in_flux(where: Path, script: str, *, amend: bool = False, brokers: int = 0) -> str:
    """What a shell script prints in an instance of the recorded hosts; skips without Flux.

    With ``brokers`` the instance is of so many of them on this host instead.
    """
    if shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no real instance to tell anything")
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    asked = ["flux", "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    theirs = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip()
    if theirs != ours:
        pytest.skip(f"flux python is {theirs}, the tests run on {ours}")
    answers = where / "topology.json"
    answers.write_text(json.dumps(recorded().document()))
    config = where / "flex.toml"
    config.write_text(f'[topology]\nfile = "{answers}"\n')
    packages = [path for path in sys.path if path.endswith("site-packages")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *packages]),
        "FLUX_FLEX_CONFIG": str(config),
        "EXAMPLES": str(EXAMPLES),
        "FLEX": f"flux python -m flux_flex topology tell --offline {answers}",
    }
    options = ["nnodes=16", "cores-per-node=8", "host-prefix=compute"]
    if amend:
        options.append("amend-r=flux_flex.topology.annotate:amend")
    started = [f"--conf=fake-resources.{o}" for o in options]
    if brokers:
        started = [f"--test-size={brokers}"]
    done = subprocess.run(
        ["flux", "start", *started, "sh", "-euc", script],
        capture_output=True, text=True, timeout=120, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SUBMIT = """
id=$(flux submit -N2 --exclusive --requires={leaf} --setattr=system.exec.test.run_duration=60s true)
flux job wait-event -t 20 $id alloc >/dev/null
flux jobs -no "{{nodelist}}" $id
"""


@pytest.mark.flux
def test_a_real_fluxion_places_jobs_by_properties_that_it_was_told(tmp_path: Path) -> None:
    out = in_flux(tmp_path, "$FLEX 2>&1\n" + SUBMIT.format(leaf=LEAF), amend=False)
    assert "80 properties set in fluxion" in out
    assert set(hosts_in(out)) <= {"compute2", "compute5", "compute7", "compute15"}


@pytest.mark.flux
def test_a_real_flux_amends_its_fake_resources_and_its_fluxion_knows_the_levels(
    tmp_path: Path,
) -> None:
    script = """
as_json='import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)'
for name in two-under-one-leaf four-under-one-leaf; do
    id=$(flux python -c "$as_json" <$EXAMPLES/$name.yaml | flux job submit)
    flux job wait-event -t 20 $id alloc >/dev/null
    flux job info $id R
done
"""
    lines = in_flux(tmp_path, script, amend=True).splitlines()
    two, four = (json.loads(line)["execution"]["nodelist"] for line in lines)
    leaves = {place.host: place.network_nodes[-1] for place in recorded_network().places}
    from flux_flex.model.hostlist import expand_nodelist

    under = [leaves[host] for host in expand_nodelist(two, where="two")]
    assert len(under) == 2
    assert len(set(under)) == 1
    under = [leaves[host] for host in expand_nodelist(four, where="four")]
    assert len(under) == 4
    assert len(set(under)) == 1


@pytest.mark.flux
def test_a_real_flux_takes_properties_from_an_amended_r(tmp_path: Path) -> None:
    out = in_flux(tmp_path, SUBMIT.format(leaf=LEAF), amend=True)
    assert set(hosts_in(out)) <= {"compute2", "compute5", "compute7", "compute15"}


@pytest.mark.flux
def test_a_real_fluxion_forgets_what_a_replaced_instance_was_and_the_kvs_knows_its_map(
    tmp_path: Path,
) -> None:
    answers, network = recorded(), recorded_network()
    ids = [place.instance_id for place in network.places]
    for name, first in (("old", ids[2]), ("new", ids[0])):
        # Names say nothing here: all hosts are found by a map.
        bare = {i: replace(one, name_tag="") for i, one in answers.instances.items()}
        document = replace(answers, instances=bare).document()
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
        host_map = {**dict(zip(HOSTS, ids, strict=True)), "compute2": first}
        (tmp_path / f"{name}-map.json").write_text(json.dumps(host_map))
    script = f"""
tell="flux python -m flux_flex topology tell --offline"
$tell {tmp_path}/old.json --host-map {tmp_path}/old-map.json
flux ion-resource get-property /cluster0/compute2 {LEAF}
$tell {tmp_path}/new.json --host-map {tmp_path}/new-map.json
flux ion-resource get-property /cluster0/compute2 {LEAF} 2>&1 || true
flux ion-resource get-property /cluster0/compute5 {LEAF}
flux python -c '{LABELLED}' compute2
"""
    first, gone, second, labels = in_flux(tmp_path, script).splitlines()
    assert "was not found" in gone
    assert first == second == f"{LEAF} = ['nn3']"
    places = {place.instance_id: place for place in network.places}
    assert labels == places[ids[0]].network_nodes[-1]
    assert labels != LEAF


LABELLED = """
import sys
from flux_flex.config import TopologyConfig
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.topology.labels import LAYER, labels_of_host
found = labels_of_host(TopologyConfig(file="/nonexistent"), sys.argv[1], FluxInstance())
print(found[LAYER + "3"])
"""


@pytest.mark.flux
def test_a_real_fluxion_sets_a_property_on_all_brokers_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(
        json.dumps({socket.gethostname(): recorded_network().places[2].instance_id})
    )
    script = f"""
$FLEX --host-map {tmp_path}/map.json 2>&1
flux run -N2 --requires={LEAF} true
flux ion-resource get-property /cluster0/$(hostname) {LEAF}
"""
    out = in_flux(tmp_path, script, brokers=2)
    assert "5 properties set in fluxion" in out
    assert out.splitlines()[-1] == f"{LEAF} = ['nn3', 'nn3']"


def hosts_in(text: str) -> tuple[str, ...]:
    from flux_flex.model.hostlist import expand_hostlist

    found = tuple(expand_hostlist(text.splitlines()[-1]))
    assert len(found) == 2
    return found
