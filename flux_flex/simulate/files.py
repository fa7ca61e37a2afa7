"""Reading files that somebody else wrote, and writing ours whole or not at all.

Every error names the file first. Compressed files (``.gz``) are read like others.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from pathlib import Path

from flux_flex.errors import BadInput
from flux_flex.model.jobspec import decode_yaml

# Larger than any queue dump; a compressed file could otherwise fill the memory.
MAX_BYTES = 1 << 30


def read_text(path: Path) -> str:
    """The text of a file. Raises BadInput for whatever keeps it from being read."""
    place = str(path)
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as stream:
            content: bytes = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput(
            "no such file", place, "check the path; it is relative to the scenario"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "the gzip data ends too soon" if isinstance(error, EOFError) else "not gzip data"
        raise BadInput(what, place, "copy or compress the file again") from None
    except OSError as error:
        raise BadInput(
            f"cannot be read: {error.strerror}", place, "check its permissions"
        ) from None
    if len(content) > MAX_BYTES:
        raise BadInput(f"more than {MAX_BYTES >> 20} MiB", place, "give a smaller file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8 at byte {error.start}", place, "save it as UTF-8") from None


def read_json(path: Path) -> object:
    """The decoded JSON of a file. Raises BadInput with line and column."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        place = f"{path}: line {error.lineno}, column {error.colno}"
        raise BadInput(f"not valid JSON: {error.msg}", place, "correct the syntax there") from None
    except (RecursionError, ValueError):
        raise BadInput("not JSON that can be read", str(path), "write it again") from None


def read_yaml(path: Path) -> object:
    """The decoded YAML (or JSON) of a file. Raises BadInput with line and column."""
    text = read_text(path)
    try:
        return decode_yaml(text)
    except BadInput as error:
        raise error.at(str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: into a temporary one beside it, then rename.

    Raises BadInput where that is not possible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise BadInput(what, str(path), "choose a place that you may write to") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        # mkstemp makes files for the owner alone; a report is as public as the umask says.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            what = f"cannot be written: {error.strerror}"
            raise BadInput(what, str(path), "make room, or choose another place") from None
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
