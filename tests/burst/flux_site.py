"""A real instance that rents its own kind: a lead broker of `burst configure`, provider local.

The rented brokers run on this machine. Those of a gated site wait for :meth:`Site.open_gate`, so
that a test can be in the middle of a boot for as long as it likes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from burst_processes import LONG_S, processes_of

from flux_flex.cli import main

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "etc" / "flux" / "modules" / "flex-burst.py"
HERE = socket.gethostname()
NOTHING: Mapping[str, str] = {}

EASY = '[sched-fluxion-qmanager]\nqueue-policy = "easy"\n'
FCFS = '[sched-fluxion-qmanager]\nqueue-policy = "fcfs"\n'
SIMPLE = '[modules]\nalternatives = {sched = "sched-simple"}\n'

CATALOG = """
source: a test
date: 2026-11-01
region: us-east-2
currency: USD
types:
  - {name: small, cores: 2, vcpus: 2, gpus: 0, memory_gib: 4, network_gbps: 10,
     price_per_hour_usd: 0.36}
"""
FLEX = """
[burst]
provider = "local"
threshold = 1
idle_timeout = 1
boot_deadline = 50
catalog = "{site}/catalog.yaml"
{more}
[[burst.slots]]
name = "burst"
type = "small"
bursts = 1
nodes = 2
[burst.lead]
name = "{host}"
address = "127.0.0.1"
port = {port}
[burst.local]
rundir = "{site}/run"
flux = "{site}/flux"
cores = 1
curve_cert = "{site}/curve.cert"
"""
# What rents: it notes that it ran, and begins when the gate is open.
BROKER = """#!/bin/sh
echo "$$ $*" >>{site}/started
while [ ! -e {site}/gate ]; do sleep 0.05; done
exec flux "$@"
"""


def absence(scheduler: str = EASY) -> str:
    """Why there cannot be such an instance here; empty if there can."""
    flux = shutil.which("flux")
    if flux is None:
        return "flux is not on PATH"
    modules = Path(flux).resolve().parents[1].glob("lib*/**/sched-fluxion-qmanager.so")
    if scheduler is not SIMPLE and not any(modules):
        return "this Flux has no fluxion: install flux-sched"
    return ""


class Site:
    """The lead broker and its folder. Commands run as a user of the instance would run them."""

    def __init__(
        self, folder: Path, scheduler: str, *, gated: bool, more: str, env: Mapping[str, str]
    ) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "catalog.yaml").write_text(CATALOG)
        flex = FLEX.format(site=folder, host=HERE, port=port, more=more)
        (folder / "flex.toml").write_text(flex)
        (folder / "flex.toml").chmod(0o644)
        (folder / "flux").write_text(BROKER.format(site=folder))
        (folder / "flux").chmod(0o755)
        if not gated:
            self.open_gate()
        # The broker's Python, which runs modules, has to find us and what we need.
        paths = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_")}
        self.env = {
            **inherited,
            "FLUX_FLEX_CONFIG": str(folder / "flex.toml"),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
            "FLUX_MODPROBE_PATH_APPEND": str(ROOT / "etc" / "flux" / "modprobe"),
            "LC_ALL": "C.UTF-8",
            **env,
        }
        self.serving: subprocess.Popen[str] | None = None
        self.broker = self._lead(scheduler)
        assert self.broker.stdout is not None
        self.env["FLUX_URI"] = self.broker.stdout.readline().strip()
        assert self.env["FLUX_URI"], "the lead broker did not start"

    def _lead(self, scheduler: str) -> subprocess.Popen[str]:
        self.run("flux", "keygen", str(self.folder / "curve.cert"))
        own = self.run("flux", "R", "encode", f"--hosts={HERE}", "--cores=0-1")
        (self.folder / "own.json").write_text(own)
        self.flex("configure", "--r", f"{self.folder}/own.json", "--out", f"{self.folder}/conf")
        configuration = self.folder / "conf" / "broker.toml"
        text = configuration.read_text().replace("[resource]", "[resource]\nnoverify = true")
        configuration.write_text(f"{text}\n{scheduler}")
        (self.folder / "lead").mkdir(mode=0o700)
        return subprocess.Popen(
            ["flux", "broker", "-Sbroker.quorum=1", f"--config-path={configuration}",
             f"-Srundir={self.folder}/lead", "sh", "-c", "flux getattr local-uri; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env,
        )  # fmt: skip

    # -- commands --------------------------------------------------------------------------------

    def tried(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=LONG_S)

    def run(self, *words: str) -> str:
        done = self.tried(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def flux(self, *words: str) -> str:
        return self.run("flux", *words)

    def flex(self, *words: str) -> str:
        """`flux-flex burst WORDS`, in this process, since a new one takes a second to begin."""
        code, said = self._flex(*words)
        assert code == 0, (words, said)
        return said.strip()

    def _flex(self, *words: str) -> tuple[int, str]:
        said = io.StringIO()
        with patch.dict(os.environ, self.env), redirect_stdout(said), redirect_stderr(said):
            return main(["burst", *words]), said.getvalue()

    def asked(self, action: str, *words: str) -> Any:
        return json.loads(self.flex(action, *words, "--json"))

    # -- controllers -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Start `burst serve`, which is there a moment later."""
        command = [sys.executable, "-m", "flux_flex", "burst", "serve"]
        with (self.folder / "serve.log").open("a") as log:
            self.serving = subprocess.Popen(command, env=self.env, stderr=log, text=True)

    def is_served(self) -> bool:
        """Whether a controller answers."""
        return self._flex("status")[0] == 0

    def end_serving(self, number: int) -> int:
        assert self.serving is not None
        self.serving.send_signal(number)
        return self.serving.wait(LONG_S)

    def load(self) -> None:
        self.flux("module", "load", str(MODULE))

    def unload(self) -> None:
        self.flux("module", "remove", "flex-burst")

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    # -- what is seen ----------------------------------------------------------------------------

    def submit(self, *words: str) -> str:
        return self.flux("submit", "--setattr=burstable", "-t1m", *words)

    def state(self, job: str) -> str:
        return self.flux("jobs", "-no", "{status}", job)

    def memo(self, job: str) -> str:
        return self.flux("jobs", "-no", "{user.flex.burst}", job)

    def hosts(self, state: str) -> str:
        return self.flux("resource", "list", f"--states={state}", "-no", "{nodelist}")

    def events(self) -> list[str]:
        """The names of the ledger's events, without those of jobs that came later."""
        shown = self.tried("flux", "kvs", "get", "--raw", "flex.burst.ledger")
        if shown.returncode:
            return []  # nobody has written to it
        lines = shown.stdout.splitlines()
        return [name for line in lines if (name := json.loads(line)["name"]) != "join"]

    def wait_for(self, event: str) -> None:
        wait = ("flux", "kvs", "eventlog", "wait-event", "--waitcreate", "--timeout=50")
        done = self.tried(*wait, "flex.burst.ledger", event)
        assert done.returncode == 0, (event, done.stderr, self.log())

    def started(self) -> int:
        """How many brokers were ever started."""
        path = self.folder / "started"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def log(self) -> str:
        path = self.folder / "serve.log"
        return path.read_text() if path.exists() else ""

    def nothing_is_left(self) -> bool:
        """Whether no rented host is up or drained, and no process of one runs."""
        drained = self.flux("resource", "drain", "-no", "{nodelist}")
        down = self.hosts("down")
        return not drained and down == "burst-0-[0-1]" and not self.processes("run")

    def processes(self, *below: str) -> set[int]:
        """All processes that have the folder in their command or environment, and live."""
        return processes_of(self.folder.joinpath(*below))

    def close(self) -> None:
        try:
            if self.serving is not None:
                self.serving.kill()
                self.serving.wait()
            self.broker.communicate(timeout=LONG_S)
        finally:
            self.broker.kill()
            self.broker.communicate()


@contextmanager
def opened(
    scheduler: str = EASY, *, gated: bool = False, more: str = "", env: Mapping[str, str] = NOTHING
) -> Iterator[Site]:
    """An instance for a test; nothing of it may be left when the test has ended.

    ``scheduler`` are lines for the lead's configuration, ``more`` keys of [burst], and ``env``
    variables of the lead and of all commands.
    """
    reason = absence(scheduler)
    if reason:
        pytest.skip(reason)
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ff", dir="/tmp") as name:
        site = Site(Path(name), scheduler, gated=gated, more=more, env=env)
        try:
            yield site
            site.close()
            assert site.broker.returncode == 0
            assert not site.processes()
        finally:
            site.close()
            for pid in site.processes():
                os.kill(pid, signal.SIGKILL)


def needs_module_python() -> Sequence[pytest.MarkDecorator]:
    """Marks of tests that load the broker module: Flux's own Python has to be like ours."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = ""
    if shutil.which("flux"):
        shown = subprocess.run(["flux", "python", "-c", show], capture_output=True, text=True)
        found = shown.stdout.strip()
    reason = f"Flux's Python is {found or 'not there'}, and this one {version}"
    return [pytest.mark.skipif(found != version, reason=reason)]
