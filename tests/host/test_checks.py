"""doctor's checks on machines made of a folder and scripted commands, and on this one."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from checks_world import SETTINGS, World, check_of

from flux_flex.config import UsernetesConfig
from flux_flex.host.checks import BURSTING, CHECKS, Check, look
from flux_flex.host.checks.child import ask_child
from flux_flex.host.checks.findings import Finding, Problem, judged_lines
from flux_flex.host.checks.machine import MOST_BYTES, Answer, Machine, run_bounded
from flux_flex.host.checks.survey import WITHOUT_CWD, Survey
from flux_flex.host.checks.tables import at, tomllib
from flux_flex.usernetes.state import ROOT_STATE, STATE_VARIABLE

PERILOG: dict[str, Any] = {
    "exec": {"imp": "/usr/libexec/flux/flux-imp"},
    "access": {"allow-root-owner": True},
    "job-manager": {
        "plugins": [{"load": "perilog.so"}],
        "prolog": {"per-rank": True},
        "epilog": {"per-rank": True},
    },
    "ingest": {"validator": {"plugins": ["jobspec", "/usr/libexec/flux/flux-flex-validator.py"]}},
}
IMP = """
[run.prolog]
allowed-users = ["flux"]
allowed-environment = ["FLUX_*"]
path = "/usr/libexec/flux/cmd/flux-run-prolog"
[run.epilog]
allowed-users = ["flux"]
allowed-environment = ["FLUX_*"]
path = "/usr/libexec/flux/cmd/flux-run-epilog"
"""
DOCKER = {"ServerVersion": "28.2", "SecurityOptions": ["name=seccomp", "name=rootless"]}
MODULES = ("br_netfilter", "vxlan", "ip_tables", "ip6_tables", "iptable_nat", "ip6table_nat")
USER_CGROUP = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"


@pytest.fixture
def bare(tmp_path: Path) -> World:
    """A machine with nothing."""
    return World(tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A node of a system instance that has everything, as an ordinary user sees it."""
    world = World(tmp_path)
    world.program("flux", "docker", "dockerd-rootless.sh", "make", "jq", "newuidmap")
    world.says("flux version", "commands:\t0.88.0\nlibflux-core:\t0.88.0\n")
    world.says("flux getattr size", "4\n")
    world.says("flux getattr config.path", "/etc/flux/system/conf.d\n")
    world.says("flux config builtin confdir", "/etc/flux\n")
    world.says("flux config builtin libexecdir", "/usr/libexec/flux\n")
    world.says("flux jobtap list", "perilog.so\n")
    world.configure(PERILOG)
    library = {"file": "/usr/lib/flux/__init__.py", "library": "0.88.0", "wheel": ""}
    world.says("child bindings", library)
    for side in ("prolog", "epilog"):
        world.write(f"/etc/flux/system/{side}.d/50-flux-flex", mode=0o755)
    world.write("/etc/flux/imp/conf.d/imp.toml", IMP)
    world.write("/usr/libexec/flux/flux-imp", mode=0o755)
    world.write("/usr/libexec/flux/flux-flex-validator.py")
    world.says("docker info --format {{json .}}", DOCKER)
    world.says("docker compose version", "Docker Compose version v2.29.1\n")
    world.write("/run/systemd/system/x")
    world.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids")
    world.write(USER_CGROUP, "cpuset cpu io memory pids\n")
    world.write("/proc/sys/kernel/osrelease", "6.1.0\n")
    world.write("/proc/modules", "".join(f"{m} 1 0 - Live\n" for m in MODULES[:3]))
    world.write(
        "/lib/modules/6.1.0/modules.builtin",
        "".join(f"kernel/net/{m.replace('_', '-')}.ko\n" for m in MODULES[3:]),
    )
    for name, value in {
        "net/ipv4/conf/default/rp_filter": "2",
        "net/ipv4/ip_forward": "1",
        "user/max_user_namespaces": "1000",
        "kernel/unprivileged_userns_clone": "1",
        "kernel/apparmor_restrict_unprivileged_userns": "0",
    }.items():
        world.write(f"/proc/sys/{name}", f"{value}\n")
    for place in ("/etc/subuid", "/etc/subgid"):
        world.write(place, "bob:100000:65536\nann:165536:65536\n")
    world.write("/var/lib/systemd/linger/ann")
    (tmp_path / "home/ann").mkdir(parents=True)
    world.says("child aws", {"method": "iam-role", "region": "us-east-1"})
    world.write("/home/ann/.kube/config")
    world.says("child crd", {"host": "k8s", "status": 200, "found": True})
    return world


def with_key(table: Mapping[str, Any], value: object, *keys: str) -> dict[str, Any]:
    """A copy of a table with a value below the keys; None takes the key away."""
    copy: dict[str, Any] = json.loads(json.dumps(table))
    inner = copy
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return copy


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_on_a_machine_that_has_everything_all_is_found_and_nothing_to_be_mended(
    world: World, check: Check
) -> None:
    finding = world.find(check.name)
    assert (finding.name, finding.status, finding.remedy) == (check.name, "found", "")
    assert finding.what


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_on_a_machine_with_nothing_each_check_ends_with_a_finding(
    bare: World, check: Check
) -> None:
    finding = bare.find(check.name)
    assert finding.name == check.name
    assert finding.what
    assert (finding.remedy != "") >= (finding.status in ("missing", "warning"))
    assert "Error" not in finding.what


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_command_is_given_a_deadline(world: World, check: Check) -> None:
    world.find(check.name)
    assert all(0 < timeout_s <= 15 for _, _, timeout_s in world.asked)


HOSTILE = ("\x1b[2J\x9b31m\0" * 50 + "\n") * 2000


@pytest.mark.parametrize("noise", [HOSTILE, "[" * 200_000, '{"a":' * 100_000, "[]", "null", "{}"])
def test_what_commands_print_breaks_no_check(world: World, noise: str) -> None:
    for line in world.said:
        world.says(line, noise)
    for check in CHECKS:
        finding = world.find(check.name)
        assert "cannot be checked" not in finding.what, finding


