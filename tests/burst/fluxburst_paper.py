"""A plugin of flux-burst on paper: its clusters are files, and it misbehaves as it is told to.

It has the interface that flux-burst's plugins have, without needing flux-burst. ``mood`` says what
it does besides, when it is run or, with ``cleanup-`` before the mood, when it cleans up.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The logger of flux-burst, which all of its plugins share.
logger = logging.getLogger("fluxburst.logger")


@dataclass
class BurstParameters:
    cloud: str
    cluster_name: str = "flux-bursted-cluster"
    name: str = "burst-0"
    machine_type: str = "m4.large"
    lead_port: str | None = None
    broker_toml: str | None = None
    isolated_burst: bool = False
    mood: str = ""


class Paper:
    _param_dataclass = BurstParameters

    def __init__(self, params: BurstParameters) -> None:
        self.params = params
        self.cloud = Path(params.cloud)
        self.jobs: dict[int, Any] = {}
        self.clusters: dict[str, Any] = {}
        self.jobids: list[str] = []

    def note(self, text: str) -> None:
        with (self.cloud / "calls").open("a") as stream:
            stream.write(f"{text}\n")

    def validate(self) -> bool:
        return self.params.mood != "invalid"

    def schedule(self, job: dict[str, Any]) -> bool:
        self.jobs[job["id"]] = job
        return self.params.mood != "picky"

    def run(
        self, request_burst: bool = False, nodes: int | None = None, tasks: int | None = None
    ) -> None:
        self.note(f"run {nodes} {tasks} {self.params.machine_type}")
        if self.params.mood == "silent":
            logger.warning("Not enough nodes.")
            return
        largest = max(job["nnodes"] for job in self.jobs.values())
        (self.cloud / self.params.cluster_name).write_text(f"{self.name} {largest}")  # type: ignore[attr-defined]
        misbehave(self.params.mood)
        if self.params.mood == "jobs":
            self.jobids.append("f3YXvFkgX")
            return
        self.clusters[self.params.cluster_name] = object()
        misbehave(self.params.mood.removeprefix("late-"))

    def unburst(self) -> None:
        if self.jobids:
            self.note("unburst")
            (self.cloud / self.params.cluster_name).unlink()
        self.jobids = []

    def cleanup(self, name: str | None = None) -> None:
        self.note("cleanup")
        mood = self.params.mood.partition("cleanup-")[2]
        misbehave(mood)
        # What is in the cloud may have been told to be well again.
        if mood == "fails" and not (self.cloud / "well").exists():
            logger.warning("Issue deleting it.")
            self.clusters = {}
            return
        if mood == "forgets":
            return
        for cluster in [name] if name else list(self.clusters):
            (self.cloud / cluster).unlink(missing_ok=True)
        self.clusters = {}


def misbehave(mood: str) -> None:
    if mood == "asks":
        input("Press Enter when you are ready to destroy...")
    elif mood == "asks-secretly":
        getpass.getpass("Password: ")
    elif mood == "prints":
        print("it costs you something")  # noqa: T201 - plugins do
        logger.info("cluster size will be 2")
    elif mood == "exits":
        sys.exit("Please pip install more")
    elif mood == "raises":
        raise ValueError("quota exceeded")
    elif mood == "hangs":
        threading.Event().wait()
    elif mood == "is deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.run(["sleep", "600"], check=False)
    elif mood == "dies":
        os._exit(9)
    elif mood == "leaks":
        threading.Thread(target=threading.Event().wait).start()


def init(params: BurstParameters, **_: Any) -> Paper:
    return Paper(params)
