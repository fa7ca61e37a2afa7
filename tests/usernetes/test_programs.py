"""The programs that the scripts call, from their environment to their exit codes, without Flux."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from usernetes_site import JOBID, Site, jobspec_of, r_of

from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.model.jobid import f58
from flux_flex.usernetes import epilog, keeping, program, prolog, whole
from flux_flex.usernetes.state import State


class Broker(MemoryInstance):
    """An instance in memory that can also say what FluxInstance says of its broker."""

    at_rank = 0
    attributes: dict[str, str] = {}  # noqa: RUF012 - the tests set it

    def rank(self) -> int:
        return self.at_rank

    def identity(self) -> str:
        return "0123abcd"

    def attribute(self, name: str) -> str | None:
        return self.attributes.get(name)


RunWhole = Callable[..., tuple[int, str]]


@pytest.fixture
def broker(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """An instance of one host, which the programs of this process find."""
    made = Broker(r_of(["n0"]))
    made.attributes = {"security.owner": str(os.getuid())}
    host = site.host("n0")
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(host / "flex.toml"))
    monkeypatch.setenv("FLUX_FLEX_STATE", str(host / "state"))
    monkeypatch.setenv("FLUX_JOB_ID", f58(JOBID))
    monkeypatch.setenv("FLUX_JOB_USERID", str(os.getuid()))
    for module in (prolog, epilog, whole):
        monkeypatch.setattr(module, "FluxInstance", lambda: made)
    before = {number: signal.getsignal(number) for number in program._CANCELLING}
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def asking(broker: Broker, **user: object) -> None:
    broker.submit(jobspec_of(user or {"usernetes": "yes"}), jobid=JOBID)
    broker.start(JOBID, r_of(["n0"]))


def memo(broker: Broker) -> object:
    return broker.jobs()[0].memo.get("flex.usernetes")


def notes(broker: Broker) -> list[Any]:
    log = broker.eventlog(JOBID)
    return [event.context["note"] for event in log if event.name == "exception"]


def test_prolog_and_epilog_take_the_job_from_their_environment(site: Site, broker: Broker) -> None:
    asking(broker)
    site.hosts[JOBID] = ["n0"]
    assert prolog.main() == 0
    assert memo(broker) == "ready"
    assert site.record(JOBID) is not None
    assert epilog.main() == 0
    assert memo(broker) == "down"
    assert broker.all_keys() == []
    assert site.left() == []


def test_a_job_that_asks_for_nothing_ends_the_prolog_at_once(site: Site, broker: Broker) -> None:
    asking(broker, usernetes="no")
    assert prolog.main() == 0
    assert memo(broker) is None


def test_a_wrong_request_becomes_an_exception_of_the_job(site: Site, broker: Broker) -> None:
    asking(broker, usernetes={"imag": "x"})
    assert prolog.main() == 1
    (note,) = notes(broker)
    assert "unknown key 'imag'; did you mean 'image'?" in note


@pytest.mark.parametrize(
    ("name", "value"),
    [("FLUX_JOB_ID", ""), ("FLUX_JOB_ID", "f0"), ("FLUX_JOB_USERID", ""), ("FLUX_JOB_USERID", "x")],
)
def test_an_environment_without_a_job_is_refused(
    site: Site, broker: Broker, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert prolog.main() == 1
    assert epilog.main() == (1 if name == "FLUX_JOB_ID" else 0)


def test_an_epilog_that_leaves_something_says_so_and_ends_with_one(
    site: Site, broker: Broker
) -> None:
    asking(broker)
    assert prolog.main() == 0
    (site.bin / "engine" / "stuck").touch()
    assert epilog.main() == 1
    assert memo(broker) == "left behind"
    (site.bin / "engine" / "stuck").unlink()
    assert epilog.main() == 0
    assert [one for one in site.left() if not one.startswith("key")] == []


@pytest.fixture
def run_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunWhole:
    """Runs a command for a whole instance: its exit code, and what it alone printed."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["whole", *words])
        capsys.readouterr()
        code = whole.main()
        return code, capsys.readouterr().out

    return run


