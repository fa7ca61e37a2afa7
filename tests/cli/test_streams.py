"""Standard streams that are closed: what is printed goes nowhere else, and who prints is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flux_flex.cli import main

ROOT = Path(__file__).resolve().parents[2]
BURST = ROOT / "examples" / "burst-queue"
SHOW = [
    "topology", "show", "--r", str(BURST / "R.json"),
    "--offline", str(BURST / "describe-instances.json"),
    str(BURST / "describe-instance-topology.json"),
]  # fmt: skip


def shell(redirection: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell starts it with some of its streams closed."""
    line = f'exec "$@" {redirection}'
    argv = ["sh", "-c", line, "sh", sys.executable, "-m", "flux_flex", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)


def test_closed_output_is_told_as_a_full_disk_is() -> None:
    done = shell(">&-", *SHOW)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("flux-flex: cannot print: ")
    assert len(done.stderr.splitlines()) == 2


def test_errors_do_not_go_to_output_where_their_own_stream_is_closed() -> None:
    done = shell("2>&-", "topology", "show", "--r", "/nowhere.json")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_a_file_that_is_written_gets_no_more_than_its_own(tmp_path: Path) -> None:
    done = shell(">&- 2>&- <&-", "topology", "fetch", *SHOW[2:], "--file", str(tmp_path / "out"))
    assert done.returncode == 0
    assert (tmp_path / "out").read_text().startswith("{")


def test_output_without_errors_is_whole_where_their_stream_is_closed() -> None:
    done = shell("2>&-", *SHOW)
    assert done.returncode == 0
    assert "compute15" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["topology", "fetch", "--help"]])
def test_help_that_cannot_be_printed_is_told(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(words) == 3
    sys.stdout.close()
    assert capsys.readouterr().err.startswith("flux-flex: cannot print: ")


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "of a broker")])
def test_an_error_that_is_not_of_output_is_not_told_as_one(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object) -> int:
        raise error

    monkeypatch.setattr("flux_flex.cli.topology.run", fails)
    assert main(SHOW) == 70
    said = capsys.readouterr().err
    assert "cannot print" not in said
    assert "internal error" in said


def test_no_command_prints_past_what_tells_errors_of_output() -> None:
    direct = ("sys.stdout.write", "sys.stdout.flush", " print(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "flux_flex" / "cli").glob("*.py")
        for line in path.read_text().splitlines()
        if path.name != "output.py" and any(word in line for word in direct)
    ]
    assert found == ["console.py: def print(self, *objects: Any, **options: Any) -> None:"]
