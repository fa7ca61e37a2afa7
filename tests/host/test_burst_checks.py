"""doctor's checks of a site that bursts, on machines made of a folder and scripted commands."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checks_world import SETTINGS, World

from flux_flex.host.checks import BURST_CHECKS, Check
from flux_flex.host.checks.machine import Answer, Machine, run_bounded
from flux_flex.host.checks.survey import (
    RPC_PROGRAM,
    WITHOUT_CWD,
    BurstSettings,
    BurstSlot,
    Secret,
    Survey,
)

HOSTS = ("big-0-0", "big-0-1")
CERTIFICATE = "/etc/flux/system/curve.cert"
BURST = BurstSettings(
    file="/etc/flux/flex.toml",
    provider="eks",
    slots=(BurstSlot("big", HOSTS),),
    lead_name="lead",
    lead_address="203.0.113.7",
    lead_port=8050,
    secrets=(Secret("certificate", CERTIFICATE, f"flux keygen {CERTIFICATE}", True),),
)
CONFIG: dict[str, Any] = {
    "bootstrap": {
        "curve_cert": CERTIFICATE,
        "hosts": [
            {"host": "lead", "bind": "tcp://*:8050", "connect": "tcp://203.0.113.7:8050"},
            {"host": "big-0-[0-1]"},
        ],
    },
    "tbon": {"topo": "kary:0"},
    "flex-burst": {},
}
R: dict[str, Any] = {
    "version": 1,
    "execution": {
        "R_lite": [{"rank": "0-2", "children": {"core": "0-1"}}],
        "starttime": 0,
        "expiration": 0,
        "nodelist": ["lead,big-0-[0-1]"],
        "properties": {"big": "1-2"},
    },
}
EASY = {"params": {"queue-policy": "easy", "default": {"queue-policy": "easy"}}}
FCFS = {"params": {"queue-policy": "fcfs", "default": {"queue-policy": "fcfs"}}}
STATUS = {"deciding": True, "bursts": {"up": 1}, "protected": {}, "slots": {"total": 1, "free": 0}}
LISTED = "FlexBurst loaded from /etc/flux/cli/plugins/flux-flex-burst.py\n"
BROKERMOD = f"flux python -c {WITHOUT_CWD} import flux.brokermod"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The lead of an instance that bursts, as its owner sees it."""
    world = World(tmp_path)
    world.settings = replace(SETTINGS, burst=BURST)
    world.program("flux")
    world.says("flux config builtin confdir", "/etc/flux\n")
    world.says("flux getattr config.path", "/etc/flux/system/conf.d\n")
    world.says("flux getattr tbon.topo", "kary:0\n")
    world.says("flux getattr security.owner", f"{Path(tmp_path).stat().st_uid}\n")
    world.says("flux submit --list-plugins", LISTED)
    world.says(BROKERMOD)
    world.configure(CONFIG)
    modules(world, "sched-fluxion-qmanager", "flex-burst")
    answers(world, "sched-fluxion-qmanager.params", EASY)
    answers(world, "flex-burst.status", STATUS)
    answers(world, "resource.status", {"R": R, "drain": {}})
    world.write("/etc/flux/cli/plugins/flux-flex-burst.py")
    world.write("/etc/flux/modules/flex-burst.py")
    world.write("/etc/flux/modprobe/rc3.d/flux-flex.py")
    world.write(CERTIFICATE, "KEY", mode=0o400)
    return world


def answers(world: World, topic: str, answer: object) -> None:
    world.says(f"flux rpc {topic}", {"answer": answer})


def refuses(world: World, topic: str, number: int) -> None:
    world.says(f"flux rpc {topic}", {"errno": number, "why": "so it is"})


def modules(world: World, scheduler: str, *others: str) -> None:
    listed = [{"name": scheduler, "services": ["sched"]}]
    answers(world, "module.list", {"mods": [*listed, *({"name": n} for n in others)]})


