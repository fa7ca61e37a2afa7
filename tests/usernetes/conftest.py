"""Sites for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from usernetes_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A host with the tree of paper. Fails a test that leaves anything of a cluster behind."""
    made = Site(tmp_path)
    yield made
    made.close()
