"""The prolog runs as root on behalf of anybody: what a job's user could try, and what comes of it.

As root, the jobs of these tests are those of ``nobody``; as somebody else they are one's own, and
what needs two users is skipped. Prologs and epilogs run in this process, where that is enough.
"""

from __future__ import annotations

import logging
import os
import pwd
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from usernetes_site import JOBID, ROOT, Site, jobspec_of, r_of

from flux_flex.errors import FlexError
from flux_flex.host import engines
from flux_flex.host.engines import find_engine
from flux_flex.model.jobid import f58, parse_jobid
from flux_flex.usernetes import epilog, node, prolog, teardown, whole
from flux_flex.usernetes.account import account_of
from flux_flex.usernetes.ports import Leases, PortTaken
from flux_flex.usernetes.state import Record, State
from flux_flex.usernetes.steps import clean_line, last_lines
from flux_flex.usernetes.tree import find_template
from flux_flex.usernetes.workdir import place_of, write_file

IS_ROOT = os.geteuid() == 0
USER = pwd.getpwnam("nobody").pw_uid if IS_ROOT else os.geteuid()
# Another user of the host, and the one that Flux runs as.
SOMEBODY = pwd.getpwnam("daemon").pw_uid
OWNER = SOMEBODY if IS_ROOT else os.geteuid()
TOKEN = "abcdef.0123456789abcdef"

needs_root = pytest.mark.skipif(
    not IS_ROOT, reason="only root can act as two users: run it as root"
)

# What somebody may write where a word is expected; each would leave `canary` if it were run.
HOSTILE = (
    "\ntouch canary\n",
    '"; touch canary; "',
    "'; touch canary; '",
    "$(touch canary)",
    "`touch canary`",
    "$(shell touch canary)",
    "../../../../etc/passwd",
    "; touch canary",
    "a\0b",
    "\x1b]0;title\x07\x1b[2J\r\x7f\x85",
    "-h",
    "x" * 10_000,
    "\u202e\u2028ƒ",
    "\ud800",
)


class Broker:
    """What a prolog sees of Flux: the instance of the site, from one rank."""

    def __init__(self, site: Site, rank: int) -> None:
        self._site = site
        self._rank = rank

    def rank(self) -> int:
        return self._rank

    def identity(self) -> str:
        return "0123abcd"

    def attribute(self, name: str) -> str:
        return {"security.owner": str(OWNER)}[name]

    def __getattr__(self, method: str) -> Any:
        return getattr(self._site.instance, method)


class Target(Site):
    """A site whose prologs and epilogs run in this process, with an environment of the test's."""

    def prolog(self, jobid: int = JOBID, rank: int = 0, uid: int = USER, **environ: str) -> int:
        given = {"FLUX_JOB_ID": f58(jobid), "FLUX_JOB_USERID": str(uid), **environ}
        with self._around(self.hosts[jobid][rank], given), self._as_flux(prolog, rank):
            return prolog.main()

    def epilog(self, jobid: int = JOBID, rank: int = 0, **environ: str) -> int:
        given = {"FLUX_JOB_ID": f58(jobid), **environ}
        hosts = self.hosts.get(jobid, ["n0"])
        with self._around(hosts[rank], given), self._as_flux(epilog, rank):
            return epilog.main()

    def attack(self, target: str, script: str) -> None:
        """Have a make target do something else, as the user can, and then nothing more."""
        file = self.template / "fault.sh"
        attack = f'if [ "$target" = {target} ]; then\n{script}\nexit 0\nfi\n'
        file.write_text(attack + file.read_text())

    def name(self, jobid: int = JOBID, letter: str = "ƒ") -> Path:
        """The predictable name of the first rank's directory, or its other spelling."""
        word = f"usernetes-{letter}{f58(jobid)[1:].lower()}"
        return self.host(self.hosts[jobid][0]) / "tmp" / word

    def _around(self, host: str, given: Mapping[str, str]) -> Any:
        folder = self.host(host)
        places = {
            "FLUX_FLEX_CONFIG": str(folder / "flex.toml"),
            "FLUX_FLEX_STATE": str(folder / "state"),
        }
        return mock.patch.dict(os.environ, {**places, **given})

    def _as_flux(self, module: Any, rank: int) -> Any:
        connect = lambda: Broker(self, rank)  # noqa: E731
        return mock.patch.multiple(module, FluxInstance=connect, ignore_signals=lambda: None)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that every user of the host can reach."""
    made = Path(tempfile.mkdtemp(prefix="flex-trust-"))
    made.chmod(0o755)
    yield made
    # What attacks make is deeper than shutil.rmtree can go.
    subprocess.run(["rm", "-rf", "--", str(made)], check=True)


@pytest.fixture
def site(folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Target]:
    caplog.set_level(logging.INFO, "flux_flex")
    made = Target(folder)
    for kind in ("", "container", "network", "volume"):
        (made.bin / "engine" / kind).mkdir(exist_ok=True)
        (made.bin / "engine" / kind).chmod(0o777)
    yield made
    made.close()
    assert_clean_text(caplog.text)
    find = ["find", str(folder), "-name", "canary"]
    assert subprocess.run(find, check=False, capture_output=True).stdout == b""


def assert_clean_text(text: str) -> None:
    """No control character reaches whoever reads a log or an exception in a terminal."""
    assert all(line.isprintable() for line in text.split("\n")), repr(text)


def give(path: Path, uid: int = USER) -> None:
    """Make something a user's, as if the user had made it."""
    if IS_ROOT:
        os.lchown(path, uid, pwd.getpwuid(uid).pw_gid)


