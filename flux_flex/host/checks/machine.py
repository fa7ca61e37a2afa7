"""The machine that doctor looks at: its files, its PATH, and commands that end in time.

    machine = Machine()
    machine.read_text("/proc/modules")
    machine.ask(["flux", "version"]).out

Tests put a folder in the place of ``/`` and a function in the place of ``run``. Nothing here waits
for ever, and nothing that a command prints, or a file holds, is kept beyond the first megabyte.
"""

from __future__ import annotations

import errno
import os
import pwd
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MOST_BYTES = 1 << 20

# The patience with one command, in seconds.
DEADLINE_S = 5.0


@dataclass(frozen=True)
class Answer:
    """What a command printed. ``code`` is None where it could not be started or did not end."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def why(self) -> str:
        """The first line of its complaint."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[0][:200] if lines else f"ended with code {self.code}"


Runner = Callable[[Sequence[str], Mapping[str, str], float], Answer]


def run_bounded(words: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> Answer:
    """Run a command with nothing on its standard input, for at most ``timeout_s`` seconds.

    It gets a session of its own, so it cannot ask on the terminal; when time is up, everything
    in that session's group is killed.
    """
    try:
        child = subprocess.Popen(  # noqa: S603 - words, never a line for a shell
            words,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Answer(None, err=getattr(error, "strerror", None) or str(error))
    try:
        deadline = time.monotonic() + timeout_s
        out, err = _read_until(child, deadline)
        code = child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Answer(None, err=f"no answer within {timeout_s:g} s")
    finally:
        _end(child)
    return Answer(code, out.decode(errors="replace"), err.decode(errors="replace"))


def _read_until(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Both streams up to their ends; what is beyond the most is read and dropped."""
    kept = {"out": bytearray(), "err": bytearray()}
    with selectors.DefaultSelector() as selector:
        for name, stream in (("out", child.stdout), ("err", child.stderr)):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(child.args, 0)
            for key, _ in selector.select(left_s):
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(key.fileobj)
                bytes_kept = kept[key.data]
                bytes_kept += part[: MOST_BYTES - len(bytes_kept)]
    return bytes(kept["out"]), bytes(kept["err"])


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started, if it has not ended, and let go of it in any case."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            child.wait(1.0)
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@dataclass(frozen=True)
class Machine:
    """A machine, or what a test puts in its place. Paths are given as on the machine itself."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    run: Runner = run_bounded
    uid: int = field(default_factory=os.geteuid)
    user: str = field(default_factory=_user)

    def path(self, place: str) -> Path:
        """Where a place is. Raises FileNotFoundError for what is the name of no file."""
        if "\0" in place:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        return self.root / place.lstrip("/")

    def exists(self, place: str) -> bool:
        try:
            return self.path(place).exists()
        except OSError:
            return False

    def read_bytes(self, place: str) -> bytes:
        """The start of a file. Raises OSError, also for what is no file and could block."""
        descriptor = os.open(self.path(place), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{place} is not a file")
            return file.read(MOST_BYTES)

    def read_text(self, place: str) -> str:
        """The start of a file as text. Raises OSError."""
        return self.read_bytes(place).decode(errors="replace")

    def find_text(self, place: str) -> str | None:
        """The text of a file, or None where there is none to read."""
        try:
            return self.read_text(place)
        except OSError:
            return None

    def listing(self, place: str, pattern: str) -> list[str]:
        """The files below ``place`` that match, sorted, as on the machine."""
        try:
            found = sorted(self.path(place).glob(pattern))
        except OSError:
            return []
        return ["/" + path.relative_to(self.root).as_posix() for path in found]

    def which(self, command: str, path: str | None = None) -> str | None:
        """Where PATH (or ``path``) has a command."""
        for folder in (self.environ.get("PATH", "") if path is None else path).split(":"):
            place = f"{folder.rstrip('/')}/{command}"
            if folder.startswith("/") and self._is_program(place):
                return place
        return None

    def _is_program(self, place: str) -> bool:
        try:
            path = self.path(place)
            return path.is_file() and os.access(path, os.X_OK)
        except OSError:
            return False

    def ask(
        self,
        words: Sequence[str],
        *,
        timeout_s: float = DEADLINE_S,
        path: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        """What a command says.

        ``path`` is a PATH to look for it in instead of our own, ``more`` are variables for it.
        """
        program = words[0] if words[0].startswith("/") else self.which(words[0], path)
        if program is None:
            return Answer(None, err=f"there is no {words[0]}")
        environ = {**self.environ, **({} if path is None else {"PATH": path}), **(more or {})}
        return self.run([program, *words[1:]], environ, timeout_s)