def test_a_whole_instance_comes_up_is_shown_and_goes(
    site: Site, broker: Broker, run_whole: RunWhole
) -> None:
    broker.attributes["jobid"] = f58(JOBID)
    code, said = run_whole("up", "--run", "x")
    assert code == 0, said
    assert '"step": "prepare"' in said
    assert f"usernetes-{f58(JOBID).lower()}/kubeconfig" in said.encode().decode("unicode_escape")
    assert broker.jobs() == []
    code, said = run_whole("up", "--run", "x")
    assert code == 1
    assert "it has been brought up already" in said
    code, said = run_whole("clean")
    assert (code, said) == (0, "")  # nobody's job, so nothing that is over
    assert '"phase": "up"' in run_whole("status")[1]
    code, said = run_whole("down")
    assert code == 0
    assert '"left": []' in said
    assert site.left() == []


def test_only_the_first_rank_of_a_host_speaks_for_it(
    site: Site, broker: Broker, run_whole: RunWhole
) -> None:
    broker._resources = r_of(["n0", "n0"])
    assert run_whole("up", "--nodes", "1", "--run", "x")[0] == 0
    for rank, shown in ((0, True), (1, False)):
        broker.at_rank = rank
        assert bool(run_whole("status")[1]) is shown
        assert bool(run_whole("logs")[1]) is False  # paper says nothing
    assert run_whole("up", "--nodes", "1", "--run", "x")[0] == 0  # rank 1 is no member
    broker.at_rank = 0
    assert run_whole("down")[0] == 0
    assert site.left() == []


def test_a_failing_step_of_a_whole_instance_is_said_and_undone(
    site: Site, broker: Broker, run_whole: RunWhole
) -> None:
    site.faults("kubeconfig fail")
    code, said = run_whole("up", "--run", "x")
    assert code == 1
    assert "n0 (rank 0): kubeconfig: exit code 2" in said
    assert site.left() == []
    assert broker.all_keys() == []


def test_clean_takes_away_what_jobs_left_that_are_over(
    site: Site, broker: Broker, monkeypatch: pytest.MonkeyPatch, run_whole: RunWhole
) -> None:
    asking(broker)
    assert prolog.main() == 0
    # The prolog of the record is this process, which lives; another one's would be over.
    monkeypatch.setattr(whole, "is_alive", lambda record: False)
    assert run_whole("clean") == (0, "")
    broker.finish(JOBID)
    code, said = run_whole("clean")
    assert code == 0
    assert '"left": []' in said
    assert site.left() == []


def test_a_cluster_of_a_job_that_is_over_goes_with_the_next_one_that_asks(
    site: Site, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A node that crashes gets no epilog. What it has is found when it serves again.
    asking(broker)
    assert prolog.main() == 0
    monkeypatch.setattr(keeping, "is_alive", lambda record: False)
    other = JOBID + (1 << 24)
    broker.submit(jobspec_of({"usernetes": "yes"}), jobid=other)
    broker.start(other, r_of(["n0"]))
    monkeypatch.setenv("FLUX_JOB_ID", f58(other))
    assert prolog.main() == 0
    assert len(list(State.open().records())) == 2  # the first job still runs
    assert epilog.main() == 0
    broker.finish(JOBID)
    third = other + (1 << 24)
    broker.submit(jobspec_of({"usernetes": "yes"}), jobid=third)
    broker.start(third, r_of(["n0"]))
    monkeypatch.setenv("FLUX_JOB_ID", f58(third))
    assert prolog.main() == 0
    assert [record.jobid for record in State.open().records()] == [third]
    assert epilog.main() == 0
    assert site.left() == []


def test_a_whole_instance_leaves_the_clusters_of_others_alone(
    site: Site, broker: Broker, monkeypatch: pytest.MonkeyPatch, run_whole: RunWhole
) -> None:
    assert run_whole("up", "--run", "a")[0] == 0
    monkeypatch.setattr(Broker, "identity", lambda self: "4567cdef")
    assert run_whole("down") == (0, "")
    assert run_whole("clean") == (0, "")
    assert run_whole("up", "--run", "b")[0] == 0
    assert len(list(State.open().records())) == 2
    assert run_whole("clean", "--all")[0] == 0
    assert site.left() == []


def test_a_key_that_nobody_can_be_asked_to_remove_is_named(
    site: Site, broker: Broker, monkeypatch: pytest.MonkeyPatch, run_whole: RunWhole
) -> None:
    asking(broker)
    assert prolog.main() == 0
    monkeypatch.setattr(whole, "_instance", lambda: None)
    code, said = run_whole("clean", "--all")
    assert code == 1
    assert "no Flux instance here" in said
    assert epilog.main() == 0
    assert site.left() == []