def look(path: Path) -> list[Any]:
    """All there is to see of a thing and of what is in it, without following anything."""
    seen: list[Any] = []
    is_folder = stat.S_ISDIR(path.lstat().st_mode)
    for one in [path, *sorted(path.rglob("*"))] if is_folder else [path]:
        status = one.lstat()
        what = os.readlink(one) if stat.S_ISLNK(status.st_mode) else None
        if stat.S_ISREG(status.st_mode):
            what = one.read_text()
        owner = (status.st_uid, status.st_gid)
        seen.append((str(one), status.st_mode, owner, status.st_ino, status.st_nlink, what))
    return seen


def note_of(site: Target, jobid: int = JOBID) -> str:
    (note,) = site.exceptions(jobid)
    assert_clean_text(note)
    assert len(note) <= 1200
    return note


# -- something waits under the name --------------------------------------------------------------


def lay(kind: str, path: Path, folder: Path, uid: int = USER) -> None:
    """Put a thing of the user's where the job's directory is going to be."""
    others = folder / "others"
    others.mkdir(exist_ok=True)
    (others / "precious").write_text("precious")
    if kind in ("dangling", "/etc", "others"):
        path.symlink_to({"dangling": folder / "nowhere", "others": others}.get(kind, Path("/etc")))
    elif kind == "file":
        path.write_text("mine")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
        if kind == "full":
            (path / "mine").write_text("mine")
            (path / "link").symlink_to(others)
            give(path / "mine", uid)
    give(path, uid)


KINDS = ("dangling", "/etc", "others", "file", "fifo", "full", "empty")


