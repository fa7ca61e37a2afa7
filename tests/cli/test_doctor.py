"""flux-flex doctor: the exit code says whether anything is missing, the lines how it is mended."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import flux_flex
from flux_flex.cli import doctor
from flux_flex.config import PATH_VARIABLE
from flux_flex.errors import BadInput
from flux_flex.host.checks import CHECKS
from flux_flex.host.checks.machine import Answer, Machine

NAMES = ["config", *(check.name for check in CHECKS), "template"]


class World:
    """A machine in a folder, on which every command says the same."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answer = Answer(1, err="it does not work")

    def program(self, *names: str) -> None:
        for name in names:
            path = self.root / "usr/bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o755)

    def run(self, words: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> Answer:
        return self.answer

    def machine(self) -> Machine:
        return Machine(self.root, {"PATH": "/usr/bin", "HOME": "/"}, self.run, 1000, "ann")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A machine with nothing, and a site without flex.toml."""
    world = World(tmp_path)
    monkeypatch.setattr(doctor, "Machine", world.machine)
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    return world


def ask(*checks: str, as_json: bool = False) -> int:
    return doctor.run(argparse.Namespace(json=as_json, check=list(checks)))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The findings of what was printed as JSON, by name."""
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["version"]) == ("flux-flex-doctor", 1)
    return {finding["name"]: finding for finding in document["findings"]}


def rows(text: str) -> list[tuple[str, str]]:
    """Status and name of each finding in a table, in order."""
    words = [line.split() for line in text.splitlines() if line[:1].isalpha()]
    return [(row[0], row[1]) for row in words if len(row) > 1 and row[1] in NAMES]


