"""Processes of a burst, seen from outside: which there are, and waiting until it comes to that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

# Time for a machine that has other things to do.
LONG_S = 60.0


def eventually(condition: Callable[[], bool], what: str = "") -> None:
    """Wait until a condition holds; the test fails where it does not come to that."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"it does not come to that: {what}"
        time.sleep(0.02)


def processes_of(folder: Path) -> set[int]:
    """All processes that have paths in the folder in their command or environment, and live."""
    mark, found = os.fsencode(folder) + b"/", set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            said = Path(f"/proc/{pid}/cmdline").read_bytes()
            said += Path(f"/proc/{pid}/environ").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if mark in said and state not in "ZX":
            found.add(int(pid))
    return found
