"""Eventlogs in the KVS: of an instance in memory, over scripted bindings, and of a real Flux."""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import RpcError
from flux_flex.host.flux_eventlog import Watch, append
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.memory_instance import MemoryInstance

KEY = "job.0000.flex-usernetes"


# -- in memory ---------------------------------------------------------------------------------


def test_a_watch_gives_what_was_posted_before_and_after_it_began() -> None:
    instance = MemoryInstance({}, now=5.0)
    instance.post(KEY, "first", {"rank": 1})
    stream = instance.watch(KEY)
    early = stream.next(0)
    assert early is not None
    assert (early.timestamp, early.name, early.context) == (5.0, "first", {"rank": 1})
    assert stream.next(0) is None
    threading.Timer(0.05, instance.post, [KEY, "second", {}]).start()
    late = stream.next(10)
    assert late is not None
    assert late.name == "second"


def test_every_watch_sees_the_whole_log() -> None:
    instance = MemoryInstance({})
    for name in "abc":
        instance.post(KEY, name, {})
    for _ in range(2):
        stream = instance.watch(KEY)
        events = [stream.next(0) for _ in range(3)]
        assert [event.name for event in events if event] == ["a", "b", "c"]


def test_removing_a_key_removes_its_log() -> None:
    instance = MemoryInstance({})
    instance.post(KEY, "a", {})
    assert instance.all_keys() == [KEY]
    instance.kvs_put("job.0000", None)
    assert instance.all_keys() == []


def test_an_exception_is_in_the_eventlog_of_its_job() -> None:
    instance = MemoryInstance({})
    jobid = instance.submit({})
    instance.raise_exception(jobid, "usernetes", "n0: up: failed")
    event = instance.eventlog(jobid)[-1]
    assert event.name == "exception"
    assert event.context == {"type": "usernetes", "severity": 0, "note": "n0: up: failed"}


# -- over scripted bindings ----------------------------------------------------------------------


class Kvs:
    """What flux.kvs and the library below it do for an eventlog."""

    def __init__(self) -> None:
        self.store: dict[str, str] = {}
        self.chunks: queue.SimpleQueue[str | OSError] = queue.SimpleQueue()
        self.refusal: OSError | None = None
        self.txn = self
        self.pimpl = self
        self.ffi = self

    # the transaction
    def flux_kvs_txn_put(self, txn: Any, flag: int, key: str, text: str) -> None:
        assert flag == 8
        self.store[key] = self.store.get(key, "") + text

    def commit_async(self) -> Kvs:
        return self

    def wait_for(self, timeout: float | None = None) -> Kvs:
        if timeout is None:
            self.come = self.chunks.get()
            if isinstance(self.come, OSError):
                raise self.come
        return self

    def get(self) -> None:
        if self.refusal:
            raise self.refusal

    # the watch
    def flux_kvs_lookup(self, handle: Any, namespace: Any, flags: int, key: str) -> Kvs:
        assert flags == 7
        return self

    def flux_kvs_lookup_get(self, future: Any, text: list[Any]) -> None:
        text[0] = self.come

    def reset(self) -> None: ...

    def new(self, kind: str) -> list[Any]:
        return [None]

    def string(self, text: str) -> bytes:
        return text.encode()


@pytest.fixture
def kvs(monkeypatch: pytest.MonkeyPatch) -> Kvs:
    fake = Kvs()
    module = types.ModuleType("flux.kvs")
    module.__dict__.update(
        RAW=fake, ffi=fake, KVSTxn=lambda handle: fake, KVSWatchFuture=lambda future: future
    )
    constants = types.ModuleType("flux.constants")
    constants.__dict__.update(
        FLUX_KVS_WATCH=1, FLUX_KVS_WATCH_APPEND=2, FLUX_KVS_WAITCREATE=4, FLUX_KVS_APPEND=8
    )
    flux = types.ModuleType("flux")
    for name, one in {"flux": flux, "flux.kvs": module, "flux.constants": constants}.items():
        monkeypatch.setitem(sys.modules, name, one)
    return fake


def test_entries_are_appended_one_a_line(kvs: Kvs) -> None:
    for name in ("up", "joined"):
        append(None, KEY, 7.0, name, {"rank": 3}, deadline_s=1)
    lines = [json.loads(line) for line in kvs.store[KEY].splitlines()]
    assert lines == [
        {"timestamp": 7.0, "name": name, "context": {"rank": 3}} for name in ("up", "joined")
    ]