@pytest.mark.parametrize("noise", [HOSTILE, "[run]\nprolog = 1", "run = [[]]", "x" * (2 << 20)])
def test_what_files_hold_breaks_no_check(world: World, noise: str) -> None:
    for path in [path for path in world.root.rglob("*") if path.is_file()]:
        path.write_text(noise)
    world.says("flux config get", code=1)
    for check in CHECKS:
        assert "cannot be checked" not in world.find(check.name).what, check.name


@pytest.mark.parametrize(
    "value", [0, "x", [], {}, [[]], [None], True], ids=["0", "x", "[]", "{}", "[[]]", "[n]", "t"]
)
def test_configuration_of_the_wrong_kind_breaks_no_check(world: World, value: object) -> None:
    keys = [
        ["exec"], ["exec", "imp"], ["access"], ["job-manager"], ["job-manager", "plugins"],
        ["job-manager", "prolog"], ["job-manager", "prolog", "command"],
        ["job-manager", "prolog", "timeout"], ["job-manager", "epilog", "kill-timeout"],
        ["ingest"], ["ingest", "validator"], ["ingest", "validator", "plugins"],
    ]  # fmt: skip
    for path in keys:
        world.configure(with_key(PERILOG, value, *path))
        for check in CHECKS:
            assert "cannot be checked" not in world.find(check.name).what, (check.name, path)


def test_check_that_stumbles_has_found_nothing_out_and_tells_why(world: World) -> None:
    def stumble(survey: Survey) -> Finding:
        raise RuntimeError("a broken machine")

    finding = look(replace(check_of("flux"), look=stumble), Survey(world.machine(), SETTINGS))
    assert finding.status == "unknown"
    assert "a broken machine" in finding.what


def test_what_bursting_needs_is_never_missing_but_a_warning(bare: World) -> None:
    bare.write("/home/ann/.kube/config")
    for check in CHECKS:
        if check.needed_for == BURSTING:
            assert bare.find(check.name).status == "warning"


def test_commands_for_root_are_typed_with_sudo_by_others_only(world: World) -> None:
    world.write("/proc/sys/net/ipv4/ip_forward", "0")
    assert "| sudo tee" in world.find("sysctls").remedy
    world.uid = 0
    assert "sudo" not in world.find("sysctls").remedy


# -- Flux ------------------------------------------------------------------------------------------


def test_flux_that_is_not_on_path_is_missing_and_said_where_it_is(bare: World) -> None:
    finding = bare.find("flux")
    assert (finding.status, finding.what) == ("missing", "there is no flux on PATH")
    assert "install flux-core" in finding.remedy
    bare.program("flux", folder="/opt/flux/bin")
    finding = bare.find("flux")
    assert (finding.status, finding.remedy) == ("missing", "export PATH=/opt/flux/bin:$PATH")


def test_flux_that_does_not_work_is_missing(world: World) -> None:
    world.says("flux version", code=127, err="libflux-core.so.2: no such file")
    finding = world.find("flux")
    assert finding.status == "missing"
    assert "libflux-core.so.2" in finding.what


@pytest.mark.parametrize(
    ("version", "status"),
    [("0.77.1", "warning"), ("0.78.0", "found"), ("1.0.0", "found"), ("0.88.0-12-g1", "found")],
)
def test_flux_before_0_78_knows_no_prolog_d(world: World, version: str, status: str) -> None:
    world.says("flux version", f"libflux-core:\t\t{version}\n")
    finding = world.find("flux")
    assert finding.status == status
    assert version in finding.what


def test_broker_that_does_not_answer_keeps_nobody_from_the_version_of_flux(world: World) -> None:
    world.environ["FLUX_URI"] = "ssh://gone/x"
    world.find("flux")
    world.find("scripts")
    asked = {" ".join(words): "FLUX_URI" in environ for words, environ, _ in world.asked}
    assert not asked["/usr/bin/flux version"]
    assert not asked["/usr/bin/flux config builtin confdir"]
    assert asked["/usr/bin/flux config get"]


def test_instance_is_the_one_of_flux_uri_and_its_absence_only_a_warning(world: World) -> None:
    assert "the system's, 4 brokers" in world.find("flux-instance").what
    world.environ["FLUX_URI"] = "local:///run/x"
    world.says("flux getattr size", "1\n")
    assert world.find("flux-instance").what == "local:///run/x, 1 broker"
    world.says("flux getattr size", code=1, err="flux_open: No such file")
    assert world.find("flux-instance").status == "warning"
    assert world.find("flux-instance").remedy == "flux overlay status"


def test_bindings_of_another_version_than_flux_are_missing(world: World) -> None:
    world.says("child bindings", {"file": "/x", "library": "0.88.0", "wheel": "0.87.0"})
    finding = world.find("flux-python")
    assert finding.status == "missing"
    assert "the wheel is of version 0.87.0, flux of 0.88.0" in finding.what
    assert "flux-python==0.88.0" in finding.remedy


def test_bindings_that_only_flux_python_has_are_a_warning(world: World) -> None:
    world.says("child bindings", {"error": "No module named 'flux'"})
    assert world.find("flux-python").status == "missing"
    world.says(f"flux python -c {WITHOUT_CWD} import flux.job")
    finding = world.find("flux-python")
    assert finding.status == "warning"
    assert "flux-python==0.88.0" in finding.remedy


def test_bindings_are_mended_as_the_error_of_commands_says(world: World) -> None:
    mends = "/x/python -m pip install cffi ply"
    world.says("child bindings", {"error": "No module named '_cffi_backend'", "remedy": mends})
    finding = world.find("flux-python")
    assert finding.status == "missing"
    assert finding.remedy == mends


# -- perilog ---------------------------------------------------------------------------------------