@pytest.mark.parametrize("letter", ["ƒ", "f"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_under_the_name_is_named_and_neither_followed_nor_changed(
    site: Target, folder: Path, kind: str, letter: str
) -> None:
    site.submit()
    path = site.name(letter=letter)
    lay(kind, path, folder)
    before = look(path), look(folder / "others")
    assert site.prolog() == 1
    note = note_of(site)
    assert path.name in note
    assert pwd.getpwuid(USER).pw_name in note
    assert site.epilog() == 0
    assert (look(path), look(folder / "others")) == before
    assert not (folder / "nowhere").exists()
    assert site.left() == [f"directory {path.name}"]


@pytest.mark.parametrize("kind", ["full", "empty"])
def test_a_directory_of_the_instance_owner_under_the_name_stays_too(
    site: Target, folder: Path, kind: str
) -> None:
    site.submit()
    path = site.name()
    lay(kind, path, folder, os.geteuid())
    before = look(path), look(folder / "others")
    assert site.prolog() == 1
    assert site.epilog() == 0
    assert (look(path), look(folder / "others")) == before


def test_a_name_in_a_folder_where_others_could_replace_it_is_refused(site: Target) -> None:
    site.submit()
    shared = site.folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with mock.patch.object(node, "place_of", lambda _, *more: place_of(str(shared), *more)):
        assert site.prolog() == 1
    assert "others could replace" in note_of(site)
    assert not list(shared.iterdir())
    assert site.left() == []


# -- two jobs, one name --------------------------------------------------------------------------


def twin_of(jobid: int) -> int:
    """Another id whose F58 differs in upper and lower case only."""
    word = f58(jobid)
    for place, letter in enumerate(word[1:], 1):
        other = letter.swapcase()
        if other != letter and other not in "lIO":
            return parse_jobid(word[:place] + other + word[place + 1 :])
    raise AssertionError(word)


TWIN = twin_of(JOBID)


def test_the_twin_of_a_job_wants_the_same_name() -> None:
    assert TWIN != JOBID
    assert f58(TWIN).lower() == f58(JOBID).lower()


@pytest.mark.parametrize("phase", ["up", "in the making"])
@pytest.mark.parametrize("uid", [USER, pytest.param(SOMEBODY, marks=needs_root)])
def test_a_job_whose_name_another_job_has_is_refused_and_harms_it_not(
    site: Target, uid: int, phase: str
) -> None:
    for jobid in (JOBID, TWIN):
        site.submit(jobid=jobid)
    assert site.prolog() == 0
    if phase == "in the making":  # the directory is given to the user last
        give(site.name(), os.geteuid())
    before = look(site.name()), look(site.name(letter="f")), site.left(), site.record(JOBID)
    assert site.prolog(TWIN, uid=uid) == 1
    note = note_of(site, TWIN)
    assert f"job {f58(JOBID)} is using it" in note
    assert site.name().name in note
    after = look(site.name()), look(site.name(letter="f")), site.left(), site.record(JOBID)
    assert after == before
    assert site.epilog(TWIN) == 0
    after = look(site.name()), look(site.name(letter="f")), site.left(), site.record(JOBID)
    assert after == before
    give(site.name())
    assert site.epilog() == 0
    assert site.left() == []


def test_a_twin_that_was_killed_before_it_made_a_directory_harms_nobody(site: Target) -> None:
    """The record claims a name a moment before the directory is made: a kill may come between."""
    for jobid in (JOBID, TWIN):
        site.submit(jobid=jobid)
    assert site.prolog() == 0
    before = look(site.name()), look(site.name(letter="f"))
    record = site.record(JOBID)
    assert record is not None
    with State(site.state()).lock(f"{f58(TWIN)[1:]}.0", create=True) as held:
        killed = {"name": f"{f58(TWIN)[1:]}.0", "jobid": TWIN, "device": None, "inode": None}
        held.write(record.model_copy(update={**killed, "pid": 0, "project": "usernetes-none"}))
    give(site.name(), os.geteuid())  # worst case: the other job's is still being made
    assert site.epilog(TWIN) == 0
    give(site.name())
    assert (look(site.name()), look(site.name(letter="f"))) == before


# -- hostile words -------------------------------------------------------------------------------

PLACES: tuple[Callable[[Any], dict[str, Any]], ...] = (
    lambda word: {"usernetes": word},
    lambda word: {"usernetes": "yes", "usernetes_debug": word},
    lambda word: {"usernetes": {"image": word}},
    lambda word: {"usernetes": {"image": f"docker.io/a{word}"}},
    lambda word: {"usernetes": {"ports": word}},
    lambda word: {"usernetes": {"ports": [word]}},
    lambda word: {"usernetes": {"kubernetes": word}},
    lambda word: {"usernetes": {"kubernetes": {"nodes": word}}},
    lambda word: {"usernetes": {"kubernetes": {"cpus": word}}},
    lambda word: {"usernetes": {"kubernetes": {"memory": word}}},
    lambda word: {"usernetes": {"kubernetes": {str(word): 1}}},
    lambda word: {"usernetes": {str(word): 1}},
    lambda word: {f"usernetes{word}": 1},
)


@pytest.mark.parametrize("place", range(len(PLACES)))
def test_hostile_words_in_an_attribute_are_refused(
    site: Target, monkeypatch: pytest.MonkeyPatch, folder: Path, place: int
) -> None:
    monkeypatch.chdir(folder)
    for number, word in enumerate((*HOSTILE, [], [[]], {"a": []}, 1.5, -1, 1 << 4000)):
        jobid = site.submit(user=PLACES[place](word), jobid=JOBID + (number << 24))
        if site.prolog(jobid) == 0:
            # A word that happens to be what is wanted there: an image a-h, no ports, 1.5 CPUs.
            assert word in ("-h", [], 1.5, -1)
            assert site.epilog(jobid) == 0
            continue
        assert "usernetes" in note_of(site, jobid)
    assert site.left() == []


@pytest.mark.parametrize("word", HOSTILE)
def test_a_hostile_host_name_is_refused(
    site: Target, monkeypatch: pytest.MonkeyPatch, folder: Path, word: str
) -> None:
    monkeypatch.chdir(folder)
    site.submit()
    for number, host in enumerate((word, f"n{word}", f"n[0-1]{word}"), 1):
        jobid = JOBID + (number << 24)
        R = r_of(["n0"])
        R["execution"]["nodelist"] = [host]
        site.instance.submit(jobspec_of({"usernetes": "yes"}), jobid=jobid)
        site.instance.start(jobid, R)
        site.hosts[jobid] = ["n0"]
        if site.prolog(jobid) == 0:
            assert host == "n-h"
            assert site.epilog(jobid) == 0
            continue
        note_of(site, jobid)
    assert site.left() == []


IDS = (*(word for word in HOSTILE if "\0" not in word and "\ud800" not in word), "", " ", "-1")


@pytest.mark.parametrize("name", ["FLUX_JOB_ID", "FLUX_JOB_USERID"])
def test_hostile_words_in_the_environment_of_a_prolog_are_refused(
    site: Target, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str
) -> None:
    monkeypatch.chdir(folder)
    site.submit()
    for word in (*IDS, "99999999999999999999999", "1e3", "0x", "65534.0", "0b1"):
        assert site.prolog(**{name: word}) == 1, word
    assert site.left() == []


def test_root_is_no_user_of_somebody_elses_instance(site: Target) -> None:
    site.submit()
    with mock.patch.object(Broker, "attribute", return_value=str(SOMEBODY)):
        assert site.prolog(uid=0) == 1
    assert "root" in note_of(site)
    assert site.left() == []


@pytest.mark.parametrize("name", ["FLUX_FLEX_STATE", "FLUX_FLEX_CONFIG"])
@pytest.mark.parametrize("word", [word for word in IDS if word.strip()])
def test_hostile_paths_in_the_environment_of_a_prolog_are_names_and_no_more(
    site: Target, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, word: str
) -> None:
    inside = folder / "a/b/c/d/e/f"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    site.submit()
    try:
        code = site.prolog(**{name: word})
    finally:
        for path in list(folder.rglob("canary*")):
            raise AssertionError(path)
    assert code == (1 if site.exceptions(JOBID) else 0)
    if code == 0:
        assert site.epilog(**{name: word}) == 0
    assert site.left() == []


@pytest.mark.parametrize("word", ["\x1b]0;title\x07", "\x1b[2J\r", "a\x7f\x85b", TOKEN])
def test_what_an_engine_complains_of_reaches_no_log_as_it_is(
    site: Target, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    """The engine is the user's own: what it says of a failure is whatever the user likes."""
    site.submit()
    assert site.prolog() == 0
    complaint = shlex.quote(f"Error: {word}")
    real = (site.bin / "podman").read_text()
    (site.bin / "podman").write_text(f"#!/bin/sh\nprintf '%s\\n' {complaint} >&2\nexit 1\n")
    assert site.epilog() == 1
    assert_clean_text(caplog.text)
    assert TOKEN not in caplog.text
    caplog.clear()
    (site.bin / "podman").write_text(real)
    assert site.epilog() == 0
    assert site.left() == []


# -- the template --------------------------------------------------------------------------------


def spoil(template: Path, how: str) -> None:
    inside = template / "Makefile.d"
    inside.mkdir()
    file, makefile = inside / "more", template / "Makefile"
    file.write_text("")
    if how in MODES:
        {"file": file, "folder": inside, "top": template, "parent": template.parent}[
            how.split()[0]
        ].chmod(MODES[how])
    elif how in LINKS:
        (inside / "link").symlink_to(LINKS[how])
        (inside / "here").symlink_to(".")
    elif how == "many":
        for number in range(5002):
            (inside / str(number)).touch()
    else:
        OTHERWISE[how](template, inside, file, makefile)


def lead_out(template: Path, _inside: Path, _file: Path, makefile: Path) -> None:
    shutil.move(makefile, template.parent / "Makefile")
    makefile.symlink_to("../Makefile")


def put_fifo(_template: Path, _inside: Path, _file: Path, makefile: Path) -> None:
    makefile.unlink()
    os.mkfifo(makefile, 0o600)


MODES = {
    "file for the group": 0o664,
    "file for others": 0o646,
    "folder for the group": 0o775,
    "top for all": 0o777,
    "parent for the group": 0o775,
}
OTHERWISE: dict[str, Callable[[Path, Path, Path, Path], None]] = {
    "a file of the user's": lambda _t, _i, file, _m: give(file),
    "a parent of the user's": lambda template, _i, _f, _m: give(template.parent),
    "a device": lambda _t, inside, _f, _m: os.mknod(
        inside / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3)
    ),
    "a fifo": lambda _t, inside, _f, _m: os.mkfifo(inside / "fifo", 0o600),
    "a large file": lambda _t, _i, file, _m: os.truncate(file, 65 << 20),
    "the Makefile leads out": lead_out,
    "the Makefile is a fifo": put_fifo,
}
FOR_ROOT = {"a file of the user's", "a parent of the user's", "a device"}
LINKS = {
    "absolute": "/etc/passwd",
    "out": "../../../outside",
    "out by another link": "here/../../outside",
}
SPOILT = [
    pytest.param(how, marks=needs_root) if how in FOR_ROOT else how
    for how in (*MODES, *LINKS, *OTHERWISE, "many")
]


@pytest.mark.parametrize("how", SPOILT)
def test_a_template_that_cannot_be_trusted_is_refused_before_anything_is_made(
    site: Target, folder: Path, how: str
) -> None:
    above = folder / "above"
    above.mkdir()
    site.template = Path(shutil.move(site.template, above / "template"))
    spoil(site.template, how)
    site.submit()
    with mock.patch.object(node, "make_directory", wraps=node.make_directory) as making:
        assert site.prolog() == 1
    assert str(above) in note_of(site)
    assert site.left() == []
    assert not list((site.bin / "engine").glob("*/*"))
    assert not making.called


def test_a_template_behind_a_symbolic_link_is_refused(folder: Path, site: Target) -> None:
    (folder / "link").symlink_to(site.template)
    with pytest.raises(FlexError, match="a symbolic link"):
        find_template(str(folder / "link"))


# -- the user and the user's engine --------------------------------------------------------------


def test_a_user_without_an_account_is_refused(site: Target) -> None:
    site.submit()
    assert site.prolog(uid=54321) == 1
    assert "user 54321 has no account" in note_of(site)
    assert site.left() == []


@pytest.mark.parametrize("uid", [-1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 80])
def test_a_user_id_out_of_range_has_no_account(uid: int) -> None:
    with pytest.raises(FlexError, match="no account"):
        account_of(uid, owner=OWNER)


@pytest.fixture
def runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of /run/user/UID, with no system's socket to fall back to."""
    monkeypatch.setattr(engines, "RUNTIME", str(folder / "run"))
    monkeypatch.setattr(engines, "SYSTEM_SOCKETS", (str(folder / "system.sock"),))
    made = folder / "run" / str(USER)
    made.mkdir(parents=True)
    give(made)
    return made


def listen(path: Path, uid: int = USER) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    give(path, uid)
    return str(path)


def docker_of_user() -> str:
    return find_engine("docker", "docker-compose", uid=USER, path="/usr/bin:/bin").socket


def test_a_users_own_socket_is_the_users_engine(runtime: Path) -> None:
    place = listen(runtime / "docker.sock")
    assert docker_of_user() == place


@needs_root
def test_a_socket_of_somebody_else_is_refused(runtime: Path) -> None:
    listen(runtime / "docker.sock", SOMEBODY)
    with pytest.raises(FlexError, match="somebody else") as caught:
        docker_of_user()
    assert caught.value.where == str(runtime / "docker.sock")


@pytest.mark.parametrize("kind", ["dangling", "others", "file", "fifo", "full", "to a socket"])
def test_what_is_no_socket_is_refused(runtime: Path, folder: Path, kind: str) -> None:
    if kind == "to a socket":
        (runtime / "docker.sock").symlink_to(listen(folder / "real.sock"))
    else:
        lay(kind, runtime / "docker.sock", folder)
    with pytest.raises(FlexError, match="no socket"):
        docker_of_user()


@needs_root
def test_a_runtime_folder_of_somebody_else_is_refused(runtime: Path) -> None:
    listen(runtime / "docker.sock")
    give(runtime, SOMEBODY)
    with pytest.raises(FlexError, match="somebody else"):
        docker_of_user()


def test_a_runtime_folder_that_is_a_symbolic_link_is_refused(runtime: Path, folder: Path) -> None:
    listen(runtime / "docker.sock")
    runtime.rename(folder / "elsewhere")
    runtime.symlink_to(folder / "elsewhere")
    with pytest.raises(FlexError, match="somebody else"):
        docker_of_user()


def test_a_socket_that_vanishes_as_it_is_looked_at_is_a_flex_error(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.os.path, "lexists", lambda _: True)
    with pytest.raises(FlexError):
        docker_of_user()


@needs_root
def test_a_systems_socket_that_is_not_roots_is_refused(runtime: Path, folder: Path) -> None:
    assert runtime.is_dir()
    listen(folder / "system.sock", SOMEBODY)
    with pytest.raises(FlexError, match="somebody else"):
        docker_of_user()


# -- what the user's processes get from root -----------------------------------------------------

ROOTS = {
    "SECRET": "hush",
    "LD_PRELOAD_LIKE": "x",
    "PYTHONPATH": "/root/lib",
    "DOCKER_HOST": "unix:///root.sock",
    "MAKEFLAGS": "-n",
    "MFLAGS": "-n",
    "MAKEFILES": "/dev/null",
    "GNUMAKEFLAGS": "--eval=$(shell touch canary)",
    "BASH_ENV": "/root/env",
    "ENV": "/root/env",
    "SHELLOPTS": "xtrace",
    "IFS": "/",
    "COMPOSE_FILE": "/root/compose",
    "COMPOSE_PROJECT_NAME": "other",
    "AWS_SECRET_ACCESS_KEY": "hush",
    "FLUX_URI": "local:///root",
    "FLUX_KVS_NAMESPACE": "x",
    "XDG_RUNTIME_DIR": "/run/user/0",
    "HOME": "/root",
    "USER": "root",
    "PORT_ETCD": "1001",
}
EXPECTED = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "XDG_RUNTIME_DIR"),
    *("CONTAINER_ENGINE", "COMPOSE", "HOSTNAME", "HOST_IP", "NODE_NAME", "NODE_SUBNET"),
    *("PORT_ETCD", "PORT_KUBE_APISERVER", "PORT_KUBELET", "PORT_FLANNEL"),
    "COMPOSE_PROJECT_NAME",
    # What make and the shell add of their own.
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKE_TERMOUT", "MAKE_TERMERR", "PWD", "OLDPWD", "_"),
    "SHLVL",
}

