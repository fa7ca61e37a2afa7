"""Flux's Python bindings, wherever they are: installed beside us, or kept by Flux for itself.

`flux python` knows where Flux keeps them; a prolog that runs in a virtual environment of ours does
not, so they are looked for below the prefix of the `flux` on PATH, for this Python's version.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flux_flex.errors import FlexError


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
    remedy = (
        "on a machine with Flux, pip install 'flux-flex[flux]' in the same version,"
        " or run with `flux python`"
    )
    raise FlexError(f"Flux's Python bindings: {first}", "flux", remedy) from first


def _kept_by_flux() -> Iterator[Path]:
    found = shutil.which("flux")
    if found is None:
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = Path(found).resolve().parents[1]
    for library in ("lib", "lib64"):
        for folder in (prefix / library, *sorted((prefix / library).glob("*-linux-gnu*"))):
            if (folder / "flux" / version / "flux").is_dir():
                yield folder / "flux" / version
