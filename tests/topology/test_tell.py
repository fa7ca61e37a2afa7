"""A running instance is told where its hosts sit: on paper, and a real Flux with its fluxion."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from topology_site import EXAMPLES, ROOT, recorded, recorded_network, recorded_r

from flux_flex.errors import BadInput
from flux_flex.host.flux_answers import RpcError
from flux_flex.topology.annotate import annotated_r
from flux_flex.topology.live import FLUXION, tell
from flux_flex.topology.mapping import Network
from flux_flex.topology.site import KVS_KEY

LEAF = "nn-fae923d5a4fd12aab"


class Paper:
    """An instance whose fluxion keeps the properties of its vertices by path."""

    def __init__(self, R: object, *modules: str, lists: bool = True) -> None:
        self.store: dict[str, object] = {"resource.R": R}
        self.loaded = modules
        self.lists = lists
        self.properties: dict[str, dict[str, str]] = {}
        self.calls = 0

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
        if topic == f"{FLUXION}.set_property":
            paths = payload["sp_resource_path"]
            if isinstance(paths, list) and not self.lists:
                raise RpcError("could not unpack payload", topic, "", errno.EPROTO)
            name, _, value = payload["sp_keyval"].partition("=")
            for path in paths if isinstance(paths, list) else [paths]:
                self.properties.setdefault(path, {})[name] = value
        else:
            assert topic == f"{FLUXION}.remove_property"
            del self.properties[payload["resource_path"]][payload["key"]]
        return {}


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


def test_other_schedulers_get_it_in_the_key_value_store_alone() -> None:
    instance = Paper(recorded_r(), "sched-simple")
    assert tell(instance, recorded(), recorded_network()) is None
    assert instance.calls == 0
    assert KVS_KEY in instance.store


# -- a real Flux ---------------------------------------------------------------------------------


def in_flux(where: Path, script: str, *, amend: bool) -> str:
    """What a shell script prints in an instance of the recorded hosts; skips without Flux."""
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
    done = subprocess.run(
        ["flux", "start", *(f"--conf=fake-resources.{o}" for o in options), "sh", "-euc", script],
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


def hosts_in(text: str) -> tuple[str, ...]:
    from flux_flex.model.hostlist import expand_hostlist

    found = tuple(expand_hostlist(text.splitlines()[-1]))
    assert len(found) == 2
    return found
