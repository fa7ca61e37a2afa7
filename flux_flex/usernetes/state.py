"""Where this host keeps what it knows of clusters: one folder for each, under a lock of its own.

    state = State.open()                    # FLUX_FLEX_STATE, or the place for root or for a user
    with state.lock("2QT1HSJy5.0") as held: # waits for whoever brings up or takes away
        held.write(record)

A record is written before the thing that it names is made, and removed after that thing is gone:
whoever dies in between, the next one reads what to undo. Files are replaced by renaming.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from flux_flex.errors import FlexError
from flux_flex.fields import STRICT

STATE_VARIABLE = "FLUX_FLEX_STATE"
ROOT_STATE = "/var/lib/flux-flex"
RECORD = "record.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}\.[0-9]{1,9}")


class Record(BaseModel):
    """All that is needed to take one node's part of a cluster away again.

    Empty values are things that have not been made. ``project`` is what compose labels all that
    it makes with, and ``instance`` the Flux instance that ``key`` is a key of. ``device`` and
    ``inode`` tell the directory from another one that has come to bear its name. ``pid`` and
    ``pid_start`` (clock ticks since boot, proc(5)) are whoever brings the node up. Times are
    seconds since the epoch.
    """

    model_config = STRICT

    name: str = Field(pattern=_NAME.pattern)
    jobid: int | None = None
    rank: int
    host: str
    uid: int
    lead: bool
    key: str
    instance: str = ""
    phase: str = "starting"
    step: str = ""
    pid: int = Field(default=0, ge=0, le=1 << 22)
    pid_start: int = Field(default=0, ge=0)
    began: float = 0.0
    workdir: str = ""
    device: int | None = None
    inode: int | None = None
    links: tuple[str, ...] = Field(default=(), strict=False)
    project: str = Field(pattern=r"^usernetes-[a-z0-9-]+$")
    engine: str = ""
    socket: str = ""
    ports: dict[str, int] = Field(default_factory=dict)
    subnet: str = ""
    keep_until: float | None = None
    left: tuple[str, ...] = Field(default=(), strict=False)


@dataclass(frozen=True)
class Held:
    """One cluster's folder, locked."""

    folder: Path

    def read(self) -> Record | None:
        """The record, or None where nothing is known. Raises FlexError if it makes no sense."""
        return _read_record(self.folder)

    def write(self, record: Record) -> None:
        """Replace the record, or make the first one."""
        write_json(self.folder / RECORD, record.model_dump(mode="json"))

    def remove(self) -> None:
        """Forget the cluster: nothing of it is left."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class State:
    """The folder that holds the records and the leases of this host."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path | None = None) -> State:
        """The state of this host, made if it is not there yet.

        Raises FlexError where somebody else owns it or may write to it: what stands in it
        is believed, by root among others.
        """
        path = Path(folder or os.environ.get(STATE_VARIABLE) or _default_folder())
        try:
            for place in (path, path / "usernetes"):
                with suppress(FileExistsError):
                    place.mkdir(mode=0o700, parents=place == path)
                # Before anything is made in it: it may be a link to somewhere else.
                _check_ours(place)
        except OSError as error:
            remedy = f"make it writable, or set {STATE_VARIABLE}"
            raise FlexError(f"{error.strerror}", str(path), remedy) from None
        return cls(path)

    def names(self) -> list[str]:
        """The clusters that are known, sorted."""
        found = os.listdir(self.folder / "usernetes")
        return sorted(name for name in found if _NAME.fullmatch(name))

    def names_of(self, identity: str) -> list[str]:
        """Those of one job: ``identity`` is its id in F58, without the ƒ."""
        return [name for name in self.names() if name.rpartition(".")[0] == identity]

    def records(self) -> Iterator[Record]:
        """What is known of every cluster, without waiting for locks."""
        for name in self.names():
            record = self.peek(name)
            if record is not None:
                yield record

    def peek(self, name: str) -> Record | None:
        """A record as it is, without waiting for its lock."""
        with suppress(FlexError):
            return _read_record(self._folder_of(name))
        return None

    @contextmanager
    def lock(self, name: str, *, timeout_s: float = 0.0, create: bool = False) -> Iterator[Held]:
        """Hold one cluster's folder alone; the kernel lets go of it when this process ends.

        Raises FlexError where somebody else holds it for longer than ``timeout_s`` seconds. A
        folder that is not there is made with ``create``; else reading it gives None.
        """
        folder = self._folder_of(name)
        if create:
            folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = _open_locked(folder, timeout_s)
        try:
            yield Held(folder)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _folder_of(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise FlexError(f"{name[:60]!r} is no cluster's name", str(self.folder))
        return self.folder / "usernetes" / name


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Replace a file, whole and on disk, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        remedy = "make room there, and see that it is writable"
        raise FlexError(f"cannot be written: {error.strerror}", str(path), remedy) from None


def process_start(pid: int) -> int:
    """When a process began, in clock ticks since boot (proc(5), field 22); 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def is_alive(record: Record) -> bool:
    """Whether the process that brings a node up is still there."""
    return bool(record.pid_start) and process_start(record.pid) == record.pid_start


def _check_ours(place: Path) -> None:
    status = place.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = "chown it to whoever runs this, and chmod go-w"
        raise FlexError("somebody else owns it or can write to it", str(place), remedy)


def _default_folder() -> Path:
    if os.geteuid() == 0:
        return Path(ROOT_STATE)
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local/state")
    # Homes are shared by the hosts of a cluster; ports and containers are not.
    return Path(home, "flux-flex", socket.gethostname())


def _read_record(folder: Path) -> Record | None:
    path = folder / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FlexError(f"cannot be read: {error.strerror}", str(path)) from None
    except ValidationError:
        remedy = "look at it, and remove its folder once nothing of the cluster is left"
        raise FlexError("not a record of flux-flex", str(path), remedy) from None


def _open_locked(folder: Path, timeout_s: float) -> int | None:
    """The folder, open and locked; None where it is not there."""
    while True:
        with ExitStack() as undo:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            undo.callback(os.close, descriptor)
            _lock(descriptor, timeout_s, folder)
            # Whoever held it may have removed it, and another one may bear its name by now.
            if _is_at(descriptor, folder):
                undo.pop_all()
                return descriptor


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, timeout_s: float, folder: Path) -> None:
    """flock with a deadline, which flock itself does not know: a thread waits inside it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting = _Waiting(os.dup(descriptor))
        if not waiting.granted.wait(timeout_s) and waiting.abandon():
            remedy = "wait for whoever brings it up or takes it away"
            raise FlexError("somebody else is at work on it", str(folder), remedy) from None


class _Waiting:
    """A thread that waits for a lock on ``descriptor``, which it closes if nobody wants it."""

    def __init__(self, descriptor: int) -> None:
        self.granted = threading.Event()
        self._descriptor = descriptor
        self._mutex = threading.Lock()
        self._abandoned = False
        threading.Thread(target=self._wait, daemon=True).start()

    def abandon(self) -> bool:
        """Give up; False if the lock has been granted in the meantime."""
        with self._mutex:
            self._abandoned = not self.granted.is_set()
            return self._abandoned

    def _wait(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._mutex:
            if not self._abandoned:
                self.granted.set()
        # The lock lives as long as any copy of the descriptor: that of the caller, if it is wanted.
        os.close(self._descriptor)
