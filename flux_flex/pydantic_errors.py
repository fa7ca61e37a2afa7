"""Pydantic's errors said as ours: one BadInput with the key path and, for a typo, the nearest key.

Kept apart from ``errors`` because it imports pydantic, which commands that read no catalog,
scenario or configuration do not need to load.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flux_flex.errors import BadInput

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST = 60

Location = Sequence[int | str]


def bad_input(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> BadInput:
    """The first of the errors that pydantic found while validating ``model``.

    ``where`` is a key path like ``types[2].price_per_hour_usd``. The remedy names the nearest
    known key for an unknown one, and otherwise the description of the field, where it has one.
    A key that is missing because it is misspelt is reported as the misspelling.
    """
    details = _most_telling(error.errors(include_url=False))
    path, owner, field = _follow(model, details["loc"])
    where = _written(path)
    if details["type"] in ("extra_forbidden", "invalid_key") and owner is not None:
        return BadInput("unknown key", where, _nearest_key(str(details["loc"][-1]), owner))
    if details["type"] == "missing":
        return BadInput("the key is missing", where, _described(field) or "add it")
    if details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        found = type(details["input"]).__name__
        keys = f"known keys: {', '.join(_keys(owner))}" if owner is not None else ""
        return BadInput(
            f"should be a mapping of keys, not {found}", where, _described(field) or keys
        )
    return BadInput(_said(details), where, _described(field))


def _most_telling(found: list[ErrorDetails]) -> ErrorDetails:
    """The first error, or the unknown key that explains it when the first is a missing key."""
    first = found[0]
    if first["type"] == "missing":
        missing = str(first["loc"][-1])
        for other in found:
            beside = other["loc"][:-1] == first["loc"][:-1]
            if (
                other["type"] == "extra_forbidden"
                and beside
                and difflib.get_close_matches(str(other["loc"][-1]), [missing])
            ):
                return other
    return first


def _said(details: ErrorDetails) -> str:
    """Pydantic's message without its preamble, with the refused value when that is short."""
    said = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = details["input"]
    if details["type"] == "string_pattern_mismatch":
        return f"{_shown(value)} is not of the form that is wanted"
    if details["type"] != "value_error":
        said += f", not {_shown(value)}"
    return " ".join(said.split())


def _shown(value: object) -> str:
    # Python refuses to write out an int of more than 4300 digits, which 0xfff... in YAML can be.
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    if value is None or isinstance(value, (str, int, float)):
        return _shortened(repr(value))
    return type(value).__name__


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _written(path: Iterable[int | str]) -> str:
    written = ""
    for part in path:
        if isinstance(part, int):
            written += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part) and len(part) <= _LONGEST:
            written += f".{part}" if written else part
        else:
            # Quoted as JSON, so a key with a line break still gives one line.
            written += f"[{_shortened(json.dumps(part))}]"
    return written


def _described(field: FieldInfo | None) -> str:
    return (field.description or "") if field is not None else ""


def _nearest_key(key: str, owner: type[pydantic.BaseModel]) -> str:
    known = list(_keys(owner))
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    return f"known keys: {', '.join(known)}"


def _keys(model: type[pydantic.BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _follow(
    model: type[pydantic.BaseModel], location: Location
) -> tuple[list[int | str], type[pydantic.BaseModel] | None, FieldInfo | None]:
    """Walk the location down the nested models.

    Returns the keys that the user wrote, the model that holds the last of them and the last
    named field. Pydantic also puts labels into a location that are in no file: the member of a
    union that was tried, and ``[key]``. They steer the walk and are left out of the path.
    """
    path: list[int | str] = []
    owner: type[pydantic.BaseModel] | None = model
    field: FieldInfo | None = None
    annotation: Any = model
    for part in location:
        annotation = _bare(annotation)
        if _is_model(annotation):
            owner = annotation
            field = _field(annotation, part)
            annotation = field.annotation if field is not None else None
        elif _members(annotation):
            annotation = _chosen_member(annotation, part)
            continue
        elif part == "[key]":
            continue
        else:
            owner = None
            annotation = _item(annotation, part)
        path.append(part)
    return path, owner, field


def _field(model: type[pydantic.BaseModel], part: int | str) -> FieldInfo | None:
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            return field
    return None


def _bare(annotation: Any) -> Any:
    """Without Annotated and without ``| None``, for which pydantic writes no label."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _members(annotation: Any) -> list[Any]:
    """The members of a union, None left out; empty when it is no union."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return []
    return [_bare(member) for member in get_args(annotation) if member is not types.NoneType]


def _chosen_member(annotation: Any, label: int | str) -> Any:
    """The member that pydantic labels so: by class name, or by the value of its discriminator."""
    for member in _members(annotation):
        if not _is_model(member):
            continue
        if member.__name__ == label:
            return member
        for field in member.model_fields.values():
            if get_origin(field.annotation) is Literal and label in get_args(field.annotation):
                return member
    return None


def _item(annotation: Any, part: int | str) -> Any:
    """What a sequence holds at an index, or a mapping under a key; None when unknown."""
    arguments = [item for item in get_args(annotation) if item is not Ellipsis]
    if not arguments:
        return None
    if get_origin(annotation) is tuple and isinstance(part, int) and part < len(arguments):
        return arguments[part]
    return arguments[-1]