def test_instance_without_perilog_is_told_all_lines(world: World) -> None:
    world.configure({})
    world.says("flux jobtap list", "")
    finding = world.find("perilog")
    assert finding.status == "missing"
    assert finding.what.startswith("the running instance: perilog.so is not loaded; no prolog")
    lines = finding.remedy.splitlines()
    assert lines[0] == (
        "# in /etc/flux/system/conf.d/flux-flex.toml on every node,"
        " then: flux config reload && flux jobtap load perilog.so"
    )
    assert lines[1:] == [
        "[job-manager]",
        'plugins = [{ load = "perilog.so" }]',
        "[job-manager.prolog]",
        "per-rank = true",
        'command = ["/etc/flux/system/prolog.d/50-flux-flex"]',
        "[job-manager.epilog]",
        "per-rank = true",
        'command = ["/etc/flux/system/epilog.d/50-flux-flex"]',
    ]


def test_plugin_is_not_loaded_twice(world: World) -> None:
    world.configure(with_key(PERILOG, {}, "job-manager", "epilog"))
    assert world.find("perilog").remedy.splitlines()[0].endswith("then: flux config reload")


def test_lines_of_the_remedy_are_toml_that_mends(world: World) -> None:
    world.configure({})
    world.says("flux jobtap list", "")
    lines = world.find("perilog").remedy
    world.says("flux jobtap list", "perilog.so")
    world.configure(tomllib.loads(lines))
    assert world.find("perilog").status == "found"


def test_plugin_that_is_configured_but_not_loaded_is_missing(world: World) -> None:
    world.says("flux jobtap list", "other.so\n")
    finding = world.find("perilog")
    assert (finding.status, finding.remedy) == ("missing", "flux jobtap load perilog.so")


def test_plugin_that_was_loaded_by_hand_is_found(world: World) -> None:
    world.configure(with_key(PERILOG, None, "job-manager", "plugins"))
    assert world.find("perilog").status == "found"


def test_guest_who_may_not_list_plugins_believes_the_configuration(world: World) -> None:
    world.says("flux jobtap list", code=1, err="Operation not permitted")
    assert world.find("perilog").status == "found"
    world.configure(with_key(PERILOG, [{"load": "x.so"}], "job-manager", "plugins"))
    finding = world.find("perilog")
    assert finding.status == "missing"
    assert '# add { load = "perilog.so" } to the plugins that are there' in finding.remedy


@pytest.mark.parametrize("side", ["prolog", "epilog"])
def test_side_that_is_not_configured_or_runs_on_one_rank_is_missing(
    world: World, side: str
) -> None:
    world.configure(with_key(PERILOG, None, "job-manager", side))
    finding = world.find("perilog")
    assert finding.status == "missing"
    assert f"no {side}" in finding.what
    assert finding.remedy.endswith(f"[job-manager.{side}]\nper-rank = true")
    world.configure(with_key(PERILOG, {}, "job-manager", side))
    assert f"{side} without per-rank" in world.find("perilog").what


def test_command_of_the_sites_own_is_a_warning_unless_it_is_ours(world: World) -> None:
    keys = ("job-manager", "prolog", "command")
    world.configure(with_key(PERILOG, ["/site/prolog"], *keys))
    finding = world.find("perilog")
    assert finding.status == "warning"
    assert finding.remedy == "# have /site/prolog run /etc/flux/system/prolog.d/50-flux-flex"
    for words in (["/x/50-flux-flex"], ["/x/flux-imp", "run", "prolog"], ["flux-run-prolog"]):
        world.configure(with_key(PERILOG, words, *keys))
        assert world.find("perilog").status == "found", words


def test_without_an_instance_the_files_of_the_system_are_read_and_merged(world: World) -> None:
    world.says("flux config get", code=1)
    folder = "/etc/flux/system/conf.d"
    assert world.find("perilog").what.startswith(f"no broker answers, and nothing is in {folder}")
    world.write(f"{folder}/a.toml", "[job-manager.prolog]\nper-rank = true\ntimeout = '1h'")
    world.write(f"{folder}/b.toml", "[job-manager.epilog]\nper-rank = true\n[exec]\nimp = '/x'")
    world.write(f"{folder}/c.toml", "[job-manager]\nplugins = [{load = 'perilog.so'}]")
    assert world.find("perilog").status == "found"


def test_imp_that_the_files_of_the_system_do_not_name_is_told(world: World) -> None:
    world.says("flux config get", code=1)
    finding = world.find("perilog")
    assert '[exec]\nimp = "/usr/libexec/flux/flux-imp"' in finding.remedy
    assert "command =" not in finding.remedy


def test_file_that_is_no_toml_is_missing_and_one_that_is_forbidden_unknown(world: World) -> None:
    world.says("flux config get", code=1)
    path = world.write("/etc/flux/system/conf.d/a.toml", "[job-manager")
    finding = world.find("perilog")
    assert finding.status == "missing"
    assert "a.toml: not TOML" in finding.what
    assert world.find("perilog-owner").status == "skipped"
    assert world.find("perilog-timeouts").status == "skipped"
    assert world.find("validator").status == "skipped"
    path.unlink()
    path.mkdir()  # cannot be read, by root neither
    finding = world.find("perilog")
    assert (finding.status, finding.remedy) == ("unknown", "sudo flux-flex doctor")
    world.uid = 0
    assert world.find("perilog").remedy == "ls -ld /etc/flux/system/conf.d/a.toml"


