"""scripts/install-scripts.sh: what it puts in place, what it leaves alone, what it says is missing.

Nothing here needs Flux; test_front_scripts.py runs what is installed.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from site_help import COMMANDS, Site

FILES = [
    "etc/flux/flex.toml",
    "etc/flux/rc1.d/50-flux-flex",
    "etc/flux/rc3.d/50-flux-flex",
    "etc/flux/system/epilog.d/50-flux-flex",
    "etc/flux/system/prolog.d/50-flux-flex",
    "usr/libexec/flux/cmd/flux-flex",
    "usr/libexec/flux/flux-flex-validator.py",
]

WHOLE_BROKER = """
[job-manager]
plugins = [{ load = "perilog.so" }]
prolog.per-rank = true
epilog.per-rank = true
[access]
allow-root-owner = true
[ingest.validator]
plugins = ["jobspec", "/usr/libexec/flux/flux-flex-validator.py"]
"""
WHOLE_IMP = """
[run.prolog]
allowed-users = ["flux"]
allowed-environment = ["FLUX_*"]
path = "/usr/libexec/flux/cmd/flux-run-prolog"
[run.epilog]
allowed-users = ["flux"]
allowed-environment = ["FLUX_*"]
path = "/usr/libexec/flux/cmd/flux-run-epilog"
"""


@pytest.fixture
def staged(site: Site) -> Site:
    return site.in_destdir()


def snapshot(directory: Path) -> Mapping[str, tuple[int, int, bytes]]:
    """Each file below it: mode, time of the last change, contents."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_dir():
            about = path.lstat()
            found[str(path.relative_to(directory))] = (
                stat.S_IMODE(about.st_mode),
                about.st_mtime_ns,
                path.read_bytes(),
            )
    return found


def plan_of(printed: str) -> list[str]:
    """The lines that say what becomes of each file, without what is said around them."""
    return [line for line in printed.splitlines() if line.startswith("  ") and "/" in line[:14]]


# ---- what is put in place -----------------------------------------------------------------------


def test_every_file_is_put_in_place_and_no_other(staged: Site) -> None:
    done = staged.install()
    assert done.returncode == 0, done.stderr
    assert list(snapshot(staged.below(""))) == FILES


SPAN = "etc/flux/system/prolog.d/51-flux-flex-span"


def test_the_script_for_spans_is_put_in_place_where_it_is_asked_for(staged: Site) -> None:
    done = staged.install("--span")
    assert done.returncode == 0, done.stderr
    assert list(snapshot(staged.below(""))) == sorted([*FILES, SPAN])
    assert staged.below(SPAN).stat().st_mode & 0o777 == 0o755
    text = staged.below(SPAN).read_text()
    assert "@" not in text.replace("$@", "")


def test_who_asked_for_spans_once_has_the_script_kept_up_to_date(staged: Site) -> None:
    staged.install("--span")
    wanted = staged.below(SPAN).read_text()
    staged.below(SPAN).write_text(wanted + "echo older\n")
    assert f"update     {staged.below(SPAN)}" in staged.install().stdout
    assert staged.below(SPAN).read_text() == wanted


@pytest.mark.parametrize("options", [[], ["--span"]])
def test_the_script_for_spans_is_taken_away_with_the_rest(staged: Site, options: list[str]) -> None:
    staged.install("--span")
    assert staged.install("--uninstall", *options).returncode == 0
    assert snapshot(staged.below("")) == {}


def test_a_script_of_the_site_with_that_name_is_left_alone(staged: Site) -> None:
    own = staged.below(SPAN)
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    assert staged.install().returncode == 0
    assert staged.install("--span").returncode == 1
    staged.install("--uninstall", "--span")
    assert own.read_text() == "#!/bin/sh\n"


def test_scripts_are_executable_and_the_rest_is_not(staged: Site) -> None:
    staged.install()
    modes = {name: found[0] for name, found in snapshot(staged.below("")).items()}
    plain = {"etc/flux/flex.toml", "usr/libexec/flux/flux-flex-validator.py"}
    assert modes == {name: 0o644 if name in plain else 0o755 for name in FILES}


def test_neither_prolog_nor_epilog_is_made_beside_the_directories(staged: Site) -> None:
    staged.install()
    names = sorted(path.name for path in staged.below("etc/flux/system").iterdir())
    assert names == ["epilog.d", "prolog.d"]


def test_no_placeholder_is_left_in_what_is_installed(staged: Site) -> None:
    staged.install()
    shipped = (staged.checkout / "etc/flux/flex.toml").read_bytes()
    for name, (_, _, contents) in snapshot(staged.below("")).items():
        assert contents == shipped or b"@PY" not in contents + b"@FLUX", name
        assert name == "etc/flux/flex.toml" or b"_DIR@" not in contents, name


