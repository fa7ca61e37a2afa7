"""Profile: the totals that are free in the whole graph, through time.

A step function of time for each leaf type, and one for nodes that nobody holds whole. A request
can only start where its needs are below these all through its time, which is found in a few array
operations. What passes is then looked at vertex by vertex, so a profile may promise too much, but
never too little.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flux_flex.model.graph import IntArray

_Times = npt.NDArray[np.float64]


class Profile:
    """``free[kind, i]`` is what is free in [times[i], times[i + 1]); the last step has no end."""

    def __init__(self, totals: IntArray, now: float) -> None:
        self._times: _Times = np.array([now], dtype=np.float64)
        self._free: IntArray = totals[:, np.newaxis].copy()

    def copy(self) -> Profile:
        """A profile that is the same now and then changes by itself."""
        twin = Profile.__new__(Profile)
        twin._times, twin._free = self._times, self._free.copy()
        return twin

    def take(self, amounts: IntArray, start: float, end: float) -> None:
        """Take ``amounts[kind]`` in [start, end); negative ones give back."""
        first, last = self._step_at(start), self._step_at(end)
        self._free[:, first:last] -= amounts[:, np.newaxis]

    def forget(self, now: float) -> None:
        """Drop the steps that end by ``now``, and those at which nothing changes."""
        first = int(np.searchsorted(self._times, now, side="right")) - 1
        times, free = self._times[first:], self._free[:, first:]
        changes = np.concatenate(([True], (free[:, 1:] != free[:, :-1]).any(axis=0)))
        self._times, self._free = times[changes], free[:, changes]

    def __len__(self) -> int:
        return len(self._times)

    def fitting(self, times: _Times, needs: IntArray, duration_s: float) -> npt.NDArray[np.bool_]:
        """At which of ``times`` (ascending) ``needs[kind]`` are free, and stay so for
        ``duration_s``."""
        short: npt.NDArray[np.bool_] = np.any(self._free < needs[:, np.newaxis], axis=0)
        count = len(short)
        # For each step the time at which the first one that is too short begins, from it on.
        index = np.where(short, np.arange(count), count)
        next_short = np.minimum.accumulate(index[::-1])[::-1]
        until = np.append(self._times, math.inf)[next_short]
        step = np.maximum(np.searchsorted(self._times, times, side="right") - 1, 0)
        fitting: npt.NDArray[np.bool_] = ~short[step] & (until[step] >= times + duration_s)
        return fitting

    def _step_at(self, time: float) -> int:
        """The step that begins at a time, made by splitting one if need be."""
        if math.isinf(time):
            return len(self._times)
        place = int(np.searchsorted(self._times, time))
        if place == len(self._times) or self._times[place] != time:
            if place == 0:
                return 0  # before all that is known
            self._times = np.insert(self._times, place, time)
            self._free = np.insert(self._free, place, self._free[:, place - 1], axis=1)
        return place