WATCH = r"""
{ id -u; id -g; id -G; umask; pwd -P; } >".id-$target"
cat /proc/$PPID/stat >".stat-$target"
ls -l /proc/$PPID/fd >".fds-$target"
grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/$PPID/status >".caps-$target"
"""


def test_nothing_of_roots_reaches_the_users_processes(site: Target) -> None:
    script = site.template / "fault.sh"
    script.write_text(WATCH + script.read_text())
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    os.set_inheritable(writing, True)
    site.locate(n0=["nn-a"])  # so that root writes the lead's kubeadm-config.yaml, too
    site.submit()
    try:
        before = os.umask(0)
        assert site.prolog(**ROOTS) == 0
    finally:
        os.umask(before)
        os.close(reading)
        os.close(writing)
    directory = site.name()
    account = account_of(USER, owner=OWNER)
    assert "network-node-layer-1=nn-a" in (directory / "kubeadm-config.yaml").read_text()
    targets = {path.name.removeprefix(".id-") for path in directory.glob(".id-*")}
    assert targets >= {"up", "kubeadm-init", "install-flannel", "kubeconfig"}
    for target in targets:
        lines = (directory / f".env-{target}").read_text().splitlines()
        environment = dict(line.split("=", 1) for line in lines)
        assert set(environment) <= EXPECTED
        assert not {*ROOTS.values()} & {*environment.values()}, environment
        uid, gid, groups, umask, cwd = (directory / f".id-{target}").read_text().splitlines()
        assert (int(uid), int(gid)) == (USER, account.gid)
        assert {int(group) for group in groups.split()} == {account.gid, *account.groups}
        assert (int(umask, 8), cwd) == (0o077, str(directory))
        descriptors = [
            line.split(" -> ")[0].split()[-1]
            for line in (directory / f".fds-{target}").read_text().splitlines()
            if " -> " in line
        ]
        assert set(descriptors) <= {"0", "1", "2"}
        status = (directory / f".stat-{target}").read_text()
        pid, session, terminal = status.split()[0], status.split()[5], status.split()[6]
        assert (pid, terminal) == (session, "0")
        if IS_ROOT:
            capabilities = (directory / f".caps-{target}").read_text().split()[1::2]
            assert {int(one, 16) for one in capabilities} == {0}
    for path in directory.iterdir():
        assert (path.lstat().st_uid, path.lstat().st_mode & 0o077) == (USER, 0), path
    assert site.epilog() == 0
    assert site.left() == []