def burst(world: World, **keys: Any) -> None:
    world.settings = replace(world.settings, burst=replace(world.settings.burst, **keys))


def configured(world: World, **tables: Any) -> None:
    world.configure({**CONFIG, **tables})


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("check", BURST_CHECKS, ids=lambda check: check.name)
def test_on_a_lead_that_has_everything_all_is_found_and_nothing_to_be_mended(
    world: World, check: Check
) -> None:
    finding = world.find(check.name)
    assert (finding.name, finding.status, finding.remedy) == (check.name, "found", "")
    assert finding.what


@pytest.mark.parametrize("check", BURST_CHECKS, ids=lambda check: check.name)
def test_on_a_machine_with_nothing_each_check_ends_with_a_finding(
    tmp_path: Path, check: Check
) -> None:
    bare = World(tmp_path)
    bare.settings = replace(SETTINGS, burst=BURST)
    finding = bare.find(check.name)
    assert finding.name == check.name
    assert finding.what
    assert (finding.remedy != "") >= (finding.status in ("missing", "warning"))
    assert "Error" not in finding.what


HOSTILE: list[Any] = [
    None, 7, "x", [], {}, {"answer": None}, {"answer": []}, {"errno": "x", "why": []},
    {"answer": {"mods": 7}}, {"answer": {"mods": [None, {"services": "sched", "name": 3}]}},
    {"answer": {"mods": [{"services": ["sched"], "name": []}]}},
    {"answer": {"params": []}}, {"answer": {"params": {"queue-policy": {"queue-policy": 1}}}},
    {"answer": {"R": {"execution": 7}, "drain": 7}}, {"answer": {"R": R, "drain": {"1": 3}}},
    {"answer": {"deciding": "x", "bursts": 1, "protected": [], "slots": []}},
]  # fmt: skip


@pytest.mark.parametrize("said", HOSTILE, ids=repr)
@pytest.mark.parametrize("check", BURST_CHECKS, ids=lambda check: check.name)
def test_answers_that_make_no_sense_end_no_check(world: World, check: Check, said: object) -> None:
    for line in [line for line in world.said if line.startswith("flux rpc ")]:
        world.says(line, json.dumps(said))
    finding = world.find(check.name)
    assert finding.what
    assert "cannot be checked" not in finding.what


@pytest.mark.parametrize("table", [7, [], "x", {"hosts": 7}, {"hosts": [7, {"host": ["["]}]}])
@pytest.mark.parametrize("check", BURST_CHECKS, ids=lambda check: check.name)
def test_configurations_that_make_no_sense_end_no_check(
    world: World, check: Check, table: object
) -> None:
    burst(world, queue="batch")
    configured(world, bootstrap=table, queues=table, tbon=table)
    assert "cannot be checked" not in world.find(check.name).what


# -- the scheduler ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["easy", "conservative", "hybrid"])
def test_under_backfilling_fluxion_the_attribute_is_enough(world: World, policy: str) -> None:
    answers(world, "sched-fluxion-qmanager.params", {"params": {"queue-policy": policy}})
    finding = world.find("burst-scheduler")
    assert finding.what.startswith(f"sched-fluxion-qmanager, queue-policy {policy}:")
    assert "--setattr=burstable is enough" in finding.what


def test_under_fcfs_users_write_burst(world: World) -> None:
    answers(world, "sched-fluxion-qmanager.params", FCFS)
    finding = world.find("burst-scheduler")
    assert finding.status == "found"
    assert finding.what.endswith("users write --burst")
    assert "is enough" not in finding.what


@pytest.mark.parametrize("scheduler", ["sched-simple", "sched-fifo", "sched-backfill"])
def test_under_the_schedulers_of_flux_core_the_attribute_is_enough(
    world: World, scheduler: str
) -> None:
    modules(world, scheduler)
    assert "is enough" in world.find("burst-scheduler").what


