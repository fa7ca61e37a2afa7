"""Sites for the tests of this room."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from usernetes_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A host with the tree of paper. Fails a test that leaves anything of a cluster behind."""
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that is bound to nothing yet, and is closed after the test."""
    with closing(socket.socket()) as taken:
        # Connections of earlier tests may linger on the same number.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield taken
