"""Reading files that somebody else wrote, and writing ours whole or not at all.

Every error names the file first. Compressed files (``.gz``) are read like others.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
            "no such file", place, "check the path; those in a scenario are relative to it"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "the gzip data ends too soon" if isinstance(error, EOFError) else "not gzip data"
        raise BadInput(what, place, "copy or compress the file again") from None
    except OSError as error:
        raise BadInput(
            f"cannot be read: {error.strerror}", place, "check what it is, and its permissions"
        ) from None
    except ValueError:  # a null character, which no path has
        raise BadInput("not a path", place, "correct the path") from None
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


def write_all(files: Sequence[tuple[Path, str]]) -> None:
    """Write files: each whole into a temporary one beside it, then, with all there, all renamed.

    Folders are made as needed. Raises BadInput where a file cannot be written; nothing is then
    renamed, and no folder or temporary file stays. The same holds for Ctrl-C, except that what
    it meets between two renames stays renamed: some of the files are new, each of them whole.
    """
    with ExitStack() as undo:
        staged = [_stage(path, text, undo) for path, text in files]
        for temporary, target in staged:
            with _naming(target):
                os.replace(temporary, target)
        undo.pop_all()


def _stage(path: Path, text: str, undo: ExitStack) -> tuple[Path, Path]:
    """The text in a temporary file beside its target. ``undo`` learns how to remove it."""
    with _naming(path):
        target = _target(path)
        _make_folder(target.parent, undo)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".flux-flex-")
        temporary = Path(name)
        undo.callback(temporary.unlink, missing_ok=True)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
            # mkstemp makes files for the owner alone; ours are as public as the umask says.
            os.fchmod(descriptor, 0o666 & ~_umask())
            stream.write(text)
    return temporary, target


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "choose a place that you may write to, with room"
        raise BadInput(f"cannot be written: {reason}", str(path), remedy) from None


def _target(path: Path) -> Path:
    """Where a symbolic link leads. Refuses folders and devices, which a rename would replace."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "not a file"
        raise BadInput(f"cannot be written: it is {kind}", str(path), "name a file")
    return target


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder and those above it; ``undo`` learns which were made here."""
    for missing in [one for one in (folder, *folder.parents) if not one.exists()][::-1]:
        with suppress(FileExistsError):  # somebody else made it in the meantime
            missing.mkdir()
            undo.callback(_remove_empty, missing)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # somebody else put a file there in the meantime
        folder.rmdir()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
