"""libreapi_cli found and bound: fluxion in this process, through ctypes and without a compiler.

    >>> library = open_library()
    >>> context = Context(library, jgf_text, "low", types=["cluster", "node", "core"])
    >>> answer = context.match(Operation.ALLOCATE, jobspec_text, jobid=1)

The functions are those of flux-sched's ``reapi_cli.h``. They differ between releases, so each is
looked for when it is needed. What fluxion hands out is freed here, and the number in errno after a
failure becomes Busy (EBUSY), Unsatisfiable (ENODEV) or FlexError with fluxion's own words.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import shutil
import subprocess
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flux_flex.errors import BadInput, Busy, FlexError, Unsatisfiable
from flux_flex.model.quoting import one_line

NAME = "libreapi_cli.so"
PKG_CONFIG_DEADLINE_S = 5.0

_CONTEXT, _TEXT, _JOBID = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
_OUT = ctypes.c_void_p  # a pointer to what the function writes
# What each function takes; all return int, 0 for success, unless _RETURNS says otherwise.
_TAKES = {
    "new": (),
    "clone": (_CONTEXT,),
    "destroy": (_CONTEXT,),
    "initialize": (_CONTEXT, _TEXT, _TEXT),
    "match": (_CONTEXT, ctypes.c_int, _TEXT, _OUT, _OUT, _OUT, _OUT, _OUT),
    "match_with_jobid": (_CONTEXT, ctypes.c_int, _TEXT, _JOBID, _OUT, _OUT, _OUT, _OUT),
    "match_allocate": (_CONTEXT, ctypes.c_bool, _TEXT, _OUT, _OUT, _OUT, _OUT, _OUT),
    "match_satisfy": (_CONTEXT, _TEXT, _OUT, _OUT),
    "update_allocate": (_CONTEXT, _JOBID, _TEXT, _OUT, _OUT, _OUT),
    "add_subgraph": (_CONTEXT, _TEXT),
    "remove_subgraph": (_CONTEXT, _TEXT),
    "cancel": (_CONTEXT, _JOBID, ctypes.c_bool),
    "find": (_CONTEXT, _TEXT, _TEXT, _OUT),
    "get_err_msg": (_CONTEXT,),
    "clear_err_msg": (_CONTEXT,),
    "set_status": (_CONTEXT, _TEXT, ctypes.c_int),
}
_RETURNS = {
    "new": ctypes.c_void_p,
    "clone": ctypes.c_void_p,
    "destroy": None,
    "get_err_msg": ctypes.c_void_p,
    "clear_err_msg": None,
}


class Operation(IntEnum):
    """fluxion's ``match_op_t``, as far as it is used here."""

    ALLOCATE = 2  # and on failure tell never from not now (MATCH_ALLOCATE_W_SATISFIABILITY)
    RESERVE = 3  # allocate, or else reserve
    SATISFY = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What fluxion matched: its id for the job, seconds on its clock, and JGF as text."""

    jobid: int
    at: int
    jgf: str


class Library:
    """The functions of one libreapi_cli. ``path`` is the file, as it was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._dll = ctypes.CDLL(str(path), use_errno=True)
        self._bound: dict[str, Any] = {}
        self._types: set[str] = set()
        self._free = ctypes.CDLL(None).free
        self._free.argtypes, self._free.restype = (ctypes.c_void_p,), None

    def has(self, name: str) -> bool:
        """Whether there is a function ``reapi_cli_<name>``."""
        return hasattr(self._dll, f"reapi_cli_{name}")

    def function(self, name: str) -> Any:
        """``reapi_cli_<name>``. Raises FlexError where this library has none."""
        if name not in self._bound:
            if not self.has(name):
                what = f"this fluxion has no reapi_cli_{name}"
                remedy = "use a newer flux-sched, or the embedded engine"
                raise FlexError(what, str(self.path), remedy)
            found = getattr(self._dll, f"reapi_cli_{name}")
            found.argtypes, found.restype = _TAKES[name], _RETURNS.get(name, ctypes.c_int)
            self._bound[name] = found
        return self._bound[name]

    def learn(self, types: Collection[str]) -> None:
        """Make resource types known. Fluxion learns those of the first graph in the process, and
        no others when it loads another; but it does when a graph grows."""
        new = sorted(set(types) - self._types)
        if new and self._types:
            old = min(self._types)
            Context(self, _chain([old]), "first", [old]).add_subgraph(_chain([old, *new]))
            self.loaded(new)

    def loaded(self, types: Collection[str]) -> None:
        """Remember that resource types are known."""
        self._types.update(types)

    def taken(self, pointer: int | None) -> str:
        """The text that fluxion left at ``pointer``, which is freed; "" for none."""
        if not pointer:
            return ""
        try:
            return ctypes.string_at(pointer).decode()
        finally:
            self._free(pointer)

    @property
    def version(self) -> str:
        """Such as ``flux-sched 0.54.0, flux-core 0.88.0``, as far as the files tell."""
        return f"flux-sched {self._sched_version()}, flux-core {self._core_version()}"

    def _sched_version(self) -> str:
        # The API has no call for it; a library that belongs to flux-sched carries it in its name.
        stem = "libfluxion-data.so."
        places = (self.path.resolve().parent, self.path.resolve().parent.parent)
        names = [found.name for place in places for found in place.glob(f"{stem}*")]
        return max((name.removeprefix(stem) for name in names), key=len, default="of some version")

    def _core_version(self) -> str:
        if not hasattr(self._dll, "flux_core_version_string"):
            return "of some version"
        text = self._dll.flux_core_version_string
        text.argtypes, text.restype = (), ctypes.c_char_p
        return str(text().decode())