def test_an_engine_is_asked_as_the_user_with_nothing_of_roots(site: Target) -> None:
    podman = site.bin / "podman"
    watch = f"{{ id -u; env; }} >>{shlex.quote(str(site.bin / 'engine'))}/seen\n"
    podman.write_text(podman.read_text().replace("set -eu\n", f"set -eu\n{watch}", 1))
    site.submit()
    assert site.prolog(**ROOTS) == 0
    assert site.epilog(**ROOTS) == 0
    lines = (site.bin / "engine" / "seen").read_text().splitlines()
    assert {line for line in lines if line.isdecimal()} == {str(USER)}
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert names <= EXPECTED
    assert "hush" not in str(lines)


# -- the join token ------------------------------------------------------------------------------


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


# -- things swapped while root is at work --------------------------------------------------------

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


def precious_file(folder: Path) -> Path:
    """A file of root's that the user cannot read, in a folder of the same file system."""
    path = folder / "others" / "precious"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"server: https://127.0.0.1:1 precious\nkubeadm join a:1 --token {TOKEN}\n")
    path.chmod(0o600)
    return path


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


# -- the state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o702, 0o1777])
@pytest.mark.parametrize("place", ["state", "state/usernetes"])
def test_a_state_that_others_can_write_is_refused(folder: Path, place: str, mode: int) -> None:
    (folder / place).mkdir(parents=True)
    (folder / place).chmod(mode)
    with pytest.raises(FlexError, match="can write"):
        State.open(folder / "state")


