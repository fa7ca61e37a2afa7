"""`burst serve` and the broker module over a handle on paper and an instance in memory."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paper_reactor import PaperFlux, os_error, paper_bindings

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.ledger import KEY, Ledger
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.cli import burst_serve, main
from flux_flex.errors import FlexError
from flux_flex.host.memory_instance import MemoryInstance
from flux_flex.host.threads import Threads
from flux_flex.model.rv1 import RankResources, ResourceSet

DEADLINE_S = 30.0
CATALOG = """
source: a test
date: 2026-11-01
region: us-east-2
currency: USD
types:
  - {name: small, cores: 2, vcpus: 2, gpus: 0, memory_gib: 4, network_gbps: 10,
     price_per_hour_usd: 0.36}
"""
FLEX = """
[burst]
provider = "scripted"
catalog = "{folder}/catalog.yaml"
{more}
[[burst.slots]]
name = "burst"
type = "small"
bursts = 1
nodes = 2
"""


class Scripted:
    """A provider that has what was asked for until it is released."""

    def __init__(self) -> None:
        self.rented: set[str] = set()
        self.closed = 0

    def types(self) -> Sequence[NodeType]:
        return ()

    def request(self, rental: Rental) -> None:
        self.rented.add(rental.burst)

    def observe(self) -> Sequence[Observed]:
        return [Observed(burst, Phase.READY, 2) for burst in self.rented]

    def release(self, burst: str) -> None:
        self.rented.discard(burst)

    def close(self) -> None:
        self.closed += 1


class Instance(MemoryInstance):
    """Whose scheduler is sched-simple."""

    def rpc(self, topic: str, *_: object, **__: object) -> dict[str, object]:
        return {"mods": [{"name": "sched-simple", "services": ["sched"]}]}


class Site:
    """What mod_main and serve find: flex.toml, an instance, a provider, a handle."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.paper = PaperFlux()
        self.provider = Scripted()
        hosts = ("lead", "burst-0-0", "burst-0-1")
        ranks = tuple(RankResources(rank, host, (0, 1), ()) for rank, host in enumerate(hosts))
        self.instance = Instance(ResourceSet(ranks).to_r(), now=1_000_000.0)
        patch.setattr(burst_serve, "FluxInstance", lambda handle: self.instance)
        patch.setattr(burst_serve, "open_provider", lambda *_: self.provider)
        patch.setattr(burst_serve, "bindings", lambda _: SimpleNamespace(Flux=lambda: self.paper))
        patch.setattr("flux_flex.host.reactor.bindings", paper_bindings)
        clock = SimpleNamespace(monotonic=lambda: self.paper.now_s)
        patch.setattr("flux_flex.host.reactor.time", clock)
        self.configure()

    def configure(self, more: str = "") -> None:
        (self.folder / "catalog.yaml").write_text(CATALOG)
        self.path = self.folder / "flex.toml"
        self.path.write_text(FLEX.format(folder=self.folder, more=more))
        self.path.chmod(0o600)

    def rent(self) -> None:
        """A controller before this one has rented, and the nodes are up."""
        ledger, hosts = Ledger(self.instance), ("burst-0-0", "burst-0-1")
        rental = Rental("burst-0", "small", hosts)
        ledger.intend(
            rental, provider="scripted", user="alice", jobs=(), cost_per_hour_usd=0.72,
            boot_by_s=1_000_600.0,
        )  # fmt: skip
        ledger.note("asked", "burst-0")
        ledger.note("up", "burst-0")
        self.provider.request(rental)

    def events(self) -> list[str]:
        return [event.name for event in self.instance.log(KEY)]

    def load(self) -> None:
        """`flux module load` until `flux module remove`, ten seconds later."""
        self.paper.is_module = True
        self.paper.at(10.0, self.paper.reactor_stop)
        burst_serve.mod_main(self.paper, str(self.path))

    def serve(self) -> int:
        self.paper.at(10.0, self.paper.reactor_stop)
        return burst_serve.serve(argparse.Namespace(config=str(self.path)))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    root, ours = logging.getLogger(), logging.getLogger("flux_flex")
    before = [*root.handlers], root.level, [*ours.handlers], ours.level
    yield Site(tmp_path, monkeypatch)
    root.handlers[:], root.level, ours.handlers[:], ours.level = before


BOTH = pytest.mark.parametrize("begin", [Site.load, Site.serve])


# -- what is rented ------------------------------------------------------------------------------


@BOTH
def test_what_is_rented_is_kept_where_nothing_else_is_said(
    site: Site, begin: Callable[[Site], object]
) -> None:
    site.rent()
    begin(site)
    assert site.provider.rented == {"burst-0"}
    assert site.events() == ["intend", "asked", "up"]
    assert site.provider.closed == 1


