"""What the configuration of a broker and of its IMP still lacks before they run flux-flex.

    python missing_config.py SYSTEM_DIR IMP_DIR VALIDATOR CMD_DIR SCRIPT_DIR FLEX_TOML

FLEX_TOML is empty where the burst controller is not installed.
install-scripts.sh runs it. It reads SYSTEM_DIR/conf.d/*.toml and IMP_DIR/conf.d/*.toml as Flux
does (sorted, tables merged, a later value for an earlier one), changes nothing, and prints the
lines to add. It sees files only: what is loaded or set in a running broker, it does not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # flux_flex brings it

Finding = tuple[str, list[str]]  # what is missing, the lines to add


class Config:
    """All the *.toml of one directory, merged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unread: list[str] = []
        self.merged: dict[str, Any] = {}
        self._parts: list[tuple[Path, dict[str, Any]]] = []
        try:
            files = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
        except OSError:
            files = []
        for path in files:
            try:
                part = tomllib.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                self.unread.append(f"{path}: {error}")
                continue
            self._parts.append((path, part))
            merge(self.merged, part)

    def get(self, *keys: str) -> Any:
        return lookup(self.merged, keys)

    def last_file_with(self, *keys: str) -> Path | None:
        having = [path for path, part in self._parts if lookup(part, keys) is not None]
        return having[-1] if having else None


def merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def lookup(table: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(table, dict):
            return None
        table = table.get(key)
    return table


def array(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def own_command(config: Config, name: str) -> list[str]:
    """The command that a prolog or epilog runs instead of what the IMP offers, if one is set."""
    command = [str(word) for word in array(config.get("job-manager", name, "command"))]
    through_imp = len(command) > 1 and Path(command[0]).name == "flux-imp"
    return [] if through_imp else command


def broker_lacks(config: Config, validator: str, script_dir: str) -> Iterator[Finding]:
    plugins = array(config.get("job-manager", "plugins"))
    loads = [Path(str(lookup(entry, ("load",)))).name for entry in plugins]
    if "perilog.so" not in loads:
        where = config.last_file_with("job-manager", "plugins")
        if where:
            what = f"perilog.so is not loaded. Add to plugins of [job-manager] in {where}:"
            yield what, ['{ load = "perilog.so" }']
        else:
            lines = ["[job-manager]", 'plugins = [{ load = "perilog.so" }]']
            yield "perilog.so is not loaded. Add:", lines
    for name in ("prolog", "epilog"):
        yield from perilog_lacks(config, name, script_dir)
    if uses_imp(config) and config.get("access", "allow-root-owner") is not True:
        what = "Scripts run by root may not ask the broker about jobs. Add:"
        yield what, ["[access]", "allow-root-owner = true"]
    named = array(config.get("ingest", "validator", "plugins"))
    if validator not in named:
        lines = [f"plugins = {json.dumps([*(named or ['jobspec']), validator])}"]
        where = config.last_file_with("ingest", "validator", "plugins")
        if where:
            what = f"Wrong attributes are not refused. Change in [ingest.validator] of {where}:"
            yield what, lines
        else:
            what = "Wrong attributes are not refused when a job is submitted. Add:"
            yield what, ["[ingest.validator]", *lines]


def perilog_lacks(config: Config, name: str, script_dir: str) -> Iterator[Finding]:
    if config.get("job-manager", name, "per-rank") is not True:
        what = f"The {name} does not run on each node of a job. Add:"
        yield what, [f"[job-manager.{name}]", "per-rank = true"]
    ours = str(Path(script_dir, f"{name}.d", "50-flux-flex"))
    command = own_command(config, name)
    if command and ours not in command and Path(command[0]).name != f"flux-run-{name}":
        what = (
            f"[job-manager.{name}] has a command of its own, {command[0]}. "
            f"Unless that runs {name}.d, have it run:"
        )
        yield what, [ours]


def uses_imp(config: Config) -> bool:
    return not (own_command(config, "prolog") and own_command(config, "epilog"))


def imp_lacks(config: Config, cmd_dir: str) -> Iterator[Finding]:
    for name in ("prolog", "epilog"):
        table = config.get("run", name)
        if not isinstance(table, dict):
            yield (
                f"The IMP may not run the {name}. Add:",
                [
                    f"[run.{name}]",
                    'allowed-users = ["flux"]',
                    'allowed-environment = ["FLUX_*"]',
                    f"path = {json.dumps(str(Path(cmd_dir, f'flux-run-{name}')))}",
                ],
            )
        elif "FLUX_*" not in array(table.get("allowed-environment")):
            what = f"The {name} is not told which job it is for. Add to [run.{name}]:"
            yield what, ['allowed-environment = ["FLUX_*"]']


def report(title: str, config: Config, findings: list[Finding]) -> list[str]:
    place = f"{config.directory}/*.toml"
    lines = [f"{title} ({place}): nothing is missing." if not findings else f"{title} ({place}):"]
    for what, additions in findings:
        lines += ["", f"  {what}", *(f"      {line}" for line in additions)]
    lines += [f"  Not read: {why}" for why in config.unread]
    return ["", *lines]


def main(argv: list[str]) -> int:
    system_dir, imp_dir, validator, cmd_dir, script_dir, flex_toml = argv
    broker = Config(Path(system_dir, "conf.d"))
    missing = list(broker_lacks(broker, validator, script_dir))
    if flex_toml and not isinstance(broker.get("flex-burst"), dict):
        what = "The burst controller is not loaded when the instance starts. Add:"
        missing.append((what, ["[flex-burst]", f"config = {json.dumps(flex_toml)}"]))
    lines = report("Broker configuration", broker, missing)
    if uses_imp(broker):
        imp = Config(Path(imp_dir, "conf.d"))
        imp_missing = list(imp_lacks(imp, cmd_dir))
        missing += imp_missing
        lines += report("IMP configuration", imp, imp_missing)
    if missing:
        lines += ["", "Do this on every node, then restart its broker."]
    sys.stdout.buffer.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
