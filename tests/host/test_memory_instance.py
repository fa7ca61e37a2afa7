"""The instance in memory keeps the books as Flux does."""

from __future__ import annotations

import pytest

from flux_flex.errors import BadInput
from flux_flex.host.instance import Instance, JobState
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.jobid import job_kvs_key

SPEC: dict[str, object] = {"version": 1}
R: dict[str, object] = {"version": 1, "execution": {}}


def names(instance: Instance, jobid: int) -> list[str]:
    return [event.name for event in instance.eventlog(jobid)]


def test_queue_goes_by_priority_then_by_submission_then_by_id() -> None:
    instance = MemoryInstance(R)
    late = instance.submit(SPEC, t_submit=5.0)
    early = instance.submit(SPEC, t_submit=1.0)
    twin = instance.submit(SPEC, t_submit=1.0)
    urgent = instance.submit(SPEC, urgency=20, t_submit=9.0)
    weighty = instance.submit(SPEC, priority=50_000, t_submit=9.0)
    assert list(instance.queue()) == [weighty, urgent, early, twin, late]
    assert instance.waiting() == 5


def test_priority_of_a_plugin_may_exceed_every_urgency_and_is_listed() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC, urgency=16, priority=50_000)
    (info,) = instance.jobs()
    assert (info.jobid, info.urgency, info.priority) == (jobid, 16, 50_000)
    assert instance.eventlog(jobid)[3].context == {"priority": 50_000}


def test_job_goes_through_the_states_of_rfc_21() -> None:
    instance = MemoryInstance(R, now=100.0)
    jobid = instance.submit(SPEC, user="alice")
    assert instance.jobs(JobState.SCHED)[0].t_submit == 100.0
    instance.advance(110.0)
    instance.start(jobid, R)
    (info,) = instance.jobs(JobState.RUN)
    assert (info.t_run, info.t_inactive) == (110.0, None)
    assert instance.waiting() == 0
    instance.advance(170.0)
    instance.finish(jobid, status=256)
    (info,) = instance.jobs(JobState.INACTIVE)
    assert (info.user, info.t_run, info.t_inactive) == ("alice", 110.0, 170.0)
    assert instance.jobs(JobState.RUN) == []
    assert instance.now() == 170.0


def test_eventlog_has_the_events_of_rfc_21_with_their_times() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC)
    instance.advance(10.0)
    instance.start(jobid, R)
    instance.advance(70.0)
    instance.finish(jobid, status=9)
    log = [(event.timestamp, event.name) for event in instance.eventlog(jobid)]
    assert log == [
        (0.0, "submit"), (0.0, "validate"), (0.0, "depend"), (0.0, "priority"),
        (10.0, "alloc"), (10.0, "start"),
        (70.0, "finish"), (70.0, "release"), (70.0, "free"), (70.0, "clean"),
    ]  # fmt: skip
    finish = instance.eventlog(jobid)[6]
    assert finish.context == {"status": 9}


def test_cancelled_job_that_waits_leaves_the_queue_with_a_fatal_exception() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC)
    instance.cancel(jobid, note="unsatisfiable request")
    assert instance.waiting() == 0
    assert names(instance, jobid)[-2:] == ["exception", "clean"]
    context = instance.eventlog(jobid)[-2].context
    assert context == {"type": "cancel", "severity": 0, "note": "unsatisfiable request"}


def test_cancelled_job_that_runs_finishes_by_a_signal_and_frees_its_resources() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC)
    instance.start(jobid, R)
    instance.cancel(jobid)
    log = names(instance, jobid)
    assert log[log.index("exception") :] == ["exception", "finish", "release", "free", "clean"]
    assert instance.eventlog(jobid)[-4].context == {"status": 15}
    assert instance.jobs()[0].state is JobState.INACTIVE


def test_jobspec_and_allocation_are_what_was_given() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC)
    assert instance.jobspec(jobid) is SPEC
    with pytest.raises(BadInput, match="no R yet"):
        instance.allocation(jobid)
    instance.start(jobid, R)
    assert instance.allocation(jobid) is R
    assert instance.resources() is R