def _chain(types: Sequence[str]) -> str:
    """JGF of one vertex of each type, each in the one before."""
    nodes, edges, path = [], [], ""
    for number, kind in enumerate(types):
        name = f"{kind}0"
        path += f"/{name}"
        metadata = {
            "type": kind, "basename": kind, "name": name, "id": 0, "uniq_id": number, "rank": -1,
            "exclusive": False, "unit": "", "size": 1, "paths": {"containment": path},
        }  # fmt: skip
        nodes.append({"id": str(number), "metadata": metadata})
        if number:
            ends = {"source": str(number - 1), "target": str(number)}
            edges.append({**ends, "metadata": {"subsystem": "containment"}})
    return json.dumps({"graph": {"nodes": nodes, "edges": edges}})


class Context:
    """One graph in fluxion, with its own jobs. Not for several threads at a time."""

    def __init__(self, library: Library, jgf: str, policy: str, types: Collection[str]) -> None:
        """Load a graph that has these types. Raises FlexError for what fluxion refuses."""
        self.library = library
        library.learn(types)
        self._adopt(library.function("new")())
        options = {
            "load_format": "jgf",
            "match_format": "jgf",
            "matcher_policy": policy,
            "prune_filters": "ALL:core",
        }
        texts = _encode(jgf), _encode(json.dumps(options))
        self._call("initialize", *texts)
        library.loaded(types)

    def _adopt(self, pointer: int | None) -> None:
        if not pointer:
            raise FlexError("fluxion gives no context", str(self.library.path), "free some memory")
        self._pointer = pointer
        self.close = weakref.finalize(self, self.library.function("destroy"), pointer)

    def clone(self) -> Context:
        """A context in the same state that then goes its own way."""
        twin = object.__new__(Context)
        twin.library = self.library
        twin._adopt(self.library.function("clone")(self._pointer))
        return twin

    # -- questions and jobs ----------------------------------------------------------------------

    def match(self, operation: Operation, jobspec: str, jobid: int) -> Answer:
        """Allocate or reserve for a job. ``jobid`` is taken where the library lets the caller
        choose; what it is is in the answer. Raises Busy, Unsatisfiable or FlexError."""
        library, text = self.library, _encode(jobspec)
        given, reserved = ctypes.c_uint64(jobid), ctypes.c_bool()
        R, at, seconds = ctypes.c_void_p(), ctypes.c_int64(), ctypes.c_double()
        rest = [ctypes.byref(value) for value in (reserved, R, at, seconds)]
        if library.has("match_with_jobid"):
            self._call("match_with_jobid", operation, text, jobid, *rest)
        elif library.has("match"):
            self._call("match", operation, text, ctypes.byref(given), *rest)
        else:
            orelse = operation is Operation.RESERVE
            try:
                self._call("match_allocate", orelse, text, ctypes.byref(given), *rest)
            except Busy:
                # Plain allocate says busy in both cases.
                if not orelse and not self.satisfiable(jobspec):
                    self._refuse(errno.ENODEV, "match_allocate")
                raise
        return Answer(given.value, at.value, library.taken(R.value))

    def satisfiable(self, jobspec: str) -> bool:
        """Whether a request could ever fit. Raises FlexError where fluxion cannot read it."""
        try:
            # match_satisfy is the last choice: it keeps the text of its answer for ever.
            if self.library.has("match_with_jobid") or self.library.has("match"):
                self.match(Operation.SATISFY, jobspec, 0)
                return True
            fits, seconds = ctypes.c_bool(), ctypes.c_double()
            outs = ctypes.byref(fits), ctypes.byref(seconds)
            self._call("match_satisfy", _encode(jobspec), *outs)
        except (Unsatisfiable, Busy):
            return False
        return fits.value

    def update(self, jobid: int, R: str) -> None:
        """Give a job what R says: version 1 with JGF under ``scheduling``. Raises FlexError."""
        at, seconds, kept = ctypes.c_int64(), ctypes.c_double(), ctypes.c_void_p()
        outs = [ctypes.byref(value) for value in (at, seconds, kept)]
        self._call("update_allocate", jobid, _encode(R), *outs)
        self.library.taken(kept.value)

    def cancel(self, jobid: int) -> None:
        self._call("cancel", jobid, False)

    def find(self, criteria: str) -> str:
        """The JGF of what meets the criteria, with what contains it; "" for nothing."""
        found = ctypes.c_void_p()
        self._call("find", _encode(criteria), b"jgf", ctypes.byref(found))
        return self.library.taken(found.value)

    # -- the graph -------------------------------------------------------------------------------

    def mark(self, path: str, *, up: bool) -> None:
        self._call("set_status", _encode(path), 0 if up else 1)

    def add_subgraph(self, jgf: str) -> None:
        """Add what is new in ``jgf``, which starts at the root."""
        self._call("add_subgraph", _encode(jgf))

    def remove_subgraph(self, path: str) -> None:
        self._call("remove_subgraph", _encode(path))

    # -- within ----------------------------------------------------------------------------------

    def _call(self, name: str, *arguments: object) -> None:
        function = self.library.function(name)
        ctypes.set_errno(0)
        if function(self._pointer, *arguments) != 0:
            self._refuse(ctypes.get_errno(), name)

    def _refuse(self, number: int, name: str) -> None:
        said = self._last_words()
        if number == errno.EBUSY:
            raise Busy("the resources are in use", remedy="ask again later, or reserve")
        if number == errno.ENODEV:
            raise Unsatisfiable(
                "no part of this graph could ever meet the request",
                remedy="ask for less, or for other resources or properties",
            )
        what = said or (os.strerror(number) if number else "failed without a reason")
        raise FlexError(what, f"fluxion: {name}", "change the request, or use the embedded engine")

    def _last_words(self) -> str:
        words = self.library.taken(self.library.function("get_err_msg")(self._pointer))
        self.library.function("clear_err_msg")(self._pointer)
        return one_line(words)


