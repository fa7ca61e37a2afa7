"""One call of a flux-burst plugin, in a process of its own: rent, or take away.

    main("RUNDIR/BURST/run")      # does what task.json there says, and leaves outcome.json

Only :mod:`flux_flex.burst.providers.fluxburst` starts it, and reads what it leaves.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import logging.handlers
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flux_flex.burst.providers.records import write
from flux_flex.errors import FlexError

# Two bursts that had one of these in common would be one to the plugin, and would go together.
APART = ("cluster_name", "name", "terraform_dir", "config_dir")


@dataclass(slots=True)
class Outcome:
    """outcome.json: what was being done when it ended (load, init, schedule, run, cleanup or end),
    what went wrong, and what the plugin knows."""

    reached: str = "load"
    error: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    clusters: list[str] = field(default_factory=list)
    jobids: list[Any] = field(default_factory=list)


def main(folder: str) -> None:
    """Do what task.json in the folder says, and leave in outcome.json what became of it."""
    place, outcome = Path(folder), Outcome()
    task = json.loads((place / "task.json").read_text(encoding="utf-8"))
    os.umask(0o077)
    os.chdir(place.parent / "work")
    logging.basicConfig(level=logging.INFO)
    # Plugins that pass over every Exception do not pass over this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("it was told to end"))
    try:
        (_run if task["verb"] == "run" else _undo)(task, place, outcome)
    except FlexError as error:
        outcome.error = error.what
    # Anything may come out of a plugin, and sys.exit() is often meant for people.
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
        outcome.error = f"{outcome.reached}: {type(error).__name__}: {error}"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write(place / "outcome.json", json.dumps(asdict(outcome), default=str))
    if threading.active_count() > 1:
        os._exit(0)  # threads that a plugin leaves behind would keep us waiting


def _run(task: Mapping[str, Any], place: Path, outcome: Outcome) -> None:
    """Rent. Nothing of this is done a second time once ``began`` is there."""
    module, kind = _loaded(task["plugin"])
    outcome.parameters = _checked(task, {one.name: one for one in dataclasses.fields(kind)})
    write(place / "began", json.dumps(outcome.parameters, default=str))
    for path in (place / "began", place):  # or a power cut might make us rent twice
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    plugin = _made(module, kind, outcome)
    nodes, spec = len(task["hosts"]), {"tasks": [{"command": ["sleep", "infinity"]}]}
    job = {"id": 1, "nnodes": nodes, "ntasks": task["tasks"], "spec": spec}
    outcome.reached = "schedule"
    if (hasattr(plugin, "validate") and not plugin.validate()) or not plugin.schedule(job):
        raise FlexError(f"it does not take a job of {nodes} nodes")
    outcome.reached = "run"
    try:
        plugin.run(request_burst=True, nodes=nodes, tasks=task["tasks"])
        outcome.reached = "end"
    finally:
        _remember(plugin, outcome)
    if not outcome.clusters and not outcome.jobids:
        raise FlexError("run() has returned, and remembers neither a cluster nor a job")


def _undo(task: Mapping[str, Any], _: Path, outcome: Outcome) -> None:
    """Take away what the plugin is told that it remembers."""
    outcome.parameters = task["parameters"]
    plugin = _made(*_loaded(task["plugin"]), outcome)
    plugin.clusters = {**dict.fromkeys(task["clusters"], True), **getattr(plugin, "clusters", {})}
    plugin.jobids = [*task["jobids"]]
    heard = logging.handlers.BufferingHandler(1 << 20)
    heard.setLevel(logging.WARNING)
    logging.getLogger("fluxburst").addHandler(heard)
    outcome.reached = "cleanup"
    for name in ("unburst", "cleanup"):
        getattr(plugin, name, lambda: None)()
    _remember(plugin, outcome)
    if left := outcome.clusters or outcome.jobids:
        raise FlexError(f"it has not ended {', '.join(map(str, left))}")
    if heard.buffer:
        raise FlexError(heard.buffer[0].getMessage())


def _loaded(name: str) -> tuple[Any, Any]:
    """The plugin's module and its dataclass."""
    module = importlib.import_module(name)
    kind = getattr(module, "BurstParameters", None)
    return module, kind or importlib.import_module(f"{name}.plugin").BurstParameters


def _made(module: Any, kind: Any, outcome: Outcome) -> Any:
    outcome.reached = "init"
    plugin = module.init(kind(**outcome.parameters))
    plugin.name = module.__name__.removeprefix("fluxburst_")
    return plugin


def _remember(plugin: Any, outcome: Outcome) -> None:
    """Note what another process will need."""
    outcome.parameters = {k: getattr(plugin.params, k) for k in outcome.parameters}
    outcome.clusters = [str(name) for name in getattr(plugin, "clusters", ())]
    outcome.jobids = [*getattr(plugin, "jobids", ())]


def _checked(task: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters. Raises FlexError for those that the plugin does not have, or lacks, and if
    it would call its nodes otherwise than the instance does."""
    for key in task["parameters"]:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(fields)}"
            raise FlexError(f"it has no parameter {key!r}: {hint}")
    parameters: dict[str, Any] = {k: v for k, v in task["defaults"].items() if k in fields}
    parameters |= task["parameters"]
    for key in [one for one in fields if one not in parameters]:
        # Without a default, both are MISSING; and a default would be the same for all bursts.
        if fields[key].default is fields[key].default_factory or key == "cluster_name":
            raise FlexError(f"set parameters.{key}{', with {burst} in it' * (key in APART)}")
    values = {key: one.default for key, one in fields.items()} | parameters
    named = task["node_names"].format_map
    names = [named({**values, "index": k, "number": k + 1}) for k in range(len(task["hosts"]))]
    if names != task["hosts"]:
        whose = f"it calls its nodes {', '.join(names)}" if any(names) else "set node_names"
        raise FlexError(f"{whose}: the list of hosts has {', '.join(task['hosts'])}")
    return parameters
