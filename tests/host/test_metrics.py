"""Counters as Prometheus text: on loopback alone, and never waiting for anybody."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from flux_flex.errors import BadInput
from flux_flex.host.metrics import Metrics


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    served = Metrics(0)
    yield served
    served.close()


def scraped(metrics: Metrics, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}{path}", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def test_what_was_published_last_is_answered(metrics: Metrics) -> None:
    assert scraped(metrics) == ""
    metrics.publish({"nodes": 1.0})
    metrics.publish({'jobs{verdict="burst"}': 2.0, 'jobs{verdict="stay"}': 0.0, "nodes": 3.5})
    assert scraped(metrics) == (
        "# TYPE jobs gauge\n"
        'jobs{verdict="burst"} 2.0\n'
        'jobs{verdict="stay"} 0.0\n'
        "# TYPE nodes gauge\n"
        "nodes 3.5\n"
    )


def test_there_is_nothing_else(metrics: Metrics) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as got:
        scraped(metrics, "/")
    got.value.close()


def test_a_port_that_is_taken_is_named(metrics: Metrics) -> None:
    with pytest.raises(BadInput, match="in use") as got:
        Metrics(metrics.port)
    assert got.value.where == f"port {metrics.port}"
