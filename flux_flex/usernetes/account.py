"""The job's user: who that is on this host, and what a child that becomes this user may see.

Whatever a prolog starts on behalf of a job runs as the job's user, with an environment that is
made here from nothing: what root has in its own never reaches it.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flux_flex.errors import FlexError

_MOST_ANSWER_BYTES = 1 << 20
_MOST_DESCRIPTORS = 1 << 16


@dataclass(frozen=True)
class Account:
    """A user of this host. ``groups`` are all groups, the first of them included."""

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...]

    @property
    def is_me(self) -> bool:
        """Whether this process already runs as this user."""
        return self.uid == os.geteuid()

    def popen_options(self) -> dict[str, Any]:
        """What subprocess.Popen needs to start a child as this user; nothing if it is us."""
        if self.is_me:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}

    def environment(self, path: str) -> dict[str, str]:
        """The least that a login would give: no variable of this process is among it."""
        return {
            "PATH": path,
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": f"/run/user/{self.uid}",
        }


def account_of(uid: int, *, owner: int) -> Account:
    """The account of a job's user. ``owner`` is the user that owns the Flux instance.

    Raises FlexError for a user without an account here, for a user that this process cannot
    become, and for root, unless the whole instance is root's own.
    """
    try:
        entry = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        remedy = "give the user an account on every node"
        raise FlexError(f"user {uid} has no account on this host", "", remedy) from None
    if uid == 0 and owner != 0:
        raise FlexError("root's jobs get no cluster", "", "submit as an ordinary user")
    if os.geteuid() not in (0, uid):
        remedy = "let the IMP run the prolog as root, see flux-config-security-imp(5)"
        raise FlexError(f"this process cannot become user {entry.pw_name}", "", remedy)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    home = entry.pw_dir if entry.pw_dir.startswith("/") else "/"
    return Account(uid, entry.pw_gid, entry.pw_name, home, groups)


def run_as(account: Account, work: Callable[[], Any], *, path: str, deadline_s: float) -> Any:
    """What ``work`` returns (JSON data), run as a user; in this process if that is us.

    A child becomes the user first. It is killed at the deadline. Raises FlexError with what the
    child had to say, or that it was too slow.
    """
    if account.is_me:
        return work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be(account, work, path, writing)
    os.close(writing)
    try:
        answer = _read_until(reading, time.monotonic() + deadline_s)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return _told(answer, account)


def _be(account: Account, work: Callable[[], Any], path: str, writing: int) -> None:
    """In the child: become the user, work, answer, and never return."""
    code = 1
    answer: Mapping[str, Any] = {"what": "the child died", "where": "", "remedy": ""}
    # The locks of the parent are not the user's to hold.
    os.closerange(3, writing)
    os.closerange(writing + 1, _MOST_DESCRIPTORS)
    try:
        os.setgroups(account.groups)
        os.setgid(account.gid)
        os.setuid(account.uid)
        os.environ.clear()
        os.environ.update(account.environment(path))
        answer = {"returned": work()}
        code = 0
    except FlexError as error:
        answer = {"what": error.what, "where": error.where, "remedy": error.remedy}
    except (OSError, ValueError, LookupError, TypeError, ImportError, AttributeError) as error:
        answer = {"what": f"{type(error).__name__}: {error}", "where": "", "remedy": ""}
    finally:
        with suppress(OSError):
            os.write(writing, json.dumps(answer).encode())
        sys.stderr.flush()
        os._exit(code)


def _read_until(reading: int, end: float) -> bytes:
    answer = b""
    while len(answer) < _MOST_ANSWER_BYTES:
        ready, _, _ = select.select([reading], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return b""
        part = os.read(reading, 1 << 16)
        if not part:
            return answer
        answer += part
    return b""


def _told(answer: bytes, account: Account) -> Any:
    try:
        told = json.loads(answer)
    except ValueError:
        raise FlexError("no answer in time", f"user {account.name}") from None
    if "what" in told:
        raise FlexError(told["what"], told["where"], told["remedy"])
    return told["returned"]