def test_second_run_finds_everything_unchanged(staged: Site) -> None:
    staged.install()
    before = snapshot(staged.below(""))
    again = staged.install()
    assert again.returncode == 0
    assert [line.split()[0] for line in plan_of(again.stdout)] == ["unchanged"] * len(FILES)
    assert snapshot(staged.below("")) == before


def test_file_of_an_older_version_is_replaced(staged: Site) -> None:
    staged.install()
    script = staged.below("etc/flux/system/prolog.d/50-flux-flex")
    wanted = script.read_text()
    script.write_text(wanted + "echo older\n")
    again = staged.install()
    assert f"update     {script}" in again.stdout
    assert script.read_text() == wanted


def test_script_that_lost_its_mode_gets_it_back(staged: Site) -> None:
    staged.install()
    script = staged.below("etc/flux/system/epilog.d/50-flux-flex")
    script.chmod(0o644)
    assert f"update     {script}" in staged.install().stdout
    assert stat.S_IMODE(script.stat().st_mode) == 0o755


def test_mode_does_not_depend_on_the_umask(staged: Site) -> None:
    staged.install(umask=0o077)
    assert stat.S_IMODE(staged.below("etc/flux/system/prolog.d").stat().st_mode) == 0o755
    assert stat.S_IMODE(staged.below("etc/flux/flex.toml").stat().st_mode) == 0o644


def test_dry_run_prints_the_same_plan_and_changes_nothing(staged: Site) -> None:
    staged.below("etc/flux/rc1.d").mkdir(parents=True)
    staged.below("etc/flux/rc1.d/50-flux-flex").write_text("#!/bin/sh\n# the site's own\n")
    before = snapshot(staged.below(""))
    dry = staged.install("--dry-run")
    assert snapshot(staged.below("")) == before
    wet = staged.install()
    assert plan_of(dry.stdout) == plan_of(wet.stdout)
    assert dry.returncode == wet.returncode == 1


def test_dry_run_makes_no_directory(staged: Site) -> None:
    assert staged.install("--dry-run").returncode == 0
    assert list(staged.below("").iterdir()) == []


def test_commands_go_where_flux_itself_looks_for_them(site: Site) -> None:
    elsewhere = site.root / "lib 64/flux/cmd"
    site.fake_flux({"config builtin exec_path": str(elsewhere)})
    done = site.install()
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "flux-flex").exists()
    assert (elsewhere.parent / "flux-flex-validator.py").exists()


def test_prefix_is_that_of_the_flux_on_path_even_through_a_link(site: Site) -> None:
    flux = site.fake_flux()
    link = site.root / "links"
    link.mkdir()
    (link / "flux").symlink_to(flux)
    done = site.run("install-scripts.sh", str(site.system), env={"PATH": f"{link}:{COMMANDS}"})
    assert f"for the Flux in {site.prefix}:" in done.stdout


# ---- what belongs to the site -------------------------------------------------------------------


def test_file_of_the_site_is_left_alone_and_named(staged: Site) -> None:
    own = staged.below("etc/flux/system/prolog.d/50-flux-flex")
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\necho mine\n")
    done = staged.install()
    assert done.returncode == 1
    assert str(own) in done.stderr
    assert own.read_text() == "#!/bin/sh\necho mine\n"
    assert staged.below("etc/flux/system/epilog.d/50-flux-flex").exists()


def test_link_of_the_site_that_leads_nowhere_is_left_alone(staged: Site) -> None:
    own = staged.below("etc/flux/system/prolog.d/50-flux-flex")
    own.parent.mkdir(parents=True)
    own.symlink_to("nowhere")
    assert staged.install().returncode == 1
    assert own.is_symlink()


def test_configuration_of_the_site_is_kept(staged: Site) -> None:
    own = staged.below("etc/flux/flex.toml")
    own.parent.mkdir(parents=True)
    own.write_text("[match]\n")
    done = staged.install()
    assert done.returncode == 0
    assert f"keep       {own}" in done.stdout
    assert own.read_text() == "[match]\n"


@pytest.mark.parametrize("name", ["prolog", "epilog"])
def test_single_script_that_switches_the_directory_off_is_warned_of(
    staged: Site, name: str
) -> None:
    single = staged.below("etc/flux/system") / name
    single.parent.mkdir(parents=True)
    single.write_text("#!/bin/sh\n")
    assert "Flux ignores it" in staged.install().stdout
    single.chmod(0o755)
    warned = staged.install().stdout
    assert f"there is a {single}" in warned
    assert f"/etc/flux/system/{name}.d/50-flux-flex will not run" in warned
    assert f"move it to /etc/flux/system/{name}.d/00-site" in warned
    single.unlink()
    assert "Warning" not in staged.install().stdout


