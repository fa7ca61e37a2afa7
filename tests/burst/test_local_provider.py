"""The provider `local`: brokers that outlive whoever started them, and join a real instance."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from burst_processes import eventually, processes_of

from flux_flex.burst.bootstrap import Lead, follower_toml, hosts_of, with_cores
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.providers.local import LocalProvider
from flux_flex.burst.providers.records import locked
from flux_flex.cli.burst_configure import configure
from flux_flex.config import load_config, slots_of
from flux_flex.errors import BadInput, FlexError

TYPE = NodeType(
    name="hpc7a.12xlarge", cores=24, vcpus=24, gpus=0, memory_gib=768.0, network_gbps=300.0,
    price_per_hour_usd=7.2,
)  # fmt: skip
RENTAL = Rental("hpc7a-0", TYPE.name, ("hpc7a-0-0", "hpc7a-0-1"), ("ƒ2XwYQ37M",))
BURST = RENTAL.burst

# What stands for `flux`: notes that it runs, and has a task, which knows its broker as Flux's do.
STEADY = """#!/bin/sh
export FLUX_URI="local://${3#-Srundir=}/local-1"
echo "$$ $*" >> "${0%/*}/started"
exec sleep 300
"""
STUBBORN = STEADY.replace("exec sleep 300", "trap '' TERM\nsleep 300 &\nwait; wait")
FAILING = "#!/bin/sh\necho first\necho broker.err: no such port >&2\nexit 1\n"


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder with a short path, as sockets need it; nothing may be left that runs there."""
    with tempfile.TemporaryDirectory(prefix="ff") as name:
        folder = Path(name)
        yield folder
        for pid in processes_of(folder):
            os.kill(pid, signal.SIGKILL)


def install(site: Path, script: str) -> None:
    new = site / "new"
    new.write_text(script)
    new.chmod(0o755)
    new.rename(site / "flux")


def provider_at(site: Path, script: str = "", release_s: float = 20.0) -> LocalProvider:
    if script:
        install(site, script)
    return LocalProvider(
        [TYPE], "[bootstrap]\n", rundir=site / "run", flux=str(site / "flux"), release_s=release_s
    )


def started(site: Path) -> list[str]:
    """The command lines of all brokers that were ever started, with their process ids first."""
    path = site / "started"
    return path.read_text().splitlines() if path.exists() else []


def running(site: Path, count: int) -> set[int]:
    eventually(lambda: len(started(site)) >= count)
    return {int(line.split()[0]) for line in started(site)} & processes_of(site)


def phase(provider: LocalProvider) -> list[tuple[Phase, int]]:
    return [(one.phase, one.nodes) for one in provider.observe()]


# -- what a burst is


def test_a_broker_for_each_host_in_a_session_of_its_own(site: Path) -> None:
    provider = provider_at(site, STEADY)
    assert provider.observe() == []
    provider.request(RENTAL)
    assert provider.observe() == [Observed(BURST, Phase.READY, 2)]
    pids = running(site, 2)
    assert {os.getsid(pid) for pid in pids} == pids
    folder = site / "run" / BURST
    assert sorted(line.split(maxsplit=1)[1] for line in started(site)) == [
        f"broker -Shostname=hpc7a-0-{k} -Srundir={folder}/{k}/run "
        f"--config-path={folder}/broker.toml"
        for k in (0, 1)
    ]
    assert [*provider.types()] == [TYPE]
    provider.close()
    assert phase(provider_at(site)) == [(Phase.READY, 2)]
    provider.release(BURST)
    assert provider.observe() == []
    assert not folder.exists()
    assert processes_of(site) == set()


def test_all_that_is_written_is_for_its_owner_alone(site: Path) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    for place in [site / "run", *(site / "run").rglob("*")]:
        assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0, place
    provider.release(BURST)


