"""What jobs hold: claims of vertices, what these change in the state, and spans of time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flux_flex.model.graph import IntArray

# Rows of the planner's state: see there.
IDLE = 0
OWN = 1
LISTED = 2
FIRST_LEAF = 3


@dataclass(frozen=True, eq=False, slots=True)
class Delta:
    """What claims take from the state: flat indices, some of them twice, and amounts."""

    index: IntArray
    amount: IntArray


NO_VERTICES: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Claims:
    """What a job takes: ``whole`` vertices with all below them, and of other ``vertices``
    ``amounts``. An amount is 0 where a vertex with others below it is only kept from being taken
    whole. All are different, and none lies in a whole one. ``unlisted`` are cores
    that go along with a whole vertex without being listed."""

    whole: IntArray
    vertices: IntArray
    amounts: IntArray
    unlisted: IntArray = field(default_factory=lambda: NO_VERTICES)


@dataclass(frozen=True, eq=False)
class Span:
    """What one job holds from ``start`` until ``end`` (seconds; inf for no limit), with what that
    takes of the state."""

    jobid: int
    start: float
    end: float
    claims: Claims
    delta: Delta
