"""Files, directories and links that are swapped while root is at work on them."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from trust_site import (
    IS_ROOT,
    OWNER,
    USER,
    Target,
    give,
    lay,
    look,
    needs_root,
    note_of,
    precious_file,
)
from usernetes_site import JOBID

from flux_flex.usernetes import node, whole
from flux_flex.usernetes.account import account_of
from flux_flex.usernetes.workdir import write_file

SWAPS = {
    "a symbolic link": "ln -sf {precious} {name}",
    "a symbolic link to /etc/shadow": "ln -sf /etc/shadow {name}",
    "a fifo": "rm -f {name}; mkfifo {name}",
    "a sparse gigabyte": "truncate -s 1G {name}",
    "a directory": "rm -f {name}; mkdir {name}",
    "nothing": "rm -f {name}",
    "a device by a link": "ln -sf /dev/zero {name}",
    "bytes": "head -c 3000 /dev/urandom >{name}",
    "no join command": "echo 'kubeadm join \"; touch canary; \"' >{name}",
}


@pytest.fixture
def posted(site: Target, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the nodes tell each other."""
    found: list[str] = []
    real = site.instance.post

    def post(key: str, name: str, context: Mapping[str, object]) -> None:
        found.append(f"{name} {context}")
        real(key, name, context)

    monkeypatch.setattr(site.instance, "post", post)
    return found


