"""Which scheduler runs, and with which policy for which queue, from what a broker answers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.cli.burst_site import queue_policy_of, waits_of
from flux_flex.host.flux_answers import RpcError
from flux_flex.host.scheduling import MODULES, PARAMS, QMANAGER, Scheduling, scheduling_of

FLUXION = {MODULES: {"mods": [{"name": "kvs"}, {"name": QMANAGER, "services": ["sched"]}]}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["mods", "name", "services", "sched", "params", "queue-policy", "queues", "parent",
             "policy", "jobspec", "defaults", "system", "queue", QMANAGER, "queue-policy-per-queue"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
DOCUMENT = st.dictionaries(st.sampled_from(["mods", "params", "queues", QMANAGER]), JSON)


def found(answers: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Scheduling:
    scheduling = scheduling_of(answers.get, config or {})
    assert scheduling is not None
    return scheduling


def params(policy: str, **queues: str) -> dict[str, Any]:
    own = {queue: {"queue-policy": own} for queue, own in queues.items()}
    return {**FLUXION, PARAMS: {"params": {"queue-policy": policy, **own}}}


def test_policy_that_fluxion_runs_with_goes_before_the_configuration() -> None:
    configured = {QMANAGER: {"queue-policy": "easy"}}
    assert found(params("hybrid"), configured).policy_of() == "hybrid"
    assert found(FLUXION, configured).policy_of() == "easy"


def test_fluxion_without_a_policy_is_fcfs_and_lets_nothing_wait() -> None:
    assert found(FLUXION).policy_of() == "fcfs"
    assert found(FLUXION).waits() is False


def test_queue_has_its_own_policy_and_a_virtual_one_that_of_its_parent() -> None:
    config = {"queues": {"batch": {}, "debug": {}, "night": {"parent": "debug"}}}
    scheduling = found(params("easy", batch="conservative", debug="fcfs"), config)
    policies = [scheduling.policy_of(queue) for queue in ("batch", "debug", "night", "new")]
    assert policies == ["conservative", "fcfs", "fcfs", "easy"]
    assert scheduling.waits("batch") is True
    assert scheduling.waits("night") is False


def test_jobs_that_name_no_queue_are_in_the_default_one() -> None:
    config = {"policy": {"jobspec": {"defaults": {"system": {"queue": "debug"}}}}}
    assert found(params("easy", debug="fcfs"), config).policy_of() == "fcfs"
    assert found(params("easy", default="hybrid")).policy_of() == "hybrid"


def test_configured_policies_of_queues_count_where_fluxion_does_not_say() -> None:
    per_queue = {"queue-policy": "easy", "queue-policy-per-queue": "debug:fcfs batch:hybrid"}
    scheduling = found(FLUXION, {QMANAGER: per_queue})
    assert [scheduling.policy_of(q) for q in ("debug", "batch", "x")] == ["fcfs", "hybrid", "easy"]


@pytest.mark.parametrize(
    ("module", "policy", "waits"),
    [
        ("sched-simple", "fcfs", True),
        ("sched-fifo", "fcfs", True),
        ("sched-backfill", "easy", True),
        ("sched-own", "", None),
    ],
)
def test_other_schedulers_are_known_by_their_name(
    module: str, policy: str, waits: bool | None
) -> None:
    scheduling = found({MODULES: {"mods": [{"name": module, "services": ["x", "sched"]}]}})
    assert (scheduling.scheduler, scheduling.policy_of()) == (module, policy)
    assert scheduling.waits() is waits


def test_who_may_not_be_asked_has_told_nothing() -> None:
    assert scheduling_of({}.get, {}) is None


@given(DOCUMENT, DOCUMENT, DOCUMENT)
def test_whatever_is_answered_a_policy_is_text(
    modules: dict[str, Any], policies: dict[str, Any], config: dict[str, Any]
) -> None:
    scheduling = scheduling_of({MODULES: modules, PARAMS: policies}.get, config)
    assert scheduling is not None
    assert isinstance(scheduling.policy_of("batch"), str)
    scheduling = scheduling_of({**FLUXION, PARAMS: policies}.get, config)
    assert scheduling is not None
    assert isinstance(scheduling.policy_of(), str)
    assert scheduling.waits("batch") in (True, False)


class Broker:
    """Answers RPCs as FluxInstance hands them on."""

    def __init__(self, answers: Mapping[str, Any], number: int = errno.ENOSYS) -> None:
        self.answers, self.number = answers, number

    def rpc(self, topic: str, payload: object = None, *, nodeid: int | None = None) -> Any:
        if topic in self.answers:
            return self.answers[topic]
        raise RpcError("refused", topic, "", self.number)


def policy(broker: Broker, queue: str = "") -> str:
    return queue_policy_of(broker, queue)  # type: ignore[arg-type]


def test_controller_estimates_by_the_policy_of_its_queue() -> None:
    broker = Broker({**params("easy", batch="hybrid", debug="fcfs"), "config.get": {}})
    assert policy(broker) == "easy"
    assert policy(broker, "batch") == "conservative"
    assert policy(broker, "debug") == "fcfs"


def test_controller_knows_whether_jobs_wait_for_hosts_that_are_down() -> None:
    broker: Any = Broker({**params("easy", debug="fcfs"), "config.get": {}})
    assert waits_of(broker)
    assert not waits_of(broker, "debug")
    unknown: Any = Broker({"config.get": {}})
    assert not waits_of(unknown)


def test_controller_takes_a_policy_that_nobody_knows_for_fcfs() -> None:
    assert policy(Broker({**params("own"), "config.get": {}})) == "fcfs"
    assert policy(Broker({"config.get": {}})) == "fcfs"
    easy = {QMANAGER: {"queue-policy": "easy"}}
    assert policy(Broker({**FLUXION, "config.get": easy}, errno.EPERM)) == "easy"


def test_broker_that_is_in_trouble_is_not_taken_for_fcfs() -> None:
    with pytest.raises(RpcError):
        policy(Broker({"config.get": {}}, errno.ETIMEDOUT))


def has_fluxion() -> bool:
    flux = shutil.which("flux")
    prefix = Path(flux).resolve().parents[1] if flux else None
    return prefix is not None and any(prefix.glob(f"lib*/**/{QMANAGER}.so"))


@pytest.mark.flux
@pytest.mark.skipif(
    not has_fluxion(),
    reason="there is no Flux with fluxion on PATH: install flux-core and flux-sched",
)
def test_real_fluxion_says_what_it_was_loaded_with(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(
        "[queues.batch]\n[queues.debug]\n"
        f'[{QMANAGER}]\nqueue-policy = "easy"\nqueue-policy-per-queue = "debug:fcfs"\n'
    )
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from flux_flex.cli.burst_site import queue_policy_of\n"
        "from flux_flex.host.flux_instance import FluxInstance\n"
        "print(*[queue_policy_of(FluxInstance(), q) for q in ('batch', 'debug')])\n"
    )
    ask = [sys.executable, "-c", program, json.dumps(sys.path)]
    script = tmp_path / "script"
    script.write_text(
        f'#!/bin/sh\n"$@"\nflux module reload {QMANAGER} queue-policy=conservative\n"$@"\n'
    )
    script.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if not key.startswith("FLUX_")}
    done = subprocess.run(
        ["flux", "start", f"--config-path={config}", str(script), *ask],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["easy fcfs", "conservative fcfs"], done.stderr
