"""One look at a machine: what several checks of doctor want to know, asked only once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flux_flex.errors import FlexError
from flux_flex.host.checks.container import Engine, find_engine
from flux_flex.host.checks.findings import Problem
from flux_flex.host.checks.machine import Answer, Machine
from flux_flex.host.checks.tables import from_json, read_tables

# Where Flux is if it does not say otherwise.
_CONF_DIR = "/etc/flux"
_LIBEXEC_DIR = "/usr/libexec/flux"
# Where lines for the broker may go: Flux merges all files of the folder.
_FILE = "flux-flex.toml"


# Before a program for `flux python -c`, which imports from where we are before all other places.
WITHOUT_CWD = "import sys; sys.path[:] = filter(None, sys.path);"
# Asks the lead broker, in Flux's own Python: any user has it, and our own may lack the bindings.
RPC_PROGRAM = f"""\
{WITHOUT_CWD} import json, flux
try:
    said = {{"answer": flux.Flux().rpc(sys.argv[1], {{}}, nodeid=0).get()}}
except OSError as error:
    said = {{"errno": error.errno, "why": error.strerror}}
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Reply:
    """What a service of the lead broker answered, or else the ``errno`` and ``why`` not."""

    answer: Mapping[str, Any] | None = None
    errno: int = 0
    why: str = ""


@dataclass(frozen=True)
class Secret:
    """A file that the instance's owner alone may read; ``remedy`` makes it where there is none."""

    what: str
    path: str
    remedy: str
    is_certificate: bool = False


@dataclass(frozen=True)
class BurstSlot:
    """The hosts that one burst of a node type may have."""

    type: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class BurstSettings:
    """What flex.toml, whose path is ``file``, says of bursting; ``queue``: whose jobs may burst."""

    file: str = ""
    provider: str = ""
    queue: str = ""
    slots: tuple[BurstSlot, ...] = ()
    lead_name: str = ""
    lead_address: str = ""
    lead_port: int = 0
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What flex.toml says that checks depend on. Times in seconds."""

    container_engine: str
    compose: str
    path: str
    total_s: float
    teardown_s: float
    burst: BurstSettings = field(default_factory=BurstSettings)


@dataclass(frozen=True)
class BrokerConfig:
    """The broker's configuration, of the instance that runs (``live``) or from the files.

    ``place`` says where it was read, ``file`` where lines are added; ``trouble`` is why it
    could not be read.
    """

    place: str
    file: str
    live: bool
    table: Mapping[str, Any]
    trouble: Problem | None = None


class Survey:
    """A machine and the site's settings. Everything is asked when it is first wanted."""

    def __init__(self, machine: Machine, settings: Settings) -> None:
        self.machine = machine
        self.settings = settings
        # With FLUX_URI even `flux version` asks a broker, which may not answer.
        others = {key: value for key, value in machine.environ.items() if key != "FLUX_URI"}
        self._outside = replace(machine, environ=others)
        self._replies: dict[str, Reply] = {}

    def as_root(self, command: str) -> str:
        """The command as it is typed by this user to be run by root."""
        return command if self.machine.uid == 0 else f"sudo {command}"

    def package_command(self, *packages: str) -> str:
        """How to install packages of the distribution."""
        dnf = self.machine.which("dnf") is not None
        return self.as_root(f"{'dnf' if dnf else 'apt-get'} install {' '.join(packages)}")

    @cached_property
    def engine(self) -> Engine | None:
        """The container engine that Usernetes would use here."""
        settings = self.settings
        return find_engine(self.machine, settings.container_engine, settings.path)

    @property
    def rootful(self) -> bool:
        """Whether one engine of root's serves all, so that users need nothing of their own."""
        return self.engine is not None and self.engine.rootful

    @cached_property
    def flux_version(self) -> Answer:
        return self._outside.ask(["flux", "version"])

    @cached_property
    def conf_dir(self) -> str:
        """Flux's directory of configurations."""
        return self._builtin("confdir", _CONF_DIR)

    @cached_property
    def libexec_dir(self) -> str:
        return self._builtin("libexecdir", _LIBEXEC_DIR)

    @property
    def system_dir(self) -> str:
        return f"{self.conf_dir}/system"

    @cached_property
    def broker(self) -> BrokerConfig:
        """What the running instance uses; without one, what the system instance would."""
        answer = self.machine.ask(["flux", "config", "get"])
        if not answer.ok:
            return self._from_files(f"{self.system_dir}/conf.d")
        told = self.machine.ask(["flux", "getattr", "config.path"])
        folder = told.out.strip() if told.ok else ""
        file = f"{folder}/{_FILE}" if folder else f"DIR/{_FILE} (flux start --config-path=DIR)"
        if folder.endswith((".toml", ".json")):  # --config-path names a file
            file = folder
        place = "the running instance"
        table = from_json(answer.out)
        if isinstance(table, dict):
            return BrokerConfig(place, file, True, table)
        trouble = Problem(f"{place}: its configuration is no JSON", "flux config get", "unknown")
        return BrokerConfig(place, file, True, {}, trouble)

    def rpc(self, topic: str) -> Reply:
        """What the lead broker's service ``topic`` answers to an empty request."""
        if topic not in self._replies:
            answer = self.machine.ask(["flux", "python", "-c", RPC_PROGRAM, topic])
            said = from_json(answer.out) if answer.ok else None
            self._replies[topic] = _reply(said, answer.why)
        return self._replies[topic]

    def read_tables(self, folder: str) -> tuple[dict[str, Any], Problem | None]:
        """The merged *.toml of a folder, or why they cannot be read."""
        try:
            return read_tables(self.machine, folder), None
        except FlexError as error:
            what = f"{error.where}: {error.what}"
            if isinstance(error.__cause__, OSError):
                again = "sudo flux-flex doctor" if self.machine.uid else f"ls -ld {error.where}"
                return {}, Problem(what, again, "unknown")
            return {}, Problem(what, error.remedy)

    def _from_files(self, folder: str) -> BrokerConfig:
        table, trouble = self.read_tables(folder)
        place = folder if table else f"no broker answers, and nothing is in {folder}"
        return BrokerConfig(place, f"{folder}/{_FILE}", False, table, trouble)

    def _builtin(self, name: str, usual: str) -> str:
        answer = self._outside.ask(["flux", "config", "builtin", name])
        told = answer.out.strip()
        return told if answer.ok and told.startswith("/") and told.isprintable() else usual


def _reply(said: object, why: str) -> Reply:
    if not isinstance(said, dict):
        return Reply(why=why)
    answer, number = said.get("answer"), said.get("errno")
    if isinstance(answer, dict):
        return Reply(answer)
    return Reply(errno=number if isinstance(number, int) else 0, why=str(said.get("why", "")))