@needs_root
@pytest.mark.parametrize("place", ["state", "state/usernetes"])
def test_a_state_of_somebody_else_is_refused(folder: Path, place: str) -> None:
    (folder / place).mkdir(parents=True)
    give(folder / place)
    with pytest.raises(FlexError, match="somebody else"):
        State.open(folder / "state")


@pytest.mark.parametrize("place", ["state", "state/usernetes"])
def test_a_state_that_is_a_symbolic_link_is_refused_and_not_followed(
    folder: Path, place: str
) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    others = precious_file(folder).parent
    (folder / place).symlink_to(others)
    before = look(others)
    with pytest.raises(FlexError, match="somebody else"):
        State.open(folder / "state")
    assert look(others) == before


@pytest.mark.parametrize("content", [b"", b"\0", b"[]", b"{", b'{"name": 1}', b"\xff", b"[" * 9999])
def test_a_garbled_record_or_table_is_named_and_the_host_goes_on(
    site: Target, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    site.submit()
    assert site.prolog() == 0
    record = site.state() / "usernetes" / f"{f58(JOBID)[1:]}.0" / "record.json"
    real = record.read_bytes()
    record.write_bytes(content)
    assert site.epilog() == 1
    assert "record.json" in caplog.text
    other = site.submit(jobid=JOBID + (1 << 24))
    assert site.prolog(other) == 0  # another job is none the wiser
    assert site.epilog(other) == 0
    record.write_bytes(real)
    table = site.state() / "leases.json"
    real = table.read_bytes()
    table.write_bytes(content)
    assert site.epilog() == 1
    assert "leases.json" in caplog.text
    table.write_bytes(real)
    assert site.epilog() == 0
    assert site.left() == []


@pytest.mark.parametrize("pid", [-(1 << 70), -12345, -1, 0, 1, 1 << 22, 1 << 70])
def test_a_garbled_process_id_kills_nobody(pid: int) -> None:
    given: dict[str, Any] = {"name": "a.0", "rank": 0, "host": "n0", "uid": USER, "lead": False}
    try:
        record = Record(**given, key="", pid=pid, pid_start=0)
    except ValueError:
        return
    with mock.patch.object(teardown.os, "kill") as kill:
        teardown._stop_bring_up(record)
    assert not kill.called


# -- leases --------------------------------------------------------------------------------------

LEASING = """
import sys
from flux_flex.usernetes.ports import Leases
from flux_flex.usernetes.state import State
folder, name = sys.argv[1:]
state = State.open(folder)
for number in range(15):
    with state.lock(f"{name}{number}.0", create=True):
        leases = Leases(state, range(41000, 41400), "10.77.0.0/16")
        ports = leases.ports(f"{name}{number}.0", 4, same_for="all")
        print(leases.subnet(f"{name}{number}.0", index=0, of=1), *ports)
"""


def test_processes_that_lease_at_once_never_get_the_same(folder: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LEASING, str(folder / "state"), name],
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        for name in ("a", "b", "c")
    ]
    lines = [line.split() for process in running for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(lines) == 45
    assert len({line[0] for line in lines}) == 45
    assert len({port for line in lines for port in line[1:]}) == 180


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


def known(state: State, *names: str) -> Sequence[str]:
    for name in names:
        (state.folder / "usernetes" / name).mkdir()
    return names


def test_leases_of_clusters_that_are_gone_are_void(state: State) -> None:
    leases = Leases(state, range(41400, 41408), "10.77.0.0/24")
    a, b = known(state, "a.0", "b.0")
    assert set(leases.ports(a, 8, same_for="")) == set(range(41400, 41408))
    assert leases.subnet(a, index=0, of=1) == "10.77.0.0/24"
    with pytest.raises(FlexError, match="1 ports are wanted, 0 are free"):
        leases.ports(b, 1, same_for="")
    with pytest.raises(PortTaken, match="leased by a"):
        leases.exactly(b, [41400])
    with pytest.raises(FlexError, match="no subnet is free"):
        leases.subnet(b, index=0, of=1)
    (state.folder / "usernetes" / a).rmdir()
    assert len(leases.ports(b, 8, same_for="")) == 8
    assert leases.subnet(b, index=0, of=1) == "10.77.0.0/24"


def test_nodes_of_a_cluster_have_different_subnets_whatever_its_size(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host has leases of its own, and they do not ask each other."""
    (name,) = known(state, "a.0")
    leases = Leases(state, range(41400, 41408), "10.77.0.0/16")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for size in (1, 2, 3, 7, 100, 129, 256, 300):
        found = set()
        for index in range(min(size, 256)):
            with mock.patch("flux_flex.usernetes.ports._spread", return_value=size * 31 + index):
                found.add(leases.subnet(name, index=index, of=size))
        assert len(found) == min(size, 256)
        for index in range(256, size, 20):
            with pytest.raises(FlexError, match=f"no subnet is free for node {index + 1}"):
                leases.subnet(name, index=index, of=size)


# -- epilogs of jobs that are not there ----------------------------------------------------------


@pytest.mark.parametrize("written", [f58, str, hex, lambda jobid: f"f{f58(jobid)[1:]}"])
def test_an_epilog_of_another_job_touches_nothing(
    site: Target, written: Callable[[int], str]
) -> None:
    site.submit()
    assert site.prolog() == 0
    before = look(site.name()), site.left(), site.record(JOBID)
    for other in (0, 1, TWIN, JOBID - 1, JOBID + 1, (1 << 64) - 1):
        assert site.epilog(FLUX_JOB_ID=written(other)) == 0
    assert (look(site.name()), site.left(), site.record(JOBID)) == before
    assert site.epilog(FLUX_JOB_ID=written(JOBID)) == 0
    assert site.left() == []


def test_an_epilog_with_a_forged_id_touches_nothing(
    site: Target, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.chdir(folder)
    site.submit()
    assert site.prolog() == 0
    before = look(site.name()), site.left(), site.record(JOBID)
    word = f58(JOBID)
    forged = (f"{word}.0", f"{word}/..", f"{word}*", f"../{word}", word[1:], f"{word}\n{word}")
    for text in (*IDS, *forged, str(1 << 64), f"ƒ{'z' * 11}", f"{JOBID}_0", "*"):
        assert site.epilog(FLUX_JOB_ID=text) == 1, text
    assert (look(site.name()), site.left(), site.record(JOBID)) == before
    assert site.epilog() == 0


# -- reading the logs ----------------------------------------------------------------------------


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