def _encode(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise BadInput("text that is not Unicode", "", "correct it") from None
    if b"\0" in data:
        raise BadInput("text with a zero byte", "", "leave it out")  # C would stop reading there
    return data


# -- discovery -------------------------------------------------------------------------------------


def open_library(path: Path | None = None) -> Library:
    """Find and load libreapi_cli.

    Looked at in this order: ``path``; the file in FLUX_FLEX_LIBREAPI; the Flux around FLUX_PREFIX
    and FLUX_MODULE_PATH; pkg-config; the loader's cache; the Flux of ``flux`` on PATH. The first
    two are orders: where they fail nothing else is tried. Raises FlexError that says all that was
    looked for.
    """
    ordered = path or os.environ.get("FLUX_FLEX_LIBREAPI")
    if ordered:
        where = "the given library" if path else "FLUX_FLEX_LIBREAPI"
        try:
            return _loaded(Path(ordered))
        except OSError as error:
            what = f"{NAME} cannot be loaded: {error}"
            raise FlexError(what, where, "correct the path, or leave it out") from None
    looked = ["FLUX_FLEX_LIBREAPI is not set"]
    for source, found in _hints():
        if isinstance(found, str):
            looked.append(f"{source}: {found}")
            continue
        try:
            return _loaded(found)
        except OSError as error:
            looked.append(f"{source}: {error}")
    what = f"no {NAME}, fluxion as a library. " + "; ".join(looked)
    raise FlexError(
        what, "fluxion", "install flux-sched, name the file in FLUX_FLEX_LIBREAPI, or use embedded"
    )


@cache
def available() -> Library | None:
    """The library, or None where this machine has none.

    Raises FlexError where FLUX_FLEX_LIBREAPI names a file that cannot be loaded.
    """
    try:
        return open_library()
    except FlexError:
        if os.environ.get("FLUX_FLEX_LIBREAPI"):
            raise
        return None


# A library stays loaded until the process ends, so it is bound once.
_loaded = lru_cache(maxsize=None)(Library)


def _hints() -> Iterator[tuple[str, Path | str]]:
    """Where it may be, each with who said so; a text where one knows of none."""
    prefix = os.environ.get("FLUX_PREFIX")
    if prefix:
        for lib in ("lib", "lib64"):
            yield "FLUX_PREFIX", Path(prefix, lib, "flux", NAME)
    else:
        yield "FLUX_PREFIX", "not set"
    # Inside an instance, as /opt/flux/lib/flux/modules.
    for directory in filter(None, os.environ.get("FLUX_MODULE_PATH", "").split(":")):
        yield "FLUX_MODULE_PATH", Path(directory).parent / NAME
    yield "pkg-config", _told_by_pkg_config()
    yield "ldconfig", _cached_by_the_loader()
    flux = shutil.which("flux")
    if flux is None:
        yield "PATH", "no flux on it"
        return
    for lib in ("lib", "lib64"):
        yield "PATH", Path(flux).resolve().parent.parent / lib / "flux" / NAME


def _told_by_pkg_config() -> Path | str:
    command = shutil.which("pkg-config")
    if command is None:
        return "no pkg-config on PATH"
    try:
        told = subprocess.run(  # noqa: S603 - a fixed command
            [command, "--variable=libdir", "flux-core"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PKG_CONFIG_DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    libdir = told.stdout.strip()
    return Path(libdir, "flux", NAME) if told.returncode == 0 and libdir else "no flux-core"


def _cached_by_the_loader() -> Path | str:
    name = ctypes.util.find_library("reapi_cli")
    return Path(name) if name else f"no {NAME} in its cache"


def answered(jgf: str) -> Iterator[tuple[int, int, bool]]:
    """The vertices of an answer: fluxion's number, amount (1 where it says none), exclusive."""
    document: Mapping[str, Any] = json.loads(jgf)
    for node in document["graph"]["nodes"]:
        metadata = node["metadata"]
        yield int(node["id"]), int(metadata.get("size", 1)), bool(metadata.get("exclusive"))
