"""The installed scripts under a real `flux start`: prolog and epilog, start of brokers, ingest."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from site_help import Site, real_flux_environment, write_program

pytestmark = [
    pytest.mark.flux,
    pytest.mark.skipif(
        shutil.which("flux") is None,
        reason="flux is not on PATH: install Flux, or add its bin to PATH",
    ),
]


@pytest.fixture
def installed(site: Site) -> Site:
    flux = shutil.which("flux")
    assert flux
    site.in_destdir(prefix=str(Path(flux).resolve().parents[1]))
    done = site.install()
    assert done.returncode == 0, done.stderr
    return site


def commands_of(site: Site) -> Path:
    """Where the installed `flux flex` and, above it, the validator are."""
    (found,) = site.below("").rglob("cmd/flux-flex")
    return found.parent


def flux(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = real_flux_environment(**variables)
    argv = ["flux", *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)


def in_instance(
    script: Path, text: str, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    script.write_text(text, encoding="utf-8")
    done = flux("start", *options, "bash", "-eu", str(script), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def sample_config(site: Site) -> str:
    """The broker's sample, for an instance without IMP: what its comments say is done."""
    text = (site.checkout / "etc/flux/samples/broker.toml").read_text()
    lines = []
    for line in text.splitlines():
        if line.startswith("imp = "):
            continue
        if line.startswith("# command = "):
            (script,) = json.loads(line.partition("= ")[2])
            line = f"command = [{json.dumps(str(site.below(script)))}]"
        lines.append(line)
    validator = str(commands_of(site).parent / "flux-flex-validator.py")
    usual = "/usr/libexec/flux/flux-flex-validator.py"
    return "\n".join(lines).replace(json.dumps(usual), json.dumps(validator)) + "\n"


# Stands for flux_flex: makes the record, removes it. PATH is as the script has set it.
RECORDER = """\
#!/bin/bash
record="$FLUX_FLEX_STATE/usernetes/${FLUX_JOB_ID#?}.$(flux getattr rank)"
case $3 in
*prolog) mkdir -p "$record" ;;
*epilog) rmdir "$record" ;;
esac
"""


def test_sample_configuration_runs_the_scripts_for_jobs_that_ask(installed: Site) -> None:
    state = installed.root / "state"
    write_program(installed.hook, RECORDER)
    config = installed.root / "broker.toml"
    config.write_text(sample_config(installed))
    text = """
        flux run -N2 true
        test ! -e "$FLUX_FLEX_STATE"
        flux run -N2 --setattr=user.usernetes=yes sh -c 'ls "$FLUX_FLEX_STATE/usernetes"'
        flux queue idle --quiet
        if flux run -N2 --setattr=user.usernetes.imgae=x true; then exit 1; fi
    """
    done = in_instance(
        installed.root / "script", text, "-s2", f"--config-path={config}",
        FLUX_FLEX_STATE=str(state), LC_ALL="C.UTF-8",
    )  # fmt: skip
    ranks = {line.rpartition(".")[2] for line in done.stdout.split()}
    assert ranks == {"0", "1"}
    assert "imgae" in done.stderr
    assert sorted(installed.asked_of_python()) == [
        *["-I -m flux_flex.usernetes.epilog"] * 2,
        *["-I -m flux_flex.usernetes.prolog"] * 2,
    ]
    assert list((state / "usernetes").iterdir()) == []


# What runs in each of the nested instances: says whether the directory that "usernetes attr" would
# name has what the outermost job put there, starts the next one, and says which links are left.
LEVEL = """
import os, pathlib, subprocess, sys

def ask(*words):
    return subprocess.run(["flux", *words], stdout=-1, check=True, text=True).stdout.strip()

level = int(ask("getattr", "instance-level"))
place = pathlib.Path(os.environ["TMPDIR"])
named = place / ("usernetes-" + ask("getattr", "jobid").lower())
if level == 1:
    named.mkdir()
    (named / "kubeconfig").touch()
print("level", level, "finds it" if (named / "kubeconfig").exists() else "is lost", flush=True)
if level < 3:
    nodes = "-N2" if level == 1 else "-N1"
    subprocess.run(["flux", "alloc", nodes, sys.executable, *sys.argv], check=True)
    left = sum(path.is_symlink() for path in place.iterdir())
    print("level", level, "sees", left, "links", flush=True)
"""


