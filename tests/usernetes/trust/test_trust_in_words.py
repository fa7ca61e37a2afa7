"""Attributes, hosts' names, environments and complaints are whatever somebody likes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from trust_site import (
    HOSTILE,
    IDS,
    SOMEBODY,
    TOKEN,
    Broker,
    Target,
    assert_clean_text,
    note_of,
)
from usernetes_site import JOBID, jobspec_of, r_of

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