# ---- taking it away -----------------------------------------------------------------------------


def test_uninstall_leaves_no_file(staged: Site) -> None:
    staged.install()
    done = staged.run("uninstall-scripts.sh", "/etc/flux/system", "/usr")
    assert done.returncode == 0, done.stderr
    assert snapshot(staged.below("")) == {}


def test_uninstall_twice_is_no_error(staged: Site) -> None:
    staged.install()
    staged.install("--uninstall")
    assert staged.install("--uninstall").returncode == 0


def test_uninstall_keeps_what_is_the_sites_own(staged: Site) -> None:
    staged.install()
    config = staged.below("etc/flux/flex.toml")
    config.write_text(config.read_text() + "# changed\n")
    script = staged.below("etc/flux/system/prolog.d/50-flux-flex")
    script.write_text("#!/bin/sh\n")
    other = staged.below("etc/flux/system/prolog.d/00-site")
    other.write_text("#!/bin/sh\n")
    assert staged.install("--uninstall").returncode == 0
    assert list(snapshot(staged.below(""))) == [
        "etc/flux/flex.toml",
        "etc/flux/system/prolog.d/00-site",
        "etc/flux/system/prolog.d/50-flux-flex",
    ]


def test_dry_uninstall_prints_the_same_plan_and_changes_nothing(staged: Site) -> None:
    staged.install()
    before = snapshot(staged.below(""))
    dry = staged.install("--uninstall", "--dry-run")
    assert snapshot(staged.below("")) == before
    assert plan_of(dry.stdout) == plan_of(staged.install("--uninstall").stdout)


def test_uninstall_needs_no_python(staged: Site) -> None:
    staged.install()
    staged.python.unlink()
    assert staged.install("--uninstall").returncode == 0
    assert snapshot(staged.below("")) == {}


def test_validator_stays_while_the_configuration_names_it(staged: Site) -> None:
    staged.install()
    staged.configure(broker=WHOLE_BROKER)
    done = staged.install("--uninstall")
    assert done.returncode == 1
    assert "still named in" in done.stderr
    assert staged.below("usr/libexec/flux/flux-flex-validator.py").exists()
    staged.configure(broker=WHOLE_BROKER.replace("plugins = [", "# plugins = ["))
    assert staged.install("--uninstall").returncode == 0
    assert not staged.below("usr/libexec/flux/flux-flex-validator.py").exists()


# ---- paths and arguments ------------------------------------------------------------------------


def test_relative_directories_are_made_absolute(site: Site) -> None:
    done = site.run("install-scripts.sh", "sys tem", "pre fix", cwd=site.root)
    assert done.returncode == 0, done.stderr
    script = (site.root / "sys tem/prolog.d/50-flux-flex").read_text()
    assert f"'{site.root}/pre fix/bin'" in script


