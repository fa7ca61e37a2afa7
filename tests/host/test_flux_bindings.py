"""What a Python that cannot import Flux's bindings is told to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flux_flex.host import flux_bindings
from flux_flex.host.flux_bindings import remedy_for

OURS = f"python{sys.version_info.major}.{sys.version_info.minor}"
NO_LIBRARY = ImportError("libflux-core.so.2: cannot open shared object file")


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a Flux is installed whose command is on PATH."""
    flux = tmp_path / "bin/flux"
    flux.parent.mkdir()
    flux.write_text("#!/bin/sh\n")
    flux.chmod(0o755)
    monkeypatch.setenv("PATH", str(flux.parent))
    return tmp_path


def has_bindings(prefix: Path, version: str) -> None:
    (prefix / "lib" / "flux" / version / "flux").mkdir(parents=True)


@pytest.mark.parametrize("name", ["_cffi_backend", "cffi", "ply"])
def test_what_the_bindings_import_is_installed_into_this_python(prefix: Path, name: str) -> None:
    has_bindings(prefix, OURS)
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert remedy_for(error) == f"{sys.executable} -m pip install cffi ply"


def test_flux_that_is_not_on_path_has_to_come_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "on PATH" in remedy_for(ModuleNotFoundError("No module named 'flux'", name="flux"))


def test_bindings_of_another_python_say_of_which(prefix: Path) -> None:
    has_bindings(prefix, "python3.1")
    remedy = remedy_for(ModuleNotFoundError("No module named 'flux'", name="flux"))
    assert f"this is {OURS}, and Flux's bindings are for python3.1:" in remedy
    assert remedy.endswith("make clean run PYTHON=python3.1")


def test_flux_without_bindings_needs_the_wheel_of_its_version(prefix: Path) -> None:
    remedy = remedy_for(ModuleNotFoundError("No module named 'flux'", name="flux"))
    assert remedy.startswith(f"{sys.executable} -m pip install flux-python==VERSION")


def test_library_that_is_not_found_is_found_by_its_folder(prefix: Path) -> None:
    folder = prefix / "lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / "libflux-core.so.2").touch()
    assert remedy_for(NO_LIBRARY) == f"export LD_LIBRARY_PATH={folder}"


def test_wheel_that_misses_the_library_gives_way_to_bindings_of_flux(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_bindings(prefix, OURS)
    monkeypatch.setattr(flux_bindings, "_is_wheel_installed", lambda: True)
    assert f"{sys.executable} -m pip uninstall flux-python" in remedy_for(NO_LIBRARY)
