"""doctor's checks of the user who asks: subordinate ids, lingering, the state folder."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from flux_flex.host.checks.findings import Finding, Problem, judged
from flux_flex.host.checks.survey import Survey

_FIRST_SUBID = 100_000
_SUBIDS = 65_536

_STATE_VARIABLE = "FLUX_FLEX_STATE"
_ROOT_STATE = "/var/lib/flux-flex"


def subids(survey: Survey) -> Finding:
    """The user has ids to give to the users inside a rootless container."""
    machine = survey.machine
    if machine.uid == 0 or survey.rootful:
        why = "root needs none; ask as a user" if machine.uid == 0 else "the engine is rootful"
        return Finding("subids", "skipped", why)
    if "subid:" in (machine.find_text("/etc/nsswitch.conf") or ""):
        remedy = f"getsubids {machine.user}"
        return Finding("subids", "unknown", "given by what nsswitch.conf names", remedy)
    lacking = [place for place in ("/etc/subuid", "/etc/subgid") if not _has_ids(survey, place)]
    problems = []
    if lacking:
        first = max(_first_free(survey, place) for place in ("/etc/subuid", "/etc/subgid"))
        span = f"{first}-{first + _SUBIDS - 1}"
        flags = " ".join(f"--add-{place.rpartition('/')[2]}s {span}" for place in lacking)
        what = f"{machine.user} has no {_SUBIDS} ids in {' and '.join(lacking)}"
        problems.append(Problem(what, survey.as_root(f"usermod {flags} {machine.user}")))
    if machine.which("newuidmap", survey.settings.path) is None:
        problems.append(Problem("no newuidmap", survey.package_command("uidmap")))
    return judged("subids", problems, f"{machine.user} has some in /etc/subuid and /etc/subgid")


def _entries(survey: Survey, place: str) -> Iterator[tuple[str, int, int]]:
    """Whom a range belongs to, its first id and how many there are (subuid(5))."""
    for line in (survey.machine.find_text(place) or "").splitlines():
        parts = line.split(":")
        if len(parts) == 3 and all(p.isascii() and p.isdigit() and len(p) < 11 for p in parts[1:]):
            yield parts[0], int(parts[1]), int(parts[2])


def _has_ids(survey: Survey, place: str) -> bool:
    names = (survey.machine.user, str(survey.machine.uid))
    return sum(count for name, _, count in _entries(survey, place) if name in names) >= _SUBIDS


def _first_free(survey: Survey, place: str) -> int:
    ends = (first + count for _, first, count in _entries(survey, place))
    return max(ends, default=_FIRST_SUBID)


def linger(survey: Survey) -> Finding:
    """The user's own services, such as a rootless engine, run without a login."""
    machine = survey.machine
    if not machine.exists("/run/systemd/system"):
        return Finding("linger", "skipped", "systemd does not run here")
    if machine.uid == 0 or survey.rootful:
        why = "root needs none; ask as a user" if machine.uid == 0 else "the engine is rootful"
        return Finding("linger", "skipped", why)
    if machine.exists(f"/var/lib/systemd/linger/{machine.user}"):
        return Finding("linger", "found", f"{machine.user}'s services run without a login")
    what = f"what {machine.user} runs ends with the last login, a cluster too"
    remedy = survey.as_root(f"loginctl enable-linger {machine.user}")
    return Finding("linger", "warning", what, remedy)


def state(survey: Survey) -> Finding:
    """The folder of records and leases is ours alone to write, or can be made."""
    place = _state_folder(survey)
    make = survey.as_root(f"install -d -m 700 -o {survey.machine.user} {place}")
    path = survey.machine.path(place)
    try:
        status = path.lstat()
    except FileNotFoundError:
        above = next(parent for parent in path.parents if parent.exists())
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return Finding("state", "found", f"{place}, made when it is needed")
        return Finding("state", "missing", f"{place} is not there and cannot be made", make)
    except OSError as error:
        return Finding("state", "missing", f"{place}: {error.strerror}", make)
    return judged("state", [*_state_problems(survey, place, path, status)], place)


def _state_problems(
    survey: Survey, place: str, path: Path, status: os.stat_result
) -> Iterator[Problem]:
    if not stat.S_ISDIR(status.st_mode):
        yield Problem(f"{place} is no directory", f"set {_STATE_VARIABLE} to one")
    elif status.st_uid != survey.machine.uid:
        remedy = survey.as_root(f"chown {survey.machine.user} {place}")
        yield Problem(f"{place} belongs to somebody else", remedy)
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Problem(f"others can write {place}", f"chmod go-w {place}")
    elif not os.access(path, os.W_OK | os.X_OK):
        yield Problem(f"{place} is not writable", f"chmod u+rwx {place}")


def _state_folder(survey: Survey) -> str:
    environ = survey.machine.environ
    if environ.get(_STATE_VARIABLE):
        return environ[_STATE_VARIABLE]
    if survey.machine.uid == 0:
        return _ROOT_STATE
    home = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME', '')}/.local/state"
    return f"{home}/flux-flex/{socket.gethostname()}"