def test_under_a_scheduler_that_nobody_knows_users_write_burst(world: World) -> None:
    modules(world, "sched-own")
    what = world.find("burst-scheduler").what
    assert what == "sched-own, of which little is known here: users write --burst"


def test_fluxion_that_tells_no_policy_goes_by_the_configuration(world: World) -> None:
    refuses(world, "sched-fluxion-qmanager.params", errno.ENOSYS)
    assert "queue-policy fcfs" in world.find("burst-scheduler").what
    configured(world, **{"sched-fluxion-qmanager": {"queue-policy": "hybrid"}})
    assert "queue-policy hybrid" in world.find("burst-scheduler").what


def test_each_queue_has_the_policy_that_is_its_own(world: World) -> None:
    per_queue = {"batch": {"queue-policy": "easy"}, "debug": {"queue-policy": "fcfs"}}
    params = {"params": {"queue-policy": "easy", **per_queue}}
    answers(world, "sched-fluxion-qmanager.params", params)
    configured(world, queues={"batch": {}, "debug": {}, "night": {"parent": "debug"}})
    what = world.find("burst-scheduler").what
    assert "queue-policy batch: easy, debug: fcfs, night: fcfs" in what
    assert "users write --burst in debug, night" in what


def test_queue_whose_jobs_may_burst_unasked_has_to_let_them_wait(world: World) -> None:
    per_queue = {"batch": {"queue-policy": "easy"}, "debug": {"queue-policy": "fcfs"}}
    params = {"params": {"queue-policy": "easy", **per_queue}}
    answers(world, "sched-fluxion-qmanager.params", params)
    configured(world, queues={"batch": {}, "debug": {}})
    burst(world, queue="debug")
    finding = world.find("burst-scheduler")
    assert finding.status == "warning"
    assert 'queue-policy-per-queue = "batch:easy debug:easy"' in finding.remedy
    burst(world, queue="batch")
    assert world.find("burst-scheduler").status == "found"
    burst(world, queue="nigth")
    finding = world.find("burst-scheduler")
    assert (finding.status, "nigth" in finding.what) == ("missing", True)


def test_without_an_instance_nothing_is_said_of_its_scheduler(world: World) -> None:
    world.says("flux config get", code=1, err="no broker")
    assert world.find("burst-scheduler").status == "unknown"
    assert not [words for words, _, _ in world.asked if RPC_PROGRAM in words]


def test_what_the_broker_is_asked_does_not_import_from_the_folder_we_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    (tmp_path / "flux.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    said = run_bounded([sys.executable, "-c", RPC_PROGRAM, "x"], {"PATH": "/usr/bin"}, 20.0)
    assert "imported" not in said.err


# -- hosts -----------------------------------------------------------------------------------------


def with_r(world: World, drain: object = None, **keys: Any) -> None:
    execution = {**R["execution"], **keys}
    answers(world, "resource.status", {"R": {**R, "execution": execution}, "drain": drain or {}})


def test_host_that_r_lacks_is_named_with_how_r_is_made_anew(world: World) -> None:
    with_r(world, nodelist=["lead,big-0-0,other"])
    finding = world.find("burst-hosts")
    assert finding.status == "missing"
    assert "R lacks 1 hosts of flex.toml's slots: big-0-1" in finding.what
    assert "flux-flex burst configure --r" in finding.remedy


def test_r_of_other_types_is_told(world: World) -> None:
    with_r(world, properties={"small": "1-2"})
    assert "no property with the type's name on 2 hosts" in world.find("burst-hosts").what


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (["lead"], "[bootstrap] lacks 2 hosts"),
        (["lead", "big-0-1", "big-0-0"], "[bootstrap] has, at other places than R, 2 hosts"),
        (["lead", "big-0-[0-"], "[bootstrap] hosts: "),
    ],
)
def test_bootstrap_has_the_hosts_at_the_ranks_of_r(
    world: World, hosts: list[str], told: str
) -> None:
    configured(world, bootstrap={"hosts": [{"host": host} for host in hosts]})
    finding = world.find("burst-hosts")
    assert (finding.status, told in finding.what) == ("missing", True)