def test_ids_count_on_from_the_highest_that_was_given() -> None:
    instance = MemoryInstance(R)
    assert instance.submit(SPEC) == 1
    assert instance.submit(SPEC, jobid=41) == 41
    assert instance.submit(SPEC, jobid=7) == 7
    assert instance.submit(SPEC) == 42


def test_what_cannot_be_is_refused() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC)
    with pytest.raises(BadInput, match="exists already"):
        instance.submit(SPEC, jobid=jobid)
    for urgency in (-1, 32):
        with pytest.raises(BadInput, match="RFC 21"):
            instance.submit(SPEC, urgency=urgency)
    with pytest.raises(BadInput, match="is in SCHED"):
        instance.finish(jobid)
    instance.start(jobid, R)
    with pytest.raises(BadInput, match="is in RUN"):
        instance.start(jobid, R)
    instance.finish(jobid)
    with pytest.raises(BadInput, match="is inactive"):
        instance.cancel(jobid)
    for ask in (instance.jobspec, instance.eventlog, instance.allocation, instance.cancel):
        with pytest.raises(BadInput, match="no job 99"):
            ask(99)


def test_time_only_moves_forward() -> None:
    instance = MemoryInstance(R, now=5.0)
    instance.advance(5.0)
    with pytest.raises(BadInput, match="backwards"):
        instance.advance(4.0)


def test_memo_adds_changes_and_removes_fields_and_is_logged() -> None:
    instance = MemoryInstance(R)
    jobid = instance.submit(SPEC)
    instance.memo(jobid, {"burst": "burst-0", "usd": 3})
    instance.memo(jobid, {"usd": None, "gone": None, "ready": 5})
    assert instance.jobs()[0].memo == {"burst": "burst-0", "ready": 5}
    assert names(instance, jobid)[-2:] == ["memo", "memo"]


def test_kvs_returns_what_was_put_and_not_what_became_of_it() -> None:
    instance = MemoryInstance(R)
    value = {"ports": [1]}
    instance.kvs_put("flex.lease", value)
    value["ports"].append(2)
    instance.kvs_get("flex.lease")["ports"].append(3)  # type: ignore[index]
    assert instance.kvs_get("flex.lease") == {"ports": [1]}


def test_removing_a_key_removes_all_below_it_and_nothing_beside_it() -> None:
    instance = MemoryInstance(R)
    for key in ("flex.a", "flex.a.b.c", "flex.ab"):
        instance.kvs_put(key, 1)
    instance.kvs_put("flex.a", None)
    for key in ("flex.a", "flex.a.b.c"):
        with pytest.raises(BadInput, match="no key"):
            instance.kvs_get(key)
    assert instance.kvs_get("flex.ab") == 1


def test_value_becomes_a_directory_and_a_directory_a_value() -> None:
    instance = MemoryInstance(R)
    instance.kvs_put("flex", 1)
    instance.kvs_put("flex.a", 2)
    with pytest.raises(BadInput, match="no key"):
        instance.kvs_get("flex")
    instance.kvs_put("flex", 3)
    assert instance.kvs_get("flex") == 3
    with pytest.raises(BadInput, match="no key"):
        instance.kvs_get("flex.a")


@pytest.mark.parametrize("key", ["", ".", "a..b", ".a", "a."])
def test_key_with_an_empty_word_is_refused(key: str) -> None:
    with pytest.raises(BadInput, match="is no key"):
        MemoryInstance(R).kvs_put(key, 1)


def test_ranks_are_drained_with_a_reason_and_undrained_once() -> None:
    instance = MemoryInstance(R)
    instance.drain([3], "disk")
    instance.drain([3], "disk, again")
    assert instance.drained() == {3: "disk, again"}
    instance.undrain([3])
    assert instance.drained() == {}
    with pytest.raises(BadInput, match="rank 3 is not drained"):
        instance.undrain([3])


def test_job_directory_in_the_kvs_is_that_of_rfc_16() -> None:
    assert job_kvs_key(0x82F2C0000) == "job.0000.0008.2f2c.0000"
    assert job_kvs_key(1, "flex.port") == "job.0000.0000.0000.0001.flex.port"
