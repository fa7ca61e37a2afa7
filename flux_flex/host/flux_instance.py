"""FluxInstance: the Instance interface over a running Flux, through its Python bindings.

    instance = FluxInstance()                   # the enclosing instance, or the one of FLUX_URI
    instance.jobs(JobState.SCHED)
    instance.rpc("resource.sched-status", nodeid=0)

The bindings are imported when an instance is opened, so that machines without Flux can import
this file. Topics and payloads are those of flux-core 0.88. Whatever a broker answers is checked
before it is believed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pwd
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import (
    RpcError,
    checked_list,
    checked_mapping,
    checked_seconds,
    checked_text,
    checked_whole,
    parse_event,
    reason_of,
    refused,
    unknown,
)
from flux_flex.host.flux_bindings import bindings
from flux_flex.host.flux_eventlog import Watch, append, lookup
from flux_flex.host.instance import Event, EventStream, JobInfo, JobState
from flux_flex.model.idset import format_idset, parse_idset
from flux_flex.model.jobid import f58
from flux_flex.model.quoting import quoted
from flux_flex.model.rv1 import parse_r

# How long a broker may take to answer, in seconds.
ANSWER_DEADLINE_S = 30.0

# Flags of job-info.lookup: decode R and jobspec, and apply what `flux update` changed.
_LOOKUP_DECODED_AND_CURRENT = 1 | 2

# States of job-list (RFC 21). Jobs before SCHED are left out: nobody can start them yet.
_STATES = {8: JobState.SCHED, 16: JobState.RUN, 32: JobState.RUN, 64: JobState.INACTIVE}
_LISTED = [
    "state", "userid", "urgency", "priority", "t_submit", "t_run", "t_inactive", "duration",
    "expiration",
]  # fmt: skip
# job-list shows this where R has no end: the most nanoseconds of 64 bits.
_NO_END_S = 9.2e9
_NO_CLOCK_S = 1e18


class FluxInstance:
    """One running instance. Every answer is waited for at most ``deadline_s`` seconds.

    Raises FlexError where the bindings cannot be imported or no broker can be reached. All
    methods raise RpcError for what a broker refuses and FlexError for answers that make no sense.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        handle: Any = None,
        deadline_s: float = ANSWER_DEADLINE_S,
    ) -> None:
        """``handle``: a connection that there is already, such as a broker module's."""
        self._flux = bindings("flux")
        self._kvs = bindings("flux.kvs")
        self._deadline_s = deadline_s
        self._uri = uri
        self._handle = self._connect() if handle is None else handle

    def rpc(
        self, topic: str, payload: Mapping[str, object] | None = None, *, nodeid: int | None = None
    ) -> Mapping[str, object]:
        """Ask a service of the instance; an empty answer is an empty mapping.

        ``nodeid`` is the broker rank to ask; without one the nearest broker that has the
        service answers. Raises RpcError, whose ``errno`` is what the service answered.
        """
        more = {} if nodeid is None else {"nodeid": nodeid}
        try:
            answer = self._handle.rpc(topic, payload, **more).wait_for(self._deadline_s).get()
        except OSError as error:
            raise refused(error, topic) from error
        except TypeError as error:
            raise BadInput(f"no JSON: {error}", topic, "send plain data") from None
        except (ValueError, RecursionError) as error:
            raise FlexError(f"the answer is not JSON: {error}", topic) from None
        return {} if answer is None else checked_mapping(answer, topic)

    def modules(self) -> frozenset[str]:
        """The names of the modules of the lead broker, where the scheduler is."""
        loaded = checked_list(self.rpc("module.list", nodeid=0).get("mods"), "module.list: mods")
        return frozenset(
            checked_text(checked_mapping(item, "module.list").get("name"), "module.list: name")
            for item in loaded
        )

    def rank(self) -> int:
        """The rank of the broker that this process talks to."""
        try:
            return checked_whole(self._handle.get_rank(), "rank")
        except OSError as error:
            raise refused(error, "rank") from error

    def attribute(self, name: str) -> str | None:
        """A broker attribute (RFC 51), such as ``jobid``; None where it is not set."""
        try:
            answer = self.rpc("attr.get", {"name": name})
        except RpcError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return checked_text(answer.get("value"), f"attribute {name}")

    def configuration(self, key: str) -> object:
        """A value of the broker's configuration (TOML) by its dotted key; None where it is not."""
        found: object = self.rpc("config.get", nodeid=0)
        for word in key.split("."):
            found = found.get(word) if isinstance(found, Mapping) else None
        return found

    def identity(self) -> str:
        """A short name that this instance has on all of its brokers, and no other instance.

        It is made of when the lead broker began, and of the owner.
        """
        began = self.rpc("attr.get", {"name": "broker.starttime"}, nodeid=0).get("value")
        text = f"{began}/{self.attribute('security.owner')}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    # -- the Instance interface ----------------------------------------------------------------

    def now(self) -> float:
        """The time of this host, in seconds since the epoch."""
        return time.time()

    def resources(self) -> Mapping[str, object]:
        """R (RFC 20) of the whole instance, with what is drained, down or excluded."""
        return _checked_r(self.rpc("resource.status", nodeid=0).get("R"), "resource.status: R")

    def jobs(self, state: JobState | None = None) -> Sequence[JobInfo]:
        """All jobs, or those in one state, in the order of submission.

        Jobs that still wait for a dependency or a priority are not among them. A memo's nested
        keys are joined with dots, as :meth:`memo` takes them.
        """
        wanted = [bits for bits, of in _STATES.items() if state in (None, of)]
        # max_entries 0: all of them. The nested memo comes with the annotations. Not as a stream,
        # which Flux's own bindings ask for: that is a message for each job, and with thousands
        # of jobs all who talk to the broker feel it.
        payload = {
            "max_entries": 0,
            "attrs": [*_LISTED, "annotations"],
            "since": 0.0,
            "constraint": {"states": [sum(wanted)]},
        }
        entries = self.rpc("job-list.list", payload).get("jobs")
        found = [_job_info(item) for item in checked_list(entries, "job-list.list: jobs")]
        jobs = [job for job in found if job is not None and state in (None, job.state)]
        return sorted(jobs, key=lambda job: (job.t_submit, job.jobid))

    def jobspec(self, jobid: int) -> Mapping[str, object]:
        """The jobspec as the scheduler sees it: as submitted, and with later updates."""
        return checked_mapping(self._lookup(jobid, "jobspec"), f"job {f58(jobid)}: jobspec")

    def allocation(self, jobid: int) -> Mapping[str, object]:
        return _checked_r(self._lookup(jobid, "R"), f"job {f58(jobid)}: R")

    def jobspecs(self, jobids: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        return {
            jobid: found
            for jobid, found in self._look_up_all(jobids, "jobspec")
            if isinstance(found, Mapping)
        }

    def allocations(self, jobids: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        found: dict[int, Mapping[str, object]] = {}
        for jobid, value in self._look_up_all(jobids, "R"):
            try:
                found[jobid] = _checked_r(value, f"job {f58(jobid)}: R")
            except FlexError:
                continue
        return found

    def eventlog(self, jobid: int) -> Sequence[Event]:
        place = f"job {f58(jobid)}: eventlog"
        text = checked_text(self._lookup(jobid, "eventlog"), place)
        return tuple(parse_event(line, place) for line in text.splitlines())

    def memo(self, jobid: int, fields: Mapping[str, object]) -> None:
        payload = {"id": jobid, "memo": _nested(fields), "volatile": False}
        try:
            self.rpc("job-manager.memo", payload)
        except RpcError as error:
            raise unknown(error, f"job {f58(jobid)}", "use the id of an active job") from error

    def kvs_get(self, key: str) -> object:
        """A value of the KVS; text where it is no JSON."""
        _check_key(key)
        try:
            text = lookup(self._handle, key, deadline_s=self._deadline_s)
        except OSError as error:
            if error.errno == errno.EISDIR:
                what, remedy = "a directory of the KVS", "ask for a key below it"
                raise BadInput(what, quoted(key), remedy) from None
            said = refused(error, f"KVS key {quoted(key)}")
            raise unknown(said, "", "put it first") from error
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text

    def kvs_put(self, key: str, value: object) -> None:
        _check_key(key)
        # A transaction of our own: the handle's may hold what somebody else has not committed.
        change = self._kvs.KVSTxn(self._handle)
        try:
            if value is None:
                change.unlink(key)
            else:
                change.put(key, value)
            change.commit_async().wait_for(self._deadline_s).get()
        except TypeError as error:
            raise BadInput(
                f"no JSON: {error}", f"KVS key {quoted(key)}", "put plain data"
            ) from None
        except OSError as error:
            raise refused(error, f"KVS key {quoted(key)}") from error

    def post(self, key: str, name: str, context: Mapping[str, object]) -> None:
        _check_key(key)
        deadline_s = self._deadline_s
        append(self._handle, key, self.now(), name, context, deadline_s=deadline_s)

    def log(self, key: str) -> Sequence[Event]:
        _check_key(key)
        place = f"KVS key {quoted(key)}"
        try:
            text = lookup(self._handle, key, deadline_s=self._deadline_s)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return ()
            raise refused(error, place) from error
        return tuple(parse_event(line, place) for line in text.splitlines())

    def watch(self, key: str) -> EventStream:
        """Follow an eventlog from a thread and a connection of its own.

        A wait inside Flux's library cannot be interrupted by a signal, one in Python can.
        """
        _check_key(key)
        return Watch(self._connect, key)

    def set_urgency(self, jobid: int, urgency: int) -> None:
        try:
            self.rpc("job-manager.urgency", {"id": jobid, "urgency": urgency}, nodeid=0)
        except RpcError as error:
            raise unknown(error, f"job {f58(jobid)}", "use the id of a job that waits") from error

    def raise_exception(self, jobid: int, kind: str, note: str) -> None:
        payload = {"id": jobid, "type": kind, "severity": 0, "note": note}
        try:
            self.rpc("job-manager.raise", payload, nodeid=0)
        except RpcError as error:
            raise unknown(error, f"job {f58(jobid)}", "use the id of an active job") from error

    def drain(self, ranks: Collection[int], reason: str) -> None:
        """Keep new jobs from ranks. Those that are drained already get the new reason."""
        targets = format_idset(ranks)
        payload = {"targets": targets, "reason": reason, "mode": "overwrite"}
        try:
            self.rpc("resource.drain", payload, nodeid=0)
        except RpcError as error:
            remedy = "use ranks of `flux resource list`"
            raise unknown(error, f"rank {targets}", remedy) from error

    def undrain(self, ranks: Collection[int]) -> None:
        """Let jobs onto ranks again. Raises BadInput where one of them is not drained."""
        targets = format_idset(ranks)
        try:
            self.rpc("resource.undrain", {"targets": targets}, nodeid=0)
        except RpcError as error:
            raise unknown(error, f"rank {targets}", "undrain what is drained") from error

    def down(self) -> Collection[int]:
        status = self.rpc("resource.status", nodeid=0)
        text = checked_text(status.get("offline"), "resource.status: offline")
        return frozenset(parse_idset(text))

    def drained(self) -> Mapping[int, str]:
        status = self.rpc("resource.status", nodeid=0)
        place = "resource.status: drain"
        found: dict[int, str] = {}
        for ranks, entry in checked_mapping(status.get("drain"), place).items():
            reason = checked_mapping(entry, place).get("reason") or ""
            found.update(
                dict.fromkeys(parse_idset(ranks), checked_text(reason, f"{place}: reason"))
            )
        return dict(sorted(found.items()))

    def _connect(self) -> Any:
        try:
            return self._flux.Flux(self._uri) if self._uri else self._flux.Flux()
        except OSError as error:
            remedy = "run inside an instance (flux start, flux alloc), or set FLUX_URI"
            place = self._uri or os.environ.get("FLUX_URI", "")
            raise RpcError(reason_of(error), place, remedy, error.errno or 0) from error

    def _lookup(self, jobid: int, key: str) -> object:
        """What job-info has of a job, under the key of its KVS directory (RFC 16)."""
        try:
            answer = self.rpc("job-info.lookup", _lookup_of(jobid, key))
        except RpcError as error:
            remedy = "use an id of `flux jobs -a`"
            if key == "R":
                remedy += "; R is there once the job runs"
            raise unknown(error, f"job {f58(jobid)}", remedy) from error
        return answer.get(key)

    def _look_up_all(self, jobids: Collection[int], key: str) -> Iterator[tuple[int, object]]:
        """The same for many jobs, all asked before the first answer is waited for. Those that
        are not there, and answers that are no JSON, are left out."""
        topic = "job-info.lookup"
        try:
            asked = [(job, self._handle.rpc(topic, _lookup_of(job, key))) for job in jobids]
        except OSError as error:
            raise refused(error, topic) from error
        for jobid, future in asked:
            try:
                answer = future.wait_for(self._deadline_s).get()
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINVAL):
                    continue
                raise refused(error, topic) from error
            except (ValueError, RecursionError):
                continue
            yield jobid, checked_mapping(answer, topic).get(key)


def enclosing_instance() -> FluxInstance | None:
    """The instance that this process runs in, by FLUX_URI; None outside of one.

    None too where it cannot be talked to: whoever takes an instance only if there is one has
    another way. Open a :class:`FluxInstance` to learn why.
    """
    if not os.environ.get("FLUX_URI"):
        return None
    try:
        return FluxInstance()
    except FlexError:
        return None


def _lookup_of(jobid: int, key: str) -> dict[str, object]:
    """What job-info.lookup is asked for one key of a job."""
    flags = 0 if key == "eventlog" else _LOOKUP_DECODED_AND_CURRENT
    return {"id": jobid, "keys": [key], "flags": flags}


def _check_key(key: str) -> None:
    # Flux reads a..b as a.b, and .a as a: two names for one value.
    if not all(key.split(".")):
        raise BadInput(f"{quoted(key)} is no key", "", "use words with single dots between them")


def _nested(fields: Mapping[str, object]) -> dict[str, object]:
    """Dotted keys as nested ones: on a key with a dot in it, `flux jobs -o {user}` fails."""
    tree: dict[str, object] = {}
    for key, value in fields.items():
        _check_key(key)
        *above, last = key.split(".")
        place = tree
        for word in above:
            below = place.setdefault(word, {})
            if not isinstance(below, dict):
                raise BadInput("a value and a key below it", key, "set one of them")
            place = below
        if last in place:
            raise BadInput("a value and a key below it", key, "set one of them")
        place[last] = value
    return tree


def _dotted(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """(dotted key, value) of nested keys, without recursion: users choose the depth."""
    stack: list[tuple[str, object]] = [("", tree)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping) and (value or not key):
            before = f"{key}." if key else ""
            stack += [(f"{before}{word}", below) for word, below in value.items()]
        else:
            yield key, value


def _job_info(value: object) -> JobInfo | None:
    """A job of job-list, or None where it has not come to the scheduler yet."""
    place = "job-list.list"
    entry = checked_mapping(value, place)
    state = _STATES.get(checked_whole(entry.get("state"), f"{place}: state"))
    if state is None:
        return None
    annotations = checked_mapping(entry.get("annotations", {}), f"{place}: annotations")
    return JobInfo(
        jobid=checked_whole(entry.get("id"), f"{place}: id"),
        state=state,
        user=_user(checked_whole(entry.get("userid"), f"{place}: userid")),
        urgency=checked_whole(entry.get("urgency"), f"{place}: urgency"),
        priority=checked_whole(entry.get("priority", 0), f"{place}: priority"),
        t_submit=checked_seconds(entry.get("t_submit"), f"{place}: t_submit"),
        t_run=_later(entry, "t_run", place),
        t_inactive=_later(entry, "t_inactive", place),
        memo=dict(sorted(_dotted(checked_mapping(annotations.get("user", {}), f"{place}: user")))),
        t_estimate=_estimate(annotations.get("sched")),
        duration_s=_asked_s(entry, "duration", place),
        expires_s=_expiration(entry, place),
    )


def _asked_s(entry: Mapping[str, object], key: str, place: str) -> float | None:
    """Seconds that a user asked for, who may ask for anything: None where no clock goes so far."""
    value = entry.get(key)
    beyond = isinstance(value, (int, float)) and not abs(value) < _NO_CLOCK_S
    return None if beyond else _later(entry, key, place)


def _expiration(entry: Mapping[str, object], place: str) -> float | None:
    found = _asked_s(entry, "expiration", place)
    return found if found and found < _NO_END_S else None


def _estimate(sched: object) -> float | None:
    """The scheduler's own estimate of the start, where it annotates one."""
    found = sched.get("t_estimate") if isinstance(sched, Mapping) else None
    return checked_seconds(found, "job-list.list: sched.t_estimate") if found else None


@lru_cache(maxsize=4096)
def _user(userid: int) -> str:
    try:
        return pwd.getpwuid(userid).pw_name
    except (KeyError, OverflowError):
        return str(userid)


def _later(entry: Mapping[str, object], key: str, place: str) -> float | None:
    return checked_seconds(entry[key], f"{place}: {key}") if entry.get(key) is not None else None


def _checked_r(value: object, place: str) -> Mapping[str, object]:
    R = checked_mapping(value, place)
    try:
        parse_r(R)
    except BadInput as error:
        raise error.at(place) from None
    return R
