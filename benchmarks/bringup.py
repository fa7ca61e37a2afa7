"""What flux-flex adds to a bring-up of Usernetes: ``python -m benchmarks.bringup``.

Over a docker daemon, with the stand-in tree of tests/standin, whose steps take next to nothing:

    from the start of the prologs to the start of the job, against the stand-in's critical path
    the epilogs, from start to end, against four ``make down-v`` side by side
    the same steps with the fixed waits of the scripts that sites use now
    with flux on PATH, the first two under a real `flux start`, and what a prolog costs a job
    that asks for nothing, against a shell script that asks flux and jq

Runs of ours and of the stand-in alone take turns. The machine is noisy, and here all ranks share
its cores, so processes of ours also slow the stand-in's steps down: that is in the difference.
Exit code 1 if a bound is broken, 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import bringup_flux
from benchmarks.bringup_docker import Failed, images, remove_images
from benchmarks.bringup_standin import STANDIN, Standin, timeline

sys.path.insert(0, str(STANDIN.parent / "usernetes"))
from usernetes_site import JOBID, Site

UP_BOUND_S = 2.0
DOWN_BOUND_S = 1.5
NOTHING_BOUND = 0.4
_PATIENCE_S = 300


@dataclass(frozen=True)
class Compared:
    """Seconds of one thing, by us and by the stand-in alone, and how much more it may be."""

    title: str
    ours: Sequence[float]
    alone: Sequence[float]
    bound_s: float

    @property
    def difference_s(self) -> float:
        return statistics.median(self.ours) - statistics.median(self.alone)

    @property
    def holds(self) -> bool:
        return self.difference_s <= self.bound_s

    def line(self) -> str:
        verdict = "ok" if self.holds else "BROKEN"
        return (
            f"{self.title:<34}{_spread(self.ours):<24}{_spread(self.alone):<24}"
            f"{self.difference_s:+6.2f} s   {self.bound_s:.1f} s   {verdict}"
        )


def _spread(seconds: Sequence[float]) -> str:
    middle = statistics.median(seconds)
    return f"{middle:6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


class Ours:
    """Prologs and epilogs of flux-flex as processes, on a site without a Flux."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.ranks = ranks
        self.site = Site(folder, tree=STANDIN, engine="docker", compose="docker-compose")
        self._jobid = JOBID

    def up(self) -> float:
        """From the start of the prologs until all have ended, in seconds."""
        self._jobid += 1 << 24
        self.site.submit(["n0"] * self.ranks, jobid=self._jobid)
        return self._run("prolog")

    def down(self) -> float:
        """The same of the epilogs."""
        return self._run("epilog")

    def close(self) -> None:
        self.site.close()
        host = self.site.folder / "hosts" / "n0"
        bringup_flux.clean_up(host / "state", host / "flex.toml")

    def _run(self, which: str) -> float:
        began = time.monotonic()
        running = [self.site.start(which, self._jobid, rank) for rank in range(self.ranks)]
        signal.alarm(_PATIENCE_S)
        codes = [process.wait() for process in running]
        signal.alarm(0)
        took = time.monotonic() - began
        if any(codes):
            raise Failed(f"{which}s ended with {codes}:\n{self.site.output()}")
        self.site.output()
        self.site.processes.clear()
        return took


def without_flux(folder: Path, ranks: int, runs: int, quick: bool) -> tuple[list[Compared], str]:
    """Our processes against the stand-in; and a line about the fixed waits."""
    (folder / "site").mkdir()
    ours = Ours(folder / "site", ranks)
    standin = Standin(ours.site.template, folder / "alone", ranks)
    up: list[float] = []
    up_alone: list[float] = []
    down: list[float] = []
    down_alone: list[float] = []
    try:
        for run in range(runs + 1):
            times = (ours.up(), ours.down(), standin.up(), standin.down())
            if run:  # the first one fills the engine's cache
                for series, took in zip((up, down, up_alone, down_alone), times, strict=True):
                    series.append(took)
        slow = _slow(standin, quick)
    finally:
        standin.close()
        ours.close()
    compared = [
        Compared("prolog start to job start", up, up_alone, UP_BOUND_S),
        Compared("epilogs, start to end", down, down_alone, DOWN_BOUND_S),
    ]
    return compared, slow


