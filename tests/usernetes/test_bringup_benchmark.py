"""The benchmark of a bring-up: what it computes and judges. Its runs need an engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.bringup import Compared
from benchmarks.bringup_standin import LEAD_STEPS, Standin, polled, timeline


@pytest.mark.parametrize(
    ("began", "ready", "seen"), [(0.0, 0.0, 5.0), (1.0, 6.0, 6.0), (1.0, 6.1, 11.0)]
)
def test_a_loop_sleeps_before_it_looks(began: float, ready: float, seen: float) -> None:
    assert polled(began, ready) == seen


@pytest.mark.parametrize(
    # Lead: up, 5 s, init, 5 s, three more: invited at 15. A worker has polled since 1, sees it at
    # 16 and has joined at 17. The lead polls from 15 on, sees it at 20, sleeps to 25, and syncs.
    ("ranks", "seconds"),
    [(1, 15.0), (4, 26.0)],
)
def test_fixed_waits_are_added_as_the_scripts_have_them(
    tmp_path: Path, ranks: int, seconds: float
) -> None:
    standin = Standin(tmp_path, tmp_path, ranks)
    for target in ("up", *LEAD_STEPS, "kubeadm-join", "sync-external-ip"):
        standin.took[target] = [0.5, 1.0, 9.0]
    assert timeline(standin) == seconds


@pytest.mark.parametrize(("ours", "holds"), [([3.0, 3.9, 9.0], True), ([3.0, 4.1, 4.2], False)])
def test_a_bound_is_for_the_difference_of_medians(ours: list[float], holds: bool) -> None:
    compared = Compared("up", ours, [2.0, 2.0, 5.0], 2.0)
    assert compared.holds is holds
    assert compared.line().endswith("ok" if holds else "BROKEN")