def test_a_broker_does_not_believe_that_it_is_a_part_of_what_started_it(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_URI", "local:///else/where")
    monkeypatch.setenv("FLUX_JOB_ID", "ƒ1")
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("KEPT", "1")
    provider = provider_at(site, f"#!/bin/sh\nenv > {site}/environment\nexec sleep 300\n")
    provider.request(RENTAL)
    path = site / "environment"
    eventually(lambda: path.exists() and "KEPT=1" in path.read_text())
    assert not {"FLUX_URI", "FLUX_JOB_ID", "PMI_RANK"} & {
        line.partition("=")[0] for line in path.read_text().splitlines()
    }
    provider.release(BURST)


# -- again and at once


def test_what_runs_is_not_started_twice_and_what_is_gone_not_released_twice(site: Path) -> None:
    provider = provider_at(site, STEADY)
    for _ in range(3):
        provider.request(RENTAL)
    assert len(running(site, 2)) == 2
    assert len(started(site)) == 2
    provider.release(BURST)
    provider.release(BURST)
    provider.release("never-there")
    provider.release("../etc")
    assert processes_of(site) == set()


def test_requests_and_releases_at_once_make_one_burst_and_end_it(site: Path) -> None:
    providers = [provider_at(site, STEADY) for _ in range(4)]
    failed: list[Exception] = []

    def call(verb: Callable[[], None]) -> None:
        try:
            verb()
        except FlexError as error:
            failed.append(error)

    for verbs in (
        [lambda one=one: one.request(RENTAL) for one in providers],
        [lambda one=one: one.release(BURST) for one in providers],
    ):
        threads = [threading.Thread(target=call, args=(verb,)) for verb in verbs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        eventually(lambda: len(started(site)) == 2)
    assert processes_of(site) == set()


def test_a_lock_that_nobody_lets_go_of_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_flex.burst.providers.local.KILL_S", 0.01)
    provider = provider_at(site, STEADY, release_s=0.05)
    with locked(provider._rundir, BURST), pytest.raises(FlexError, match="somebody else"):
        provider.request(RENTAL)
    provider.request(RENTAL)
    provider.release(BURST)


def test_a_burst_of_other_hosts_is_not_the_same(site: Path) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    with pytest.raises(BadInput, match="it is 2 x hpc7a"):
        provider.request(Rental(BURST, TYPE.name, ("hpc7a-0-0",)))
    provider.release(BURST)


# -- what goes wrong


def test_a_broker_that_ends_is_told_with_its_last_words_and_can_be_asked_for_again(
    site: Path,
) -> None:
    provider = provider_at(site, FAILING)
    provider.request(RENTAL)
    eventually(lambda: phase(provider) == [(Phase.FAILED, 0)])
    (observed,) = provider.observe()
    assert observed.reason == (
        "the broker of hpc7a-0-0 has ended: first / broker.err: no such port"
    )
    assert not observed.no_capacity
    install(site, STEADY)
    assert phase(provider) == [(Phase.FAILED, 0)]
    provider.request(RENTAL)
    assert phase(provider) == [(Phase.READY, 2)]
    provider.release(BURST)


def test_one_dead_broker_fails_the_burst_and_is_replaced_alone(site: Path) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    first, second = sorted(running(site, 2))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: phase(provider) == [(Phase.FAILED, 1)])
    provider.request(RENTAL)
    assert phase(provider) == [(Phase.READY, 2)]
    assert second in running(site, 3)
    provider.release(BURST)


def test_a_broker_that_does_not_end_is_killed_with_its_tasks(site: Path) -> None:
    provider = provider_at(site, STUBBORN, release_s=0.3)
    provider.request(RENTAL)
    eventually(lambda: len(processes_of(site)) == 4)
    provider.release(BURST)
    assert processes_of(site) == set()


def test_the_tasks_of_a_broker_that_was_killed_are_ended(site: Path) -> None:
    provider = provider_at(site, STUBBORN)
    provider.request(RENTAL)
    eventually(lambda: len(processes_of(site)) == 4)
    for pid in running(site, 2):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(processes_of(site)) == 2)
    provider.release(BURST)
    assert processes_of(site) == set()


