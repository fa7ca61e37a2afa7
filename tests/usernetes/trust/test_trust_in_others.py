"""Templates, users and engines that root meets, and what the user's processes get from root."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from trust_site import (
    IS_ROOT,
    OWNER,
    SOMEBODY,
    USER,
    Target,
    give,
    lay,
    needs_root,
    note_of,
)

from flux_flex.errors import FlexError
from flux_flex.host import engines
from flux_flex.host.engines import find_engine
from flux_flex.usernetes import node
from flux_flex.usernetes.account import account_of
from flux_flex.usernetes.tree import find_template

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
