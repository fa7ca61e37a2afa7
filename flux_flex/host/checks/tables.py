"""Documents that others wrote, read without trust: JSON that commands print, TOML of a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from flux_flex.errors import FlexError
from flux_flex.host.checks.machine import Machine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def from_json(text: str) -> Any:
    """The document, or None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_tables(machine: Machine, folder: str) -> dict[str, Any]:
    """All *.toml of a folder, merged as Flux does: sorted, a later value for an earlier one.

    Raises FlexError for what cannot be read, with the OSError as its cause, or is no TOML.
    """
    try:
        names = sorted(path.name for path in machine.path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise FlexError(f"cannot be read: {error.strerror}", folder) from error
    merged: dict[str, Any] = {}
    for place in [f"{folder}/{name}" for name in names if name.endswith(".toml")]:
        try:
            part = tomllib.loads(machine.read_text(place))
        except OSError as error:
            raise FlexError(f"cannot be read: {error.strerror or error}", place) from error
        except (ValueError, RecursionError) as error:
            raise FlexError(f"not TOML: {error}", place, f"flux config get -c {place}") from None
        _merge(merged, part)
    return merged


def at(table: object, *keys: str) -> Any:
    """The value below the keys, or None."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def listed(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
