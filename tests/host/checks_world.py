"""A machine for doctor's checks that a test makes: a folder, and what its commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flux_flex.host.checks import BURST_CHECKS, CHECKS, Check, look
from flux_flex.host.checks.findings import Finding
from flux_flex.host.checks.machine import Answer, Machine
from flux_flex.host.checks.survey import RPC_PROGRAM, Settings, Survey

SETTINGS = Settings("", "", "/usr/local/bin:/usr/bin", total_s=1200.0, teardown_s=45.0)


class World:
    """A machine in a folder: files, programs on its PATH, and what these print."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: dict[str, Answer] = {}
        self.asked: list[tuple[list[str], Mapping[str, str], float]] = []
        self.environ = {"PATH": "/usr/bin", "HOME": "/home/ann"}
        self.uid, self.user = 1000, "ann"
        self.settings = SETTINGS

    def write(self, place: str, text: str = "", mode: int = 0o644) -> Path:
        path = self.root / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def remove(self, place: str) -> None:
        (self.root / place.lstrip("/")).unlink()

    def program(self, *names: str, folder: str = "/usr/bin") -> None:
        for name in names:
            self.write(f"{folder}/{name}", mode=0o755)

    def says(self, line: str, out: object = "", code: int | None = 0, err: str = "") -> None:
        """``out`` is text, or a document that is printed as JSON."""
        self.said[line] = Answer(code, out if isinstance(out, str) else json.dumps(out), err)

    def configure(self, table: object) -> None:
        self.says("flux config get", table)

    def run(self, words: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> Answer:
        self.asked.append((list(words), environ, timeout_s))
        child = words[0] == sys.executable
        line = f"child {words[-1]}" if child else " ".join([Path(words[0]).name, *words[1:]])
        line = line.replace(f"python -c {RPC_PROGRAM}", "rpc")
        return self.said.get(line, Answer(1, err=f"{line}: unscripted"))

    def machine(self) -> Machine:
        return Machine(self.root, self.environ, self.run, self.uid, self.user)

    def find(self, name: str) -> Finding:
        return look(check_of(name), Survey(self.machine(), self.settings))


def check_of(name: str) -> Check:
    return next(check for check in (*CHECKS, *BURST_CHECKS) if check.name == name)
