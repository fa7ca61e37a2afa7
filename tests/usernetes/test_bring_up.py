"""Clusters on a site of paper: processes, signals, files and events are real, the engine is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from usernetes_site import JOBID, STOPPED, Site

from flux_flex.usernetes.state import State

THREE = ("n0", "n1", "n2")
OTHER = JOBID + (1 << 24)

# The steps of each role in their order; a step that hangs is where the prolog is killed.
LEAD = ("up", "kubeadm-init", "install-flannel", "kubeconfig", "join-command", "sync-external-ip")
WORKER = ("up", "kubeadm-join")


def test_a_job_that_asks_gets_a_cluster_and_leaves_nothing(site: Site) -> None:
    site.measured = True
    site.submit(THREE)
    assert site.prologs(JOBID, 3) == [0, 0, 0], site.output()
    assert site.memo(JOBID) == "ready"
    assert site.exceptions(JOBID) == []
    assert len([x for x in site.left() if x.startswith("container")]) == 3
    for rank in range(3):
        directory = site.directory(JOBID, rank)
        assert (directory / "kubeconfig").stat().st_mode & 0o777 == 0o600
        assert not (directory / "join-config.yaml").exists()
    assert "127.0.0.1" in (site.directory(JOBID) / "kubeconfig").read_text()
    assert "127.0.0.1" not in (site.directory(JOBID, 1) / "kubeconfig").read_text()
    assert site.epilogs(JOBID, 3) == [0, 0, 0], site.output()
    assert site.left() == []
    assert site.memo(JOBID) == "down"


def test_a_job_that_does_not_ask_gets_nothing(site: Site) -> None:
    for number, user in enumerate(({}, {"usernetes": "no"}, {"usernetes": False})):
        site.submit(user=user, jobid=JOBID + number)
        assert site.prologs(JOBID + number, 1) == [0]
    assert site.left() == []


def test_a_job_of_one_node_needs_nobody_to_join(site: Site) -> None:
    site.submit()
    assert site.prologs(JOBID, 1) == [0], site.output()
    assert not (site.directory(JOBID) / "join-command").exists()
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []


def test_ranks_that_share_a_host_have_names_ports_and_directories_of_their_own(site: Site) -> None:
    site.submit(["n0"] * 4)
    assert site.prologs(JOBID, 4) == [0] * 4, site.output()
    records = [site.record(JOBID, rank) for rank in range(4)]
    assert all(records)
    ports = [port for record in records if record for port in record.ports.values()]
    assert len(set(ports)) == 16
    for what in ("workdir", "subnet", "project"):
        assert len({getattr(record, what) for record in records}) == 4
    names = {
        line.partition("=")[2]
        for record in records
        if record
        for line in Path(record.workdir, ".env-up").read_text().splitlines()
        if line.startswith("NODE_NAME=")
    }
    assert names == {"u7s-n0", "u7s-n0-1", "u7s-n0-2", "u7s-n0-3"}
    assert site.epilogs(JOBID, 4) == [0] * 4
    assert site.left() == []


def test_hosts_have_the_same_ports_and_different_subnets(site: Site) -> None:
    site.submit(THREE)
    assert site.prologs(JOBID, 3) == [0] * 3, site.output()
    records = [site.record(JOBID, rank) for rank in range(3)]
    assert len({json.dumps(record.ports) for record in records if record}) == 1
    assert len({record.subnet for record in records if record}) == 3
    site.epilogs(JOBID, 3)


def test_a_dozen_clusters_live_on_one_host_at_once(site: Site) -> None:
    jobs = [site.submit(jobid=JOBID + (n << 24)) for n in range(12)]
    running = [site.start("prolog", jobid, 0) for jobid in jobs]
    assert [process.wait(60) for process in running] == [0] * 12, site.output()
    records = [site.record(jobid) for jobid in jobs]
    assert len({port for r in records if r for port in r.ports.values()}) == 48
    assert len({record.subnet for record in records if record}) == 12
    epilogs = [site.start("epilog", jobid, 0) for jobid in jobs]
    assert [process.wait(60) for process in epilogs] == [0] * 12, site.output()
    assert site.left() == []


def test_a_job_can_have_a_cluster_of_fewer_nodes(site: Site) -> None:
    site.submit(THREE, {"usernetes": {"kubernetes": {"nodes": 2}}})
    assert site.prologs(JOBID, 3) == [0] * 3, site.output()
    assert [site.record(JOBID, rank) is not None for rank in range(3)] == [True, True, False]
    assert site.epilogs(JOBID, 3) == [0] * 3
    assert site.left() == []


def test_options_reach_compose_and_the_user(site: Site) -> None:
    limits = {"cpus": 2, "memory": "1g"}
    options = {"image": "example.org/node:v1", "ports": [30080], "kubernetes": limits}
    site.submit(user={"usernetes": options})
    assert site.prologs(JOBID, 1) == [0], site.output()
    directory = site.directory(JOBID)
    leased = json.loads((directory / "ports.json").read_text())["30080"]
    document = json.loads((directory / "docker-compose.flux-flex.yaml").read_text())
    assert document["services"]["node"] == {
        "build": {"context": ".", "args": {"BASE_IMAGE": "example.org/node:v1"}},
        "cpus": 2.0,
        "mem_limit": 1 << 30,
        "ports": [f"{leased}:30080"],
    }
    assert (
        "COMPOSE_FILE=docker-compose.yaml:docker-compose.flux-flex.yaml"
        in (directory / ".env-up").read_text().splitlines()
    )
    site.epilogs(JOBID, 1)


def test_links_serve_locales_without_the_letter_of_f58(site: Site) -> None:
    site.submit()
    assert site.prologs(JOBID, 1) == [0], site.output()
    directory = site.directory(JOBID)
    plain = directory.with_name(directory.name.replace("ƒ", "f"))
    assert plain.is_symlink()
    assert plain.resolve() == directory.resolve()
    nested = directory.with_name("usernetes-ƒnested")
    nested.symlink_to(directory)
    stranger = directory.with_name("usernetes-ƒother")
    stranger.symlink_to("/etc")
    site.epilogs(JOBID, 1)
    assert site.left() == ["directory usernetes-ƒother"]


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", LEAD)
def test_a_failing_step_of_the_lead_is_named_and_undone(site: Site, step: str) -> None:
    site.faults(f"{step} fail on=u7s-n0")
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2, epilogs=False)[0] == 1
    assert site.exceptions(JOBID)[0].startswith(f"n0 (rank 0): {step}: exit code 2: line 1 of")
    assert f"line 3 of {step}" in site.exceptions(JOBID)[0]
    assert site.memo(JOBID) == f"failed: {step}"
    # The prolog undid everything itself; one that was stopped as it started made nothing.
    assert [one for one in site.left() if not one.startswith("record")] == []
    assert site.epilogs(JOBID, 2) == [0] * 2
    assert site.left() == []


@pytest.mark.parametrize("step", WORKER)
def test_a_failing_step_of_a_worker_is_named_and_undone_everywhere(site: Site, step: str) -> None:
    site.configure("join_tries = 2")
    site.faults(f"{step} fail on=u7s-n2")
    site.submit(THREE)
    assert all(site.prologs(JOBID, 3, epilogs=False)), site.output()
    assert site.exceptions(JOBID)[0].startswith(f"n2 (rank 2): {step}: exit code 2: line 1 of")
    assert len(site.exceptions(JOBID)) == 1
    assert site.left() == []


@pytest.mark.parametrize("step", LEAD)
def test_killed_during_a_step_the_lead_leaves_a_record_that_undoes_all(
    site: Site, step: str
) -> None:
    site.faults(f"{step} hang")
    site.submit(["n0", "n1"])
    lead, worker = (site.start("prolog", JOBID, rank) for rank in (0, 1))
    site.wait_for_step(JOBID, step)
    lead.kill()
    worker.terminate()
    assert lead.wait(30) == -signal.SIGKILL, site.output()
    assert worker.wait(30) in STOPPED
    assert site.record(JOBID) is not None
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert site.left() == []
    assert site.memo(JOBID) == f"failed: {step}"


@pytest.mark.parametrize("step", WORKER)
def test_killed_during_a_step_a_worker_leaves_a_record_that_undoes_all(
    site: Site, step: str
) -> None:
    site.faults(f"{step} hang on=u7s-n1")
    site.submit(["n0", "n1"])
    lead, worker = (site.start("prolog", JOBID, rank) for rank in (0, 1))
    site.wait_for_step(JOBID, step, rank=1)
    worker.kill()
    lead.terminate()
    assert (lead.wait(30), worker.wait(30)) == (1, -signal.SIGKILL), site.output()
    assert site.epilogs(JOBID, 2) == [0, 0], site.output()
    assert site.left() == []


def test_the_memo_names_the_step_of_the_worker_that_failed_while_the_lead_is_at_work(
    site: Site,
) -> None:
    site.faults("up fail on=u7s-n1", "kubeadm-init hang")
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [1, 1], site.output()
    assert site.memo(JOBID) == "failed: up"
    assert site.left() == []


def test_brokers_of_different_names_can_share_a_host(site: Site) -> None:
    site.submit(["lead", "burst-0", "burst-1"])
    here = site.host("lead")
    shared = {"FLUX_FLEX_STATE": str(here / "state"), "FLUX_FLEX_CONFIG": str(here / "flex.toml")}
    running = [site.start("prolog", JOBID, rank, **shared) for rank in range(3)]
    assert site.watch_over(JOBID, running) == [0, 0, 0], site.output()
    records = list(State(here / "state").records())
    assert len({port for record in records for port in record.ports.values()}) == 12
    assert len({record.workdir for record in records}) == 3
    epilogs = [site.start("epilog", JOBID, rank, **shared) for rank in range(3)]
    assert [process.wait(30) for process in epilogs] == [0, 0, 0], site.output()
    assert site.left() == []


def test_an_epilog_ends_a_prolog_that_is_still_at_work(site: Site) -> None:
    site.faults("kubeadm-init hang")
    site.submit()
    prolog = site.start("prolog", JOBID, 0)
    site.wait_for_step(JOBID, "kubeadm-init")
    assert site.epilogs(JOBID, 1) == [0], site.output()
    assert prolog.wait(10) == -signal.SIGKILL
    assert site.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_undoes_what_was_done(site: Site, number: signal.Signals) -> None:
    site.faults("install-flannel hang")
    site.submit()
    prolog = site.start("prolog", JOBID, 0)
    site.wait_for_step(JOBID, "install-flannel")
    prolog.send_signal(number)
    assert prolog.wait(30) == 1
    assert site.left() == []
    assert site.exceptions(JOBID) == []
    assert site.memo(JOBID) == "cancelled"


def test_a_step_that_takes_too_long_is_ended_and_named(site: Site) -> None:
    site.configure(deadlines="kubeadm-init = 0.3")
    site.faults("kubeadm-init hang")
    site.submit()
    assert site.prologs(JOBID, 1) == [1]
    (note,) = site.exceptions(JOBID)
    assert "kubeadm-init: took longer than 0 s" in note
    assert site.left() == []


def test_the_whole_has_a_deadline_too(site: Site) -> None:
    site.configure(deadlines="total = 1.5")
    site.faults("kubeadm-init sleep 0.2", "install-flannel hang")
    site.submit()
    began = time.monotonic()
    assert site.prologs(JOBID, 1) == [1]
    assert time.monotonic() - began < 15
    assert len(site.exceptions(JOBID)) == 1
    assert site.left() == []


def test_a_worker_that_never_begins_is_named_by_the_lead(site: Site) -> None:
    site.configure(deadlines="wait-workers = 0.5")
    site.submit(THREE)
    running = [site.start("prolog", JOBID, rank) for rank in (0, 2)]
    assert site.watch_over(JOBID, running) == [1, 1]
    (note,) = site.exceptions(JOBID)
    assert "wait-workers: after 0 s these have not joined: n1 (rank 1)" in note
    assert site.epilogs(JOBID, 3) == [0, 0, 0]
    assert site.left() == []


def test_a_lead_that_never_begins_is_named_by_the_workers(site: Site) -> None:
    site.configure(deadlines="wait-lead = 0.5")
    site.submit(["n0", "n1"])
    assert site.watch_over(JOBID, [site.start("prolog", JOBID, 1)]) == [1]
    assert "nothing from the lead, n0 (rank 0)" in site.exceptions(JOBID)[0]
    assert site.epilogs(JOBID, 2) == [0, 0]
    # The key is the lead's to remove, and there was no lead: the job's purge removes it.
    assert [one for one in site.left() if not one.startswith("key job.")] == []


def test_joining_is_tried_again(site: Site) -> None:
    site.measured = True
    site.faults("kubeadm-join fail-times 2")
    site.submit(["n0", "n1"])
    assert site.prologs(JOBID, 2) == [0, 0], site.output()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


def test_a_worker_whose_clock_is_an_hour_off_joins_all_the_same(site: Site) -> None:
    site.submit(["n0", "n1"])
    lead = site.start("prolog", JOBID, 0)
    for shift in (3600,):
        patch = f"import time; real = time.time; time.time = lambda: real() + {shift}"
        worker = site.start("prolog", JOBID, 1, SITE_PATCH=patch)
    assert (lead.wait(30), worker.wait(30)) == (0, 0), site.output()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


def test_two_jobs_come_up_at_once_on_the_same_hosts(site: Site) -> None:
    for jobid in (JOBID, OTHER):
        site.submit(["n0", "n1"], jobid=jobid)
    running = [site.start("prolog", job, rank) for job in (JOBID, OTHER) for rank in (0, 1)]
    assert [process.wait(60) for process in running] == [0] * 4, site.output()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert len([x for x in site.left() if x.startswith("container")]) == 2
    assert site.epilogs(OTHER, 2) == [0, 0]
    assert site.left() == []


def test_an_epilog_is_idempotent_one_after_the_other_and_at_once(site: Site) -> None:
    site.submit()
    site.prologs(JOBID, 1)
    running = [site.start("epilog", JOBID, 0) for _ in range(3)]
    assert [process.wait(30) for process in running] == [0, 0, 0], site.output()
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []


def test_an_epilog_without_a_directory_or_template_removes_the_rest(site: Site) -> None:
    site.submit()
    site.prologs(JOBID, 1)
    shutil.rmtree(site.directory(JOBID))
    shutil.rmtree(site.template)
    assert site.epilogs(JOBID, 1) == [0], site.output()
    assert site.left() == []


def test_a_folder_that_the_engine_made_again_goes_too(site: Site) -> None:
    site.submit()
    site.prologs(JOBID, 1)
    shutil.rmtree(site.directory(JOBID))
    site.directory(JOBID).mkdir()
    assert site.epilogs(JOBID, 1) == [0], site.output()
    assert site.left() == []


def test_what_cannot_be_removed_is_named_and_removed_by_the_next_epilog(site: Site) -> None:
    site.submit()
    site.prologs(JOBID, 1)
    stuck = site.bin / "engine" / "stuck"
    stuck.touch()
    assert site.epilogs(JOBID, 1) == [1]
    assert "left behind: ['container" in site.output()
    record = site.record(JOBID)
    assert record is not None
    assert len(record.left) == 3
    stuck.unlink()
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []


def test_an_engine_that_is_down_is_no_reason_to_forget(site: Site) -> None:
    site.submit()
    site.prologs(JOBID, 1)
    broken = site.bin / "engine" / "broken"
    broken.touch()
    assert site.epilogs(JOBID, 1) == [1]
    assert "the engine is down" in site.output()
    assert site.directory(JOBID).exists()
    broken.unlink()
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []


def test_a_failure_before_the_engine_was_asked_needs_no_engine_to_undo(site: Site) -> None:
    (site.bin / "engine").mkdir()
    (site.bin / "engine" / "broken").touch()
    (site.template / "kubeadm-config.yaml").unlink()
    site.submit()
    assert site.prologs(JOBID, 1, epilogs=False) == [1]
    assert "prepare: " in site.exceptions(JOBID)[0]
    assert site.left() == []


def test_a_port_taken_between_lease_and_use_is_replaced(
    site: Site, listener: socket.socket
) -> None:
    site.measured = True
    # The first try of `up` fails, as it does when compose cannot publish the port.
    site.faults("up sleep 0.5", "up fail-times 1 on=u7s-n0")
    site.submit(["n0", "n1"])
    running = [site.start("prolog", JOBID, rank) for rank in (0, 1)]
    site.wait_for_step(JOBID, "up")
    record = site.record(JOBID)
    assert record is not None
    taken = record.ports["kube-apiserver"]
    listener.bind(("0.0.0.0", taken))
    listener.listen()
    assert [process.wait(30) for process in running] == [0, 0], site.output()
    record = site.record(JOBID)
    assert record is not None
    assert taken not in record.ports.values()
    assert site.epilogs(JOBID, 2) == [0, 0]
    assert site.left() == []


def test_a_port_that_a_worker_cannot_have_is_replaced_everywhere(
    site: Site, listener: socket.socket
) -> None:
    site.measured = True
    other = site.submit(["n1"], jobid=OTHER)
    assert site.prologs(other, 1) == [0], site.output()
    leases = site.state("n1") / "leases.json"
    site.submit(["n0", "n1"])
    lead = site.start("prolog", JOBID, 0)
    site.wait_for_step(JOBID, "wait-workers")
    record = site.record(JOBID)
    assert record is not None
    # What the lead chose belongs to somebody else on the worker's host.
    table = json.loads(leases.read_text())
    (owner,) = set(table["ports"].values())
    table["ports"] |= {str(port): owner for port in record.ports.values()}
    leases.write_text(json.dumps(table))
    worker = site.start("prolog", JOBID, 1)
    assert (lead.wait(30), worker.wait(30)) == (0, 0), site.output()
    again = site.record(JOBID)
    assert again is not None
    assert not set(again.ports.values()) & set(record.ports.values())
    site.epilogs(JOBID, 2)
    site.epilogs(other, 1)
    assert site.left() == []


def test_a_subnet_taken_between_lease_and_use_is_replaced(site: Site) -> None:
    site.faults("up overlap 2", "install-flannel sleep 0.3")
    site.submit()
    prolog = site.start("prolog", JOBID, 0)
    subnets = set()
    while prolog.poll() is None:
        record = site.record(JOBID)
        subnets |= {record.subnet} if record and record.subnet else set()
    assert prolog.returncode == 0, site.output()
    assert len(subnets) == 3
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []


# -- keeping what failed ---------------------------------------------------------------------------

DEBUG = {"usernetes": "yes", "usernetes_debug": "yes"}


def test_debug_keeps_a_failed_cluster_no_longer_than_debug_max(site: Site) -> None:
    site.configure("debug_max = 2.0")
    site.faults("kubeconfig fail")
    site.submit(user=DEBUG)
    assert site.prologs(JOBID, 1) == [1]
    record = site.record(JOBID)
    assert record is not None
    assert record.phase == "kept"
    assert (site.directory(JOBID) / "bring-up.log").exists()
    site.wait_for(lambda: site.left() == [])
    assert record.keep_until is not None
    assert time.time() >= record.keep_until


def test_debug_keeps_no_longer_than_the_job_may_run(site: Site) -> None:
    site.measured = True
    site.faults("kubeconfig fail")
    site.submit(user=DEBUG, duration=100.0)
    assert site.prologs(JOBID, 1, epilogs=False) == [1]
    record = site.record(JOBID)
    assert record is not None
    assert record.keep_until == pytest.approx(record.began + 100.0)


def test_the_next_job_of_the_host_removes_what_was_kept_long_enough(site: Site) -> None:
    site.configure("debug_max = 0")
    site.faults("kubeconfig fail on=u7s-n0")
    site.submit(user=DEBUG)
    assert site.prologs(JOBID, 1, epilogs=False) == [1]
    assert site.record(JOBID) is not None
    os.unlink(site.template / "faults")
    site.submit(jobid=OTHER)
    assert site.prologs(OTHER, 1) == [0], site.output()
    assert site.record(JOBID) is None
    site.epilogs(OTHER, 1)
    assert site.left() == []


def test_a_cluster_that_came_up_is_not_kept(site: Site) -> None:
    site.submit(user=DEBUG)
    assert site.prologs(JOBID, 1) == [0], site.output()
    assert site.epilogs(JOBID, 1) == [0]
    assert site.left() == []
