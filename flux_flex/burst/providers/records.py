"""Records of bursts in a folder of ours: JSON files, whole or not there, for one user alone.

    with locked(rundir, burst), in_our_words(folder):
        write(folder / "rental.json", text)
        rental = read_rental(folder)

The providers that keep folders, ``local`` and ``fluxburst``, share this.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flux_flex.burst.providers import Rental
from flux_flex.errors import FlexError
from flux_flex.model.quoting import one_line

# What a burst may be called: a DNS label.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_TAIL_BYTES = 4096
_TAIL_LINES = 3
_TAIL_LENGTH = 300
_Record = TypeVar("_Record")


def read_rental(folder: Path) -> Rental | None:
    return read(folder / "rental.json", _rental)


def _rental(document: Mapping[str, Any]) -> Rental:
    hosts, jobs = tuple(document["hosts"]), tuple(document["jobs"])
    return Rental(document["burst"], document["type"], hosts, jobs)


def read(path: Path, parse: Callable[[Mapping[str, Any]], _Record]) -> _Record | None:
    """A record of ours, or None if there is none. Raises FlexError for what is no such record."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise refused(error, path) from None
    except (ValueError, KeyError, TypeError):
        remedy = "end what runs there, and remove the burst's folder"
        raise FlexError("it is no record of a burst", str(path), remedy) from None


def write(path: Path, text: str) -> None:
    """Write a file for its owner alone, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)


def tail(path: Path) -> str:
    """The last lines of a log, in one."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = stream.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"no log ({error.strerror})"
    lines = [one_line(line, _TAIL_BYTES) for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-_TAIL_LINES:])[-_TAIL_LENGTH:] or "it said nothing"


@contextmanager
def locked(rundir: Path, burst: str, wait_s: float = 0.0) -> Iterator[None]:
    """One at a time for a burst, in this process and others.

    Makes the folder if need be. Raises FlexError where it is not this user's alone, and where
    somebody else is at work for longer than ``wait_s``.
    """
    _make_private(rundir)
    # It stays when the burst goes: there are few names, and a lock that can be removed may be
    # held by two.
    path = rundir / f".{burst}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise refused(error, path) from None
    try:
        if not _flock(descriptor, wait_s):
            raise FlexError("somebody else is at work on it", burst, "try again later")
        yield
    finally:
        os.close(descriptor)


def _make_private(folder: Path) -> None:
    """Make the folder, or raise FlexError where it is not this user's alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise refused(error, folder) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        remedy = "chown it to whoever runs this and chmod 700, or set another rundir"
        raise FlexError("it is no folder of this user alone", str(folder), remedy)


@contextmanager
def in_our_words(folder: Path) -> Iterator[None]:
    """The operating system's refusals in our words."""
    try:
        yield
    except OSError as error:
        raise refused(error, folder) from None


def refused(error: OSError, path: Path) -> FlexError:
    place = str(error.filename or path)
    return FlexError(f"{error.strerror or error}", place, "see that it is writable, with room")


def _flock(descriptor: int, timeout_s: float) -> bool:
    """flock with a deadline, which flock itself does not know: a thread waits inside it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if timeout_s <= 0:
            return False
        granted = threading.Event()
        copy = os.dup(descriptor)

        def wait() -> None:
            fcntl.flock(copy, fcntl.LOCK_EX)
            granted.set()
            # The lock lives as long as any copy of the descriptor: that of the caller, if it waits.
            os.close(copy)

        threading.Thread(target=wait, daemon=True).start()
        return granted.wait(timeout_s)
    return True
