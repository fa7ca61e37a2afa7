"""Flux's Python bindings, wherever they are: installed beside us, or kept by Flux for itself.

`flux python` knows where Flux keeps them; a prolog that runs in a virtual environment of ours does
not, so they are looked for below the prefix of the `flux` on PATH, for this Python's version.
"""

from __future__ import annotations

import importlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from flux_flex.errors import FlexError

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_THEY_IMPORT = ("cffi", "_cffi_backend", "ply", "ply.lex", "ply.yacc")


def bindings(name: str) -> Any:
    """A module of flux-python: untyped, so Any ends here. Raises FlexError where there is none."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        first = error
    for folder in _kept_by_flux():
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
            try:
                return importlib.import_module(name)
            except ImportError as error:
                first = error
    raise FlexError(f"Flux's Python bindings: {first}", "flux", remedy_for(first)) from first


def remedy_for(error: ImportError) -> str:
    """What lets this very Python import Flux's bindings: a command, where one does."""
    pip = f"{shlex.quote(sys.executable)} -m pip"
    prefix = _prefix()
    if prefix is None:
        return "put the folder of the flux command on PATH: its bindings are looked for from there"
    if error.name in _THEY_IMPORT:
        return f"{pip} install cffi ply"
    has_own = next(_kept_by_flux(), None) is not None
    if "libflux-core" in str(error):
        if has_own and _is_wheel_installed():
            return f"{pip} uninstall flux-python    # Flux has bindings of its own for this Python"
        return f"export LD_LIBRARY_PATH={shlex.quote(str(_folder_of_libflux(prefix)))}"
    theirs = sorted({folder.name for folder in _folders(prefix, "python3.*")})
    if theirs and not has_own:
        ours = f"this is {_VERSION}, and Flux's bindings are for {', '.join(theirs)}"
        return f"{ours}: install flux-flex with that; a checkout: make clean run PYTHON={theirs[0]}"
    return f"{pip} install flux-python==VERSION    # the version that `flux version` tells"


def _prefix() -> Path | None:
    found = shutil.which("flux")
    return Path(found).resolve().parents[1] if found else None


def _kept_by_flux() -> Iterator[Path]:
    """Folders with bindings for this Python, below the prefix of the flux on PATH."""
    prefix = _prefix()
    return _folders(prefix, _VERSION) if prefix else iter(())


def _folders(prefix: Path, version: str) -> Iterator[Path]:
    for library in _libraries(prefix):
        yield from (one.parent for one in sorted(library.glob(f"flux/{version}/flux")))


def _folder_of_libflux(prefix: Path) -> Path:
    having = (one for one in _libraries(prefix) if any(one.glob("libflux-core.so.*")))
    return next(having, prefix / "lib")


def _libraries(prefix: Path) -> Iterator[Path]:
    for library in (prefix / "lib", prefix / "lib64"):
        yield from (library, *sorted(library.glob("*-linux-gnu*")))


def _is_wheel_installed() -> bool:
    try:
        distribution("flux-python")
    except PackageNotFoundError:
        return False
    return True