@pytest.mark.parametrize("name", ["join-command", "kubeconfig"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_file_that_root_reads_is_swapped_and_nothing_is_read_or_hangs(
    site: Target, folder: Path, posted: list[str], swap: str, name: str
) -> None:
    site.configure(deadlines="wait-workers = 0.2")
    precious = precious_file(folder)
    before = look(precious)
    site.attack(name, SWAPS[swap].format(precious=precious, name=name))
    site.submit(["n0", "n1"])
    began = time.monotonic()
    assert site.prolog() == 1
    assert time.monotonic() - began < 10
    assert "wait-workers" in note_of(site)
    assert "precious" not in str(posted).replace(str(precious), "")
    assert "root:" not in str(posted)
    assert site.epilog() == 0
    assert look(precious) == before
    assert site.left() == []


@needs_root
def test_a_hard_link_to_a_file_of_somebody_else_is_not_read(
    site: Target, folder: Path, posted: list[str]
) -> None:
    """As anybody can make one where fs.protected_hardlinks is 0."""
    site.configure(deadlines="wait-workers = 0.2")
    precious = precious_file(folder)
    site.faults("join-command sleep 0.01")
    site.submit(["n0", "n1"])
    real = node.Node.read

    def read(self: node.Node, name: str) -> str:
        if name == "kubeconfig":
            (site.name() / name).unlink()
            os.link(precious, site.name() / name)
        return real(self, name)

    with mock.patch.object(node.Node, "read", read):
        assert site.prolog() == 1
    assert "precious" not in str(posted)
    assert site.epilog() == 0
    assert site.left() == []


@pytest.mark.parametrize("kind", ["dangling", "others", "file", "fifo", "full"])
def test_a_file_that_root_writes_replaces_nothing_outside(folder: Path, kind: str) -> None:
    directory = folder / "job"
    directory.mkdir()
    lay(kind, directory / "ports.json", folder)
    before = look(folder / "others")
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    gid = account_of(USER, owner=OWNER).gid
    try:
        write_file(descriptor, "ports.json", "new", mode=0o600, uid=USER, gid=gid)
    except OSError:
        assert kind == "full"
    else:
        assert (directory / "ports.json").lstat().st_mode == stat.S_IFREG | 0o600
        assert (directory / "ports.json").read_text() == "new"
    finally:
        os.close(descriptor)
    assert look(folder / "others") == before
    assert not (folder / "nowhere").exists()


def test_a_directory_renamed_away_with_a_link_in_its_place_leads_nobody_out(
    site: Target, folder: Path
) -> None:
    others = precious_file(folder).parent
    before = look(others)
    site.submit()
    away = site.name().with_name("away")
    place = shlex.quote(str(site.name()))
    site.attack("kubeconfig", f"mv {place} {away}; ln -s {others} {place}")
    assert site.prolog() == 0
    assert site.epilog() == 0
    assert look(others) == before
    # Both are the user's own by now.
    assert sorted(site.left()) == ["directory away", f"directory {site.name().name}"]


def test_a_failing_step_in_a_directory_that_was_swapped_leads_nobody_out(
    site: Target, folder: Path
) -> None:
    others = precious_file(folder).parent
    before = look(others)
    site.submit()
    place = shlex.quote(str(site.name()))
    swap = f"mv {place} {place}.away; ln -s {others} {place}; rm -f bring-up.log"
    site.attack("kubeconfig", f"{swap}; ln -s {others}/precious bring-up.log; exit 1")
    assert site.prolog() == 1
    assert "precious" not in note_of(site)
    assert site.epilog() == 0
    assert look(others) == before


def test_what_the_user_put_into_the_directory_goes_and_nothing_outside(
    site: Target, folder: Path
) -> None:
    others = precious_file(folder).parent
    (others / "folder").mkdir()
    before = look(others)
    site.submit()
    script = f"""
    ln -s {others} to-others; ln -s {others}/precious file; ln -s . here; ln -s .. up
    mkdir closed; touch closed/x; ln -s {others}/folder closed/y; touch unreadable; mkfifo fifo
    chmod 0 unreadable
    touch "$(printf 'new\\nline')" ./-rf "$(printf 'bad\\377')" 'a b' '*'
    mkdir "$(printf 'new\\n')"
    """
    site.attack("kubeconfig", script + ("chmod 0 closed; chmod 0 ." if IS_ROOT else ""))
    assert site.prolog() == 0
    assert site.epilog() == 0
    assert look(others) == before
    assert site.left() == []


@pytest.mark.parametrize("levels", [300, 3000])
def test_a_directory_goes_however_deep_it_is(site: Target, levels: int) -> None:
    site.submit()
    assert site.prolog() == 0
    at = os.open(site.name(), os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        deeper = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)
    assert site.epilog() == 0
    assert site.left() == []


def test_links_of_the_name_that_lead_elsewhere_stay(site: Target, folder: Path) -> None:
    site.submit()
    assert site.prolog() == 0
    others = precious_file(folder).parent
    for number, leads_to in enumerate((others, "/etc", "usernetes-other", ".")):
        link = site.name().with_name(f"usernetes-ƒ{number}")
        link.symlink_to(leads_to)
        give(link)
    assert site.epilog() == 0
    assert sorted(site.left()) == [f"directory usernetes-ƒ{number}" for number in range(4)]


@pytest.mark.parametrize("swap", ["file: link", "file: fifo", "folder: link"])
def test_the_log_of_a_swapped_directory_is_not_read_and_nobody_waits(
    site: Target, folder: Path, swap: str
) -> None:
    site.submit()
    assert site.prolog() == 0
    record = site.record(JOBID)
    assert record is not None
    precious = precious_file(folder)
    log = site.name() / "bring-up.log"
    if swap == "folder: link":
        precious.rename(precious.with_name(log.name))
        site.name().rename(site.name().with_name("away"))
        site.name().symlink_to(precious.parent)
    else:
        log.unlink()
        log.symlink_to(precious) if swap == "file: link" else os.mkfifo(log)
    # A reader that waits for a writer would wait for ever: let there be one, a little later.
    late = subprocess.Popen(["sh", "-c", f"sleep 1; : <>{shlex.quote(str(log))}"])
    began = time.monotonic()
    try:
        assert list(whole._log_lines(record)) == []
        assert time.monotonic() - began < 0.9
    finally:
        late.wait(10)