def test_nested_instances_are_linked_to_the_jobs_directory(installed: Site) -> None:
    job = installed.root / "level.py"
    job.write_text(LEVEL)
    with tempfile.TemporaryDirectory() as tmp:  # sockets are made below it: a short path
        done = flux(
            "start", "-s2", "flux", "alloc", "-N2", sys.executable, str(job),
            TMPDIR=tmp, FLUX_RC_EXTRA=str(installed.below("etc/flux")), LC_ALL="C.UTF-8",
        )  # fmt: skip
    assert done.stdout.splitlines() == [
        "level 1 finds it",
        "level 2 finds it",
        "level 3 finds it",
        "level 2 sees 2 links",
        "level 1 sees 0 links",
    ], done.stderr


def test_flux_flex_is_a_subcommand(installed: Site) -> None:
    done = flux("flex", "match", "a b", FLUX_EXEC_PATH=str(commands_of(installed)))
    assert done.returncode == 42, done.stderr
    assert installed.asked_of_python() == ["-I -m flux_flex match a b"]


def test_without_flux_flex_the_validator_refuses_only_jobs_that_ask(installed: Site) -> None:
    validator = commands_of(installed).parent / "flux-flex-validator.py"
    broken = installed.root / "validator.py"
    broken.write_text(validator.read_text().replace("from flux_flex.", "from flux_flex_gone."))
    text = f"""
        flux run true
        if flux run --setattr=user.usernetes=yes true; then exit 1; fi
        if flux python {shlex.quote(str(broken))}; then exit 1; fi
    """
    config = installed.root / "broker.toml"
    plugins = json.dumps(["jobspec", str(broken)])
    config.write_text(f"[ingest.validator]\nplugins = {plugins}\n")
    done = in_instance(installed.root / "script", text, f"--config-path={config}")
    assert done.stderr.count("job validator does not load: ModuleNotFoundError") == 2


def test_validator_that_loads_is_not_warned_of(installed: Site) -> None:
    validator = commands_of(installed).parent / "flux-flex-validator.py"
    done = flux("python", str(validator))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not on PATH: install jq")
def test_prolog_costs_a_job_that_does_not_ask_two_fifths_of_the_known_one(installed: Site) -> None:
    known = installed.root / "known"
    lookup = "flux job info $FLUX_JOB_ID jobspec | jq -r .attributes.user.usernetes"
    write_program(known, f"#!/bin/bash\nrank=$(flux getattr rank)\nasks=$({lookup})\n")
    job = installed.root / "measure.py"
    job.write_text(MEASURE)
    ours = installed.below("etc/flux/system/prolog.d/50-flux-flex")
    done = flux("start", sys.executable, str(job), str(known), str(ours))
    known_ms, ours_ms = (float(word) for word in done.stdout.split())
    assert ours_ms <= 0.4 * known_ms, done.stdout


# Prints the median of each program's times in milliseconds, run in turn for the same job.
MEASURE = """
import os, statistics, subprocess, sys, time

submit = ["flux", "submit", "true"]
os.environ["FLUX_JOB_ID"] = subprocess.run(submit, stdout=-1, check=True, text=True).stdout.strip()
subprocess.run(["flux", "queue", "idle", "--quiet"], check=True)
taken_ms = {program: [] for program in sys.argv[1:]}
for _ in range(25):
    for program, times in taken_ms.items():
        start = time.perf_counter()
        subprocess.run([program], check=True)
        times.append(1e3 * (time.perf_counter() - start))
print(*map(statistics.median, taken_ms.values()))
"""
