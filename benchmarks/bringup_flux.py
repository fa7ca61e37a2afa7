"""The same under a real Flux: prolog and epilog by the perilog plugin, one process on each rank.

A job's eventlog says when its prologs began and when it could start, so what is compared here has
in it whatever Flux adds. The instance is a `flux start` of its own; a process inside of it, which
:func:`inside` is, submits the jobs, and runs the stand-in alone in between.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bringup_docker import Failed
from benchmarks.bringup_standin import PATH, Standin
from flux_flex.config import load_config
from flux_flex.usernetes.state import State
from flux_flex.usernetes.teardown import tear_down

ROOT = Path(__file__).parents[1]
FRONT = ROOT / "etc/flux/system"
COST_RUNS = 40
# What a job that asks for nothing pays for a prolog in bash that asks flux and jq.
PEER = """\
#!/bin/sh
rank=$(flux getattr rank)
wanted=$(flux job info "$FLUX_JOB_ID" jobspec | jq -r .attributes.user.usernetes)
if [ "$wanted" = "" ] || [ "$wanted" = null ]; then exit 0; fi
exit 1
"""


def measure(folder: Path, template: Path, ranks: int, runs: int) -> dict[str, object]:
    """Seconds of each run, ours and of the stand-in alone, and the cost of asking for nothing.

    Raises Failed, and leaves nothing behind.
    """
    flux = shutil.which("flux")
    if flux is None:
        raise Failed("there is no flux on PATH")
    _configure(folder, template, flux)
    answer = folder / "answer.json"
    words = [flux, "start", f"-s{ranks}", f"--config-path={folder / 'etc'}", sys.executable, "-c"]
    # Not -m: its __main__ would be a second copy of this module.
    words += ["from benchmarks.bringup_flux import inside; inside()", str(folder), str(template)]
    child = subprocess.Popen(
        [*words, str(ranks), str(runs)], cwd=ROOT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        code = child.wait()
    finally:
        if child.poll() is None:
            # Ctrl-C, which reaches only us: the process inside stops, and Flux after it.
            _interrupt_inside(folder)
            child.wait()
        clean_up(folder / "state", folder / "flex.toml")
    if code:
        raise Failed(f"flux start: exit code {code}")
    found: dict[str, object] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def clean_up(state: Path, config: Path) -> None:
    """Take away what records still know of, should a run have stopped half-way."""
    if not state.exists():
        return
    known = State.open(state)
    for name in known.names():
        for line in tear_down(known, name, load_config(config).usernetes, lambda: None):
            print(f"left behind: {line}", file=sys.stderr)


def _configure(folder: Path, template: Path, flux: str) -> None:
    (folder / "etc").mkdir(parents=True)
    (folder / "tmp").mkdir()
    config = folder / "flex.toml"
    config.write_text(
        f'[usernetes]\ntemplate = "{template}"\nworkdir = "{folder / "tmp"}"\n'
        f'container_engine = "docker"\ncompose = "docker-compose"\npath = "{PATH}"\n'
    )
    config.chmod(0o600)
    places = f"export FLUX_FLEX_CONFIG={config} FLUX_FLEX_STATE={folder / 'state'}\n"
    lines = ['[job-manager]\nplugins = [{load = "perilog.so"}]\n']
    for kind in ("prolog", "epilog"):
        front = (FRONT / f"{kind}.d" / "50-flux-flex").read_text(encoding="utf-8")
        filled = front.replace("@PYTHON@", sys.executable).replace(
            "@FLUX_BIN@", os.path.dirname(flux)
        )
        _script(folder / f"{kind}-front", filled)
        _script(folder / kind, f"#!/bin/sh\n{places}exec {folder}/{kind}-front\n")
        lines.append(f'[job-manager.{kind}]\ncommand = ["{folder / kind}"]\nper-rank = true\n')
    (folder / "etc" / "conf.toml").write_text("".join(lines))
    _script(folder / "peer", PEER)


def _script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)


def _interrupt_inside(folder: Path) -> None:
    try:
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
    except (OSError, ValueError):
        return  # it has not begun, or has ended


# -- inside of the instance ----------------------------------------------------------------------


def inside() -> None:
    """Measure, in a process of the instance: FOLDER TEMPLATE RANKS RUNS."""
    signal.signal(signal.SIGTERM, _interrupted)
    folder, template, ranks, runs = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5])
    (folder / "pid").write_text(str(os.getpid()))
    standin = Standin(template, folder / "alone", ranks)
    found: dict[str, list[float]] = {"up": [], "up_alone": [], "down": [], "down_alone": []}
    try:
        for run in range(runs + 1):
            up, down = _job(ranks)
            alone = (standin.up(), standin.down())
            if run:  # the first one fills caches
                for key, value in zip(found, (up, alone[0], down, alone[1]), strict=True):
                    found[key].append(value)
        answer: dict[str, object] = {**found, "nothing": _nothing(folder)}
        (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    except Failed as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        subprocess.run(["flux", "cancel", "--all"], capture_output=True)
        subprocess.run(["flux", "queue", "drain", "--timeout=60"], capture_output=True)
        sys.exit(130)
    finally:
        standin.close()


def _interrupted(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _job(ranks: int) -> tuple[float, float]:
    """Run a job with a cluster. Seconds from prolog-start to start, and for its epilogs."""
    wanted = "--setattr=attributes.user.usernetes=yes"
    jobid = _flux("submit", f"-N{ranks}", wanted, "true").strip()
    _flux("job", "wait-event", "--timeout=300", jobid, "clean")
    lines = _flux("job", "eventlog", "--format=json", jobid).splitlines()
    events: dict[str, Mapping[str, float]] = {}
    for entry in map(json.loads, lines):
        events[entry["name"]] = entry
    if "start" not in events:
        note = events.get("exception", {}).get("context", lines[-1])
        raise Failed(f"the job did not start: {note}")
    at = {name: entry["timestamp"] for name, entry in events.items()}
    return at["start"] - at["prolog-start"], at["epilog-finish"] - at["finish"]


def _nothing(folder: Path) -> dict[str, float]:
    """Milliseconds of a prolog for a job that asks for nothing: ours and the peer's, medians."""
    jobid = _flux("submit", "true").strip()
    _flux("job", "wait-event", "--timeout=60", jobid, "clean")
    times: dict[str, list[float]] = {"prolog-front": [], "peer": []}
    environment = {**os.environ, "FLUX_JOB_ID": jobid}
    for run in range(COST_RUNS + 2):
        for name, series in times.items():
            began = time.perf_counter()
            subprocess.run([str(folder / name)], env=environment, check=True)
            if run >= 2:
                series.append((time.perf_counter() - began) * 1e3)
    ours, peer = (statistics.median(times[name]) for name in times)
    return {"ours_ms": ours, "peer_ms": peer, "ratio": ours / peer, "runs": COST_RUNS}


def _flux(*words: str) -> str:
    done = subprocess.run(["flux", *words], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"flux {' '.join(words[:2])}: {done.stderr.strip()}")
    return done.stdout
