"""The Usernetes tree: where the administrator's template is, whether it may be believed, a copy.

The make targets of this tree run as the job's user, but a prolog that is root chooses it, so
nobody else may be able to change it: every file of it and every folder above it belongs to root
or to whoever runs this, and neither group nor others may write to it. (A folder like /tmp, where
the sticky bit keeps people from replacing what is not theirs, may be above it.)
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flux_flex.errors import FlexError

# What every generation of Usernetes has, and all that we ask of a tree.
NEEDED = ("Makefile", "docker-compose.yaml", "kubeadm-config.yaml")

_LEFT_OUT = frozenset({".git", ".github"})
_MOST_FILES = 5000
_MOST_BYTES = 64 << 20
_MOST_TEXT = 1 << 20
_API_VERSION = re.compile(r"^apiVersion:\s*(kubeadm\.k8s\.io/v[0-9a-z]+)\s*$", re.MULTILINE)
_TARGET = re.compile(r"^([a-z][a-z0-9-]*)\s*:(?!=)", re.MULTILINE)
_REMEDY = "chown it to root and chmod go-w, or set usernetes.template in flex.toml"


@dataclass(frozen=True)
class Tree:
    """What a template has to say of itself.

    ``own_ports``: each cluster can have ports of its own (Usernetes of 2025 and later); without,
    the ports are fixed and a host has room for one cluster. ``kubeadm_api`` is the API version
    of its kubeadm configuration. ``targets`` are those of its Makefile.
    """

    path: Path
    own_ports: bool
    kubeadm_api: str
    targets: frozenset[str]


def find_template(template: str = "") -> Path:
    """The path of the template; empty for the tree inside the ``usernetes`` package.

    Raises FlexError where there is none, and where somebody else could have changed it.
    """
    path = Path(template) if template else _packaged()
    check_trusted(path)
    for name in NEEDED:
        if not (path / name).is_file():
            remedy = "set usernetes.template in flex.toml to a Usernetes tree"
            raise FlexError("no Usernetes tree: it has no such file", str(path / name), remedy)
    return path


def read_tree(path: Path) -> Tree:
    """What the tree at ``path`` can do. Raises FlexError where it cannot be read."""
    makefile, compose, kubeadm = (_text(path / name) for name in NEEDED)
    api = _API_VERSION.search(kubeadm)
    if api is None:
        remedy = "set usernetes.template in flex.toml to a Usernetes tree"
        raise FlexError("no apiVersion of kubeadm", str(path / "kubeadm-config.yaml"), remedy)
    targets = frozenset(_TARGET.findall(makefile))
    return Tree(path, "PORT_KUBE_APISERVER" in compose, api[1], targets)


def check_trusted(path: Path) -> None:
    """Raise FlexError where somebody else than root and this user can change a file or a tree."""
    whole = Path(os.path.abspath(path))
    child = whole
    for folder in [whole, *whole.parents]:
        status = _status(folder)
        sticky = folder != whole and bool(status.st_mode & stat.S_ISVTX)
        if stat.S_ISLNK(status.st_mode):
            raise FlexError("a symbolic link", str(folder), "name the place that it leads to")
        _check(status, folder, sticky=sticky and _status(child).st_uid in (0, os.geteuid()))
        child = folder
    if whole.is_dir():
        total = 0
        for count, (_, place) in enumerate(_walk(whole)):
            status = _status(place)
            total += status.st_size
            if count > _MOST_FILES or total > _MOST_BYTES:
                raise FlexError("too large for a Usernetes tree", str(whole), "name a smaller one")
            if stat.S_ISLNK(status.st_mode):
                _check_link(place, whole)
                continue
            _check(status, place, sticky=False)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise FlexError("neither file, folder nor link", str(place), "remove it")


def copy_tree(source: Path, target: int, *, uid: int, gid: int) -> None:
    """Copy a tree into the open folder ``target`` (a descriptor) for a user.

    What is copied was checked by :func:`check_trusted`, and is checked again as it is opened.
    Nothing in the target is followed or replaced. Raises FlexError, and OSError for a full disk.
    """
    for name, place in _walk(source):
        status = _status(place)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISLNK(status.st_mode):
            _copy_link(place, source, name, target)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(place, name, target, uid, gid)
        else:
            raise FlexError("neither file, folder nor link", str(place), "remove it")


def _copy_file(place: Path, name: str, target: int, uid: int, gid: int) -> None:
    reading = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(reading, "rb") as stream:
        status = os.fstat(reading)
        _check(status, place, sticky=False)
        mode = 0o700 if status.st_mode & stat.S_IXUSR else 0o600
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        writing = os.open(name, flags, mode, dir_fd=target)
        with os.fdopen(writing, "wb") as copy:
            os.fchown(writing, uid, gid)
            os.fchmod(writing, mode)
            shutil.copyfileobj(stream, copy)


def _copy_link(place: Path, source: Path, name: str, target: int) -> None:
    os.symlink(_check_link(place, source), name, dir_fd=target)


def _check_link(place: Path, source: Path) -> str:
    """What a link says, if it leads to something in the tree, by whatever other links."""
    leads_to = os.readlink(place)
    end = os.path.realpath(place.parent / leads_to)
    if os.path.isabs(leads_to) or not Path(end).is_relative_to(os.path.realpath(source)):
        raise FlexError("a link that leads out of the tree", str(place), "remove it")
    return leads_to


def _walk(top: Path) -> Iterator[tuple[str, Path]]:
    """(name below the top, place), folders before what is in them, in a fixed order."""
    pending = [top]
    while pending:
        folder = pending.pop()
        for entry in sorted(os.listdir(folder)):
            if entry in _LEFT_OUT:
                continue
            place = folder / entry
            yield str(place.relative_to(top)), place
            if stat.S_ISDIR(_status(place).st_mode):
                pending.append(place)


def _check(status: os.stat_result, place: Path, *, sticky: bool) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise FlexError("it belongs to somebody else", str(place), _REMEDY)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise FlexError("others can write to it", str(place), _REMEDY)


def _status(place: Path) -> os.stat_result:
    try:
        return place.lstat()
    except OSError as error:
        raise FlexError(f"{error.strerror}", str(place), _REMEDY) from None


def _text(place: Path) -> str:
    try:
        with place.open("rb") as stream:
            return stream.read(_MOST_TEXT).decode("utf-8", "replace")
    except OSError as error:
        raise FlexError(f"{error.strerror}", str(place), _REMEDY) from None


def _packaged() -> Path:
    # Found, not imported: the package imports more than a prolog needs.
    spec = importlib.util.find_spec("usernetes")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        return Path(folder).resolve() / "src"
    remedy = "pip install usernetes, or set usernetes.template in flex.toml"
    raise FlexError("the usernetes package is not installed", "", remedy)