def test_folder_that_may_not_be_looked_into_is_unknown_and_not_empty(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    world.says("flux config get", code=1)
    for name in ("perilog", "imp"):
        finding = world.find(name)
        assert finding.status == "unknown"
        assert "conf.d: cannot be read: Permission denied" in finding.what


def test_root_who_is_a_guest_is_missing_where_the_imp_runs_prologs(world: World) -> None:
    world.configure(with_key(PERILOG, None, "access"))
    finding = world.find("perilog-owner")
    assert finding.status == "missing"
    assert finding.remedy.endswith("[access]\nallow-root-owner = true")
    world.configure(with_key(PERILOG, None, "exec"))
    assert world.find("perilog-owner").status == "skipped"


@pytest.mark.parametrize(
    ("side", "key", "value", "says"),
    [
        ("prolog", "timeout", "20m", "prolog: timeout 20m is not above deadlines.total 20m"),
        ("prolog", "timeout", "soon", "prolog: timeout makes no sense"),
        ("prolog", "kill-timeout", 45.0, "prolog: kill-timeout 45s is not above"),
        ("epilog", "kill-timeout", 5, "epilog: kill-timeout 5s is not above deadlines.teardown"),
        ("epilog", "timeout", "30s", "epilog: timeout 30s is not above deadlines.teardown 45s"),
    ],
)
def test_patience_of_flux_that_is_shorter_than_ours_is_missing(
    world: World, side: str, key: str, value: object, says: str
) -> None:
    world.configure(with_key(PERILOG, value, "job-manager", side, key))
    finding = world.find("perilog-timeouts")
    assert finding.status == "missing"
    assert says in finding.what
    assert finding.remedy.splitlines()[1] == f"[job-manager.{side}]"
    assert finding.remedy.splitlines()[2].startswith(f"{key} = ")


@pytest.mark.parametrize("value", ["0", "infinity", "inf", "1201s", "1h"])
def test_patience_that_is_long_or_has_no_end_is_found(world: World, value: str) -> None:
    world.configure(with_key(PERILOG, value, "job-manager", "prolog", "timeout"))
    assert world.find("perilog-timeouts").status == "found"


def test_deadlines_that_are_not_configured_fit_into_the_patience_that_flux_has_by_itself(
    world: World,
) -> None:
    ours = UsernetesConfig().deadlines
    world.settings = replace(SETTINGS, total_s=ours.total, teardown_s=ours.teardown)
    assert world.find("perilog-timeouts").status == "found"


def test_deadlines_above_flux_own_defaults_are_told_in_one_table_for_each_side(
    world: World,
) -> None:
    world.settings = replace(SETTINGS, total_s=1800.0, teardown_s=60.0)
    table = tomllib.loads(world.find("perilog-timeouts").remedy)
    assert at(table, "job-manager", "prolog") == {"timeout": "2701s", "kill-timeout": 91.0}
    assert at(table, "job-manager", "epilog") == {"kill-timeout": 91.0}


# -- scripts, IMP and validator --------------------------------------------------------------------


def test_script_that_is_not_there_is_missing(world: World) -> None:
    world.remove("/etc/flux/system/epilog.d/50-flux-flex")
    finding = world.find("scripts")
    assert finding.status == "missing"
    assert finding.what == "no /etc/flux/system/epilog.d/50-flux-flex"
    assert finding.remedy == "sudo scripts/install-scripts.sh /etc/flux/system"


@pytest.mark.parametrize(("mode", "command"), [(0o644, "chmod 755"), (0o775, "chmod go-w")])
def test_script_that_flux_skips_or_others_may_write_is_missing(
    world: World, mode: int, command: str
) -> None:
    place = "/etc/flux/system/prolog.d/50-flux-flex"
    world.write(place, mode=mode)
    finding = world.find("scripts")
    assert (finding.status, finding.remedy) == ("missing", f"sudo {command} {place}")


@pytest.mark.parametrize("side", ["prolog", "epilog"])
def test_program_that_switches_the_folder_off_is_moved_into_it(world: World, side: str) -> None:
    alone = f"/etc/flux/system/{side}"
    world.write(alone, mode=0o644)  # Flux runs only what is executable
    assert world.find("scripts").status == "found"
    world.write(alone, mode=0o755)
    finding = world.find("scripts")
    assert finding.status == "missing"
    assert finding.remedy == f"sudo mv {alone} {alone}.d/00-site"


def test_scripts_do_not_matter_to_an_instance_with_commands_of_its_own(world: World) -> None:
    table = with_key(PERILOG, ["/my/flux-flex-prolog"], "job-manager", "prolog", "command")
    table = with_key(table, ["/my/flux-flex-epilog"], "job-manager", "epilog", "command")
    world.configure(table)
    assert world.find("scripts").status == "skipped"
    assert world.find("perilog").status == "found"
    assert world.find("perilog-owner").status == "skipped"


def test_places_are_those_of_the_flux_that_is_installed(world: World) -> None:
    world.says("flux config builtin confdir", "/opt/f/etc/flux\n")
    world.says("flux config builtin libexecdir", "/opt/f/libexec/flux\n")
    assert "no /opt/f/etc/flux/system/prolog.d/50-flux-flex" in world.find("scripts").what
    world.configure({})
    assert '"/opt/f/libexec/flux/flux-flex-validator.py"' in world.find("validator").remedy
    assert world.find("imp").status == "skipped"


def test_imp_that_may_not_run_a_side_is_missing(world: World) -> None:
    world.write("/etc/flux/imp/conf.d/imp.toml", IMP[: IMP.index("[run.epilog]")])
    finding = world.find("imp")
    assert finding.status == "missing"
    assert finding.remedy == (
        "# in /etc/flux/imp/conf.d/imp.toml on every node\n"
        '[run.epilog]\nallowed-users = ["flux"]\nallowed-environment = ["FLUX_*"]\n'
        'path = "/usr/libexec/flux/cmd/flux-run-epilog"'
    )


def test_imp_that_hands_no_variables_on_is_missing(world: World) -> None:
    world.write("/etc/flux/imp/conf.d/imp.toml", IMP.replace("FLUX_*", "PATH", 1))
    finding = world.find("imp")
    assert finding.status == "missing"
    assert finding.remedy.endswith('[run.prolog]\nallowed-environment = ["FLUX_*"]')


def test_validator_is_added_to_those_that_are_there(world: World) -> None:
    world.configure(with_key(PERILOG, ["jobspec", "feasibility"], "ingest", "validator", "plugins"))
    finding = world.find("validator")
    assert finding.status == "warning"
    ours = "/usr/libexec/flux/flux-flex-validator.py"
    assert finding.remedy.endswith(f'plugins = ["jobspec", "feasibility", "{ours}"]')


def test_validator_that_is_configured_but_not_there_is_missing(world: World) -> None:
    world.remove("/usr/libexec/flux/flux-flex-validator.py")
    finding = world.find("validator")
    assert finding.status == "missing"
    assert "Flux refuses every job" in finding.what


def test_validator_that_is_switched_off_is_a_warning(world: World) -> None:
    world.configure(with_key(PERILOG, True, "ingest", "validator", "disable"))
    assert world.find("validator").status == "warning"


# -- engine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("programs", "name"),
    [
        (["dockerd-rootless.sh", "containerd-rootless.sh", "podman", "docker"], "docker"),
        (["containerd-rootless.sh", "podman", "docker"], "nerdctl"),
        (["podman", "docker"], "podman"),
        (["docker"], "docker"),
    ],
)
def test_engine_is_detected_in_the_order_of_usernetes(
    bare: World, programs: list[str], name: str
) -> None:
    bare.program(*programs)
    finding = bare.find("engine")
    assert finding.what.startswith(f"{name} ({programs[0]}) does not answer")


