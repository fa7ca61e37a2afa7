"""Sessions of this machine: programs that outlive whoever started them, and are told from others.

    with gated(command, log) as (session, go):     # a process that waits, in a session of its own
        ...                                        # write session down
        go()                                       # now it becomes the command
    session.is_alive
    end([session], grace_s=30)                     # SIGTERM, and later SIGKILL
    end_strays(session, mark)                      # what it left running

A process id alone says little, since it is used again. With the time at which its process began and
the boot that this time counts from, it names one process for ever.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flux_flex.errors import FlexError

KILL_S = 10.0

# Whoever dies before it has said go takes the waiting process with it. A program that is to stay
# holds neither our folder nor our input.
_GATED = 'cd / && read -r go && exec "$@" </dev/null'
# What a process may ignore or block because we do.
_SIGNALS = (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# What is killed may have begun another one just before.
_MOST_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Session:
    """The first process of a session. ``start`` is in clock ticks since the boot ``boot``."""

    pid: int
    start: int
    boot: str

    @property
    def is_alive(self) -> bool:
        return self.start > 0 and self.boot == _boot() and _began(self.pid) == self.start


@contextmanager
def gated(
    command: Sequence[str], log: Path, environment: dict[str, str]
) -> Iterator[tuple[Session, Callable[[], None]]]:
    """A process that waits to become ``command``, and ends if it is not told to in the block.

    Its output goes to the end of ``log``, which is made for its owner alone. It is our child, so
    the caller has to reap it. Raises OSError where no process or file can be made.
    """
    reading, writing = os.pipe()
    try:
        pid = _spawn(command, log, environment, reading)

        def go() -> None:
            # It may have been killed, which is for others to find out.
            with suppress(BrokenPipeError):
                os.write(writing, b"go\n")

        yield Session(pid, _began(pid), _boot()), go
    finally:
        os.close(reading)
        os.close(writing)


def end(sessions: Sequence[Session], grace_s: float) -> list[Session]:
    """End the first process of each, politely first; those that cannot even be killed."""
    alive = [session for session in sessions if session.is_alive]
    with _opened((session.pid, session.start) for session in alive) as processes:
        _signal(processes, signal.SIGTERM)
        left = _wait(processes, grace_s)
        _signal(left, signal.SIGKILL)
        _wait(left, KILL_S)
    return [session for session in alive if session.is_alive]


def end_strays(session: Session, mark: str) -> None:
    """Kill what is left of a session that has ended, if ``mark`` is in its environment.

    The session's number alone might be that of a later one. Raises FlexError for what stays.
    """
    if session.boot != _boot():
        return
    for _ in range(_MOST_ROUNDS):
        pids = map(int, filter(str.isdecimal, os.listdir("/proc")))
        strays = [(pid, _began(pid)) for pid in pids if _is_stray(pid, session, mark)]
        if not strays:
            return
        with _opened(strays) as processes:
            _signal(processes, signal.SIGKILL)
            _wait(processes, KILL_S)
    raise FlexError("it cannot be killed", f"process {strays[0][0]}", "look at this machine")


def _spawn(command: Sequence[str], log: Path, environment: dict[str, str], gate: int) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        return os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _GATED, "sh", *command],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, gate, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )
    finally:
        os.close(output)


def _boot() -> str:
    """Which boot of the machine this is: ids and times of processes begin anew with it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on (proc(5)); nothing if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _began(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 if it has ended, reaped or not."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else 0


def _is_stray(pid: int, session: Session, mark: str) -> bool:
    fields = _stat(pid)
    if not fields or fields[0] in "ZX" or int(fields[3]) != session.pid:
        return False
    try:
        return os.fsencode(mark) in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@contextmanager
def _opened(pids_and_starts: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """Descriptors of processes (pidfd_open(2)), which stay theirs when their ids are used again."""
    with ExitStack() as stack:
        found = []
        for pid, start in pids_and_starts:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, descriptor)
            if _began(pid) == start:
                found.append(descriptor)
        yield found


def _signal(processes: Sequence[int], number: int) -> None:
    for descriptor in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)


def _wait(processes: Sequence[int], timeout_s: float) -> list[int]:
    """Wait for processes to end; those that have not."""
    poll = select.poll()
    left = set(processes)
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while left and (rest_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(rest_s * 1000):
            poll.unregister(descriptor)
            left.discard(descriptor)
    return [*left]
