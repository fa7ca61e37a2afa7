"""EC2's answers on disk, so that commands need not ask again each time.

One file for each account, selection and endpoint, in a directory that only its owner can write;
those of a month ago go when another is written. A file that is damaged, of somebody else or of a
later flux-flex is as if it were not there. What is asked for is also known by the variables that
choose account and region; a default profile that is changed in ~/.aws is noticed only when the
answer is too old.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.quoting import one_line
from flux_flex.topology.answers import Answers, read_answers
from flux_flex.topology.aws import Account, Progress, Selection, fetch

_FORMAT = "flux-flex-topology-cache"
_VERSION = 1
# 100,000 instances of 600 bytes each.
_MOST_BYTES = 64 << 20

# How old an answer may be in which something may still change.
_UNSETTLED_S = 60.0
# When files go that nobody asks for any more, with temporary ones that a killed process left.
_MOST_AGE_S = 30 * 86_400.0
_OURS = re.compile(r"[0-9a-f]{64}\.json|\.[0-9a-f]{64}\.json\.[0-9a-f]{16}")

# Whose answer it is, where an account leaves it to the environment.
_VARIABLES = (
    "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_EC2",
)  # fmt: skip

_log = logging.getLogger("flux_flex.topology")


@dataclass(frozen=True)
class Fetched:
    """Answers, and their age in seconds; None where they are fresh from EC2."""

    answers: Answers
    age_s: float | None


def cached_fetch(
    selection: Selection,
    account: Account,
    *,
    folder: Path,
    max_age_s: float,
    now: Callable[[], float] = time.time,
    fetch: Callable[..., Answers] = fetch,
    progress: Progress | None = None,
) -> Fetched:
    """The answers in ``folder`` if they are younger than ``max_age_s`` seconds, else EC2's own.

    With ``max_age_s`` 0 EC2 is always asked. An answer in which instances are pending, or the
    topology leaves some out that it may have later, is good for a minute at most. What EC2 answers
    is kept in ``folder``, which is made if need be; where that fails, a warning is logged. ``now``
    is in seconds since the epoch.

    Raises what :func:`flux_flex.topology.aws.fetch` raises.
    """
    asked = _asked(selection, account)
    name = f"{hashlib.sha256(_canonical(asked)).hexdigest()}.json"
    asked_at = now()
    kept = _read(folder, name, asked)
    if kept is not None:
        answers, fetched_at = kept
        age_s = asked_at - fetched_at
        # A negative age is that of a clock that was set back.
        most_s = max_age_s if _is_settled(answers) else min(max_age_s, _UNSETTLED_S)
        if 0 <= age_s < most_s:
            return Fetched(answers, age_s)
    answers = fetch(selection, account, progress=progress)
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "fetched": asked_at,
        "asked": asked,
        "instance_ids": sorted(answers.instances),
        "answers": answers.document(),
    }
    try:
        _write(folder, name, _canonical(document))
    except (OSError, BadInput) as error:
        reason = one_line(str(error).replace("\n", "; "))
        _log.warning("EC2's answer is not kept in %s: %s", folder, reason)
    return Fetched(answers, None)


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/flux-flex/topology``, or the same below ``~/.cache``.

    Raises BadInput where neither that variable nor a home is known.
    """
    # By the specification of XDG, a path that is not absolute is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            remedy = "set HOME, XDG_CACHE_HOME, or topology.cache in flex.toml"
            raise BadInput("there is no home directory", "cache", remedy) from None
    return Path(base) / "flux-flex" / "topology"


def _is_settled(answers: Answers) -> bool:
    """Whether asking again soon would bring nothing new: a type may have no topology at all."""
    located = answers.located
    kinds = {one.instance_type for one in located.values()}
    return bool(located) and not any(
        one.state == "pending"
        or (one.state == "running" and i not in located and one.instance_type in kinds)
        for i, one in answers.instances.items()
    )


# -- what is asked -------------------------------------------------------------------------------


def _asked(selection: Selection, account: Account) -> dict[str, object]:
    """All that an answer depends on, as JSON; the order of names does not matter."""
    set_here = [name for name in _VARIABLES if os.environ.get(name)]
    return {
        "profile": account.profile,
        "region": account.region,
        "instance_ids": sorted(set(selection.instance_ids)),
        "groups": sorted(set(selection.groups)),
        "filters": sorted([name, sorted(set(values))] for name, values in selection.filters),
        "hosts": sorted(set(selection.hosts)),
        "environment": {name: _digest(os.environ[name]) for name in set_here},
    }


def _digest(text: str) -> str:
    """No more of a variable than is needed to tell values apart: a URL may have a password."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _canonical(document: Mapping[str, object]) -> bytes:
    # ASCII escapes keep what a name has that is not UTF-8.
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


# -- the file ------------------------------------------------------------------------------------


def _read(folder: Path, name: str, asked: Mapping[str, object]) -> tuple[Answers, float] | None:
    """The answers in a file with the time at which EC2 was asked; None where it has none of use."""
    try:
        with _opened(folder) as directory:
            # A pipe by that name would keep everybody waiting for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
                    return None
                content = file.read(_MOST_BYTES + 1)
    except (OSError, BadInput):
        return None
    if len(content) > _MOST_BYTES:
        return None
    try:
        return _answers(json.loads(content), asked)
    except (ValueError, RecursionError, FlexError):
        return None


def _answers(document: object, asked: Mapping[str, object]) -> tuple[Answers, float] | None:
    """What a decoded file says. Raises BadInput for answers that are none of EC2's."""
    if not isinstance(document, dict):
        return None
    head = (document.get("format"), document.get("version"), document.get("asked"))
    at = document.get("fetched")
    if head != (_FORMAT, _VERSION, asked) or isinstance(at, bool):
        return None
    if not isinstance(at, (int, float)) or not math.isfinite(at):
        return None
    answers = read_answers([("cache", document.get("answers"))])
    if document.get("instance_ids") != sorted(answers.instances):
        return None
    return answers, float(at)


def _write(folder: Path, name: str, content: bytes) -> None:
    """Put a file in its place at once, so that others read the old one or the new one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(folder) as directory, ExitStack() as undo:
        temporary = f".{name}.{secrets.token_hex(8)}"
        undo.callback(_remove, temporary, directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        undo.pop_all()
        _prune(directory)


def _prune(directory: int) -> None:
    """Remove files of ours that are too old for any question; no others."""
    oldest = time.time() - _MOST_AGE_S
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):  # another process removed it
                status = entry.stat(follow_symlinks=False)
                if _OURS.fullmatch(entry.name) and status.st_mtime < oldest:
                    _remove(entry.name, directory)


def _remove(name: str, directory: int) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of a directory that nobody else can write.

    Files are opened by it, so the directory that was looked at is the one that is used. Raises
    BadInput for a directory that others own or can write, OSError where there is none.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory = os.open(folder, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            remedy = "name a directory for topology.cache"
            raise BadInput("no directory, or a link to one", str(folder), remedy) from None
        raise
    try:
        if not _is_ours(os.fstat(directory)):
            what = "the directory is somebody else's, or others can write it"
            raise BadInput(what, str(folder), f"make it yours alone: chmod go-w {folder}")
        yield directory
    finally:
        os.close(directory)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