def test_rented_broker_that_drained_itself_is_told_of_noverify(world: World) -> None:
    reason = "rank 1 (big-0-0) missing resources: core[2-7]"
    with_r(world, {"1": {"reason": reason}, "2": {"reason": "flux-flex: kept for jobs"}})
    finding = world.find("burst-hosts")
    assert finding.what == "drained, since they have less than R says: big-0-0"
    assert "noverify = true" in finding.remedy
    assert "flux resource undrain big-0-0" in finding.remedy


def test_without_an_instance_the_file_of_r_is_read(world: World) -> None:
    world.says("flux config get", code=1, err="no broker")
    assert world.find("burst-hosts").status == "unknown"
    world.write("/etc/flux/system/conf.d/a.toml", '[resource]\npath = "/etc/flux/R.json"\n')
    assert world.find("burst-hosts").what == "/etc/flux/R.json cannot be read"
    world.write("/etc/flux/R.json", json.dumps(R))
    assert "[bootstrap] lacks 2 hosts" in world.find("burst-hosts").what


# -- the lead --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ({"host": "other", "bind": "tcp://*:8050"}, "[bootstrap] begins with other"),
        ({"host": "lead"}, "listens at no port"),
        ({"host": "lead", "bind": "tcp://*:9000"}, "listens on port 9000, and burst.lead.port is"),
        ({"host": "lead", "bind": "tcp://127.0.0.1:8050"}, "for this machine alone"),
        ({"host": "lead", "bind": "tcp://[::1]:8050"}, "for this machine alone"),
        ({"host": "lead", "bind": "ipc:///tmp/x"}, "listens at no port"),
    ],
)
def test_lead_has_to_listen_where_rented_brokers_connect_to(
    world: World, first: Mapping[str, str], told: str
) -> None:
    configured(world, bootstrap={"hosts": [first, {"host": "big-0-[0-1]"}]})
    finding = world.find("burst-lead")
    assert (finding.status, told in finding.what) == ("missing", True)
    assert finding.remedy


def test_defaults_of_bootstrap_count_as_the_leads_own(world: World) -> None:
    table = {"default_port": 8050, "default_bind": "tcp://*:%p", "hosts": [{"host": "lead"}]}
    configured(world, bootstrap=table)
    assert world.find("burst-lead").status == "found"


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_loopback_is_an_address_for_local_brokers_only(world: World, address: str) -> None:
    burst(world, lead_address=address)
    assert "rented nodes cannot reach" in world.find("burst-lead").what
    burst(world, provider="local")
    assert world.find("burst-lead").status == "found"


def test_rented_brokers_have_to_be_children_of_the_lead(world: World) -> None:
    world.says("flux getattr tbon.topo", "kary:32\n")
    finding = world.find("burst-lead")
    assert "tbon.topo is kary:32" in finding.what
    assert finding.remedy.splitlines()[1:] == ["[tbon]", 'topo = "kary:0"']


# -- secrets ---------------------------------------------------------------------------------------


def test_secret_that_is_not_there_is_made_as_its_remedy_says(world: World) -> None:
    world.remove(CERTIFICATE)
    finding = world.find("burst-secrets")
    assert finding.status == "missing"
    assert finding.remedy == f"flux keygen {CERTIFICATE}"


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644, 0o420])
def test_secret_that_others_can_read_or_write_is_missing_its_trust(world: World, mode: int) -> None:
    (world.root / CERTIFICATE.lstrip("/")).chmod(mode)
    finding = world.find("burst-secrets")
    assert finding.status == "missing"
    assert f"its mode is {mode:04o}" in finding.what
    assert f"chmod 0400 {CERTIFICATE}" in finding.remedy