def test_configured_engine_comes_before_what_is_detected(world: World) -> None:
    world.settings = replace(SETTINGS, container_engine="podman")
    assert "podman (flex.toml)" in world.find("engine").what
    world.program("podman")
    told = {"host": {"security": {"rootless": True}}, "version": {"Version": "4.3.1"}}
    world.says("podman info --format json", told)
    assert world.find("engine").what == "podman 4.3.1 (flex.toml), rootless"


def test_no_engine_is_missing_and_installed_by_what_the_machine_has(bare: World) -> None:
    finding = bare.find("engine")
    assert finding.status == "missing"
    assert finding.remedy == "sudo apt-get install podman podman-compose"
    bare.program("dnf")
    assert bare.find("engine").remedy == "sudo dnf install podman podman-compose"


def test_engine_beyond_the_path_of_the_make_targets_is_a_line_of_configuration(
    bare: World,
) -> None:
    bare.environ["PATH"] = "/home/ann/bin"
    bare.program("docker", "jq", folder="/home/ann/bin")
    lines = '# in flex.toml\n[usernetes]\npath = "/home/ann/bin:/usr/local/bin:/usr/bin"'
    assert bare.find("engine").remedy == lines
    assert lines in bare.find("engine-tools").remedy


def test_rootful_docker_is_a_warning(world: World) -> None:
    world.says("docker info --format {{json .}}", {"ServerVersion": "20.10"})
    world.remove("/usr/bin/dockerd-rootless.sh")
    finding = world.find("engine")
    assert finding.status == "warning"
    assert "rootful" in finding.what
    assert "rootless" in finding.remedy


def test_daemon_that_does_not_answer_is_missing(world: World) -> None:
    world.says("docker info --format {{json .}}", {"ServerVersion": ""}, 1, "Cannot connect")
    world.program("dockerd-rootless-setuptool.sh")
    finding = world.find("engine")
    assert finding.status == "missing"
    assert "Cannot connect" in finding.what
    assert finding.remedy == "dockerd-rootless-setuptool.sh install"


@pytest.mark.parametrize(
    ("engine", "installed", "remedy"),
    [
        ("docker", True, "sudo systemctl start docker"),
        ("nerdctl", True, "sudo systemctl start containerd"),
        ("podman", True, "podman info"),
        ("docker", False, "sudo apt-get install docker.io"),
        ("podman", False, "sudo apt-get install podman"),
    ],
)
def test_engine_without_a_rootless_set_up_is_started_asked_or_installed(
    bare: World, engine: str, installed: bool, remedy: str
) -> None:
    bare.settings = replace(SETTINGS, container_engine=engine)
    if installed:
        bare.program(engine)
    finding = bare.find("engine")
    assert (finding.status, finding.remedy) == ("missing", remedy)


def test_daemon_that_refuses_the_user_is_missing(world: World) -> None:
    world.says("docker info --format {{json .}}", code=1, err="permission denied")
    assert "sudo usermod -aG docker ann" in world.find("engine").remedy


def test_root_cannot_see_the_daemons_of_users(world: World) -> None:
    world.uid = 0
    world.program("dockerd-rootless-setuptool.sh")
    world.says("docker info --format {{json .}}", code=1, err="Cannot connect")
    assert world.find("engine").status == "unknown"


def test_daemon_of_the_user_is_asked_before_that_of_the_system(world: World) -> None:
    world.write("/run/docker.sock")
    world.find("engine")
    assert world.asked[-1][1]["DOCKER_HOST"] == "unix:///run/docker.sock"
    assert world.asked[-1][1]["PATH"] == SETTINGS.path
    world.write("/run/user/1000/docker.sock")
    world.find("engine")
    assert world.asked[-1][1]["DOCKER_HOST"] == "unix:///run/user/1000/docker.sock"


def test_compose_is_the_first_that_works(world: World) -> None:
    world.says("docker compose version", code=1, err="unknown command: docker compose")
    finding = world.find("engine-compose")
    assert finding.status == "missing"
    assert "unknown command" in finding.what
    assert finding.remedy == "sudo apt-get install docker-compose"
    world.program("docker-compose")
    world.says("docker-compose version", "docker-compose version 1.29.2\nmore\n")
    finding = world.find("engine-compose")
    assert (finding.status, finding.remedy) == ("found", "")
    assert finding.what == "docker-compose: docker-compose version 1.29.2"


def test_configured_compose_has_to_work(world: World) -> None:
    world.settings = replace(SETTINGS, compose="my compose")
    assert world.find("engine-compose").status == "missing"
    world.program("my")
    world.says("my compose version", "1\n")
    assert world.find("engine-compose").status == "found"


@pytest.mark.parametrize("tool", ["make", "jq"])
def test_tool_that_is_not_there_is_missing(world: World, tool: str) -> None:
    world.remove(f"/usr/bin/{tool}")
    finding = world.find("engine-tools")
    assert finding.status == "missing"
    assert finding.remedy == f"sudo apt-get install {tool}"


