"""Who has the join token can join the cluster: who can read it, and that no log has it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from trust_site import (
    OWNER,
    TOKEN,
    USER,
    Target,
    note_of,
)
from usernetes_site import JOBID

from flux_flex.usernetes.steps import clean_line, last_lines


def everything_below(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return "\n".join(path.read_text(errors="replace") for path in files)


def test_the_token_is_for_the_owner_and_the_user_alone(site: Target) -> None:
    modes = "stat -c '%n %a %u' join-config.yaml join-command >.modes"
    script = site.template / "fault.sh"
    watch = f'[ "$target" != kubeadm-join ] || {{ {modes}; ps -ww -eo args >.ps; }}\n'
    script.write_text(watch + script.read_text())
    site.submit(["n0", "n1"], {"usernetes": {"ports": [30080]}})
    environ = {"FLUX_JOB_USERID": str(USER), "SITE_OWNER": str(OWNER)}
    running = [site.start("prolog", JOBID, rank, **environ) for rank in (0, 1)]
    assert site.watch_over(JOBID, running) == [0, 0], site.output()
    for rank, names in enumerate((("join-command",), ("join-command", ".modes"))):
        directory = site.directory(JOBID, rank)
        assert stat.S_IMODE(directory.lstat().st_mode) == 0o700
        for name in (*names, "kubeconfig", "bring-up.log", "ports.json"):
            status = (directory / name).lstat()
            assert (status.st_uid, status.st_mode & 0o077) == (USER, 0), name
    worker = site.directory(JOBID, 1)
    assert (worker / ".modes").read_text().splitlines() == [
        f"join-config.yaml 600 {USER}",
        f"join-command 700 {USER}",
    ]
    # The targets of paper grep for it: theirs is not what a worker really runs.
    seen = [line for line in (worker / ".ps").read_text().splitlines() if "grep -q" not in line]
    assert "make --no-print-directory kubeadm-join" in seen
    assert TOKEN not in "\n".join(seen)
    # On disk it is the lead's join-command alone, and in the KVS the log where they meet.
    assert not (worker / "join-config.yaml").exists()
    found = [path for path in site.folder.rglob("join-command") if TOKEN in path.read_text()]
    assert site.template / "join-command" not in found
    assert found == [site.directory(JOBID) / "join-command"]
    for rank, host in enumerate(("n0", "n1")):
        assert TOKEN not in everything_below(site.state(host))
        assert TOKEN not in (site.directory(JOBID, rank) / "bring-up.log").read_text()
        status = site.state(host).stat()
        assert status.st_mode & 0o077 == 0
    (key,) = site.instance.all_keys()
    assert key.startswith("job.")
    assert TOKEN in str(site.instance.eventlog_at(key, 0, 0))
    assert TOKEN not in str(site.instance.eventlog(JOBID))
    assert TOKEN not in str(site.memo(JOBID))
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert TOKEN not in site.output()
    assert site.left() == []


def test_a_token_that_a_failing_step_prints_is_masked_in_what_others_can_read(
    site: Target, caplog: pytest.LogCaptureFixture
) -> None:
    site.attack("kubeadm-init", f"echo 'kubeadm join --token {TOKEN} \033[31mx\033]0;y'; exit 1")
    site.submit()
    assert site.prolog() == 1
    assert "--token <token>" in note_of(site)
    assert TOKEN not in str(site.instance.eventlog(JOBID)) + caplog.text + str(site.memo(JOBID))
    assert site.epilog() == 0
    assert site.left() == []


@pytest.mark.parametrize(
    "line",
    [
        TOKEN,
        f"--token={TOKEN}",
        f'"{TOKEN}"',
        f"x {TOKEN}:y",
        f"_{TOKEN}_",
        f"token:{TOKEN}\n{TOKEN}",
        f"\x1b[1m{TOKEN}\x1b[0m",
        "\x1b[1m" + TOKEN.replace(".", "\x1b[0m.\x1b[1m"),
        "y" * 280 + " " + TOKEN,
        "y" * 290 + " " + TOKEN,
    ],
)
def test_a_token_in_a_line_is_masked(line: str) -> None:
    assert "0123456" not in clean_line(line)
    assert len(clean_line(line)) <= 300


def test_a_token_that_is_cut_where_the_last_lines_begin_is_masked(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb+", buffering=0) as log:
        for cut in range(1, len(TOKEN)):
            log.truncate(0)
            log.seek(0)
            after = b"\n" + b"z" * (8192 - 1 - (len(TOKEN) - cut))
            log.write(b"y" * 5000 + b" " + TOKEN.encode() + after)
            assert "789abcdef" not in " ".join(last_lines(log.fileno(), 0)), cut
