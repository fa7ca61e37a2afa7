"""The provider ``fluxburst``: nodes from whatever an installed plugin of flux-burst can rent.

    config = parse_fluxburst_config({"plugin": "fluxburst_gke", "rundir": "/var/lib/flux/fluxburst",
        "parameters": {"project": "p-1", "cluster_name": "site-{burst}", "lead_host": "203.0.113.7",
                       "lead_port": "8050", "lead_size": "4"}})
    provider = FluxBurstProvider(config, catalog.types, broker_toml=follower_toml(...))

A plugin prompts, prints, exits, waits for ever, and has what it knows in memory. So each of its
calls is made in a process of its own, which outlives us, and what it knows is kept on disk::

    RUNDIR/BURST: rental.json           # what was asked for
                  leaving, gone         # since release was called; since nothing is left
                  work                  # the folder in which the plugin finds itself
                  run, undo             # the process that rents, and the one that takes away
                    task.json, session.json   # what to do, and which process it is
                    began               # from before the plugin gets hold of that process
                    outcome.json, plugin.log  # what became of it, and what it printed

What the interface of flux-burst (0.0.15) leaves open:

- Nothing can be observed: READY means that run() has returned, in which several plugins take any
  error for "it exists already". Whether nodes came is seen by their brokers alone.
- A second run() is not taken for the first, so it is never called again: where its process ended
  without a word, the burst has FAILED, and its cluster is taken away by its name.
- cleanup() tells nothing. A burst is gone when its plugin remembers no cluster or job and has not
  warned; until then it is tried again, unless somebody removes the burst's folder. Only names of
  clusters and jobs outlast a process, so a plugin that needs more than these cannot clean up.
- No capacity looks like any other failure; nothing bears the burst's id but what is so named.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, JsonValue, ValidationError, model_validator

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.providers.fluxburst_run import APART, Outcome
from flux_flex.burst.providers.records import (
    NAME,
    in_our_words,
    locked,
    read,
    read_rental,
    tail,
    write,
)
from flux_flex.burst.providers.sessions import Session, end, end_strays, gated
from flux_flex.errors import BadInput, FlexError
from flux_flex.fields import STRICT, Duration
from flux_flex.model.hostlist import format_hostlist
from flux_flex.pydantic_errors import bad_input

# Parameters that the configuration leaves out, for plugins that have them.
_DEFAULTS = {
    "name": "{burst}", "hostnames": "{hosts}", "machine_type": "{type}",
    "compute_machine_type": "{type}", "terraform_dir": "{folder}/terraform",
    "config_dir": "{folder}/config",
}  # fmt: skip
# What plugins call their nodes: pods of a MiniCluster, instances of Terraform's.
_NODE_NAMES = {
    **dict.fromkeys(("fluxburst_eks", "fluxburst_gke"), "{name}-{index}"),
    "fluxburst_compute_engine": "{compute_name_prefix}-{number:03d}",
}
# -I keeps PYTHON*, user site and working directory out; -u loses nothing that is printed.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from flux_flex.burst.providers.fluxburst_run import main; main(*sys.argv[2:])"
)


class FluxBurstConfig(BaseModel):
    """The table ``[burst.fluxburst]``: a plugin, and what it is given.

    In texts of ``parameters``, {burst}, {hosts}, {nodes}, {tasks}, {type}, {broker_toml} and the
    burst's own {folder} stand for what they are. ``node_names`` says what the plugin calls its
    nodes, by parameters and {index} from 0 or {number} from 1, such as {name}-{number:03d}.
    """

    model_config = STRICT

    plugin: str = Field(pattern=r"^fluxburst_[a-z0-9_]+$", description="the plugin's module")
    parameters: dict[str, JsonValue] = Field(default={}, description="its BurstParameters")
    node_names: str = Field(default="", description="like {name}-{index}; empty where known")
    rundir: str = Field(pattern="^/[^\0]+$", description="a folder for this instance, on disk")
    run_deadline: Duration = Field(default=3600.0, gt=0, description="how long run() may take")
    release_deadline: Duration = Field(
        default=3600.0, gt=0, description="how long cleanup() may take before it is tried again"
    )

    @model_validator(mode="after")
    def _bursts_differ(self) -> FluxBurstConfig:
        for key in {*APART} & self.parameters.keys():
            if not re.search(r"\{(burst|folder)\}", str(self.parameters[key])):
                raise ValueError(f"{key} needs {{burst}} in it, or bursts would share it")
        if self.parameters.get("isolated_burst"):
            raise ValueError("the brokers of an isolated_burst do not join")
        return self


def parse_fluxburst_config(value: object) -> FluxBurstConfig:
    """The decoded table. Raises BadInput with the key path."""
    try:
        return FluxBurstConfig.model_validate(value)
    except ValidationError as error:
        raise bad_input(error, FluxBurstConfig) from error


class FluxBurstProvider:
    """See the module and :class:`flux_flex.burst.providers.Provider`.

    ``broker_toml`` is the brokers' configuration, for plugins that take one: else ranks are right
    for the first slot alone. In seconds, ``retry_s`` is the pause between two tries to clean up,
    and ``grace_s`` how long a plugin may take to end before it is killed. Raises BadInput where
    the plugin is not installed.
    """

    def __init__(
        self, config: FluxBurstConfig, types: Sequence[NodeType], *, broker_toml: str = "",
        retry_s: float = 60.0, grace_s: float = 20.0,
    ) -> None:  # fmt: skip
        self._config, self._plugin = config, config.plugin
        if importlib.util.find_spec(self._plugin) is None:
            name = self._plugin.replace("fluxburst", "flux-burst", 1).replace("_", "-")
            raise BadInput("it is not installed", self._plugin, f"install it as {name}")
        self._types = {one.name: one for one in types}
        self._broker_toml = broker_toml
        self._retry_s, self._grace_s = retry_s, grace_s
        self._rundir = Path(config.rundir)

    def types(self) -> Sequence[NodeType]:
        return tuple(self._types.values())

    def request(self, rental: Rental) -> None:
        """Start the process that rents; again only if the plugin never got hold of the first.

        Raises BadInput for names that cannot be used and for another rental of that name,
        FlexError while it is being released. What the plugin refuses, :meth:`observe` tells.
        """
        task, folder = self._task(rental), self._rundir / rental.burst
        with locked(self._rundir, rental.burst), in_our_words(self._rundir):
            known = read_rental(folder)
            if known is None or _is_gone(folder):
                self._prepare(folder, rental)
            elif (folder / "leaving").exists():
                raise FlexError("it is being released", rental.burst, "wait until it is gone")
            elif (known.type, known.hosts) != (rental.type, rental.hosts):
                what = f"it is {known.nodes} x {known.type} already"
                raise BadInput(what, rental.burst, "release it first")
            run = _Child(folder / "run")
            if run.age_s < 0 and run.begun is None:
                self._start(run, task)

    def observe(self) -> Sequence[Observed]:
        """Every burst that has a folder and is not gone. The plugin is not asked: it cannot say."""
        with in_our_words(self._rundir):
            names = sorted(os.listdir(self._rundir)) if self._rundir.exists() else []
            found = [self._observed(self._rundir / one) for one in names if NAME.fullmatch(one)]
        return [one for one in found if one is not None]

    def release(self, burst: str) -> None:
        """End the process that rents, if need be by force, and start one that takes away.

        Raises FlexError where that has failed and it is not time for another try, and where
        nobody can know what there is to take away.
        """
        folder = self._rundir / burst
        if not NAME.fullmatch(burst) or read_rental(folder) is None or _is_gone(folder):
            return
        with locked(self._rundir, burst), in_our_words(self._rundir):
            (folder / "leaving").touch(mode=0o600)
            run, undo = _Child(folder / "run"), _Child(folder / "undo")
            self._stop(run)
            left = _left_by(run)
            if isinstance(left, str):
                raise FlexError(left, burst)
            if left is None:
                (folder / "gone").touch(mode=0o600)
            elif not 0 <= undo.age_s <= self._config.release_deadline:
                self._undo(undo, {**(read(run.place / "task.json", dict) or {}), **left})

    def close(self) -> None:
        """What rents, or takes away, goes on."""

    def _task(self, rental: Rental) -> dict[str, object]:
        """What the process that rents is told; the plugin's own parameters are checked there."""
        if not NAME.fullmatch(rental.burst) or rental.type not in self._types:
            what = f"no burst of {rental.type!r} can be called {rental.burst!r}"[:160]
            raise BadInput(what, "", f"use a DNS label, and one of {', '.join(self._types)}")
        nodes, tasks = rental.nodes, rental.nodes * self._types[rental.type].cores
        values = {
            "burst": rental.burst, "hosts": format_hostlist(rental.hosts), "type": rental.type,
            "nodes": str(nodes), "tasks": str(tasks), "broker_toml": self._broker_toml,
            "folder": str(self._rundir / rental.burst),
        }  # fmt: skip
        given = self._config.parameters
        toml = {"broker_toml": self._broker_toml} if self._broker_toml else {}
        return {
            "verb": "run",
            "plugin": self._plugin,
            "parameters": {key: _filled(value, values) for key, value in given.items()},
            "defaults": {key: _filled(value, values) for key, value in _DEFAULTS.items()} | toml,
            "node_names": self._config.node_names or _NODE_NAMES.get(self._plugin, ""),
            "hosts": rental.hosts,
            "tasks": tasks,
        }

    def _prepare(self, folder: Path, rental: Rental) -> None:
        """Make the folder anew, with all in it that makes it a burst, or nothing."""
        new = folder.with_name(f".{folder.name}.new")
        for old in (new, folder):
            shutil.rmtree(old, ignore_errors=True)
        new.mkdir(mode=0o700)
        (new / "work").mkdir(mode=0o700)
        write(new / "rental.json", json.dumps(asdict(rental)))
        new.rename(folder)

    def _start(self, child: _Child, task: Mapping[str, object]) -> None:
        """Start a process, with its record always a step ahead of it."""
        shutil.rmtree(child.place, ignore_errors=True)
        child.place.mkdir(mode=0o700)
        write(child.place / "task.json", json.dumps(task))
        paths = json.dumps([path for path in sys.path if os.path.isabs(path)])
        command = [sys.executable, "-Iu", "-c", _PROGRAM, paths, str(child.place)]
        # To flux-burst, such variables stand above parameters, which have been checked.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLUXBURST_")}
        environment["FLUX_FLEX_CHILD"] = str(child.place)
        with gated(command, child.place / "plugin.log", environment) as (session, go):
            write(child.place / "session.json", json.dumps(asdict(session)))
            go()
        # Nobody else waits for it, and it would stay as a zombie.
        threading.Thread(target=os.waitpid, args=(session.pid, 0), daemon=True).start()

    def _undo(self, undo: _Child, task: Mapping[str, object]) -> None:
        """Try to clean up, unless that has been done, or has failed only just now."""
        self._stop(undo)
        if undo.error and 0 <= time.time() - undo.place.stat().st_mtime < self._retry_s:
            what = f"{self._plugin} cannot clean up: {undo.error}"
            raise FlexError(what, undo.place.parent.name, f"see {undo.place}/plugin.log")
        if not _is_gone(undo.place.parent):
            self._start(undo, task)

    def _stop(self, child: _Child) -> None:
        """End a process with all that it has started. Raises FlexError where it stays."""
        session = child.session
        if session is None:
            return
        if end([session], self._grace_s):
            raise FlexError("it cannot be killed", f"process {session.pid}", "look at this machine")
        end_strays(session, str(child.place))

    def _observed(self, folder: Path) -> Observed | None:
        rental, run, undo = read_rental(folder), _Child(folder / "run"), _Child(folder / "undo")
        if rental is None or _is_gone(folder):
            return None
        # Before outcomes are read: what has ended by now has left one.
        age_s, is_undoing = run.age_s, undo.age_s >= 0
        outcome, within_s = run.outcome, self._config.run_deadline
        if (folder / "leaving").exists():
            left = _left_by(run) if age_s < 0 else None
            phase = Phase.LEAVING
            why = "" if is_undoing else undo.error or (left if isinstance(left, str) else "")
        elif outcome is not None and not outcome.error:
            phase, why = Phase.READY, "run() has returned, and tells no more"
        elif outcome is None and (run.session is None or 0 <= age_s <= within_s):
            phase, why = Phase.COMING, "run() has not returned"
        else:
            late = f"run() has not returned within {within_s:g} s"
            phase, why = Phase.FAILED, run.error if age_s < 0 or outcome else late
        log = (undo if phase is Phase.LEAVING else run).place / "plugin.log"
        said = why and f"{self._plugin}: {why}; it said: {tail(log)}"
        return Observed(rental.burst, phase, rental.nodes * (phase is Phase.READY), said)


