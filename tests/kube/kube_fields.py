"""Fields of an object as the stand-in keeps them: who owns which, and what selectors select."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def leaves(one: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Its fields that somebody can own, by path, with their values; lists as a whole."""
    found: dict[str, Any] = {}
    for key, value in one.items():
        path = f"{at}\t{key}" if at else key
        if path in ("apiVersion", "kind") or (
            path.startswith("metadata\t") and path.split("\t")[1] not in
            ("labels", "annotations", "ownerReferences")
        ):  # fmt: skip
            continue
        if isinstance(value, Mapping) and value:
            found |= leaves(value, path)
        else:
            found[path] = value
    return found


def grown(owned: Mapping[str, Any]) -> Object:
    one: Object = {}
    for path, value in owned.items():
        *parents, last = path.split("\t")
        at = one
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = copy.deepcopy(value)
    return one


def selects(query: Mapping[str, str], one: Object) -> bool:
    labels = one["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = term.partition("=")
        if str(one.get(key, "")) != value:
            return False
    return True
