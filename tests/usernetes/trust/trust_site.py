"""The prolog runs as root on behalf of anybody: a site on which a job's user tries what there is.

As root, the jobs of these tests are those of ``nobody``; as somebody else they are one's own, and
what needs two users is skipped. Prologs and epilogs run in this process, where that is enough.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from usernetes_site import JOBID, Site

from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.usernetes import epilog, prolog

IS_ROOT = os.geteuid() == 0
USER = pwd.getpwnam("nobody").pw_uid if IS_ROOT else os.geteuid()
# Another user of the host, and the one that Flux runs as.
SOMEBODY = pwd.getpwnam("daemon").pw_uid
OWNER = SOMEBODY if IS_ROOT else os.geteuid()
TOKEN = "abcdef.0123456789abcdef"

needs_root = pytest.mark.skipif(
    not IS_ROOT, reason="only root can act as two users: run it as root"
)

# What somebody may write where a word is expected; each would leave `canary` if it were run.
HOSTILE = (
    "\ntouch canary\n",
    '"; touch canary; "',
    "'; touch canary; '",
    "$(touch canary)",
    "`touch canary`",
    "$(shell touch canary)",
    "../../../../etc/passwd",
    "; touch canary",
    "a\0b",
    "\x1b]0;title\x07\x1b[2J\r\x7f\x85",
    "-h",
    "x" * 10_000,
    "\u202e\u2028ƒ",
    "\ud800",
)
# Those that can be written into an environment, and some that are no ids.
IDS = (*(word for word in HOSTILE if "\0" not in word and "\ud800" not in word), "", " ", "-1")


class Broker:
    """What a prolog sees of Flux: the instance of the site, from one rank."""

    def __init__(self, site: Site, rank: int) -> None:
        self._site = site
        self._rank = rank

    def rank(self) -> int:
        return self._rank

    def identity(self) -> str:
        return "0123abcd"

    def attribute(self, name: str) -> str:
        return {"security.owner": str(OWNER)}[name]

    def __getattr__(self, method: str) -> Any:
        return getattr(self._site.instance, method)


class Target(Site):
    """A site whose prologs and epilogs run in this process, with an environment of the test's."""

    def prolog(self, jobid: int = JOBID, rank: int = 0, uid: int = USER, **environ: str) -> int:
        given = {"FLUX_JOB_ID": f58(jobid), "FLUX_JOB_USERID": str(uid), **environ}
        with self._around(self.hosts[jobid][rank], given), self._as_flux(prolog, rank):
            return prolog.main()

    def epilog(self, jobid: int = JOBID, rank: int = 0, **environ: str) -> int:
        given = {"FLUX_JOB_ID": f58(jobid), **environ}
        hosts = self.hosts.get(jobid, ["n0"])
        with self._around(hosts[rank], given), self._as_flux(epilog, rank):
            return epilog.main()

    def attack(self, target: str, script: str) -> None:
        """Have a make target do something else, as the user can, and then nothing more."""
        file = self.template / "fault.sh"
        attack = f'if [ "$target" = {target} ]; then\n{script}\nexit 0\nfi\n'
        file.write_text(attack + file.read_text())

    def name(self, jobid: int = JOBID, letter: str = "ƒ") -> Path:
        """The predictable name of the first rank's directory, or its other spelling."""
        word = f"usernetes-{letter}{f58(jobid)[1:].lower()}"
        return self.host(self.hosts[jobid][0]) / "tmp" / word

    def _around(self, host: str, given: Mapping[str, str]) -> Any:
        folder = self.host(host)
        places = {
            "FLUX_FLEX_CONFIG": str(folder / "flex.toml"),
            "FLUX_FLEX_STATE": str(folder / "state"),
        }
        return mock.patch.dict(os.environ, {**places, **given})

    def _as_flux(self, module: Any, rank: int) -> Any:
        connect = lambda: Broker(self, rank)  # noqa: E731
        return mock.patch.multiple(module, FluxInstance=connect, ignore_signals=lambda: None)


def assert_clean_text(text: str) -> None:
    """No control character reaches whoever reads a log or an exception in a terminal."""
    assert all(line.isprintable() for line in text.split("\n")), repr(text)


def give(path: Path, uid: int = USER) -> None:
    """Make something a user's, as if the user had made it."""
    if IS_ROOT:
        os.lchown(path, uid, pwd.getpwuid(uid).pw_gid)


def look(path: Path) -> list[Any]:
    """All there is to see of a thing and of what is in it, without following anything."""
    seen: list[Any] = []
    is_folder = stat.S_ISDIR(path.lstat().st_mode)
    for one in [path, *sorted(path.rglob("*"))] if is_folder else [path]:
        status = one.lstat()
        what = os.readlink(one) if stat.S_ISLNK(status.st_mode) else None
        if stat.S_ISREG(status.st_mode):
            what = one.read_text()
        owner = (status.st_uid, status.st_gid)
        seen.append((str(one), status.st_mode, owner, status.st_ino, status.st_nlink, what))
    return seen


def note_of(site: Target, jobid: int = JOBID) -> str:
    (note,) = site.exceptions(jobid)
    assert_clean_text(note)
    assert len(note) <= 1200
    return note


def lay(kind: str, path: Path, folder: Path, uid: int = USER) -> None:
    """Put a thing of the user's where the job's directory is going to be."""
    others = folder / "others"
    others.mkdir(exist_ok=True)
    (others / "precious").write_text("precious")
    if kind in ("dangling", "/etc", "others"):
        path.symlink_to({"dangling": folder / "nowhere", "others": others}.get(kind, Path("/etc")))
    elif kind == "file":
        path.write_text("mine")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
        if kind == "full":
            (path / "mine").write_text("mine")
            (path / "link").symlink_to(others)
            give(path / "mine", uid)
    give(path, uid)


def precious_file(folder: Path) -> Path:
    """A file of root's that the user cannot read, in a folder of the same file system."""
    path = folder / "others" / "precious"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"server: https://127.0.0.1:1 precious\nkubeadm join a:1 --token {TOKEN}\n")
    path.chmod(0o600)
    return path


def twin_of(jobid: int) -> int:
    """Another id whose F58 differs in upper and lower case only."""
    word = f58(jobid)
    for place, letter in enumerate(word[1:], 1):
        other = letter.swapcase()
        if other != letter and other not in "lIO":
            return parse_jobid(word[:place] + other + word[place + 1 :])
    raise AssertionError(word)


TWIN = twin_of(JOBID)
