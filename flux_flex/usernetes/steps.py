"""One make target of a Usernetes tree: as the job's user, in its own session, within a deadline.

What it prints goes to the log of the bring-up, of which the last lines come back when it fails.
Whatever is started here carries the project's name in its environment, by which a teardown finds
and kills it even where the process that started it was killed first.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flux_flex.errors import FlexError
from flux_flex.model.quoting import one_line, uncoloured
from flux_flex.usernetes.account import Account

PROJECT_VARIABLE = "COMPOSE_PROJECT_NAME"

_TAIL_BYTES = 8192
_TAIL_LINES = 6
_LONGEST_LINE = 300
_GRACE_S = 2.0
# What podman starts once for all containers of a user, with the environment of whoever was first.
# What it starts for one container is removed with that container.
_SHARED = frozenset(
    {"catatonit", "podman", "conmon", "pasta", "pasta.avx2", "slirp4netns", "rootlessport",
     "aardvark-dns", "netavark", "dbus-daemon", "fuse-overlayfs"}
)  # fmt: skip
# A bootstrap token (kubeadm): whoever reads it can join the cluster.
_TOKEN = re.compile(r"(?<![a-z0-9])[a-z0-9]{6}\.[a-z0-9]{16}(?![a-z0-9])")


class StepFailed(FlexError):
    """A step of a bring-up that failed: ``what`` says how, with the last lines of its output."""


@dataclass(frozen=True)
class Make:
    """How make targets are run in one directory."""

    directory: int
    log: int
    account: Account
    environment: Mapping[str, str]

    def run(self, target: str, deadline_s: float) -> None:
        """Run one target. Raises StepFailed; on any other exception, too, nothing stays behind."""
        began = os.lseek(self.log, 0, os.SEEK_END)
        child = subprocess.Popen(  # noqa: S603 - a list, with a target of ours
            ["make", "--no-print-directory", target],  # noqa: S607 - from usernetes.path
            # The descriptor, not the path: the user may have put something else there.
            cwd=f"/proc/self/fd/{self.directory}",
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=dict(self.environment),
            start_new_session=True,
            pass_fds=(),
            umask=0o077,
            **self.account.popen_options(),
        )
        try:
            ended = wait(child, deadline_s)
        finally:
            # make's own children too: none may go on once the step is over.
            kill_session(child.pid)
            child.wait()
        if not ended:
            raise self._failed(target, f"took longer than {deadline_s:.0f} s", began)
        if child.returncode:
            raise self._failed(target, _ending(child.returncode), began)

    def _failed(self, target: str, what: str, began: int) -> StepFailed:
        lines = last_lines(self.log, began)
        said = f"{what}: {' | '.join(lines)}" if lines else what
        return StepFailed(said, target, "")


def wait(child: subprocess.Popen[bytes], deadline_s: float) -> bool:
    """Whether a child ended in time. Signals are seen at once, unlike in Popen.wait."""
    descriptor = os.pidfd_open(child.pid)
    try:
        ended = _ends(descriptor, deadline_s)
    finally:
        os.close(descriptor)
    if ended:
        child.wait()
    return ended


def kill_session(leader: int) -> None:
    """End every process of the session that ``leader`` began: TERM, a moment, then KILL."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGTERM)
        _wait_for_group(leader, _GRACE_S)
        os.killpg(leader, signal.SIGKILL)


def kill_marked(project: str, deadline_s: float) -> list[int]:
    """Kill whatever carries the project's name in its environment; those that would not go."""
    mark = f"{PROJECT_VARIABLE}={project}".encode()
    end = time.monotonic() + deadline_s
    while True:
        found = [pid for pid in _pids() if _is_marked(pid, mark)]
        if not found or time.monotonic() >= end:
            return found
        for pid in found:
            _kill_and_wait(pid, mark, max(0.0, end - time.monotonic()))


def last_lines(log: int, began: int) -> list[str]:
    """The last lines that were written to a log since ``began``: printable, without tokens."""
    size = os.lseek(log, 0, os.SEEK_END)
    start = max(began, size - _TAIL_BYTES)
    text = os.pread(log, _TAIL_BYTES, start).decode("utf-8", "replace")
    if start > began:  # a line that is cut may begin with half a token
        text = text.partition("\n")[2]
    lines = [clean_line(line) for line in text.splitlines()]
    return [line for line in lines if line][-_TAIL_LINES:]


def clean_line(line: str) -> str:
    """A line of somebody's output as it may stand in an exception or a log of the instance."""
    # Before anything is cut off or put in: half a token is a token that is not found.
    return one_line(_TOKEN.sub("<token>", uncoloured(line)), _LONGEST_LINE)


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"killed by signal {-code}"


def _wait_for_group(leader: int, deadline_s: float) -> None:
    """Until the group is empty but for zombies of ours, or time is up."""
    end = time.monotonic() + deadline_s
    for pid in _pids():
        if _group(pid) == leader:
            _await_exit(pid, max(0.0, end - time.monotonic()))


def _kill_and_wait(pid: int, mark: bytes, deadline_s: float) -> None:
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            # Looked at again: the number may have gone to another process before it was held.
            if _is_marked(pid, mark):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _ends(descriptor, min(deadline_s, 1.0))
        finally:
            os.close(descriptor)


def _await_exit(pid: int, deadline_s: float) -> None:
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            _ends(descriptor, deadline_s)
        finally:
            os.close(descriptor)


def _ends(process: int, deadline_s: float) -> bool:
    """Whether the process of a pidfd ends in time."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    end = time.monotonic() + deadline_s
    while not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        if time.monotonic() >= end:
            return False
    return True


def _pids() -> Sequence[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _group(pid: int) -> int:
    with suppress(OSError):
        return os.getpgid(pid)
    return 0


def _is_marked(pid: int, mark: bytes) -> bool:
    if pid == os.getpid():
        return False
    with suppress(OSError):
        process = Path(f"/proc/{pid}")
        if mark in (process / "environ").read_bytes().split(b"\0"):
            return (process / "comm").read_text("utf-8", "replace").strip() not in _SHARED
    return False
