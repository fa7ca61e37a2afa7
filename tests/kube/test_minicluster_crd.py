"""The schema that tests give an API server says what the operator's own says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from minicluster_crd import NO_COPY, OPERATORS, SCHEMA


def statements(schema: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """What a schema says of each key: its type, default, and what it requires."""
    for key in ("type", "format", "default", "required", "x-kubernetes-int-or-string"):
        if key in schema:
            yield f"{at} {key}", schema[key]
    for key, one in schema.get("properties", {}).items():
        yield from statements(one, f"{at}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from statements(schema[key], f"{at}[]")


@pytest.mark.skipif(not OPERATORS.exists(), reason=NO_COPY)
def test_each_key_is_as_the_operator_has_it() -> None:
    theirs = dict(statements(json.loads(OPERATORS.read_text(encoding="utf-8"))))
    ours = dict(statements(SCHEMA))

    def plain(said: dict[str, Any]) -> dict[str, Any]:
        return {key: sorted(v) if isinstance(v, list) else v for key, v in said.items()}

    assert {key: plain(theirs).get(key) for key in ours} == plain(ours)
