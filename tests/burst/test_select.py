"""Which jobs a decision looks at."""

from __future__ import annotations

import pytest
from burst_snapshots import job

from flux_flex.burst.select import within_depth


@pytest.mark.parametrize(
    ("burstable", "depth", "looked_at"),
    [
        ([], 5, []),
        ([False, False], 5, []),
        ([True, False, True, False], 5, [1, 2, 3]),
        ([True, False, True], 2, [1]),
        ([False, False, True], 2, []),
        ([True, True, True], 2, [1, 2]),
    ],
)
def test_jobs_are_cut_at_the_depth_and_behind_the_last_burstable(
    burstable: list[bool], depth: int, looked_at: list[int]
) -> None:
    queue = [job(i + 1, burstable=may) for i, may in enumerate(burstable)]
    assert [one.jobid for one in within_depth(queue, depth)] == looked_at


def test_order_is_by_priority_then_submission_then_id() -> None:
    queue = [
        job(1, priority=8),
        job(2, submitted=5.0),
        job(4, submitted=1.0),
        job(3, submitted=1.0),
        job(5, priority=31, submitted=9.0),
    ]
    assert [one.jobid for one in within_depth(queue, 9)] == [5, 3, 4, 2, 1]
