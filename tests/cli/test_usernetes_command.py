"""``flux-flex usernetes``: what a person sees, over ranks of a scripted `flux exec`, and alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from flux_flex.usernetes.state import Record, State

UP = [
    {"rank": 0, "host": "n0", "node": "u7s-n0", "step": "prepare"},
    {"rank": 1, "host": "n1", "node": "u7s-n1", "step": "prepare"},
    {"rank": 0, "host": "n0", "node": "u7s-n0", "step": "ready", "kubeconfig": "/tmp/x/kubeconfig"},
    {"rank": 1, "host": "n1", "node": "u7s-n1", "step": "ready", "kubeconfig": "/tmp/x/kubeconfig"},
]


def command(
    *words: str, bin_: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flux_flex", "usernetes", *words],
        capture_output=True, text=True, timeout=60,
        env=environment(bin_, environ or {}),
    )  # fmt: skip


def environment(bin_: Path | None, more: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_")}
    inside = {"FLUX_URI": "local:///nowhere", "PATH": f"{bin_}:/usr/bin:/bin"} if bin_ else {}
    return {**kept, **inside, **more}


def scripted_flux(folder: Path, lines: list[Mapping[str, object]], code: int = 0) -> Path:
    """A `flux` whose `exec` says these lines, and notes how it was called."""
    folder.mkdir()
    said = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "said").write_text(said)
    (folder / "flux").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/called\ncat {folder}/said\nexit {code}\n'
    )
    (folder / "flux").chmod(0o755)
    return folder


def test_up_shows_the_steps_and_says_how_to_use_the_cluster(tmp_path: Path) -> None:
    flux = scripted_flux(tmp_path / "bin", UP)
    done = command("up", "--nodes", "2", bin_=flux)
    assert done.returncode == 0, done.stderr
    assert "u7s-n1: prepare" in done.stdout
    assert "2 nodes are up after" in done.stdout
    assert "export KUBECONFIG=/tmp/x/kubeconfig" in done.stdout
    called = (flux / "called").read_text().split()
    assert called[0] == "exec"
    assert called[-2:] == ["--nodes", "2"]
    assert len(called[called.index("--run") + 1]) == 16


def test_a_failure_is_told_once_and_the_code_is_one(tmp_path: Path) -> None:
    failed = {"rank": 1, "host": "n1", "failed": "n1 (rank 1): up: exit code 2\x1b[31m"}
    done = command("up", bin_=scripted_flux(tmp_path / "bin", [*UP[:2], failed], code=1))
    assert done.returncode == 1
    assert done.stdout.count("n1 (rank 1): up: exit code 2") == 1
    assert "the cluster did not come up" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ([{"rank": 0, "host": "n0", "cluster": "x.0", "left": []}], 0, "1 nodes are taken away"),
        ([], 0, "there was nothing to take away"),
        ([{"rank": 0, "host": "n0", "left": ["network y: in use"]}], 1, "left behind: network y"),
    ],
)
def test_down_says_what_is_gone_and_what_is_left(
    tmp_path: Path, lines: list[Mapping[str, object]], code: int, said: str
) -> None:
    done = command("down", bin_=scripted_flux(tmp_path / "bin", lines, code))
    assert done.returncode == code
    assert said in done.stdout


def test_a_rank_that_talks_nonsense_is_bad_input(tmp_path: Path) -> None:
    flux = scripted_flux(tmp_path / "bin", [])
    (flux / "said").write_text("Traceback!\n")
    done = command("status", bin_=flux)
    assert done.returncode == 3
    assert "a rank said 'Traceback!" in done.stderr


@pytest.mark.parametrize("words", [["up"], ["down"]])
def test_outside_of_an_instance_there_is_nothing_to_bring_up(words: list[str]) -> None:
    done = command(*words)
    assert done.returncode == 3
    assert "no Flux instance here" in done.stderr
    assert "flux alloc" in done.stderr


def test_wrong_words_are_bad_input(tmp_path: Path) -> None:
    flux = scripted_flux(tmp_path / "bin", [])
    for words in (["up", "--nodes", "0"], ["up", "--nodes", "x"], ["sideways"], []):
        assert command(*words, bin_=flux).returncode == 3


def test_ctrl_c_lets_the_ranks_end_first(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "flux").write_text(
        f"#!/bin/sh\ntrap 'touch {folder}/undone; exit 1' TERM\ntouch {folder}/began\n"
        "sleep 30 >/dev/null 2>&1 & wait\n"
    )
    (folder / "flux").chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal, sys; signal.signal(2, signal.default_int_handler);"
         "from flux_flex.cli import main; sys.exit(main(['usernetes', 'up']))"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(folder, {}),
    )  # fmt: skip
    end = time.monotonic() + 30
    while not (folder / "began").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    assert (folder / "undone").exists()


# -- alone, on one host ----------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> State:
    """The state of a host that knows two clusters."""
    state = State.open(tmp_path / "state")
    config = tmp_path / "flex.toml"
    config.write_text(f'[usernetes]\nworkdir = "{tmp_path}"\ncontainer_engine = "podman"\n'
                      f'path = "{tmp_path}/bin:/usr/bin:/bin"\n')  # fmt: skip
    config.chmod(0o644)
    paper = Path(__file__).parents[1] / "usernetes" / "paper" / "bin" / "podman"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "podman").write_bytes(paper.read_bytes())
    (tmp_path / "bin" / "podman").chmod(0o755)
    for number, identity in enumerate(("abc", "def")):
        name = f"{identity}.{number}"
        workdir = tmp_path / f"usernetes-{identity}"
        workdir.mkdir()
        (workdir / "bring-up.log").write_text(f"first {identity}\nabcdef.0123456789abcdef\n")
        status = workdir.stat()
        record = Record(
            name=name, rank=number, host="n0", uid=os.getuid(), lead=number == 0, key="",
            phase="up", began=time.time(), workdir=str(workdir), device=status.st_dev,
            inode=status.st_ino, project=f"usernetes-{identity}", engine="podman",
            ports={"kube-apiserver": 31000 + number},
        )  # fmt: skip
        with state.lock(name, create=True) as held:
            held.write(record)
    return state


def alone(state: State, *words: str) -> subprocess.CompletedProcess[str]:
    folder = state.folder.parent
    environ = {"FLUX_FLEX_STATE": str(state.folder), "FLUX_FLEX_CONFIG": str(folder / "flex.toml")}
    return command(*words, environ=environ)


def test_status_shows_the_clusters_of_this_host(state: State) -> None:
    done = alone(state, "status")
    assert done.returncode == 0, done.stderr
    # A long path goes on below its row.
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("abc.", "def."))]
    assert [row[:3] for row in rows] == [["abc.0", "n0", "up"], ["def.1", "n0", "up"]]
    assert ["lead" in row for row in rows] == [True, False]
    document = json.loads(alone(state, "status", "--json").stdout)
    assert document["format"] == "flux-flex-usernetes"
    assert [node["name"] for node in document["nodes"]] == ["abc.0", "def.1"]


def test_logs_are_of_the_jobs_that_are_named_and_without_tokens(state: State) -> None:
    assert alone(state, "logs", "fabc").stdout.splitlines()[0].endswith("(rank 0): first abc")
    everything = alone(state, "logs").stdout
    assert "first def" in everything
    assert "abcdef.0123456789abcdef" not in everything


def test_clean_takes_away_what_is_named_or_all_but_nothing_by_guessing(state: State) -> None:
    refused = alone(state, "clean")
    assert refused.returncode == 1
    assert "name the jobs, or say --all" in refused.stderr
    assert state.names() == ["abc.0", "def.1"]
    assert "1 nodes are taken away" in alone(state, "clean", "fabc").stdout
    assert state.names() == ["def.1"]
    assert not (state.folder.parent / "usernetes-abc").exists()
    assert "1 nodes are taken away" in alone(state, "clean", "--all").stdout
    assert state.names() == []
    assert alone(state, "status").stdout == "no clusters\n"
