"""The embedded engine against recorded answers of the real fluxion (flux-sched 0.54.0).

Each of the 500 cases has a graph of its own and a few operations; the graphs and jobspecs are
random, only the answers are fluxion's. Jobs are numbered anew, since fluxion counts the refused
ones too. Where some vertices differ, the two hold different things from there on, and the rest
of such a case says nothing: it counts as different.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from flux_flex.match import Busy, Matcher, Unsatisfiable, open_matcher

RECORDED = Path(__file__).with_name("fluxion-matches.jsonl.gz")

# Cases and operations by policy, so that a shorter recording is noticed.
RECORDINGS = {
    "first": (65, 431),
    "low": (74, 447),
    "high": (65, 428),
    "lonode": (70, 436),
    "hinode": (81, 518),
    "lonodex": (74, 447),
    "hinodex": (71, 425),
}


def cases(policy: str) -> list[dict[str, Any]]:
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        return [case for case in map(json.loads, lines) if case["policy"] == policy]


def answer(matcher: Matcher, op: dict[str, Any], ids: dict[int, int]) -> dict[str, Any]:
    """What the embedded engine says, in the words of the recording."""
    if op["op"] == "cancel":
        matcher.cancel(ids[op["jobid"]])
        return {"status": "ok"}
    if op["op"] == "satisfy":
        fits = matcher.satisfiable(op["jobspec"])
        return {"status": "satisfiable" if fits else "unsatisfiable"}
    try:
        match = (matcher.allocate if op["op"] == "allocate" else matcher.reserve)(op["jobspec"])
    except Busy:
        return {"status": "busy"}
    except Unsatisfiable:  # fluxion's plain allocate cannot tell never from not now
        return {"status": "busy" if op["op"] == "allocate" else "unsatisfiable"}
    ids[op["result"].get("jobid", -1)] = match.jobid
    vertices = {path: list(held) for path, held in match.vertices.items()}
    status = "reserved" if match.reserved else "allocated"
    return {"status": status, "at": match.at, "vertices": vertices}


def replayed(case: dict[str, Any]) -> tuple[str, int]:
    """Where status or time differ from fluxion's, if so, and how many operations go well."""
    matcher = open_matcher(case["graph"], engine="embedded", policy=case["policy"])
    ids: dict[int, int] = {}
    for number, op in enumerate(case["ops"]):
        said, wanted = answer(matcher, op, ids), op["result"]
        if any(said.get(key) != wanted.get(key) for key in ("status", "at")):
            return f"case {case['case']} op {number}: {said} for {wanted}", number
        if said.get("vertices") != wanted.get("vertices"):
            return "", number
    return "", len(case["ops"])


@pytest.mark.parametrize("policy", RECORDINGS)
def test_answers_and_times_are_fluxions_and_so_are_the_vertices(policy):
    recorded = cases(policy)
    n_ops = sum(len(case["ops"]) for case in recorded)
    assert (len(recorded), n_ops) == RECORDINGS[policy]
    results = [replayed(case) for case in recorded]
    assert [wrong for wrong, _ in results if wrong] == []
    assert sum(good for _, good in results) >= 0.99 * n_ops


def test_the_recording_has_no_other_policies():
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        assert {json.loads(line)["policy"] for line in lines} == RECORDINGS.keys()
