"""Which container engine Usernetes would use on a machine, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from flux_flex.host.checks.machine import Machine
from flux_flex.host.checks.tables import at, from_json, listed
from flux_flex.host.engines import DETECTED, RUNTIME, SYSTEM_SOCKETS

_ENGINE_S = 10.0


@dataclass(frozen=True)
class Engine:
    """The engine that would be used, and ``why`` that one.

    ``complaint`` is empty if it answers; ``version`` and ``rootless`` are known only then.
    """

    name: str
    why: str
    complaint: str
    version: str = ""
    rootless: bool = False

    @property
    def rootful(self) -> bool:
        """Certainly one engine for all, so users need nothing of their own. Podman and nerdctl
        are rootful for root and rootless for everybody else."""
        return self.name == "docker" and not self.complaint and not self.rootless


def find_engine(machine: Machine, configured: str, path: str) -> Engine | None:
    """The configured engine, else the first that ``path`` has, asked how it does."""
    name, why = configured, "flex.toml"
    for command, engine in DETECTED:
        if not name and machine.which(command, path):
            name, why = engine, command
    if not name:
        return None
    words = [name, "info", "--format", "json" if name == "podman" else "{{json .}}"]
    more = _docker_host(machine) if name == "docker" else {}
    answer = machine.ask(words, timeout_s=_ENGINE_S, path=path, more=more)
    if not answer.ok:
        return Engine(name, why, answer.why)
    told = from_json(answer.out)
    if name == "podman":
        version, rootless = at(told, "version", "Version"), at(told, "host", "security", "rootless")
    else:
        options = [str(option) for option in listed(at(told, "SecurityOptions"))]
        version = at(told, "ServerVersion")
        rootless = any("name=rootless" in option for option in options)
    if not version:
        return Engine(name, why, "it tells no version")
    return Engine(name, why, "", str(version), rootless is True)


def _docker_host(machine: Machine) -> dict[str, str]:
    """The daemon that a job of this user gets: its own, else the system's."""
    sockets = (f"{RUNTIME}/{machine.uid}/docker.sock", *SYSTEM_SOCKETS)
    place = next((place for place in sockets if machine.exists(place)), "")
    return {"DOCKER_HOST": f"unix://{place}"} if place else {}