# -- kernel ----------------------------------------------------------------------------------------


def rootful(world: World) -> None:
    world.says("docker info --format {{json .}}", {"ServerVersion": "20.10"})


def test_cgroup_1_is_missing_but_for_a_rootful_engine(world: World) -> None:
    world.remove("/sys/fs/cgroup/cgroup.controllers")
    finding = world.find("cgroup")
    assert finding.status == "missing"
    assert "systemd.unified_cgroup_hierarchy=1" in finding.remedy
    rootful(world)
    assert world.find("cgroup").status == "warning"
    assert world.find("cgroup-delegation").status == "skipped"


def test_controllers_that_users_do_not_get_are_missing(world: World) -> None:
    world.write(USER_CGROUP, "memory pids")
    finding = world.find("cgroup-delegation")
    assert finding.status == "missing"
    assert finding.what == "users do not get cpu"
    assert finding.remedy.endswith("[Service]\nDelegate=cpu cpuset io memory pids")


def test_controllers_are_unknown_where_no_user_is_logged_in(world: World) -> None:
    world.remove(USER_CGROUP)
    finding = world.find("cgroup-delegation")
    assert finding.status == "unknown"
    assert finding.remedy == "sudo loginctl enable-linger ann"


def test_root_looks_at_the_controllers_of_any_user(world: World) -> None:
    world.uid = 0
    assert world.find("cgroup-delegation").status == "found"


@pytest.mark.parametrize(("module", "status"), [("vxlan", "missing"), ("ip_tables", "warning")])
def test_module_that_is_not_loaded_is_loaded_now_and_at_boot(
    world: World, module: str, status: str
) -> None:
    text = (world.root / "proc/modules").read_text()
    world.write("/proc/modules", text.replace(f"{module} ", "x "))
    finding = world.find("modules")
    assert (finding.status, finding.what) == (status, f"not loaded: {module}")
    assert finding.remedy.splitlines() == [
        f"sudo modprobe -a {module}",
        f"echo {module} | sudo tee -a /etc/modules-load.d/usernetes.conf",
    ]


def test_kernel_without_modules_is_asked_how_it_was_built(bare: World) -> None:
    bare.write("/proc/sys/kernel/osrelease", "6.1.0\n")
    assert bare.find("modules").status == "unknown"
    options = ["BRIDGE_NETFILTER", "IP_NF_IPTABLES", "IP6_NF_IPTABLES", "IP_NF_NAT", "IP6_NF_NAT"]
    config = "".join(f"CONFIG_{option}=y\n" for option in options)
    path = bare.write("/proc/config.gz")
    path.write_bytes(gzip.compress(f"{config}# CONFIG_VXLAN is not set\n".encode()))
    assert bare.find("modules").what == "not loaded: vxlan"
    (bare.root / "sys/module/vxlan").mkdir(parents=True)
    assert bare.find("modules").status == "found"
    path.write_bytes(b"no gzip")
    assert bare.find("modules").status == "unknown"
    bare.write("/boot/config-6.1.0", config)
    assert bare.find("modules").status == "found"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("net.ipv4.conf.default.rp_filter", "1", "missing"),
        ("net.ipv4.ip_forward", "0", "missing"),
        ("kernel.unprivileged_userns_clone", "0", "missing"),
        ("user.max_user_namespaces", "0", "missing"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "warning"),
    ],
)
def test_sysctl_that_is_in_the_way_is_told_with_the_line_that_sets_it(
    world: World, name: str, value: str, status: str
) -> None:
    world.write(f"/proc/sys/{name.replace('.', '/')}", f"{value}\n")
    finding = world.find("sysctls")
    assert (finding.status, finding.what) == (status, f"{name} is {value}")
    assert f"echo '{name} = " in finding.remedy
    assert finding.remedy.endswith("sudo sysctl --system")


def test_loose_and_no_filter_of_reverse_paths_are_both_found(world: World) -> None:
    world.write("/proc/sys/net/ipv4/conf/default/rp_filter", "0")
    assert world.find("sysctls").status == "found"


def test_user_namespaces_matter_less_to_a_rootful_engine(world: World) -> None:
    world.write("/proc/sys/user/max_user_namespaces", "0")
    rootful(world)
    assert world.find("sysctls").status == "warning"


# -- user ------------------------------------------------------------------------------------------


def test_user_without_subordinate_ids_gets_the_first_that_are_free(world: World) -> None:
    world.write("/etc/subuid", "bob:100000:65536\n#x\nann:1\nann:a:b\n")
    finding = world.find("subids")
    assert finding.status == "missing"
    assert finding.remedy == "sudo usermod --add-subuids 231072-296607 ann"
    world.write("/etc/subuid", f"1000:{1 << 20}:65536\n")
    assert world.find("subids").status == "found"


def test_newuidmap_is_needed_too(world: World) -> None:
    world.remove("/usr/bin/newuidmap")
    assert world.find("subids").remedy == "sudo apt-get install uidmap"


def test_ids_of_a_directory_service_are_unknown(world: World) -> None:
    world.write("/etc/nsswitch.conf", "subid: sss\n")
    assert world.find("subids").status == "unknown"


def test_user_who_does_not_linger_is_warned(world: World) -> None:
    world.remove("/var/lib/systemd/linger/ann")
    finding = world.find("linger")
    assert (finding.status, finding.remedy) == ("warning", "sudo loginctl enable-linger ann")


@pytest.mark.parametrize("name", ["subids", "linger"])
def test_root_and_a_rootful_engine_need_nothing_of_the_user(world: World, name: str) -> None:
    for place in ("/etc/subuid", "/var/lib/systemd/linger/ann"):
        world.remove(place)
    rootful(world)
    assert world.find(name) == Finding(name, "skipped", "the engine is rootful")
    world.says("docker info --format {{json .}}", DOCKER)
    assert world.find(name).status in ("missing", "warning")
    world.uid = 0
    assert world.find(name) == Finding(name, "skipped", "root needs none; ask as a user")