def test_secret_of_another_user_than_the_instances_cannot_be_read(world: World) -> None:
    world.says("flux getattr security.owner", "4711\n")
    finding = world.find("burst-secrets")
    assert "the instance to 4711" in finding.what
    assert f"install -m 400 -o 4711 {CERTIFICATE} COPY" in finding.remedy


def test_rented_brokers_need_the_certificate_of_bootstrap(world: World) -> None:
    other = "/etc/flux/other.cert"
    bootstrap = {**CONFIG["bootstrap"], "curve_cert": other}
    configured(world, bootstrap=bootstrap)
    world.write(other, "KEY", mode=0o400)
    assert world.find("burst-secrets").status == "found"
    (world.root / other.lstrip("/")).unlink()
    world.write(other, "ANOTHER", mode=0o400)
    finding = world.find("burst-secrets")
    assert "another certificate than [bootstrap] has" in finding.what
    assert "ANOTHER" not in finding.what + finding.remedy


def test_folder_or_relative_path_is_no_secret(world: World) -> None:
    burst(world, secrets=(Secret("munge key", "/etc/flux", "# copy it"),))
    assert world.find("burst-secrets").what == "/etc/flux is not a file"
    burst(world, secrets=(Secret("munge key", "munge.key", "# copy it"),))
    assert world.find("burst-secrets").what == "munge.key is no absolute path"


# -- the controller --------------------------------------------------------------------------------


def test_controller_that_runs_is_told_by_how(world: World) -> None:
    assert world.find("burst-controller").what == "module flex-burst, deciding, 1 bursts"
    modules(world, "sched-simple")
    assert world.find("burst-controller").what == "burst serve, deciding, 1 bursts"


def test_protected_provider_is_told_with_what_makes_it_trusted_again(world: World) -> None:
    status = {**STATUS, "protected": {"eks": "burst big-0 did not come up"}}
    answers(world, "flex-burst.status", status)
    finding = world.find("burst-controller")
    assert finding.status == "missing"
    assert "big-0 did not come up" in finding.what
    assert finding.remedy.startswith("flux-flex burst start --provider eks")


def test_controller_that_was_stopped_or_is_older_than_flex_toml_is_a_warning(world: World) -> None:
    slots = {"total": 4, "free": 4}
    answers(world, "flex-burst.status", {**STATUS, "deciding": False, "slots": slots})
    finding = world.find("burst-controller")
    assert finding.status == "warning"
    assert finding.remedy.splitlines() == [
        "flux-flex burst start",
        "flux module remove flex-burst && "
        "flux module load /etc/flux/modules/flex-burst.py /etc/flux/flex.toml",
    ]


def test_module_that_nothing_removes_before_the_broker_ends_is_a_warning(world: World) -> None:
    world.remove("/etc/flux/modprobe/rc3.d/flux-flex.py")
    finding = world.find("burst-controller")
    assert (finding.status, "ends with 1" in finding.what) == ("warning", True)
    world.environ["FLUX_MODPROBE_PATH_APPEND"] = "/no:/own"
    world.write("/own/rc3.d/flux-flex.py")
    assert world.find("burst-controller").status == "found"


def test_without_a_controller_the_module_is_installed_configured_or_loaded(world: World) -> None:
    refuses(world, "flex-burst.status", errno.ENOSYS)
    load = "flux module load /etc/flux/modules/flex-burst.py /etc/flux/flex.toml"
    finding = world.find("burst-controller")
    assert (finding.status, finding.remedy.splitlines()[0]) == ("missing", load)
    configured(world, **{"flex-burst": None})
    lines = world.find("burst-controller").remedy.splitlines()
    assert load in lines[0]
    assert lines[1:] == ["[flex-burst]", 'config = "/etc/flux/flex.toml"']
    world.says("flux getattr config.path", "/etc/flux/broker.toml\n")
    assert "in /etc/flux/broker.toml, then" in world.find("burst-controller").remedy
    world.remove("/etc/flux/modules/flex-burst.py")
    remedy = world.find("burst-controller").remedy
    assert remedy.startswith("sudo scripts/install-scripts.sh --burst /etc/flux/system")


