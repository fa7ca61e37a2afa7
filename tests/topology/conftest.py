"""An EC2 on loopback for the tests that ask one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from ec2_endpoint import Endpoint, Machine, Start, cluster, isolate


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Variables in which boto3 finds credentials of nobody's, and an EC2 where none is."""
    isolate(monkeypatch, "http://127.0.0.1:9")
    return monkeypatch


@pytest.fixture
def start(environment: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an EC2, usually of three machines, where boto3 finds it."""
    with ExitStack() as stack:

        def started(machines: list[Machine] | None = None, **keys: Any) -> Endpoint:
            ec2 = stack.enter_context(
                Endpoint(cluster(3) if machines is None else machines, **keys)
            )
            environment.setenv("AWS_ENDPOINT_URL", ec2.url)
            return ec2

        yield started
