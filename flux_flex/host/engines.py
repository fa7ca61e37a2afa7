"""Container engines: which one a user has, and how what carries a label is removed.

    engine = find_engine("", "", uid=1000, path="/usr/bin:/bin")
    left = engine.remove(project, timeout_s=20, environment={})   # what could not be removed

docker is asked through its SDK, on the user's own socket if there is a rootless daemon, else on
the system's. podman and nerdctl are asked by their commands. Compose labels all that it makes
with its project, whichever engine it is, so the label is enough to find it again.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from flux_flex.errors import FlexError

PROJECT_LABEL = "com.docker.compose.project"
SYSTEM_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
RUNTIME = "/run/user"

# Usernetes' own order, and then a docker that has no rootless set-up script.
DETECTED = (
    ("dockerd-rootless.sh", "docker"),
    ("containerd-rootless.sh", "nerdctl"),
    ("podman", "podman"),
    ("docker", "docker"),
)
COMPOSE = {
    "docker": ("docker compose", "docker-compose"),
    "nerdctl": ("nerdctl compose",),
    "podman": ("podman-compose",),
}
_MOST_NAMES = 1000


@dataclass(frozen=True)
class Engine:
    """An engine as one user has it. ``socket`` is empty for engines without a daemon."""

    kind: str
    compose: str
    socket: str

    def environment(self) -> dict[str, str]:
        """What the make targets of Usernetes need to use this engine."""
        found = {"CONTAINER_ENGINE": self.kind, "COMPOSE": self.compose}
        if self.socket:
            found["DOCKER_HOST"] = f"unix://{self.socket}"
        return found

    def remove(
        self, project: str, *, timeout_s: float, environment: Mapping[str, str]
    ) -> list[str]:
        """Remove what a compose project left; what could not be removed, with the reason.

        Idempotent. Raises FlexError where the engine does not answer. Run it as the user whose
        engine it is.
        """
        end = time.monotonic() + timeout_s
        if self.kind == "docker":
            return _remove_by_sdk(self.socket, project, end)
        return _remove_by_command(self.kind, project, end, environment)


def find_engine(wanted: str, compose: str, *, uid: int, path: str) -> Engine:
    """The engine of a user: ``wanted``, or the first of Usernetes' own detection order.

    ``compose`` is the site's compose command; empty for the usual one. Raises FlexError where
    there is none, and where the socket that it would talk to belongs to somebody else.
    """
    kind = wanted or _detect(path)
    command = compose or _compose_of(kind, path)
    return Engine(kind, command, _docker_socket(uid) if kind == "docker" else "")


def _detect(path: str) -> str:
    for command, kind in DETECTED:
        if shutil.which(command, path=path):
            return kind
    remedy = "install docker, podman or nerdctl, or set usernetes.path in flex.toml"
    raise FlexError("no container engine", f"PATH {path}", remedy)


def _compose_of(kind: str, path: str) -> str:
    for command in COMPOSE[kind]:
        words = command.split()
        found = shutil.which(words[0], path=path)
        if found and (len(words) == 1 or kind == "nerdctl" or _answers([found, *words[1:]])):
            return command
    remedy = f"install {' or '.join(COMPOSE[kind])}, or set usernetes.compose in flex.toml"
    raise FlexError(f"no compose command for {kind}", f"PATH {path}", remedy)


def _answers(command: Sequence[str]) -> bool:
    """Whether docker has the compose plugin: it says so without asking the daemon."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(  # noqa: S603 - a list, from the site's own PATH
            [*command, "version"], capture_output=True, timeout=10, check=False, env={"HOME": "/"}
        )
        return done.returncode == 0
    return False


