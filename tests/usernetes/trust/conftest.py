"""A site to attack, and what no attack may leave there."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from trust_site import (
    Target,
    assert_clean_text,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that every user of the host can reach."""
    made = Path(tempfile.mkdtemp(prefix="flex-trust-"))
    made.chmod(0o755)
    yield made
    # What attacks make is deeper than shutil.rmtree can go.
    subprocess.run(["rm", "-rf", "--", str(made)], check=True)


@pytest.fixture
def site(folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Target]:
    caplog.set_level(logging.INFO, "flux_flex")
    made = Target(folder)
    for kind in ("", "container", "network", "volume"):
        (made.bin / "engine" / kind).mkdir(exist_ok=True)
        (made.bin / "engine" / kind).chmod(0o777)
    yield made
    made.close()
    assert_clean_text(caplog.text)
    find = ["find", str(folder), "-name", "canary"]
    assert subprocess.run(find, check=False, capture_output=True).stdout == b""