@pytest.mark.parametrize("what", ["start", "boot"])
def test_a_process_with_the_id_of_an_earlier_broker_is_never_touched(site: Path, what: str) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    innocent = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        record = site / "run" / BURST / "0" / "broker.json"
        ours = json.loads(record.read_text())
        began = Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].split()[19]
        theirs = {**ours, "pid": innocent.pid, "start": int(began)}
        theirs[what] = {"start": int(began) - 1, "boot": "an earlier one"}[what]
        os.kill(ours["pid"], signal.SIGKILL)
        record.write_text(json.dumps(theirs))
        assert phase(provider) == [(Phase.FAILED, 1)]
        provider.request(RENTAL)
        assert phase(provider) == [(Phase.READY, 2)]
        record.write_text(json.dumps(theirs))
        provider.release(BURST)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_no_zombie_is_kept(site: Path) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    pids = running(site, 2)
    provider.release(BURST)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("rental", "said"),
    [
        (Rental("../x", "t", ("h",)), "cannot name a burst"),
        (Rental("b", "t", ("-x",)), "not a host name"),
        (Rental("b", "t", ("a/b",)), "not a host name"),
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(site: Path, rental: Rental, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        provider_at(site, STEADY).request(rental)
    assert not (site / "run").exists()


def test_what_cannot_work_is_told_before_anything_is_made(site: Path) -> None:
    install(site, STEADY)
    deep = LocalProvider([TYPE], "", rundir=site / ("x" * 80), flux=str(site / "flux"))
    with pytest.raises(BadInput, match="more than 95 characters"):
        deep.request(RENTAL)
    with pytest.raises(BadInput, match="no such command"):
        LocalProvider([TYPE], "", rundir=site / "run", flux=str(site / "none")).request(RENTAL)
    (site / "open").mkdir()
    (site / "open").chmod(0o755)
    with pytest.raises(FlexError, match="no folder of this user alone"):
        LocalProvider([TYPE], "", rundir=site / "open", flux=str(site / "flux")).request(RENTAL)
    (site / "file").write_text("")
    with pytest.raises(FlexError):
        LocalProvider([TYPE], "", rundir=site / "file", flux=str(site / "flux")).request(RENTAL)


def test_folders_of_others_are_neither_seen_nor_removed(site: Path) -> None:
    provider = provider_at(site, STEADY)
    other = site / "run" / "other"
    other.mkdir(parents=True)
    assert provider.observe() == []
    provider.release("other")
    assert other.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": "x", "pids": 1}'])
def test_a_record_that_is_none_is_told_with_its_file(site: Path, text: str) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    record = site / "run" / BURST / "1" / "broker.json"
    kept = record.read_text()
    record.write_text(text)
    for verb in (provider.observe, lambda: provider.release(BURST)):
        with pytest.raises(FlexError, match="no record of a burst") as got:
            verb()
        assert got.value.where == str(record)
    record.write_text(kept)
    provider.release(BURST)


# -- whoever asked dies

DYING = """
import os, signal, sys
from flux_flex.burst.providers import Rental, local
site, last = sys.argv[1], int(sys.argv[2])
write, count = local._write_broker, 0

def write_or_die(place, broker):
    global count
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    write(place, broker)

local._write_broker = write_or_die
provider = local.LocalProvider([], "[bootstrap]", rundir=site + "/run", flux=site + "/flux")
provider.request(Rental("hpc7a-0", "hpc7a.12xlarge", ("hpc7a-0-0", "hpc7a-0-1"), ("ƒ2XwYQ37M",)))
"""


def request_and_die(site: Path, after: int) -> None:
    """A request whose process is killed after it has written so many records, of six."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(site), str(after)],
        env={**os.environ, "PYTHONPATH": str(root)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == (0 if after == 6 else -signal.SIGKILL)


@pytest.mark.parametrize("after", range(7))
def test_a_request_that_was_killed_anywhere_is_taken_up_without_a_broker_too_many(
    site: Path, after: int
) -> None:
    provider = provider_at(site, STEADY)
    request_and_die(site, after)
    expected = (Phase.READY if after == 6 else Phase.COMING, after // 3)
    assert phase(provider) == [expected]
    provider.request(RENTAL)
    assert phase(provider) == [(Phase.READY, 2)]
    eventually(lambda: len(processes_of(site)) == 2 and len(running(site, 2)) == 2)
    provider.release(BURST)
    assert processes_of(site) == set()


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_request_that_was_killed_can_be_released_as_it_is(site: Path, after: int) -> None:
    provider = provider_at(site, STEADY)
    request_and_die(site, after)
    provider.release(BURST)
    assert provider.observe() == []
    # A process that waited to become a broker ends by itself.
    eventually(lambda: processes_of(site) == set())


def test_a_release_that_was_killed_is_still_leaving_and_is_finished_by_the_next(
    site: Path,
) -> None:
    provider = provider_at(site, STEADY)
    provider.request(RENTAL)
    (site / "run" / BURST / "leaving").touch()
    assert phase(provider) == [(Phase.LEAVING, 2)]
    with pytest.raises(FlexError, match="being released"):
        provider.request(RENTAL)
    provider.release(BURST)
    assert provider.observe() == []


# -- a real instance

CATALOG = """
source: made up for a test
date: 2026-11-23
region: here
currency: USD
types:
  - {name: hpc7a.12xlarge, cores: 24, vcpus: 24, gpus: 0, memory_gib: 768, network_gbps: 300,
     price_per_hour_usd: 7.2, properties: [amd, efa]}
"""


class RealLead:
    """The lead broker of a real instance, which is started with the files of `configure`."""

    def __init__(self, site: Path, policy: str) -> None:
        config = load_config().burst
        broker_toml = site / "conf" / "broker.toml"
        broker_toml.write_text(
            f'{broker_toml.read_text()}\n[sched-fluxion-qmanager]\nqueue-policy = "{policy}"\n'
        )
        (site / "lead").mkdir(mode=0o700)
        self.broker = subprocess.Popen(
            ["flux", "broker", "-Sbroker.quorum=1", f"--config-path={broker_toml}",
             f"-Srundir={site}/lead", "sh", "-c", "flux getattr local-uri; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.broker.stdout is not None
        self.uri = self.broker.stdout.readline().strip()
        hosts = hosts_of(json.loads(self.flux("resource", "R")))
        lead = Lead(config.lead.name, config.lead.address, config.lead.port)
        self.provider = LocalProvider(
            [with_cores(TYPE, config.local.cores)],
            follower_toml(hosts, lead, config.local.curve_cert),
            rundir=site / "run",
        )
        self.slots = slots_of(config)

    def flux(self, *words: str) -> str:
        done = subprocess.run(
            ["flux", *words], env={**os.environ, "FLUX_URI": self.uri},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def hosts(self, state: str) -> str:
        return self.flux("resource", "list", f"--states={state}", "-no", "{nodelist}")

    def close(self) -> None:
        try:
            self.broker.communicate(timeout=60)
        finally:
            self.broker.kill()
            self.broker.communicate()


@pytest.fixture
def lead(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealLead]:
    if not shutil.which("flux"):
        pytest.skip("flux is not on PATH: install Flux, or add its bin to PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = socket.gethostname()
    (site / "catalog.yaml").write_text(CATALOG)
    (site / "flex.toml").write_text(
        f'[burst]\nprovider = "local"\ncatalog = "{site}/catalog.yaml"\n'
        '[[burst.slots]]\nname = "hpc7a"\ntype = "hpc7a.12xlarge"\nbursts = 2\nnodes = 2\n'
        f'[burst.lead]\nname = "{host}"\naddress = "127.0.0.1"\nport = {port}\n'
        f'[burst.local]\ncores = 1\ncurve_cert = "{site}/curve.cert"\n'
    )
    monkeypatch.setenv("FLUX_FLEX_CONFIG", str(site / "flex.toml"))
    subprocess.run(["flux", "keygen", site / "curve.cert"], check=True, timeout=60)
    own = ["flux", "R", "encode", "--local", f"--hosts={host}"]
    R = subprocess.run(own, capture_output=True, check=True, timeout=60).stdout
    (site / "own.json").write_bytes(R)
    configure(argparse.Namespace(r=str(site / "own.json"), out=str(site / "conf")))
    real = RealLead(site, "easy")
    try:
        yield real
    finally:
        real.close()


@pytest.mark.flux
def test_hosts_are_rented_for_a_real_job_and_go_while_another_one_runs(
    site: Path, lead: RealLead
) -> None:
    here = socket.gethostname()
    flux = lead.flux
    assert (lead.hosts("free"), lead.hosts("down")) == (here, "hpc7a-0-[0-1],hpc7a-1-[0-1]")
    stays = flux("submit", "-n1", "sleep", "300")
    job = flux("submit", "-N2", "-n2", "--requires=hpc7a.12xlarge", "flux", "getattr", "rank")
    flux("job", "wait-event", "--timeout=30", job, "priority")
    assert flux("jobs", "-no", "{state}", job) == "SCHED"
    slot = lead.slots[0]
    lead.provider.request(Rental(slot.name, slot.type, slot.hosts, (job,)))
    assert sorted(flux("job", "attach", job).split()) == ["1", "2"]
    assert lead.provider.observe() == [Observed(slot.name, Phase.READY, 2)]
    assert lead.hosts("down") == "hpc7a-1-[0-1]"
    # A task that runs when the broker has to go: its job fails, and it does not outlive it.
    task = ("sh", "-c", "sleep 300; :", str(site / "run"))
    fails = flux("submit", "--requires=host:hpc7a-0-1", *task)
    flux("job", "wait-event", "--timeout=30", fails, "start")
    lead.provider.release(slot.name)
    flux("job", "wait-event", "--timeout=30", fails, "clean")
    eventually(lambda: lead.hosts("down") == "hpc7a-0-[0-1],hpc7a-1-[0-1]")
    assert flux("jobs", "-no", "{state}", stays) == "RUN"
    assert flux("resource", "drain", "-no", "{nodelist}") == ""
    assert processes_of(site / "run") == set()
    # The same hosts come back, and a broker that is killed leaves nothing either.
    again = flux("submit", "-N2", "--requires=hpc7a.12xlarge", *task)
    lead.provider.request(Rental(slot.name, slot.type, slot.hosts))
    flux("job", "wait-event", "--timeout=30", "-p", "exec", again, "shell.start")
    for record in (site / "run" / slot.name).glob("*/broker.json"):
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
    flux("job", "wait-event", "--timeout=30", again, "clean")
    assert phase(lead.provider) == [(Phase.FAILED, 0)]
    assert processes_of(site / "run")
    lead.provider.release(slot.name)
    assert processes_of(site / "run") == set()
    flux("cancel", stays)