def _docker_socket(uid: int) -> str:
    """The socket of the user's own daemon if there is one, else that of the system's."""
    folder = f"{RUNTIME}/{uid}"
    rootless = f"{folder}/docker.sock"
    if os.path.lexists(rootless):
        status = _seen(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (uid, 0):
            raise FlexError("it belongs to somebody else", folder, "remove it")
        return _checked_socket(rootless, {uid})
    for place in SYSTEM_SOCKETS:
        if os.path.lexists(place):
            return _checked_socket(os.path.realpath(place), {0})
    remedy = "start docker, rootless for the user or for the whole system"
    raise FlexError("no docker daemon: there is no socket", rootless, remedy)


def _checked_socket(place: str, owners: set[int]) -> str:
    status = _seen(place)
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid not in owners:
        what = "no socket, or somebody else's: what answers there is not the user's engine"
        raise FlexError(what, place, "remove it, and start docker again")
    return place


def _seen(place: str) -> os.stat_result:
    """What is there. The user can take it away at any time, which is no error of ours."""
    try:
        return os.lstat(place)
    except OSError as error:
        raise FlexError(f"{error.strerror}", place, "start docker again") from None


# -- docker, through its SDK ---------------------------------------------------------------------


def _remove_by_sdk(socket: str, project: str, end: float) -> list[str]:
    # Half a second of imports, which only a teardown needs.
    import docker
    import docker.errors
    import requests.exceptions

    troubles = (docker.errors.DockerException, requests.exceptions.RequestException)
    label = {"label": f"{PROJECT_LABEL}={project}"}
    try:
        timeout_s = _seconds_to(end)
        client = docker.DockerClient(base_url=f"unix://{socket}", version="auto", timeout=timeout_s)
        with closing(client):
            # Each kind is listed when the one before it is gone: containers hold the others.
            return [
                *_each("container", client.containers, {"all": True, "ignore_removed": True},
                       label, {"v": True, "force": True}, troubles),
                *_each("network", client.networks, {}, label, {}, troubles),
                *_each("volume", client.volumes, {}, label, {"force": True}, troubles),
                *_forget_images(client, project, troubles),
            ]  # fmt: skip
    except troubles as error:
        what = f"docker does not answer: {error}"
        raise FlexError(what[:300], socket, "start docker") from None


def _each(
    kind: str,
    collection: Any,
    listing: Mapping[str, object],
    label: Mapping[str, str],
    removing: Mapping[str, object],
    troubles: tuple[type[Exception], ...],
) -> list[str]:
    """Remove all of one kind that carry a label; a line about each that would not go."""
    found = collection.list(filters=label, **listing)[:_MOST_NAMES]
    return [
        line
        for one in found
        for line in _tried(f"{kind} {one.name}", partial(one.remove, **removing), troubles)
    ]


def _tried(
    name: str, remove: Callable[[], object], troubles: tuple[type[Exception], ...]
) -> list[str]:
    try:
        remove()
    except troubles as error:
        status = getattr(error, "status_code", None)
        # Gone, or going: somebody else takes the same cluster away.
        if status == 404 or (status == 409 and "in progress" in str(error)):
            return []
        return [f"{name}: {error}"[:300]]
    return []


def _forget_images(client: Any, project: str, troubles: tuple[type[Exception], ...]) -> list[str]:
    """Remove the names that compose gave to what it built; the layers stay as a cache.

    The next job's image is the same but for its name, and is there at once.
    """
    names = (f"{project}_node:latest", f"{project}-node:latest")
    forget = [partial(client.images.remove, name, noprune=True) for name in names]
    return [line for n, f in zip(names, forget, strict=True) for line in _tried(n, f, troubles)]


# -- podman and nerdctl, by their commands -------------------------------------------------------

_LISTS = (
    ("container", ["ps", "-a", "-q"], ["rm", "-f", "-v"]),
    ("network", ["network", "ls", "-q"], ["network", "rm"]),
    ("volume", ["volume", "ls", "-q"], ["volume", "rm", "-f"]),
)


def _remove_by_command(
    kind: str, project: str, end: float, environment: Mapping[str, str]
) -> list[str]:
    left = []
    for thing, listing, removing in _LISTS:
        filters = ["--filter", f"label={PROJECT_LABEL}={project}"]
        names = _said(kind, [*listing, *filters], end, environment).split()
        for name in names[:_MOST_NAMES]:
            try:
                _said(kind, [*removing, "--", name], end, environment)
            except FlexError as error:
                left.append(f"{thing} {name}: {error.what}")
    for name in (f"{project}_node", f"{project}-node"):
        with suppress(FlexError):  # it was never built, or under the other name
            _said(kind, ["rmi", "--", name], end, environment)
    return left


def _said(kind: str, words: Sequence[str], end: float, environment: Mapping[str, str]) -> str:
    """What the engine's command prints. Raises FlexError with its last line of complaint."""
    place = f"{kind} {' '.join(words[:3])}"
    command = shutil.which(kind, path=environment.get("PATH"))
    if command is None:
        raise FlexError("no such command", kind, "install it, or set usernetes.path in flex.toml")
    try:
        done = subprocess.run(  # noqa: S603 - a list, from the site's own PATH
            [command, *words],
            capture_output=True,
            timeout=_seconds_to(end),
            check=False,
            env=dict(environment),
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise FlexError("no answer in time", place, f"look at {kind}") from None
    except OSError as error:
        raise FlexError(f"{error.strerror}", place, f"look at {kind}") from None
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FlexError(complaint[:300], place, f"look at {kind}")
    return done.stdout


def _seconds_to(end: float) -> float:
    return max(0.1, end - time.monotonic())
