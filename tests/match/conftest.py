"""Fixtures of the matcher's tests."""

import pytest
from engines import Open, opened


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Open:
    """How to open a matcher of the engine that a test is run with, one of ``ENGINES``."""
    return opened(request.param)
