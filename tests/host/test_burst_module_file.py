"""etc/flux/modules/flex-burst.py, the file that `flux module load` is given."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from flux_flex.cli import burst_serve

FILE = Path(__file__).parents[2] / "etc/flux/modules/flex-burst.py"


def test_it_is_the_controller_where_flux_flex_can_be_imported() -> None:
    assert runpy.run_path(str(FILE))["mod_main"] is burst_serve.mod_main


def test_a_python_that_cannot_import_flux_flex_is_told_in_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flux_flex.cli.burst_serve", None)
    mod_main = runpy.run_path(str(FILE))["mod_main"]
    with pytest.raises(ValueError, match="cannot import flux_flex") as error:
        mod_main(None, "flex.toml")
    said = str(error.value)
    assert said.startswith(sys.executable)
    assert "PYTHONPATH" in said
    assert "install-scripts.sh --burst" in said
    assert "\n" not in said


def test_run_as_a_program_it_tells_whether_it_would_load(tmp_path: Path) -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words, str(FILE)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert ran().returncode == 0
    without = ran("-S", "-E")
    assert without.returncode == 1
    assert "cannot import flux_flex" in without.stderr