def test_state_is_where_usernetes_keeps_it(world: World) -> None:
    world.uid = 0
    assert world.find("state").what.startswith(f"{ROOT_STATE}, made when")
    world.uid = 1000
    ours = f"flux-flex/{socket.gethostname()}, made when"
    assert world.find("state").what.startswith(f"/home/ann/.local/state/{ours}")
    world.environ["XDG_STATE_HOME"] = "/xdg"
    assert world.find("state").what.startswith(f"/xdg/{ours}")
    world.environ[STATE_VARIABLE] = "/there"
    assert world.find("state").what.startswith("/there, made when")


def test_state_folder_that_we_may_not_make_or_write_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    world.environ[STATE_VARIABLE] = "/there"
    finding = world.find("state")
    assert (finding.status, finding.what) == ("missing", "/there is not there and cannot be made")
    assert finding.remedy == "sudo install -d -m 700 -o ann /there"
    (world.root / "there").mkdir()
    world.uid = os.geteuid()
    finding = world.find("state")
    assert (finding.what, finding.remedy) == ("/there is not writable", "chmod u+rwx /there")


def test_state_folder_is_ours_alone(world: World) -> None:
    world.uid = os.geteuid()
    world.environ[STATE_VARIABLE] = "/there"
    folder = world.root / "there"
    folder.mkdir()
    folder.chmod(0o700)
    assert world.find("state") == Finding("state", "found", "/there")
    folder.chmod(0o770)
    assert world.find("state").remedy == "chmod go-w /there"
    folder.chmod(0o700)
    world.uid += 1
    assert world.find("state").remedy == "sudo chown ann /there"
    folder.rmdir()
    folder.symlink_to(world.root)
    assert world.find("state").remedy == f"set {STATE_VARIABLE} to one"
    world.environ[STATE_VARIABLE] = "/etc/subuid/below"
    assert world.find("state").status == "missing"


# -- cloud -----------------------------------------------------------------------------------------


def test_credentials_and_a_region_are_each_told(world: World) -> None:
    world.says("child aws", {"method": "", "region": ""})
    finding = world.find("aws")
    assert (finding.status, finding.what) == ("warning", "no credentials; no region")
    assert "aws configure" in finding.remedy
    world.says("child aws", code=None, err="no answer within 8 s")
    assert "no answer within 8 s" in world.find("aws").what


def test_cluster_is_asked_only_where_there_is_a_kubeconfig(world: World) -> None:
    world.environ["KUBECONFIG"] = "/no:/neither"
    assert world.find("crd").status == "skipped"
    world.write("/neither")
    assert world.find("crd").status == "found"
    assert "crd" in world.asked[-1][0]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ({"host": "k8s", "status": 404}, "kubectl apply -f https://"),
        ({"host": "k8s", "status": 200, "found": False}, "kubectl apply -f https://"),
        ({"host": "k8s", "status": 403}, "kubectl auth whoami"),
        ({"error": "MaxRetryError"}, "kubectl cluster-info"),
    ],
)
def test_cluster_without_miniclusters_is_a_warning(world: World, said: object, remedy: str) -> None:
    world.says("child crd", said)
    finding = world.find("crd")
    assert finding.status == "warning"
    assert finding.remedy.startswith(remedy)


# -- commands that are run for real ----------------------------------------------------------------


def answer_of(code: str, timeout_s: float = 20.0) -> Answer:
    return run_bounded([sys.executable, "-c", code], dict(os.environ), timeout_s)


def test_command_gives_both_streams_its_code_and_gets_no_input() -> None:
    code = "import sys; print(repr(sys.stdin.read())); print('e', file=sys.stderr); sys.exit(3)"
    assert answer_of(code) == Answer(3, "''\n", "e\n")


def test_command_that_cannot_be_started_tells_why() -> None:
    answer = run_bounded(["/no/such"], {}, 5.0)
    assert (answer.code, answer.why) == (None, "No such file or directory")
    assert run_bounded(["a\0b"], {}, 5.0).code is None


def test_command_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    answer = answer_of(code, 2.0)
    assert (answer.code, answer.why) == (None, "no answer within 2 s")
    assert time.monotonic() - began < 15
    assert ends(int(note.read_text()))


def ends(pid: int) -> bool:
    """Whether a process that was killed is gone soon, or waits for whoever is to bury it."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        threading.Event().wait(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_output_without_end_is_cut_and_bounded_in_time() -> None:
    answer = answer_of("import sys\nsys.stdout.write('x' * (5 << 20))")
    assert (answer.code, len(answer.out)) == (0, MOST_BYTES)
    assert answer_of("while True: print('x' * 1000)", 1.0).code is None


def test_output_that_is_no_text_is_replaced() -> None:
    assert answer_of("import sys; sys.stdout.buffer.write(b'\\xff')").out == "\ufffd"


def test_reading_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        Machine(tmp_path).read_text("/pipe")
    assert Machine(tmp_path).find_text("/pipe") is None


def test_program_is_found_on_path_and_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.program("x", folder="/b")
    world.write("/a/x")  # not executable
    monkeypatch.chdir(tmp_path / "b")
    assert world.machine().which("x", "/a:/b") == "/b/x"
    assert world.machine().which("x", "::.:b") is None
    assert world.machine().ask(["x"]).why == "there is no x"


def test_problems_of_one_table_are_put_together() -> None:
    problems = [Problem("a", "run me"), Problem("b", "[t]\nx = 1"), Problem("c", "[t]\ny = 2")]
    finding = judged_lines("n", problems, "", "# place")
    assert finding.what == "a; b; c"
    assert finding.remedy == "# place\n[t]\nx = 1\ny = 2\nrun me"


# -- the child -------------------------------------------------------------------------------------


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, str]:
    """An environment without anybody's credentials, and without a metadata service."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in ("PATH", "LD_LIBRARY_PATH") or key.startswith("COVERAGE_")
    }
    return {**kept, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}