@pytest.mark.parametrize(
    "arguments",
    [
        ["a\nb"],
        ["/a", "b\nc"],
        ["--python", "a\nb"],
        ["/a", "/b:c"],
        ["/a", "/b", "/c"],
        ["--python"],
        ["--pythonic"],
        [""],
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(site: Site, arguments: list[str]) -> None:
    done = site.run("install-scripts.sh", *arguments, cwd=site.root)
    assert done.returncode == 2
    assert done.stderr.startswith("install-scripts: ")
    assert len(list(site.root.iterdir())) == 2


def test_python_without_flux_flex_is_refused_with_the_remedy(site: Site) -> None:
    done = site.install("--python", "/bin/false")
    assert done.returncode == 1
    assert "/bin/false: it cannot import flux_flex" in done.stderr
    assert "-m venv" in done.stderr
    assert not site.system.exists()


def test_python_is_looked_for_in_the_checkout_after_the_variable(site: Site) -> None:
    own = site.checkout / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    shutil.copy(site.python, own)
    assert f"flux-flex of {site.python}, " in site.install("--dry-run").stdout
    site.python.unlink()
    assert f"flux-flex of {own}, " in site.install("--dry-run").stdout


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root installs what root will run: run it as root"
)
def test_root_refuses_a_python_that_others_can_change(site: Site) -> None:
    shared = site.root / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    python = str(shutil.copy(site.python, shared / "python"))
    # Even --dry-run says so, which is why this test may name the real place.
    done = site.run("install-scripts.sh", "--dry-run", "--python", python)
    assert done.returncode == 1
    assert "root would run it, but others can change" in done.stderr
    assert not site.log.exists(), "it was run nevertheless"


def test_checkout_that_lacks_a_file_installs_nothing(site: Site) -> None:
    (site.checkout / "etc/flux/rc3.d/50-flux-flex").unlink()
    done = site.install()
    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert not site.system.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere: run it as another user")
def test_directory_that_may_not_be_written_is_named(site: Site) -> None:
    site.prefix.mkdir()
    site.prefix.chmod(0o555)
    done = site.install()
    assert done.returncode == 1
    assert f"{site.prefix}/libexec/flux/cmd/flux-flex cannot be written by you" in done.stderr


# ---- what the configuration lacks ---------------------------------------------------------------


def test_whole_configuration_lacks_nothing(staged: Site) -> None:
    staged.configure(broker=WHOLE_BROKER, imp=WHOLE_IMP)
    said = staged.install().stdout
    assert said.count("nothing is missing") == 2
    assert "Add" not in said


def test_without_configuration_all_lines_are_given(staged: Site) -> None:
    said = [line.strip() for line in staged.install().stdout.splitlines()]
    wanted = (WHOLE_BROKER + WHOLE_IMP).replace("prolog.per-rank", "[job-manager.prolog]\nper-rank")
    wanted = wanted.replace("epilog.per-rank", "[job-manager.epilog]\nper-rank")
    assert set(wanted.split("\n")) <= set(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('plugins = [{ load = "perilog.so" }]', "perilog.so is not loaded"),
        ("prolog.per-rank = true", "The prolog does not run on each node"),
        ("epilog.per-rank = true", "The epilog does not run on each node"),
        ("allow-root-owner = true", "may not ask the broker"),
        (WHOLE_BROKER.strip().splitlines()[-1], "Wrong attributes are not refused"),
    ],
)
def test_one_missing_line_is_the_one_named(staged: Site, line: str, said: str) -> None:
    staged.configure(broker=WHOLE_BROKER.replace(line, ""), imp=WHOLE_IMP)
    printed = staged.install().stdout
    assert said in printed
    assert printed.count("Add:") == 1
    assert "nothing is missing" in printed.split("IMP configuration")[1]


def test_imp_that_hides_the_job_id_is_named(staged: Site) -> None:
    hidden = WHOLE_IMP.replace('"FLUX_*"', '"LANG"', 1)
    staged.configure(broker=WHOLE_BROKER, imp=hidden)
    printed = staged.install().stdout
    assert "The prolog is not told which job it is for. Add to [run.prolog]:" in printed
    assert "The epilog" not in printed


def test_plugins_that_are_there_are_kept_in_the_lines_to_add(staged: Site) -> None:
    broker = WHOLE_BROKER.replace("perilog.so", "mf_priority.so")
    staged.configure(broker=broker.replace('"jobspec", "/usr', '"jobspec", "feasibility", "/opt'))
    printed = staged.install().stdout
    assert "Add to plugins of [job-manager] in" in printed
    assert '"feasibility", "/opt/libexec/flux/flux-flex-validator.py", "/usr/libexec' in printed


def test_instance_that_runs_the_scripts_itself_needs_no_imp(staged: Site) -> None:
    commands = "".join(
        f'{name}.command = ["/etc/flux/system/{name}.d/50-flux-flex"]\n'
        for name in ("prolog", "epilog")
    )
    broker = WHOLE_BROKER.replace("allow-root-owner = true", "")
    staged.configure(broker=broker.replace("[access]", commands + "[access]"))
    printed = staged.install().stdout
    assert "nothing is missing" in printed
    assert "IMP" not in printed


def test_command_that_may_not_reach_the_scripts_is_pointed_out(staged: Site) -> None:
    broker = WHOLE_BROKER.replace("[access]", 'prolog.command = ["/site/prolog"]\n[access]')
    staged.configure(broker=broker, imp=WHOLE_IMP)
    assert "has a command of its own, /site/prolog" in staged.install().stdout


def test_configuration_that_cannot_be_read_is_named_and_no_error(staged: Site) -> None:
    staged.configure(broker="[job-manager\n")
    done = staged.install()
    assert done.returncode == 0
    assert "Not read: " in done.stdout


def test_the_shipped_samples_lack_nothing(staged: Site) -> None:
    samples = staged.checkout / "etc/flux/samples"
    staged.configure(
        broker=(samples / "broker.toml").read_text(), imp=(samples / "imp.toml").read_text()
    )
    assert staged.install().stdout.count("nothing is missing") == 2