def test_what_is_no_json_or_is_refused_is_told_with_the_key(kvs: Kvs) -> None:
    with pytest.raises(BadInput, match="no JSON"):
        append(None, KEY, 7.0, "up", {"x": object()}, deadline_s=1)
    kvs.refusal = OSError(errno.EPERM, "Operation not permitted")
    with pytest.raises(RpcError, match="flex-usernetes"):
        append(None, KEY, 7.0, "up", {}, deadline_s=1)


@pytest.fixture
def watch(kvs: Kvs) -> Iterator[Watch]:
    made = Watch(lambda: None, KEY)
    yield made
    kvs.chunks.put(OSError(errno.ENODATA, "ended"))


def test_a_watch_reads_several_entries_of_one_answer(kvs: Kvs, watch: Watch) -> None:
    kvs.chunks.put('{"timestamp": 1, "name": "a"}\n{"timestamp": 2, "name": "b"}\n')
    kvs.chunks.put('{"timestamp": 3, "name": "c", "context": {"x": 1}}\n')
    events = [watch.next(10) for _ in range(3)]
    assert [event.name for event in events if event] == ["a", "b", "c"]
    assert watch.next(0) is None


def test_a_log_that_ends_raises_again_and_again(kvs: Kvs, watch: Watch) -> None:
    kvs.chunks.put(OSError(errno.ENOENT, "No such file or directory"))
    for _ in range(2):
        with pytest.raises(RpcError, match="No such file"):
            watch.next(10)


@pytest.mark.parametrize("text", ["nonsense\n", "[1]\n", '{"timestamp": "x", "name": "a"}\n'])
def test_what_is_no_event_ends_the_watch_with_an_error(kvs: Kvs, watch: Watch, text: str) -> None:
    kvs.chunks.put(text)
    with pytest.raises(FlexError, match="flex-usernetes"):
        watch.next(10)


@pytest.mark.parametrize("key", ["", "a..b", ".a"])
def test_a_key_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    for name in ("flux", "flux.kvs", "flux.job"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["flux"].__dict__["Flux"] = lambda *_: None
    instance = FluxInstance()
    with pytest.raises(BadInput, match="is no key"):
        instance.post(key, "a", {})
    with pytest.raises(BadInput, match="is no key"):
        instance.watch(key)


# -- of a real Flux ------------------------------------------------------------------------------

CALLS = """
import json, threading, time
from flux_flex.host.flux_instance import FluxInstance
instance = FluxInstance()
seen = {"rank": instance.rank(), "owner": instance.attribute("security.owner"),
        "none": instance.attribute("no.such")}
stream = instance.watch("flex.log")
seen["early"] = stream.next(0.1)
def later():
    other = FluxInstance()
    for number in range(3):
        other.post("flex.log", f"event{number}", {"number": number})
threading.Timer(0.2, later).start()
seen["events"] = [(event.name, event.context["number"])
                  for event in (stream.next(10) for _ in range(3))]
late = instance.watch("flex.log")
seen["again"] = [late.next(10).name for _ in range(3)]
import flux.job
jobid = int(flux.job.submit(instance._handle, flux.job.JobspecV1.from_command(["sleep", "99"])))
instance.raise_exception(jobid, "usernetes", "because")
event = flux.job.event_wait(instance._handle, jobid, "clean", raiseJobException=False)
seen["exception"] = [e.context for e in instance.eventlog(jobid) if e.name == "exception"]
print("SEEN " + json.dumps(seen))
"""


@pytest.mark.flux
def test_real_logs_are_followed_from_their_beginning_and_jobs_get_exceptions(
    tmp_path: Path,
) -> None:
    if shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no real instance to talk to")
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["flux", "start", "flux", "python", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *packages])},
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("SEEN ")), None)
    assert line, done.stdout + done.stderr
    seen = json.loads(line[5:])
    assert seen["rank"] == 0
    assert seen["owner"] == str(os.getuid())
    assert seen["none"] is None
    assert seen["early"] is None
    assert seen["events"] == [[f"event{number}", number] for number in range(3)]
    assert seen["again"] == ["event0", "event1", "event2"]
    (context,) = seen["exception"]
    assert (context["type"], context["severity"], context["note"]) == ("usernetes", 0, "because")
