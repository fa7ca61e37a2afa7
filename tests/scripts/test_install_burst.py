"""install-scripts.sh --burst: what bursting needs of a Flux, put in place and taken away."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import pytest
from site_help import Site, write_program

FILES = [
    "etc/flux/cli/plugins/flux-flex-burst.py",
    "etc/flux/modprobe/rc1.d/flux-flex.py",
    "etc/flux/modprobe/rc3.d/flux-flex.py",
    "etc/flux/modules/flex-burst.py",
]
NAMES = [Path(name).name for name in FILES]


@pytest.fixture
def staged(site: Site) -> Site:
    return site.in_destdir()


def found(site: Site) -> list[str]:
    """What of the files for bursting is there."""
    return [name for name in FILES if os.path.lexists(site.below(name))]


def everything(site: Site) -> list[Path]:
    return [path for path in site.below("").rglob("*") if not path.is_dir()]


def fake_flux(site: Site, *fails: str, confdir: str = "") -> None:
    """A Flux whose `flux python` fails for what has one of these words in it."""
    failing = "".join(
        f"*{shlex.quote(word)}*) echo Traceback; echo 'ModuleNotFoundError: gone'; exit 1 ;;\n"
        for word in fails
    )
    told = shlex.quote(confdir or str(site.system.parent))
    text = (
        f'#!/bin/sh\ncase "$*" in\n{failing}"config builtin confdir") echo {told} ;;\n'
        "python*) ;;\n*) exit 1 ;;\nesac\n"
    )
    write_program(site.prefix / "bin/flux", text)


def test_without_the_option_nothing_for_bursting_is_put_in_place(staged: Site) -> None:
    said = staged.install().stdout
    assert found(staged) == []
    assert "flex-burst" not in said


def test_with_it_every_file_is_where_flux_looks_and_can_be_read_by_all(staged: Site) -> None:
    done = staged.install("--burst")
    assert done.returncode == 0, done.stderr
    assert found(staged) == FILES
    for name in FILES:
        assert stat.S_IMODE(staged.below(name).stat().st_mode) == 0o644
        assert not staged.below(name).is_symlink()
    for folder in ("cli", "cli/plugins", "modprobe", "modprobe/rc1.d", "modules"):
        assert stat.S_IMODE(staged.below(f"etc/flux/{folder}").stat().st_mode) == 0o755


def test_the_module_imports_flux_flex_from_where_it_is_installed(staged: Site) -> None:
    staged.install("--burst")
    text = staged.below("etc/flux/modules/flex-burst.py").read_text()
    shipped = (staged.checkout / "etc/flux/modules/flex-burst.py").read_text()
    assert "_DIR@" in shipped
    assert "_DIR@" not in text
    assert str(Path(__file__).parents[2]) in text


def test_second_run_changes_nothing(staged: Site) -> None:
    staged.install("--burst")
    before = {path: path.stat().st_mtime_ns for path in everything(staged)}
    again = staged.install("--burst")
    assert again.returncode == 0
    for name in FILES:
        assert f"unchanged  {staged.below(name)}" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in everything(staged)} == before


def test_who_asked_for_it_once_has_it_kept_up_to_date(staged: Site) -> None:
    staged.install("--burst")
    module = staged.below("etc/flux/modules/flex-burst.py")
    wanted = module.read_text()
    module.write_text(wanted + "# older\n")
    staged.below("etc/flux/modprobe/rc3.d/flux-flex.py").unlink()
    assert f"update     {module}" in staged.install().stdout
    assert module.read_text() == wanted
    assert found(staged) == FILES


@pytest.mark.parametrize("name", FILES)
def test_file_of_the_site_is_never_replaced_or_taken_away(staged: Site, name: str) -> None:
    own = staged.below(name)
    own.parent.mkdir(parents=True)
    own.write_text("# the site's\n")
    done = staged.install("--burst")
    assert done.returncode == 1
    assert f"{own} is not from flux-flex, so it stays" in done.stderr
    assert found(staged) == FILES
    staged.install("--uninstall", "--burst")
    assert own.read_text() == "# the site's\n"
    assert found(staged) == [name]


def test_link_of_the_site_is_not_followed(staged: Site) -> None:
    target = staged.root / "target"
    target.write_text("# the site's\n")
    own = staged.below(FILES[0])
    own.parent.mkdir(parents=True)
    own.symlink_to(target)
    assert staged.install("--burst").returncode == 1
    assert own.is_symlink()
    assert target.read_text() == "# the site's\n"


def test_link_in_the_place_of_our_own_file_is_replaced_and_not_written_through(
    staged: Site,
) -> None:
    staged.install("--burst")
    own, moved = staged.below(FILES[3]), staged.root / "moved.py"
    own.rename(moved)
    own.symlink_to(moved)
    moved.write_text(moved.read_text() + "# older\n")
    assert staged.install().returncode == 0
    assert not own.is_symlink()
    assert moved.read_text().endswith("# older\n")


@pytest.mark.parametrize("options", [[], ["--burst"]])
def test_uninstall_takes_it_away_with_the_rest_and_says_what_may_still_run(
    staged: Site, options: list[str]
) -> None:
    staged.install("--burst")
    done = staged.install("--uninstall", *options)
    assert done.returncode == 0, done.stderr
    assert everything(staged) == []
    assert "flux module remove flex-burst" in done.stdout
    assert "flux module remove" not in staged.install("--uninstall", *options).stdout


def test_dry_run_plans_the_same_and_makes_nothing(staged: Site) -> None:
    dry = staged.install("--burst", "--dry-run")
    assert everything(staged) == []
    wet = staged.install("--burst")
    lines = [line for line in wet.stdout.splitlines() if line.startswith("  create")]
    assert [name for line in lines for name in FILES if line.endswith(name)] == [
        FILES[3], FILES[1], FILES[2], FILES[0],
    ]  # fmt: skip
    assert set(lines) <= set(dry.stdout.splitlines())


def test_checkout_that_lacks_one_of_the_files_installs_nothing(staged: Site) -> None:
    (staged.checkout / "etc/flux/plugins/flux-flex-burst.py").unlink()
    done = staged.install("--burst")
    assert done.returncode == 1
    assert "flux-flex-burst.py is missing" in done.stderr
    assert everything(staged) == []
    assert staged.install().returncode == 0


def test_table_that_loads_the_controller_is_told_of_until_it_is_there(staged: Site) -> None:
    said = staged.install("--burst").stdout
    assert '      [flex-burst]\n      config = "/etc/flux/flex.toml"\n' in said
    staged.configure(broker="[flex-burst]\n")
    assert "controller is not loaded" not in staged.install("--burst").stdout


def test_folder_that_flux_does_not_look_into_is_told_with_the_variables_that_help(
    site: Site,
) -> None:
    fake_flux(site, confdir="/elsewhere/flux")
    said = site.install("--burst").stdout
    etc = site.system.parent
    assert f"FLUX_MODPROBE_PATH_APPEND={etc}/modprobe" in said
    assert f"FLUX_CLI_PLUGINPATH={etc}/cli/plugins" in said
    fake_flux(site)
    assert "FLUX_MODPROBE" not in site.install("--burst").stdout


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("flux.brokermod", "loads no modules that are written in Python"),
        ("flex-burst.py", "cannot import it:\nModuleNotFoundError: gone."),
        ("flux.cli.plugin", "--urgency=hold --setattr=burstable --setattr=user.flex.held=true"),
    ],
)
def test_what_this_flux_cannot_do_is_said_with_the_other_way(
    site: Site, fails: str, said: str
) -> None:
    fake_flux(site, fails)
    done = site.install("--burst")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert said not in site.install("--burst", "--dry-run").stdout
    fake_flux(site)
    assert said not in site.install("--burst").stdout