@BOTH
def test_drain_gives_back_what_nothing_runs_on_before_the_provider_is_closed(
    site: Site, begin: Callable[[Site], object]
) -> None:
    go, seen = threading.Event(), []

    class Waited(Threads):
        def wait(self, seconds: float) -> None:
            go.set()
            super().wait(seconds)

    def release(burst: str) -> None:
        assert go.wait(DEADLINE_S)
        site.provider.rented.discard(burst)
        logging.getLogger("flux_flex.burst").warning("%s is gone", burst)

    site.configure('on_unload = "drain"')
    site.rent()
    site.patch.setattr(burst_serve, "Threads", Waited)
    site.patch.setattr(site.provider, "release", release)
    site.patch.setattr(site.provider, "close", lambda: seen.append({*site.provider.rented}))
    begin(site)
    assert seen == [set()]
    assert site.events()[:5] == ["intend", "asked", "up", "leave", "release"]
    if site.paper.is_module:
        assert (4, "burst-0 is gone") in site.paper.dmesg


@BOTH
def test_an_instance_that_does_not_answer_any_more_keeps_nobody_from_unloading(
    site: Site, begin: Callable[[Site], object]
) -> None:
    def refuse(*_: object) -> None:
        raise FlexError("the KVS does not answer")

    site.configure('on_unload = "drain"')
    site.rent()
    site.paper.at(5.0, lambda: site.patch.setattr(site.instance, "post", refuse))
    begin(site)
    assert site.provider.closed == 1
    assert site.provider.rented == {"burst-0"}


def test_a_release_that_never_ends_keeps_nobody_from_unloading(site: Site) -> None:
    site.configure('on_unload = "drain"')
    site.rent()
    never = threading.Event()
    site.patch.setattr(site.provider, "release", lambda _: never.wait(DEADLINE_S))
    site.patch.setattr(burst_serve, "_UNLOAD_S", 0.05)
    site.load()
    assert site.provider.closed == 1
    never.set()


# -- what is closed ------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@BOTH
def test_metrics_are_there_while_it_runs_and_closed_afterwards(
    site: Site, begin: Callable[[Site], object]
) -> None:
    port, texts = free_port(), []
    address = f"http://127.0.0.1:{port}/metrics"

    def scrape() -> None:
        with urllib.request.urlopen(address, timeout=DEADLINE_S) as answer:
            texts.append(answer.read().decode())

    site.configure(f"metrics_port = {port}")
    site.paper.at(5.0, scrape)
    begin(site)
    assert "flux_flex_burst_deciding 1.0" in texts[0]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=DEADLINE_S)


def broken(site: Site, error: BaseException) -> None:
    def run() -> int:
        raise error

    site.patch.setattr(site.paper, "reactor_run", run)


