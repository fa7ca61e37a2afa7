"""A job's directory has a name that anybody can guess: what waits there, and jobs that share it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from unittest import mock

import pytest
from trust_site import (
    SOMEBODY,
    TWIN,
    USER,
    Target,
    give,
    lay,
    look,
    needs_root,
    note_of,
)
from usernetes_site import JOBID

from flux_flex.model.jobid import f58
from flux_flex.usernetes import node
from flux_flex.usernetes.state import State
from flux_flex.usernetes.workdir import place_of

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