def test_flux_that_loads_no_modules_in_python_has_the_controller_served(world: World) -> None:
    refuses(world, "flex-burst.status", errno.ENOSYS)
    world.says(BROKERMOD, code=1, err="ModuleNotFoundError")
    finding = world.find("burst-controller")
    assert "loads no modules in Python" in finding.what
    assert finding.remedy.startswith("flux-flex burst serve")


def test_controller_that_does_not_talk_to_us_is_not_missing(world: World) -> None:
    refuses(world, "flex-burst.status", errno.EPERM)
    assert world.find("burst-controller").status == "unknown"
    world.says("flux rpc flex-burst.status", code=None, err="no answer within 5 s")
    finding = world.find("burst-controller")
    assert (finding.status, "no answer within 5 s" in finding.what) == ("unknown", True)


# -- the option ------------------------------------------------------------------------------------


def test_option_is_needed_under_fcfs_and_good_to_have_elsewhere(world: World) -> None:
    world.says("flux submit --list-plugins", "ShapePlugin loaded from /x.py\n")
    finding = world.find("burst-option")
    assert (finding.status, "is enough here" in finding.what) == ("warning", True)
    answers(world, "sched-fluxion-qmanager.params", FCFS)
    finding = world.find("burst-option")
    assert finding.status == "missing"
    assert finding.remedy == "sudo scripts/install-scripts.sh --burst /etc/flux/system"


def test_option_that_a_variable_hides_is_brought_back_by_unsetting_it(world: World) -> None:
    world.says("flux submit --list-plugins", "")
    world.environ["FLUX_CLI_PLUGINPATH_OVERRIDE"] = ""
    assert world.find("burst-option").remedy == "unset FLUX_CLI_PLUGINPATH_OVERRIDE"


def test_option_from_a_file_that_others_can_write_is_told(world: World) -> None:
    (world.root / "etc/flux/cli/plugins/flux-flex-burst.py").chmod(0o666)
    finding = world.find("burst-option")
    assert finding.status == "missing"
    assert finding.remedy.startswith("sudo chmod go-w /etc/flux/cli/plugins/")


def test_flux_without_plugins_has_a_way_in_words(world: World) -> None:
    unknown = "usage: flux submit\nflux submit: error: unrecognized arguments: --list-plugins"
    world.says("flux submit --list-plugins", code=2, err=unknown)
    finding = world.find("burst-option")
    assert finding.status == "warning"
    assert "--urgency=hold --setattr=burstable --setattr=user.flex.held=true" in finding.remedy


def test_plugin_that_breaks_flux_submit_is_told_by_its_last_line(world: World) -> None:
    world.says("flux submit --list-plugins", code=1, err="Traceback\n  x\nKeyError: 'a'\n")
    assert world.find("burst-option").what == "flux submit does not work: KeyError: 'a'"


# -- what the broker answers -----------------------------------------------------------------------


def test_each_service_is_asked_once(world: World) -> None:
    survey = Survey(world.machine(), world.settings)
    for check in BURST_CHECKS:
        check.look(survey)
    topics = [words[-1] for words, _, _ in world.asked if RPC_PROGRAM in words]
    assert sorted(topics) == sorted(set(topics))


def test_answer_is_cut_where_there_is_too_much_and_then_no_answer(tmp_path: Path) -> None:
    def run(words: object, environ: object, timeout_s: float) -> Answer:
        return Answer(0, '{"answer": {"R": ' + "[" * 1000)

    World(tmp_path).program("flux")
    machine = Machine(tmp_path, {"PATH": "/usr/bin"}, run, 1000, "ann")
    assert Survey(machine, SETTINGS).rpc("resource.status").answer is None
