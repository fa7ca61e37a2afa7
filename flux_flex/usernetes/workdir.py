"""The job's directory, ``/tmp/usernetes-<jobid>``: made safely where everybody may write.

Its name is what the ``usernetes`` package computes inside the job: the id in F58, lowered.
Lowering is not one to one, so two live jobs may want one name; and anybody can put something
there first. Hence the directory is made by mkdir, which follows nothing and shares nothing, is
known from then on by its device and inode, and is filled through an open descriptor before it is
given to the user. Once it is the user's, nothing below it is ever opened by path.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from flux_flex.errors import FlexError
from flux_flex.model.jobid import f58

_MOST_LINKS = 10_000


@dataclass(frozen=True)
class Place:
    """Where one node's directory goes: its path, and links under other spellings of its name."""

    path: str
    links: tuple[str, ...]


def place_of(parent: str, jobid: int | None, identity: str, local_index: int) -> Place:
    """The directory of a job on a host; without a job, that of ``identity``.

    ``local_index`` counts the brokers of the job on this host. The first has the name that
    `usernetes attr` computes, and a link for locales where Flux prints f for ƒ (RFC 19).
    """
    names = [f"usernetes-{identity}"]
    if jobid is not None:
        spelled = f58(jobid)
        names = [f"usernetes-{text.lower()}" for text in (spelled, f"f{spelled[1:]}")]
    if local_index:
        return Place(f"{parent}/{names[0]}.{local_index}", ())
    return Place(f"{parent}/{names[0]}", tuple(f"{parent}/{name}" for name in names[1:]))


def make_directory(place: Place, users: dict[str, str]) -> tuple[int, int, int]:
    """Make the directory, for its maker alone; (descriptor, device, inode).

    ``users`` are paths of other live clusters, and whose they are. Raises FlexError where the
    name is taken, by a live job or by somebody who put something there.
    """
    parent = _open_parent(os.path.dirname(place.path))
    try:
        name = os.path.basename(place.path)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            raise _taken(place.path, users) from None
        except OSError as error:
            raise FlexError(f"{error.strerror}", place.path, "see usernetes.workdir") from None
        descriptor = os.open(
            name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
        )
    finally:
        os.close(parent)
    status = os.fstat(descriptor)
    return descriptor, status.st_dev, status.st_ino


def make_links(place: Place, users: dict[str, str]) -> None:
    """Make the links to the directory. Raises FlexError where a name is taken."""
    for link in place.links:
        try:
            os.symlink(os.path.basename(place.path), link)
        except FileExistsError:
            raise _taken(link, users) from None
        except OSError as error:
            raise FlexError(f"{error.strerror}", link, "see usernetes.workdir") from None


def remove_directory(
    path: str, device: int | None, inode: int | None, uid: int, *, limit_s: float
) -> None:
    """Remove a job's directory, if what has its name still is that directory.

    Another thing of that name is left alone, but for an empty folder of the maker's: that is
    what a bring-up leaves that was killed before it knew the inode, and what an engine makes
    that starts a container again whose directory is gone. Raises FlexError for what would not
    go.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FlexError(f"{error.strerror}", path, "remove it by hand") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (uid, os.geteuid()):
        return
    if (status.st_dev, status.st_ino) != (device, inode):
        if status.st_uid == os.geteuid():
            with suppress(OSError):
                os.rmdir(path)
        return
    # As deep as a user likes to make it: shutil.rmtree recurses, and holds a descriptor each.
    # rm works through descriptors too: a link that the user puts in the way is not followed.
    command = ["rm", "-rf", "--one-file-system", "--", os.path.basename(path)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603 - a list of ours
            command,
            cwd=os.path.dirname(path),
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
    if os.path.lexists(path):
        what = "some of its files cannot be removed"
        raise FlexError(what, path, "see what uses it, then remove it by hand")


def remove_links(path: str, links: Sequence[str], uid: int) -> None:
    """Remove the links to a directory: ours, and those that instances inside the job made."""
    parent = os.path.dirname(path)
    nested = []
    with suppress(OSError), os.scandir(parent) as entries:
        for entry, _ in zip(entries, range(_MOST_LINKS)):  # noqa: B905
            if entry.name.startswith("usernetes-") and entry.is_symlink():
                nested.append(entry.path)
    for link in {*links, *nested}:
        with suppress(OSError):
            status = os.lstat(link)
            leads_to = os.path.join(parent, os.readlink(link))
            if leads_to == path and status.st_uid in (uid, os.geteuid()):
                os.unlink(link)


def write_file(directory: int, name: str, text: str, *, mode: int, uid: int, gid: int) -> None:
    """Put a file into an open directory that may be the user's by now: nothing is followed."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        stream.write(text)


def read_file(directory: int, name: str, *, uid: int, most: int) -> str:
    """A small file of the user's in an open directory that is the user's: nothing is followed.

    A hard link to a file of somebody else is none: the user may not be able to read it.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError as error:
        raise FlexError(f"{error.strerror}", name) from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
            raise FlexError("no regular file of the user's", name)
        content = stream.read(most + 1)
    if len(content) > most:
        raise FlexError(f"more than {most} bytes", name)
    return content.decode("utf-8", "replace")


def _open_parent(parent: str) -> int:
    """The folder for the directories. Others may write to it only if it is sticky, as /tmp is."""
    try:
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        remedy = "set usernetes.workdir in flex.toml to a folder on every node"
        raise FlexError(f"{error.strerror}", parent, remedy) from None
    status = os.fstat(descriptor)
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid not in (0, os.geteuid()) or (shared and not status.st_mode & stat.S_ISVTX):
        os.close(descriptor)
        remedy = "let root own it, with the sticky bit if others may write to it: chmod +t"
        raise FlexError("others could replace what is in it", parent, remedy)
    return descriptor


def _taken(path: str, users: dict[str, str]) -> FlexError:
    """Why a name cannot be had: whose it is, as far as can be told."""
    if path in users:
        what = f"{users[path]} is using it, whose id differs in upper and lower case only"
        return FlexError(what, path, "submit the job again: it gets another id")
    with suppress(OSError):
        status = os.lstat(path)
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "something"
        what = f"there is {kind} of {_user_name(status.st_uid)} already"
        return FlexError(what, path, "remove it, and submit the job again")
    return FlexError("the name is taken", path, "submit the job again")


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except (KeyError, OverflowError):
        return f"user {uid}"
