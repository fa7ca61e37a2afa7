"""What holds for all tests: no property is refuted by a slow machine."""

from __future__ import annotations

from hypothesis import settings

# Hypothesis fails an example that takes longer than 200 ms, which on two busy cores any may.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")