def _filled(value: JsonValue, values: Mapping[str, str]) -> JsonValue:
    """A parameter, with what is the burst's own put in if it is a text."""

    def fill(found: re.Match[str]) -> str:
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise BadInput(f"nothing is called {found[0]}", "parameters", f"there are {known}")
        return values[found[1]]

    return re.sub(r"\{([a-z_]+)\}", fill, value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class _Child:
    """A process of ours by its folder, which need not be there."""

    place: Path

    @property
    def session(self) -> Session | None:
        return read(self.place / "session.json", lambda document: Session(**document))

    @property
    def age_s(self) -> float:
        """For how long it has been running; -1 if it is not."""
        session = self.session
        if session is None or not session.is_alive:
            return -1.0
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, now_s - session.start / os.sysconf("SC_CLK_TCK"))

    @property
    def begun(self) -> Mapping[str, Any] | None:
        """The parameters that the plugin was given; None if it was never given anything."""
        return read(self.place / "began", dict)

    @property
    def outcome(self) -> Outcome | None:
        return read(self.place / "outcome.json", lambda document: Outcome(**document))

    @property
    def error(self) -> str:
        """What went wrong, of a process that has ended."""
        outcome = self.outcome
        if outcome is not None:
            return outcome.error
        return "its process ended without a word" if self.session is not None else ""


def _is_gone(folder: Path) -> bool:
    undone = _Child(folder / "undo").outcome
    return (folder / "gone").exists() or (undone is not None and not undone.error)


def _left_by(run: _Child) -> dict[str, object] | str | None:
    """What the process that takes away is told; None where there is nothing to take away; and, for
    people, a text where something may be rented, and nothing says what.

    The cluster's name counts even where the plugin did not get so far as to remember it.
    """
    begun, outcome = run.begun, run.outcome
    if begun is None or (outcome is not None and outcome.reached not in ("run", "end")):
        return None
    outcome = outcome or Outcome("run", parameters={**begun})
    clusters, is_done = {*outcome.clusters}, outcome.reached == "end"
    if not is_done and (named := outcome.parameters.get("cluster_name")):
        clusters.add(named)
    if not clusters and not outcome.jobids:
        riddle = f"nobody knows what it has rented: end that, and remove {run.place.parent}"
        return None if is_done else riddle
    left = {"clusters": sorted(clusters), "jobids": outcome.jobids}
    return {"verb": "undo", "parameters": outcome.parameters, **left}
