"""What is installed, run as Flux runs it: by every sh that is here, with a scripted flux."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from site_help import ROOT, Site, environment, shells

ID = "ƒf2QT1HSJy5"  # the first digit is an f: only the prefix may go
UTF8 = "C.UTF-8"

every_shell = pytest.mark.parametrize("shell", shells())
both_spellings = pytest.mark.parametrize(
    ("spelling", "locale"), [(ID, "C"), (ID, UTF8), ("f" + ID[1:], "C"), ("f" + ID[1:], UTF8)]
)


def jobspec(**user: object) -> str:
    return json.dumps({"version": 1, "attributes": {"user": user}}, separators=(",", ":"))


def run_script(
    shell: str, script: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    argv = [*shell.split(), str(script), *arguments]
    env = environment(**variables)
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("installed"))
    done = site.install("--span")
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def installed(installed_once: Site) -> Site:
    """The installed scripts, without what earlier tests noted or scripted."""
    for left in (installed_once.log, installed_once.flux_log, installed_once.prefix / "bin/flux"):
        left.unlink(missing_ok=True)
    return installed_once


# ---- prolog -------------------------------------------------------------------------------------


def prolog(
    site: Site, shell: str = "sh", spec: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    job = variables.get("FLUX_JOB_ID", "")
    site.fake_flux({f"job info {job} jobspec": spec} if spec else {})
    return run_script(shell, site.system / "prolog.d/50-flux-flex", **variables)


@every_shell
def test_job_that_does_not_ask_costs_one_flux_command_and_no_python(
    installed: Site, shell: str
) -> None:
    done = prolog(installed, shell, jobspec(usernet="yes"), FLUX_JOB_ID=ID)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert installed.asked_of_flux() == [f"job info {ID} jobspec"]
    assert installed.asked_of_python() == []


@every_shell
@both_spellings
def test_job_that_asks_is_handed_to_python(
    installed: Site, shell: str, spelling: str, locale: str
) -> None:
    spec = jobspec(usernetes={"nodes": 2})
    done = prolog(installed, shell, spec, FLUX_JOB_ID=spelling, LC_ALL=locale)
    assert done.returncode == 42, "the exit code is that of flux_flex"
    assert installed.asked_of_python() == ["-I -m flux_flex.usernetes.prolog"]


@every_shell
def test_jobspec_that_cannot_be_read_fails_the_prolog(installed: Site, shell: str) -> None:
    done = prolog(installed, shell, FLUX_JOB_ID=ID)
    assert done.returncode == 1
    assert f"cannot read the jobspec of job {ID}" in done.stderr
    assert installed.asked_of_python() == []


@pytest.mark.parametrize("kind", ["prolog", "epilog"])
@every_shell
def test_script_without_a_job_says_so(installed: Site, shell: str, kind: str) -> None:
    done = run_script(shell, installed.system / f"{kind}.d/50-flux-flex")
    assert done.returncode == 1
    assert f"flux-flex {kind}: FLUX_JOB_ID is not set" in done.stderr


def test_hostile_job_id_is_no_command(installed: Site, tmp_path: Path) -> None:
    hostile = f'"; touch {tmp_path}/made; $(touch {tmp_path}/made) `touch {tmp_path}/made`'
    assert prolog(installed, FLUX_JOB_ID=hostile).returncode == 1
    assert epilog(installed, hostile).returncode == 42
    assert not (tmp_path / "made").exists()


# ---- the span -----------------------------------------------------------------------------------


def span(
    site: Site, shell: str, rank: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    site.fake_flux({"getattr rank": rank} if rank else {})
    return run_script(shell, site.system / "prolog.d/51-flux-flex-span", **variables)


@every_shell
@pytest.mark.parametrize("ranks", ["2-3", "2,7-9", "[2-3]", "2,3"])
@pytest.mark.parametrize("rank", ["2", "3", "0", "23"])
def test_only_the_first_rank_of_a_job_starts_python(
    installed: Site, shell: str, ranks: str, rank: str
) -> None:
    done = span(installed, shell, rank, FLUX_JOB_ID=ID, FLUX_JOB_RANKS=ranks)
    assert done.returncode == 0
    wanted = ["-I -m flux_flex.topology.jobs"] if rank == "2" else []
    assert installed.asked_of_python() == wanted
    assert installed.asked_of_flux() == ["getattr rank"]


@every_shell
@pytest.mark.parametrize("ranks", ["0", "17", "[5]"])
def test_a_job_of_one_rank_costs_nothing(installed: Site, shell: str, ranks: str) -> None:
    done = span(installed, shell, "17", FLUX_JOB_ID=ID, FLUX_JOB_RANKS=ranks)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert installed.asked_of_flux() == installed.asked_of_python() == []


@every_shell
def test_where_flux_does_not_tell_the_ranks_python_asks_for_them(
    installed: Site, shell: str
) -> None:
    assert span(installed, shell, "3", FLUX_JOB_ID=ID).returncode == 0
    assert installed.asked_of_python() == ["-I -m flux_flex.topology.jobs"]


@every_shell
def test_a_span_that_cannot_be_recorded_fails_no_job_and_is_said(
    installed: Site, shell: str
) -> None:
    job = {"FLUX_JOB_ID": ID, "FLUX_JOB_RANKS": "0-1"}
    for rank, variables, said in (
        ("0", job, "not recorded: flux_flex ended with 42"),
        ("", job, "flux getattr failed"),
        ("0", {}, "FLUX_JOB_ID is not set"),
    ):
        done = span(installed, shell, rank, **variables)
        assert done.returncode == 0
        assert done.stderr.startswith("flux-flex span: ")
        assert said in done.stderr


def test_hostile_ranks_are_no_command(installed: Site, tmp_path: Path) -> None:
    for ranks in (f"0-1$(touch {tmp_path}/made)", f"0;touch {tmp_path}/made", "*", "-n", "0\n1"):
        assert span(installed, "sh", "0", FLUX_JOB_ID=ID, FLUX_JOB_RANKS=ranks).returncode == 0
    assert not (tmp_path / "made").exists()


# ---- epilog -------------------------------------------------------------------------------------


def epilog(
    site: Site, job: str, shell: str = "sh", **variables: str
) -> subprocess.CompletedProcess[str]:
    site.fake_flux()
    script = site.system / "epilog.d/50-flux-flex"
    return run_script(shell, script, FLUX_JOB_ID=job, **variables)


def record(state: Path, name: str = f"{ID[1:]}.0") -> None:
    (state / "usernetes" / name).mkdir(parents=True)


@every_shell
@both_spellings
def test_epilog_of_a_job_with_a_record_is_handed_to_python(
    installed: Site, tmp_path: Path, shell: str, spelling: str, locale: str
) -> None:
    state = tmp_path / "its state"
    record(state)
    done = epilog(installed, spelling, shell, FLUX_FLEX_STATE=str(state), LC_ALL=locale)
    assert done.returncode == 42
    assert installed.asked_of_python() == ["-I -m flux_flex.usernetes.epilog"]


@every_shell
@both_spellings
@pytest.mark.parametrize(
    "other", ["", "2QT1HSJy5.0", f"{ID[1:]}9.0", f"{ID[1:].lower()}.0", ID[1:], f"{ID[1:]}.tmp"]
)
def test_epilog_of_a_job_without_a_record_asks_nobody(
    installed: Site, tmp_path: Path, shell: str, spelling: str, locale: str, other: str
) -> None:
    record(tmp_path, other)
    done = epilog(installed, spelling, shell, FLUX_FLEX_STATE=str(tmp_path), LC_ALL=locale)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert installed.asked_of_flux() == installed.asked_of_python() == []


@pytest.mark.parametrize("job", ["1234567", "0x12ab", "hello-world", "ƒ", "f", "ƒ2/../x", "ƒ*"])
def test_id_in_another_form_is_left_to_python_to_read(
    installed: Site, tmp_path: Path, job: str
) -> None:
    assert epilog(installed, job, FLUX_FLEX_STATE=str(tmp_path)).returncode == 42


@every_shell
def test_record_of_an_ordinary_user_is_found_in_the_home(
    installed: Site, tmp_path: Path, shell: str
) -> None:
    record(tmp_path / "home/.local/state/flux-flex/some-host")
    record(tmp_path / "xdg/flux-flex/some-host")
    home, xdg = str(tmp_path / "home"), str(tmp_path / "xdg")
    assert epilog(installed, ID, shell, HOME=home).returncode == 42
    assert epilog(installed, ID, shell, XDG_STATE_HOME=xdg).returncode == 42
    assert epilog(installed, ID, shell, HOME=xdg).returncode == 0
    assert epilog(installed, ID, shell).returncode == 0


def test_record_elsewhere_does_not_count_where_the_place_is_given(
    installed: Site, tmp_path: Path
) -> None:
    record(tmp_path / "xdg/flux-flex/some-host")
    given = {"XDG_STATE_HOME": str(tmp_path / "xdg"), "FLUX_FLEX_STATE": str(tmp_path)}
    assert epilog(installed, ID, **given).returncode == 0


# ---- flux flex ----------------------------------------------------------------------------------


@every_shell
def test_flux_flex_hands_its_arguments_on(installed: Site, shell: str) -> None:
    command = installed.prefix / "libexec/flux/cmd/flux-flex"
    done = run_script(shell, command, "match", "a b", "--at=$x")
    assert done.returncode == 42
    assert installed.asked_of_python() == ["-I -m flux_flex match a b --at=$x"]


def test_validator_finds_flux_flex_after_everything_else(installed: Site) -> None:
    text = (installed.prefix / "libexec/flux/flux-flex-validator.py").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("sys.path"))
    assert line.startswith(f'sys.path += ["{ROOT}", "')


# ---- links of nested instances ------------------------------------------------------------------

OWN, OUTER = "ƒAbC", "ƒXyZ"


@pytest.fixture
def nested(installed: Site, tmp_path: Path) -> Path:
    """TMPDIR of an instance at level 2, with the directory of the job around it."""
    place = tmp_path / "t m p"
    (place / "usernetes-ƒxyz").mkdir(parents=True)
    instance_at(installed, level=2)
    return place


def instance_at(site: Site, level: int, own: str = OWN, outer: str = OUTER) -> None:
    site.fake_flux(
        {
            "getattr instance-level": str(level),
            "getattr jobid": own,
            "--parent getattr jobid": outer,
        }
    )


def rc(
    site: Site, place: Path, number: int = 1, shell: str = "sh", flux: str = ""
) -> subprocess.CompletedProcess[str]:
    script = site.system.parent / f"rc{number}.d/50-flux-flex"
    path = f"{flux or site.prefix / 'bin'}:{os.defpath}:{environment()['PATH']}"
    return run_script(shell, script, PATH=path, TMPDIR=str(place), LC_ALL=UTF8)


def links(place: Path) -> Mapping[str, str]:
    return {path.name: os.readlink(path) for path in place.iterdir() if path.is_symlink()}


def both(place: Path) -> Mapping[str, str]:
    target = str(place / "usernetes-ƒxyz")
    return {"usernetes-ƒabc": target, "usernetes-fabc": target}


@every_shell
def test_nested_instance_gets_links_and_gives_them_back(
    installed: Site, nested: Path, shell: str
) -> None:
    for _ in range(2):  # the second is another broker on the same host
        done = rc(installed, nested, shell=shell)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert links(nested) == both(nested)
    for _ in range(2):
        assert rc(installed, nested, 3, shell).returncode == 0
        assert [path.name for path in nested.iterdir()] == ["usernetes-ƒxyz"]


@pytest.mark.parametrize(("own", "outer"), [("fAbC", "fXyZ"), ("ƒAbC", "fXyZ"), ("fAbC", "ƒXyZ")])
def test_spelling_of_the_ids_does_not_matter(
    installed: Site, nested: Path, own: str, outer: str
) -> None:
    instance_at(installed, 2, own, outer)
    rc(installed, nested)
    assert links(nested) == both(nested)


def test_instance_below_a_nested_one_is_linked_to_the_real_directory(
    installed: Site, nested: Path
) -> None:
    rc(installed, nested)
    instance_at(installed, 3, own="ƒDeF", outer=OWN)
    rc(installed, nested)
    assert set(links(nested)) == {f"usernetes-{name}" for name in ("ƒabc", "fabc", "ƒdef", "fdef")}
    assert set(links(nested).values()) == {str(nested / "usernetes-ƒxyz")}
    rc(installed, nested, 3)
    assert links(nested) == both(nested)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("number", [1, 3])
def test_instance_that_is_not_nested_pays_one_flux_command(
    installed: Site, nested: Path, level: int, number: int
) -> None:
    instance_at(installed, level)
    assert rc(installed, nested, number).returncode == 0
    assert installed.asked_of_flux() == ["getattr instance-level"]
    assert links(nested) == {}


def test_nothing_is_made_where_the_outer_job_has_no_directory(
    installed: Site, nested: Path
) -> None:
    (nested / "usernetes-ƒxyz").rmdir()
    done = rc(installed, nested)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(nested.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_has_the_name_already_is_not_touched(installed: Site, nested: Path, kind: str) -> None:
    taken = nested / "usernetes-ƒabc"
    if kind == "directory":
        taken.mkdir()
    elif kind == "file":
        taken.write_text("mine")
    else:
        taken.symlink_to(nested)
    done = rc(installed, nested)
    assert done.returncode == 0
    assert f"cannot link {taken}" in done.stderr
    rc(installed, nested, 3)
    assert taken.exists()
    assert taken.is_symlink() == (kind == "link")
    assert list(nested.glob("usernetes-ƒabc/*")) == list(taken.glob("*"))
    assert not (nested / "usernetes-fabc").is_symlink()


def test_link_that_a_killed_instance_left_is_replaced(installed: Site, nested: Path) -> None:
    (nested / "usernetes-ƒabc").symlink_to(nested / "usernetes-ƒgone")
    rc(installed, nested)
    assert links(nested) == both(nested)


def test_links_are_removed_also_when_the_outer_directory_is_gone(
    installed: Site, nested: Path
) -> None:
    rc(installed, nested)
    (nested / "usernetes-ƒxyz").rmdir()
    rc(installed, nested, 3)
    assert list(nested.iterdir()) == []


@pytest.mark.parametrize("number", [1, 3])
def test_broker_starts_and_stops_though_flux_or_the_place_is_missing(
    installed: Site, nested: Path, number: int
) -> None:
    assert rc(installed, nested / "none", number).returncode == 0
    assert rc(installed, nested, number, flux="/nonexistent").returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away: run it as root")
def test_directory_or_link_of_another_user_is_not_believed(installed: Site, nested: Path) -> None:
    outer = nested / "usernetes-ƒxyz"
    os.chown(outer, 65534, 65534)
    assert (rc(installed, nested).returncode, links(nested)) == (0, {})
    outer.rmdir()
    (nested / "own").mkdir()
    outer.symlink_to(nested / "own")
    os.chown(outer, 65534, 65534, follow_symlinks=False)
    assert (rc(installed, nested).returncode, set(links(nested))) == (0, {outer.name})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away: run it as root")
def test_link_of_another_user_is_not_removed(installed: Site, nested: Path) -> None:
    rc(installed, nested)
    os.chown(nested / "usernetes-ƒabc", 65534, 65534, follow_symlinks=False)
    rc(installed, nested, 3)
    assert set(links(nested)) == {"usernetes-ƒabc"}