@pytest.mark.parametrize("error", [FlexError("it ends"), ZeroDivisionError(), SystemExit(1)])
@BOTH
def test_all_is_closed_whatever_the_reactor_raises_and_nothing_is_drained(
    site: Site, begin: Callable[[Site], object], error: BaseException
) -> None:
    port = free_port()
    site.configure(f'on_unload = "drain"\nmetrics_port = {port}')
    site.rent()
    broken(site, error)
    with pytest.raises((FlexError, ValueError, ZeroDivisionError, SystemExit)):
        begin(site)
    assert site.provider.closed == 1
    assert site.provider.rented == {"burst-0"}
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_said_and_the_provider_closed(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site.configure(f"metrics_port = {taken.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"port [0-9]+: .* set burst.metrics_port to another"):
            site.load()
    assert site.provider.closed == 1
    assert site.paper.asked == []


# -- what Flux is told ---------------------------------------------------------------------------


def test_a_module_that_cannot_begin_says_what_where_and_the_remedy_in_one_line(site: Site) -> None:
    site.path.write_text("[burst]\n")
    with pytest.raises(ValueError, match="provider") as error:
        site.load()
    assert str(error.value) == (
        f"{site.path}: burst.provider: it is not set. name who rents, such as local"
    )


def test_a_module_takes_one_word(site: Site) -> None:
    with pytest.raises(ValueError, match=r"^flex-burst: it takes one word\. name the flex\.toml"):
        burst_serve.mod_main(site.paper, str(site.path), "more")


def test_what_a_module_says_steers_no_terminal(site: Site) -> None:
    broken(site, FlexError("\x1b[2J\nall is well", "a\rb"))
    with pytest.raises(ValueError, match="all is well") as error:
        site.load()
    assert str(error.value).isprintable()


def test_records_are_lines_of_dmesg_with_the_levels_of_syslog(site: Site) -> None:
    log = logging.getLogger("flux_flex.burst")

    def happen() -> None:
        log.error("an %s", "error")
        log.warning("a warning")
        log.critical("the end")
        log.debug("nobody asked")

    site.paper.at(5.0, happen)
    site.load()
    assert site.paper.dmesg == [(3, "an error"), (4, "a warning"), (2, "the end")]


def test_what_a_cloud_says_is_no_format_of_printf_and_forges_no_line(site: Site) -> None:
    hostile = "%s%n 100% %%d \x1b[2J\ncontroller: all is well \ud800"
    # Not to pytest, which could not pass such a letter on to another process.
    site.patch.setattr(logging.getLogger("flux_flex"), "propagate", False)
    site.paper.at(5.0, lambda: logging.getLogger("flux_flex.burst").error("it said %s", hostile))
    site.load()
    ((_, line),) = site.paper.dmesg
    assert line == "it said %s%n 100% %%d ?[2J controller: all is well ?"


def looked() -> None:
    """Wait until the provider has said what it has: its thread lives in real time."""
    for one in threading.enumerate():
        if one.name == "observe-scripted":
            one.join(DEADLINE_S)


def test_what_threads_log_is_told_by_the_thread_that_has_the_handle(site: Site) -> None:
    tellers, tell = [], site.paper.log

    def log(level: int, text: str) -> None:
        tellers.append(threading.current_thread())
        tell(level, text)

    def observe() -> Sequence[Observed]:
        logging.getLogger("flux_flex.burst").warning("throttled")
        return []

    site.patch.setattr(site.paper, "log", log)
    site.patch.setattr(site.provider, "observe", observe)
    site.paper.at(5.0, looked)
    soon: list[tuple[int, str]] = []
    site.paper.at(6.0, lambda: soon.extend(site.paper.dmesg))
    site.load()
    assert soon == [(4, "throttled")]
    assert tellers == [threading.main_thread()]


def test_a_bug_of_a_provider_is_told_in_lines_that_steer_no_terminal(site: Site) -> None:
    def observe() -> Sequence[Observed]:
        raise ValueError("\x1b[2J%s")

    site.patch.setattr(site.provider, "observe", observe)
    site.paper.at(5.0, looked)
    site.load()
    lines = [line for _, line in site.paper.dmesg]
    assert "ValueError: ?[2J%s" in lines
    assert all(line.isprintable() for line in lines)


def test_nothing_is_logged_to_a_handle_after_the_module_has_ended(site: Site) -> None:
    site.load()
    logging.getLogger("flux_flex.burst").error("too late")
    assert site.paper.dmesg == []


def test_a_bug_in_a_step_is_told_to_dmesg_and_does_not_end_the_module(site: Site) -> None:
    site.patch.setattr(site.instance, "jobs", lambda *_: 1 // 0)
    site.load()
    assert {level for level, _ in site.paper.dmesg} == {3}
    assert "internal error: ZeroDivisionError at test_burst_serve_on_paper.py" in str(
        site.paper.dmesg[0]
    )
    assert site.paper.now_s >= 1010.0


@pytest.mark.parametrize("payload", [None, "[]", '{"burst": []}', '{"provider": {}}', '"x"'])
@pytest.mark.parametrize("topic", ["status", "explain", "list", "budget", "eventlog", "start",
                                   "stop", "drain", "nothing"])  # fmt: skip
def test_no_request_ends_the_module(site: Site, topic: str, payload: str | None) -> None:
    first = site.paper.request(f"flex-burst.{topic}", payload)
    second = site.paper.request("flex-burst.status", {})
    site.load()
    assert first.errno == errno.ENOSYS or isinstance(first.answer, dict)
    assert second.answer["slots"] == {"total": 1, "free": 1}


# -- how serve ends ------------------------------------------------------------------------------


def told(site: Site, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """`flux-flex burst serve` as a command: its exit code and what it says."""
    site.paper.at(10.0, site.paper.reactor_stop)
    return main(["burst", "serve", "--config", str(site.path)]), capsys.readouterr().err


def test_serve_ends_with_0_when_it_is_told_to_end(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(site, capsys) == (0, "")
    assert site.paper.services == set()


def test_serve_ends_with_3_where_another_controller_runs(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.paper.services.add("flex-burst")
    code, said = told(site, capsys)
    assert code == 3
    assert "service flex-burst: it runs already, here or as a broker module" in said
    assert site.paper.services == {"flex-burst"}
    assert site.provider.closed == 1


def test_serve_ends_with_3_where_there_is_no_flux_to_serve(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect() -> Any:
        raise OSError(errno.ENOENT, "Unable to connect to Flux")

    site.patch.setattr(burst_serve, "bindings", lambda _: SimpleNamespace(Flux=connect))
    site.patch.setenv("FLUX_URI", "local:///nowhere")
    code, said = told(site, capsys)
    assert code == 3
    assert "flux-flex: local:///nowhere: Unable to connect to Flux" in said
    assert "flux start" in said


def test_serve_ends_with_3_and_says_so_where_the_instance_ends_first(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.configure('on_unload = "drain"')
    site.paper.at(5.0, site.paper.lose)
    code, said = told(site, capsys)
    assert code == 3
    assert "flux-flex: service flex-burst: the connection to the broker is lost" in said
    assert site.provider.closed == 1


def test_serve_ends_with_3_where_the_instance_refuses_it_a_message(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.paper.refusals["groups.get"] = os_error(errno.EPIPE)
    code, said = told(site, capsys)
    assert code == 3
    assert os.strerror(errno.EPIPE) in said


def test_serve_logs_lines_that_steer_no_terminal(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[2J\nall is well"
    site.paper.at(5.0, lambda: logging.getLogger("flux_flex.burst").error("it said %s", hostile))
    logging.getLogger().handlers[:] = []
    code, said = told(site, capsys)
    assert (code, said) == (0, "it said ?[2J all is well\n")