def ask(question: str, environ: Mapping[str, str], timeout_s: float = 30.0) -> Mapping[str, Any]:
    return ask_child(Machine(environ=environ), question, timeout_s)


def test_credentials_are_named_by_their_method_and_never_shown(clean: dict[str, str]) -> None:
    assert ask("aws", clean) == {"method": "", "region": ""}
    keys = {"AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": "hush"}
    said = ask("aws", {**clean, **keys, "AWS_DEFAULT_REGION": "eu-west-1"})
    assert said == {"method": "env", "region": "eu-west-1"}


def test_secret_in_an_error_is_not_told(clean: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "creds"
    script.write_text("#!/bin/sh\necho hush >&2\nexit 1\n")
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    said = ask("aws", {**clean, "AWS_CONFIG_FILE": str(tmp_path / "config")})
    assert said == {"error": "CredentialRetrievalError"}


def test_program_for_credentials_that_hangs_is_not_waited_for(
    clean: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = sleep 60\n")
    began = time.monotonic()
    said = ask("aws", {**clean, "AWS_CONFIG_FILE": str(tmp_path / "config")}, 3.0)
    assert said == {"error": "no answer within 3 s"}
    assert time.monotonic() - began < 20


@contextmanager
def cluster(status: int, names: Sequence[str]) -> Iterator[str]:
    """An API server that tells its resources, on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "x/v1"}
            one = {"singularName": "", "namespaced": True, "kind": "K", "verbs": ["get"]}
            body |= {"resources": [{"name": name, **one} for name in names]}  # type: ignore[dict-item]
            text = json.dumps(body).encode()
            self.send_response(status if "/apis/flux-framework.org/v1alpha2" in self.path else 500)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def kubeconfig(folder: Path, server: str, user: Mapping[str, object] | None = None) -> str:
    path = folder / "kubeconfig"
    context = {"cluster": "c", "user": "u"}
    path.write_text(
        json.dumps({
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": user or {"token": "hush"}}],
            "contexts": [{"name": "x", "context": context}],
            "current-context": "x",
        })
    )  # fmt: skip
    return str(path)


@pytest.mark.parametrize(
    ("status", "names", "said"),
    [
        (200, ["pods", "miniclusters"], {"status": 200, "found": True}),
        (200, ["pods"], {"status": 200, "found": False}),
        (404, [], {"status": 404}),
        (403, [], {"status": 403}),
    ],
)
def test_cluster_says_whether_it_knows_miniclusters(
    clean: dict[str, str], tmp_path: Path, status: int, names: list[str], said: dict[str, object]
) -> None:
    with cluster(status, names) as server:
        environ = {**clean, "KUBECONFIG": kubeconfig(tmp_path, server)}
        assert ask("crd", environ) == {"host": "127.0.0.1", **said}


def test_cluster_that_is_not_there_or_hangs_is_told_in_time(
    clean: dict[str, str], tmp_path: Path
) -> None:
    environ = {**clean, "KUBECONFIG": kubeconfig(tmp_path, "http://127.0.0.1:1")}
    assert ask("crd", environ).keys() == {"error"}
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as mute:
        server = f"http://127.0.0.1:{mute.server_address[1]}"
        began = time.monotonic()
        said = ask("crd", {**clean, "KUBECONFIG": kubeconfig(tmp_path, server)})
        assert "error" in said
        assert time.monotonic() - began < 20
    hangs = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep",
                      "args": ["60"], "interactiveMode": "Never"}}  # fmt: skip
    environ = {**clean, "KUBECONFIG": kubeconfig(tmp_path, "http://127.0.0.1:1", hangs)}
    assert ask("crd", environ, 3.0) == {"error": "no answer within 3 s"}


def test_child_imports_nothing_from_the_working_directory(
    clean: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flux_flex.py").write_text("raise SystemExit('fooled')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert "method" in ask("aws", clean)


def test_question_that_nobody_knows_is_an_error_and_no_traceback(clean: dict[str, str]) -> None:
    assert ask("weather", clean) == {"error": "KeyError"}


# -- a real Flux -----------------------------------------------------------------------------------

needs_flux = pytest.mark.skipif(
    Machine().which("flux") is None,
    reason="flux is not on PATH: install Flux, or add its bin to PATH",
)


@pytest.mark.flux
@needs_flux
def test_real_flux_and_its_bindings_are_looked_at() -> None:
    survey = Survey(Machine(), SETTINGS)
    assert look(check_of("flux"), survey).status == "found"
    finding = look(check_of("flux-python"), survey)
    assert (finding.remedy == "") == (finding.status == "found"), finding


@pytest.mark.flux
@needs_flux
@pytest.mark.parametrize("configured", [True, False])
def test_real_instance_tells_whether_it_has_a_perilog(tmp_path: Path, configured: bool) -> None:
    lines = '[job-manager]\nplugins = [{load = "perilog.so"}]\n'
    for side in ("prolog", "epilog"):
        lines += f'[job-manager.{side}]\nper-rank = true\ncommand = ["/x/flux-flex-{side}"]\n'
    (tmp_path / "perilog.toml").write_text(lines if configured else "")
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from flux_flex.host.checks import CHECKS, look\n"
        "from flux_flex.host.checks.machine import Machine\n"
        "from flux_flex.host.checks.survey import BurstSettings, Settings, Survey\n"
        f"survey = Survey(Machine(), {SETTINGS!r})\n"
        "print(json.dumps({c.name: look(c, survey).status for c in CHECKS[:9]}))"
    )
    words = ["flux", "start", f"--config-path={tmp_path}", sys.executable, "-c", code]
    places = json.dumps([place for place in sys.path if place])
    done = subprocess.run([*words, places], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert found["flux-instance"] == "found"
    assert found["perilog"] == ("found" if configured else "missing")
    assert found["perilog-timeouts"] == ("found" if configured else "skipped")
