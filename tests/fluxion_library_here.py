"""Whether the real fluxion can be loaded here, for the tests of all rooms that ask it."""

from __future__ import annotations

import pytest

from flux_flex.errors import FlexError
from flux_flex.match.fluxion_library import open_library


def absence() -> str:
    """ "" where libreapi_cli is found, else why not."""
    try:
        open_library()
    except FlexError as error:
        return error.what
    return ""


ABSENCE = absence()
NEEDS_FLUXION = [
    pytest.mark.flux,
    pytest.mark.skipif(
        bool(ABSENCE), reason=f"{ABSENCE}: name libreapi_cli.so in FLUX_FLEX_LIBREAPI"
    ),
]
# The names of the engines that work on a graph in this process.
ENGINES = ["embedded", pytest.param("fluxion", marks=NEEDS_FLUXION)]