def test_missing_things_end_with_1_and_the_lines_that_mend_them(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("engine-tools") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "for usernetes:"
    assert lines[1].startswith("missing   engine-tools        no make in /usr/local/bin:")
    assert "            sudo apt-get install make" in lines
    assert lines[-1] == "1 missing. Missing: engine-tools."


def test_nothing_missing_ends_with_0_and_no_remedy(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.program("make", "jq")
    assert ask("engine-tools") == 0
    assert capsys.readouterr().out == (
        "for usernetes:\nfound     engine-tools        make and jq\n\n"
        "1 found. Missing: nothing that is needed.\n"
    )


def test_warnings_end_with_0(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("aws") == 0
    assert rows(capsys.readouterr().out) == [("warning", "aws")]


def test_every_check_is_told_once_those_for_bursting_last(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask() == 1
    text = capsys.readouterr().out
    found = [name for _, name in rows(text)]
    assert sorted(found) == sorted(NAMES)
    assert found[-3:] == ["template", "aws", "crd"]
    assert text.index("for usernetes:") < text.index(" template ") < text.index("for bursting:")


def test_check_names_one_or_a_family(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    ask("engine-tools", "config")
    assert [name for _, name in rows(capsys.readouterr().out)] == ["config", "engine-tools"]
    ask("engine")
    family = ["engine", "engine-compose", "engine-tools"]
    assert [name for _, name in rows(capsys.readouterr().out)] == family


def test_check_that_nobody_knows_is_bad_input_with_the_nearest(world: World) -> None:
    with pytest.raises(BadInput) as caught:
        ask("sysctl")
    assert (caught.value.where, caught.value.remedy) == ("--check", "did you mean 'sysctls'?")
    with pytest.raises(BadInput) as caught:
        ask("x" * 1000)
    assert "perilog-timeouts" in caught.value.remedy
    assert len(caught.value.what) < 80


def test_json_has_every_finding_with_status_words_and_what_it_is_needed_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(as_json=True) == 1
    findings = told(capsys)
    assert sorted(findings) == sorted(NAMES)
    for finding in findings.values():
        assert finding.keys() == {"name", "status", "what", "remedy", "needed_for"}
        assert finding["status"] in ("found", "missing", "warning", "unknown", "skipped")
    assert findings["aws"]["needed_for"] == "bursting"
    assert findings["engine-tools"] == {
        "name": "engine-tools",
        "status": "missing",
        "what": findings["engine-tools"]["what"],
        "remedy": "sudo apt-get install make\nsudo apt-get install jq",
        "needed_for": "usernetes",
    }


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("code", [0, 1])
def test_what_commands_print_cannot_steer_the_terminal_or_flood_it(
    world: World, capsys: pytest.CaptureFixture[str], as_json: bool, code: int
) -> None:
    world.program("flux", "docker", "docker-compose", "podman")
    noise = "core: 0.88.0 \x1b[2J\x9b31m\x07\u202e[red]x\udcff" * 40_000
    world.answer = Answer(code, noise, noise)
    ask(as_json=as_json)
    text = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text) < 40_000


def test_remedy_is_one_line_however_long_so_that_it_can_be_copied(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    ask("sysctls", as_json=True)
    remedy = told(capsys)["sysctls"]["remedy"].splitlines()
    assert max(map(len, remedy)) > 118 - 12
    ask("sysctls")
    printed = capsys.readouterr().out.splitlines()
    assert {f"{'':12}{line}" for line in remedy} <= set(printed)


def test_configuration_that_cannot_be_used_is_missing_and_the_rest_goes_on(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "flex.toml"
    path.write_text("[usernetes]\ntemplat = '/x'\n")
    monkeypatch.setenv(PATH_VARIABLE, str(path))
    assert ask("config", "template", as_json=True) == 1
    findings = told(capsys)
    assert findings["config"]["status"] == "missing"
    assert findings["config"]["remedy"] == "did you mean 'template'?"
    assert findings["template"]["what"]


def test_configuration_is_named_and_used(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "flex.toml"
    path.write_text(
        "[usernetes]\ntemplate = '/no/such'\ncontainer_engine = 'nerdctl'\npath = '/bins'\n"
        "[usernetes.deadlines]\ntotal = '50m'\n"
    )
    monkeypatch.setenv(PATH_VARIABLE, str(path))
    world.program("flux")
    world.answer = Answer(0, '{"job-manager": {"prolog": {"timeout": "49m"}}}')
    ask(as_json=True)
    findings = told(capsys)
    assert findings["config"]["what"] == str(path)
    assert findings["template"]["status"] == "missing"
    assert "/no" in findings["template"]["what"]
    assert findings["template"]["remedy"]
    assert "nerdctl (flex.toml)" in findings["engine"]["what"]
    assert "in /bins" in findings["engine-tools"]["what"]
    assert "49m is not above deadlines.total 50m" in findings["perilog-timeouts"]["what"]


def run_here(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import argparse, json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from flux_flex.cli import doctor\n"
        "sys.exit(doctor.run(argparse.Namespace(json='--json' in sys.argv, check=[])))"
    )
    places = [str(Path(flux_flex.__file__).parents[1]), *(place for place in sys.path if place)]
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(places), *words],
        capture_output=True, text=True, env=environ, timeout=180, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("environ", [dict(os.environ), {}], ids=["as it is", "empty"])
def test_on_this_machine_it_ends_in_time_and_tells_every_check_once(
    environ: dict[str, str],
) -> None:
    began = time.monotonic()
    done = run_here(**environ)
    assert time.monotonic() - began < 120
    assert (done.returncode in (0, 1), done.stderr) == (True, "")
    assert sorted(name for _, name in rows(done.stdout)) == sorted(NAMES)
    assert "cannot be checked" not in done.stdout
    assert "Traceback" not in done.stdout


def test_on_this_machine_nothing_is_printed_but_json(tmp_path: Path) -> None:
    done = run_here("--json", HOME=str(tmp_path), AWS_EC2_METADATA_DISABLED="true")
    document = json.loads(done.stdout)
    assert sorted(finding["name"] for finding in document["findings"]) == sorted(NAMES)
    missing = [finding for finding in document["findings"] if finding["status"] == "missing"]
    assert done.returncode == int(bool(missing))
    assert all(finding["remedy"] for finding in missing)


def test_secrets_of_the_environment_are_not_printed(tmp_path: Path) -> None:
    done = run_here(
        HOME=str(tmp_path),
        AWS_ACCESS_KEY_ID="AKIAHUSH",
        AWS_SECRET_ACCESS_KEY="hush-hush",
        AWS_SESSION_TOKEN="hush-token",
    )
    assert "credentials by env" in done.stdout or "no region" in done.stdout
    assert "hush" not in done.stdout.lower()
    assert "hush" not in done.stderr.lower()
