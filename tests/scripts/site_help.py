"""A checkout, a Python and a Flux of a test's own, with spaces and quotes in every path."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = "/usr/sbin:/usr/bin:/sbin:/bin"

# "-m flux_flex…" is noted, and answered by the test's hook, or else with an exit code that nothing
# else has.
_PYTHON = """\
#!/bin/sh
case "$*" in *'-m flux_flex'*)
    printf '%s\\n' "$*" >>{log}
    [ ! -x {hook} ] || exec {hook} "$@"
    exit 42 ;;
esac
[ "$1" != -I ] || shift
PYTHONPATH={root} exec {python} "$@"
"""

# Each call is noted. {answers} are the lines of a case statement.
_FLUX = """\
#!/bin/sh
printf '%s\\n' "$*" >>{log}
case "$*" in
{answers}
*) exit 1 ;;
esac
"""


@dataclass
class Site:
    """Where one test installs: `root` has it all."""

    root: Path
    checkout: Path = field(init=False)
    python: Path = field(init=False)
    log: Path = field(init=False)  # what `python` was asked to run of flux_flex
    hook: Path = field(init=False)  # a program that a test may put there, see _PYTHON
    flux_log: Path = field(init=False)  # every call of fake_flux
    system: Path = field(init=False)
    prefix: Path = field(init=False)
    destdir: Path | None = None

    def __post_init__(self) -> None:
        self.checkout = self.root / "check out"
        self.log = self.root / "python.log"
        self.hook = self.root / "hook"
        self.flux_log = self.root / "flux.log"
        self.system = self.root / """it's "etc"/flux/system"""
        self.prefix = self.root / "fl'ux $(prefix) \\&"
        shutil.copytree(ROOT / "scripts", self.checkout / "scripts")
        shutil.copytree(ROOT / "etc", self.checkout / "etc")
        (self.checkout / "etc/flux/flex.toml").write_text("# as shipped\n")
        self.python = write_program(
            self.root / """a "python's" $HOME""",
            _PYTHON.format(
                log=shlex.quote(str(self.log)),
                hook=shlex.quote(str(self.hook)),
                root=shlex.quote(str(ROOT)),
                python=shlex.quote(sys.executable),
            ),
        )

    def run(
        self,
        script: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        umask: int = -1,
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": COMMANDS, "PYTHON": str(self.python), **(env or {})}
        if self.destdir:
            environment["DESTDIR"] = str(self.destdir)
        argv = [str(self.checkout / "scripts" / script), *arguments]
        return subprocess.run(
            argv, env=environment, cwd=cwd, umask=umask, capture_output=True, text=True, check=False
        )

    def install(self, *options: str, umask: int = -1) -> subprocess.CompletedProcess[str]:
        where = (str(self.system), str(self.prefix))
        return self.run("install-scripts.sh", *options, *where, umask=umask)

    def in_destdir(self, system: str = "/etc/flux/system", prefix: str = "/usr") -> Site:
        """This site, from now on installed under the usual paths, but below DESTDIR."""
        self.system, self.prefix = Path(system), Path(prefix)
        self.destdir = self.root / "dest dir"
        self.destdir.mkdir()
        return self

    def below(self, place: str | Path) -> Path:
        """Where a path is below DESTDIR."""
        assert self.destdir
        return self.destdir / str(place).lstrip("/")

    def configure(self, broker: str, imp: str = "") -> None:
        for name, text in (("system", broker), ("imp", imp)):
            directory = self.below("etc/flux") / name / "conf.d"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "site.toml").write_text(text)

    def fake_flux(self, answers: Mapping[str, str] | None = None) -> Path:
        """PREFIX/bin/flux, which prints what `answers` has for its arguments, or else fails."""
        lines = [
            f"{shlex.quote(asked)}) printf '%s\\n' {shlex.quote(told)} ;;"
            for asked, told in (answers or {}).items()
        ]
        text = _FLUX.format(log=shlex.quote(str(self.flux_log)), answers="\n".join(lines))
        return write_program(self.prefix / "bin/flux", text)

    def asked_of_flux(self) -> list[str]:
        return self.flux_log.read_text().splitlines() if self.flux_log.exists() else []

    def asked_of_python(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def shells() -> list[str]:
    """Every kind of sh that is here and that a node may have."""
    wanted: Mapping[str, Callable[[], bool]] = {
        "sh": lambda: True,
        "dash": lambda: shutil.which("dash") is not None,
        "bash --posix": lambda: shutil.which("bash") is not None,
        "busybox sh": lambda: shutil.which("busybox") is not None,
    }
    return [name for name, here in wanted.items() if here()]


def environment(**variables: str) -> dict[str, str]:
    return {"PATH": COMMANDS, "LC_ALL": "C", **variables}


def real_flux_environment(**variables: str) -> dict[str, str]:
    """This process's own, without what ties it to an instance that it may run in."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("FLUX_")}
    return {**ours, **variables}