def _slow(standin: Standin, quick: bool) -> str:
    if quick:
        return f"{timeline(standin):.1f} s up (computed from the steps' times and the waits)"
    up = standin.slow_up()
    return f"{up:.1f} s up, {standin.slow_down():.1f} s down (run once)"


def with_flux(
    folder: Path, template: Path, ranks: int, runs: int
) -> tuple[list[Compared], dict[str, float]]:
    """The same through Flux; and milliseconds of a prolog for a job that asks for nothing."""
    folder.mkdir()
    found = bringup_flux.measure(folder, template, ranks, runs)
    up, up_alone, down, down_alone = (found[k] for k in ("up", "up_alone", "down", "down_alone"))
    compared = [
        Compared("flux: prolog-start to start", up, up_alone, UP_BOUND_S),  # type: ignore[arg-type]
        Compared("flux: finish to epilog-finish", down, down_alone, DOWN_BOUND_S),  # type: ignore[arg-type]
    ]
    return compared, found["nothing"]  # type: ignore[return-value]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Measure and print; all that was found, and whether the bounds hold."""
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, load {load[0]:.1f} before, {options.ranks} ranks, ", end="")
    print(f"{options.runs} runs each in turns: median (least to most)\n")
    print(f"{'':<34}{'flux-flex':<24}{'stand-in alone':<24}{'more by':<11}bound", flush=True)
    compared, slow = without_flux(folder, options.ranks, options.runs, options.quick)
    for one in compared:
        print(one.line(), flush=True)
    found: dict[str, object] = {"cores": os.cpu_count(), "load": load, "fixed_waits": slow}
    holds = all(one.holds for one in compared)
    if options.flux:
        template = folder / "site" / "template"
        more, nothing = with_flux(folder / "flux", template, options.ranks, options.runs)
        for one in more:
            print(one.line())
        compared += more
        cheap = nothing["ratio"] <= NOTHING_BOUND
        holds = holds and cheap and all(one.holds for one in more)
        found["nothing"] = nothing
        print(
            f"\na job that asks for nothing: {nothing['ours_ms']:.1f} ms, in shell with flux and"
            f" jq {nothing['peer_ms']:.1f} ms: {nothing['ratio']:.2f} of it, bound"
            f" {NOTHING_BOUND}   {'ok' if cheap else 'BROKEN'}"
        )
    print(f"\nwith the fixed waits of existing scripts: {slow}")
    print(f"load {os.getloadavg()[0]:.1f} after")
    found["compared"] = [{**asdict(one), "difference_s": one.difference_s} for one in compared]
    found["holds"] = holds
    return found


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupted)
    folder = Path(tempfile.mkdtemp(prefix="flux-flex-bringup-"))
    before: set[str] = set()
    try:
        if shutil.which("docker-compose") is None or not Path("/bin/busybox").exists():
            raise Failed("needs docker-compose and busybox: apt install them, and busybox-static")
        before = images()
        found = measure(options, folder)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return 0 if found["holds"] else 1
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        remove_images(before)
        shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What flux-flex adds to a bring-up of Usernetes.")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3, help="of each kind, after one that warms up")
    parser.add_argument(
        "--flux", action=argparse.BooleanOptionalAction, default=shutil.which("flux") is not None,
        help="under a real Flux as well; the default is to do so where flux is on PATH",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="compute the time with fixed waits, do not run it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    options = parser.parse_args()
    if options.ranks < 1 or options.runs < 1:
        parser.error("--ranks and --runs are 1 or more")
    return options


def _interrupted(_number: int, _frame: object) -> None:
    """Raise once: what is being cleaned up is cleaned up to the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
