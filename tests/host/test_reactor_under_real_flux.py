"""What the reactor on paper takes for granted, and the reactor itself, in a real Flux."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.flux

# Both run inside an instance, under the Python that has Flux's bindings; they print lines of JSON.
ALIKE = """
import errno, json, sys, time
import flux
from flux.constants import FLUX_MSGTYPE_REQUEST, FLUX_RPC_STREAMING

h, seen = flux.Flux(), {"constants": [FLUX_MSGTYPE_REQUEST, FLUX_RPC_STREAMING]}

def run(after, callback):
    timer = h.timer_watcher_create(after, callback)
    last = h.timer_watcher_create(5.0, lambda *_: h.reactor_stop())
    timer.start(), last.start()
    try:
        h.reactor_run()
    except Exception as error:
        return type(error).__name__
    finally:
        timer.stop(), last.stop()

def leave(*_):
    timers.append(h.timer_watcher_create(0.0, lambda *_: h.reactor_stop()).start())
    raise SystemExit(3)

def slow(*_):
    time.sleep(1.0)
    began = time.monotonic()
    def fired(*_):
        seen["early"] = time.monotonic() - began < 0.4
        h.reactor_stop()
    timers.append(h.timer_watcher_create(0.5, fired).start())

timers = []
seen["raised"] = run(0.0, lambda *_: 1 // 0)
seen["forgotten"] = run(0.0, leave)
run(0.0, slow)
h.service_register("paper").get()
try:
    h.service_register("paper").get()
except OSError as error:
    seen["taken"] = error.errno == errno.EEXIST
calls = []
stream = h.rpc("groups.get", {"name": "broker.online"}, 0, FLUX_RPC_STREAMING)
stream.then(lambda future: calls.append(future.get()))
run(0.0, lambda *_: timers.append(h.timer_watcher_create(
    0.5, lambda *_: h.reactor_stop()).start()))
seen["stream"] = calls
h.log(6, "a %% and 100%%")
print("SEEN " + json.dumps(seen))
"""
SERVED = """
import json, os, signal, sys, threading, time
import flux
from flux_flex.errors import BadInput
from flux_flex.host.reactor import Reactor

steps, wishes, answers = [], ["bug", "leave", 0.5, "slow", 0.3], []

def step():
    steps.append(time.monotonic())
    if len(steps) == 1:  # the service is there
        thread.start()
    if len(steps) == 5:
        fifth.set()
    wish = wishes.pop(0) if wishes else 60.0
    if wish == "bug":
        reactor._step_by(0.0)
        raise TypeError("a bug")
    if wish == "leave":
        reactor._step_by(0.0)
        raise SystemExit(1)
    if wish == "slow":
        time.sleep(0.4)
        return 0.1
    return wish

def said(payload):
    return {"said": dict(payload)}

def refuse(payload):
    raise BadInput("no such burst", str(payload["burst"]), "see the list")

def ask():
    try:
        other = flux.Flux()
        for topic, payload in asked:
            answers.append(other.rpc("flex-paper." + topic, payload).wait_for(20).get())
        fifth.wait(20)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

asked = [("status", None), ("status", "[1]"), ("status", "no"), ("status", b"\\xff\\xfe"),
         ("status", "[" * 100000), ("status", '{"burst": []}'),
         ("refuse", '{"burst": "\\\\ud800"}'), ("status", '{"id": 7}')]
handle = flux.Flux()
reactor = Reactor(handle, "flex-paper", {"status": said, "refuse": refuse}, step, is_module=False)
thread, fifth = threading.Thread(target=ask), threading.Event()
reactor.run()
thread.join()
handle.service_register("flex-paper").get()
gaps = [later - first for first, later in zip(steps, steps[1:])]
print("SEEN " + json.dumps({"answers": answers, "gaps": gaps}))
"""


def seen_in_flux(folder: Path, script: str) -> dict[str, object]:
    if shutil.which("flux") is None:
        pytest.skip("flux is not on PATH: no real instance to talk to")
    path = folder / "seen.py"
    path.write_text(script)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["flux", "start", "flux", "python", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *packages])},
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("SEEN ")), None)
    assert line, done.stdout + done.stderr
    return dict(json.loads(line[5:]))


def test_flux_does_what_the_reactor_on_paper_takes_for_granted(tmp_path: Path) -> None:
    assert seen_in_flux(tmp_path, ALIKE) == {
        "constants": [1, 2],
        "raised": "ZeroDivisionError",
        "forgotten": None,
        "early": True,
        "taken": True,
        "stream": [{"members": "0"}],
    }


def test_a_real_reactor_answers_keeps_its_time_and_survives_requests_and_bugs(
    tmp_path: Path,
) -> None:
    seen = seen_in_flux(tmp_path, SERVED)
    answers, gaps = seen["answers"], seen["gaps"]
    assert isinstance(answers, list)
    assert isinstance(gaps, list)
    whats = [answer.get("error", answer.get("said")) for answer in answers]
    assert [what["what"] for what in whats[1:7]] == [
        "the payload is no object",
        *["the payload is not JSON"] * 3,
        "the payload has more than plain values",
        "no such burst",
    ]
    assert (whats[0], whats[7], whats[6]["where"]) == ({}, {"id": 7}, "\ud800")
    # As it wishes, and after a step of 0.4 s a rest of 1.6 s. Nothing is said of how late.
    assert gaps[2] >= 0.499
    assert gaps[3] >= 1.999
