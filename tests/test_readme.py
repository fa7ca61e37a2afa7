"""What the documents show is what the commands print."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from flux_flex.cli import main

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- (?P<command>[^\n]*) -->\n```\n(?P<shown>.*?)```\n", re.DOTALL)

MAKE_RUN = (
    "flux-flex simulate examples/burst-queue/scenario.yaml"
    " --out burst-plan --svg burst-plan/timeline.svg"
)


def blocks(document: str) -> list[tuple[str, str]]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [(found["command"], found["shown"]) for found in BLOCK.finditer(text)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone, in which a plan was made."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    words = shlex.split(MAKE_RUN if command == "make run" else command)
    assert words[0] == "flux-flex"
    assert main(words[1:]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/topology.md",
        "examples/burst-queue/README.md",
        "examples/containers/README.md",
        "examples/topology/README.md",
    ],
)
def test_every_block_of_a_document_is_what_its_command_prints(
    document: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = run("flux-flex plan examples/burst-queue/scenario.yaml --json", capsys)
    (project / "plan.json").write_text(plan, encoding="utf-8")
    found = blocks(document)
    assert found
    for command, shown in found:
        assert shown.splitlines() == [line.rstrip() for line in run(command, capsys).splitlines()]


def test_makefile_runs_what_the_readme_shows() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "simulate $(SCENARIO) --out $(OUT) --svg $(OUT)/timeline.svg" in makefile
    assert "SCENARIO ?= examples/burst-queue/scenario.yaml" in makefile
    assert "OUT ?= burst-plan" in makefile


def test_picture_in_the_readme_is_the_one_that_make_run_draws(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("make run", capsys)
    drawn = (project / "burst-plan" / "timeline.svg").read_bytes()
    assert drawn == (ROOT / "docs" / "images" / "burst-queue.svg").read_bytes()
