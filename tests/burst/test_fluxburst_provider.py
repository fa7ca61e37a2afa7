"""The provider `fluxburst`: plugins that were written for people at a terminal, kept at a distance.

The plugin is tests/burst/fluxburst_paper.py.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from burst_processes import eventually

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.providers import Observed, Phase, Rental, fluxburst
from flux_flex.burst.providers.fluxburst import FluxBurstProvider, parse_fluxburst_config
from flux_flex.burst.providers.records import locked
from flux_flex.errors import BadInput, FlexError

HERE = Path(__file__).parent
TYPE = NodeType(
    name="c2-standard-8", cores=4, vcpus=8, gpus=0, memory_gib=32.0, network_gbps=16.0,
    price_per_hour_usd=0.4,
)  # fmt: skip
RENTAL = Rental("gke-0", TYPE.name, ("gke-0-0", "gke-0-1"), ("ƒ2XwYQ37M",))
BURST = RENTAL.burst


class Site:
    """A cloud of files, and a provider for it."""

    def __init__(self, tmp_path: Path) -> None:
        self.cloud, self.rundir = tmp_path / "cloud", tmp_path / "run"
        self.cloud.mkdir(exist_ok=True)

    def table(self, mood: str = "", **more: Any) -> dict[str, Any]:
        parameters = {"cloud": str(self.cloud), "cluster_name": "site-{burst}", "mood": mood}
        return {
            "plugin": "fluxburst_paper",
            "rundir": str(self.rundir),
            "node_names": "{name}-{index}",
            "parameters": {**parameters, **more.pop("parameters", {})},
            **more,
        }

    def provider(self, mood: str = "", **more: Any) -> FluxBurstProvider:
        toml = more.pop("broker_toml", "")
        times = {"retry_s": more.pop("retry_s", 60.0), "grace_s": more.pop("grace_s", 10.0)}
        config = parse_fluxburst_config(self.table(mood, **more))
        return FluxBurstProvider(config, [TYPE], broker_toml=toml, **times)

    def settled(self, mood: str = "", **more: Any) -> tuple[FluxBurstProvider, Observed]:
        """A provider that was asked for the rental, and what it says when it is not coming."""
        provider = self.provider(mood, **more)
        provider.request(RENTAL)
        eventually(lambda: seen(provider).phase is not Phase.COMING)
        return provider, seen(provider)

    @property
    def calls(self) -> list[str]:
        path = self.cloud / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def clusters(self) -> list[str]:
        return sorted(path.name for path in self.cloud.glob("site-*"))

    def pid(self, verb: str = "run") -> int:
        session = fluxburst._Child(self.rundir / BURST / verb).session
        assert session is not None
        return session.pid


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for verb in ("run", "undo"):
        session = fluxburst._Child(made.rundir / BURST / verb).session
        if session is not None and session.is_alive:
            os.killpg(session.pid, signal.SIGKILL)


def seen(provider: FluxBurstProvider) -> Observed:
    (found,) = provider.observe()
    return found


def gone(provider: FluxBurstProvider) -> Callable[[], bool]:
    return lambda: not provider.observe()


# -- from request to gone --------------------------------------------------------------------------


def test_a_burst_is_rented_once_and_taken_away(site: Site) -> None:
    provider, found = site.settled()
    assert (found.burst, found.phase, found.nodes) == (BURST, Phase.READY, 2)
    assert site.clusters == ["site-gke-0"]
    provider.request(RENTAL)
    assert site.calls == ["run 2 8 c2-standard-8"]
    provider.release(BURST)
    eventually(gone(provider))
    provider.release(BURST)
    assert site.clusters == []
    assert site.calls[1:] == ["cleanup"]


def test_request_and_release_return_while_the_plugin_is_at_work(site: Site) -> None:
    provider = site.provider("hangs")
    provider.request(RENTAL)
    found = seen(provider)
    assert found.phase is Phase.COMING
    assert "run() has not returned" in found.reason


def test_a_slot_is_filled_again_after_it_was_released(site: Site) -> None:
    provider, _ = site.settled()
    provider.release(BURST)
    eventually(gone(provider))
    provider.request(RENTAL)
    eventually(lambda: seen(provider).phase is Phase.READY)
    assert site.calls == ["run 2 8 c2-standard-8", "cleanup", "run 2 8 c2-standard-8"]


def test_another_provider_finds_and_releases_what_one_has_rented(site: Site) -> None:
    site.settled()
    provider = site.provider()
    assert seen(provider).phase is Phase.READY
    provider.request(RENTAL)
    provider.release(BURST)
    eventually(gone(provider))
    assert site.clusters == []


def test_nothing_is_observed_or_released_where_nothing_was_rented(site: Site) -> None:
    provider = site.provider()
    assert provider.observe() == []
    provider.release(BURST)
    provider.release("../etc")
    provider.close()
    assert not site.rundir.exists()
    assert provider.types() == (TYPE,)


def test_what_is_known_is_the_owners_alone(site: Site) -> None:
    site.settled()
    for path in [site.rundir, *site.rundir.rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_folder_that_others_can_read_is_refused(site: Site) -> None:
    site.rundir.mkdir(mode=0o755)
    site.rundir.chmod(0o755)
    with pytest.raises(FlexError, match="no folder of this user alone"):
        site.provider().request(RENTAL)
    assert site.calls == []


def test_a_burst_of_another_size_is_refused_while_there_is_one(site: Site) -> None:
    provider, _ = site.settled()
    with pytest.raises(BadInput, match="2 x c2-standard-8 already"):
        provider.request(Rental(BURST, TYPE.name, RENTAL.hosts[:1]))


def test_nothing_is_rented_while_it_is_taken_away(site: Site) -> None:
    provider, _ = site.settled("cleanup-hangs")
    provider.release(BURST)
    provider.release(BURST)
    assert seen(provider).phase is Phase.LEAVING
    with pytest.raises(FlexError, match="being released"):
        provider.request(RENTAL)


def test_a_burst_is_left_alone_while_somebody_else_is_at_work_on_it(site: Site) -> None:
    with (
        locked(site.rundir, BURST),
        pytest.raises(FlexError, match="somebody else is at work"),
    ):
        site.provider().request(RENTAL)


# -- manners of plugins ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("asks", "run: EOFError"),
        ("asks-secretly", "run: EOFError"),
        ("exits", "run: SystemExit: Please pip install more"),
        ("raises", "run: ValueError: quota exceeded"),
        ("late-raises", "run: ValueError: quota exceeded"),
        ("dies", "its process ended without a word"),
        ("silent", "remembers neither a cluster nor a job"),
        ("invalid", "does not take a job of 2 nodes"),
        ("picky", "does not take a job of 2 nodes"),
    ],
)
def test_a_plugin_that_fails_is_told_by_its_name_and_leaves_nothing(
    site: Site, mood: str, said: str
) -> None:
    provider, found = site.settled(mood)
    assert (found.phase, found.nodes) == (Phase.FAILED, 0)
    assert found.reason.startswith("fluxburst_paper: ")
    assert said in found.reason
    provider.request(RENTAL)
    assert sum(call.startswith("run") for call in site.calls) <= 1
    provider.release(BURST)
    eventually(gone(provider))
    assert site.clusters == []


def test_what_a_plugin_prints_and_logs_is_in_its_log(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    _, found = site.settled("prints")
    assert found.phase is Phase.READY
    log = (site.rundir / BURST / "run" / "plugin.log").read_text()
    assert "it costs you something" in log
    assert "cluster size will be 2" in log
    assert "it costs you something" in found.reason
    assert capfd.readouterr() == ("", "")


def test_jobs_that_a_plugin_remembers_are_ended_by_another_process(site: Site) -> None:
    provider, found = site.settled("jobs")
    assert found.phase is Phase.READY
    provider.release(BURST)
    eventually(gone(provider))
    assert site.calls[1:] == ["unburst", "cleanup"]
    assert site.clusters == []


def test_a_prompt_is_in_the_reason(site: Site) -> None:
    _, found = site.settled("asks")
    assert "Press Enter" in found.reason


def test_threads_that_a_plugin_leaves_do_not_keep_its_process(site: Site) -> None:
    site.settled("leaks")
    eventually(lambda: fluxburst._Child(site.rundir / BURST / "run").age_s < 0)


def test_a_plugin_that_hangs_has_failed_at_its_deadline_and_is_ended(site: Site) -> None:
    provider = site.provider("hangs")
    provider.request(RENTAL)
    eventually(lambda: bool(site.clusters))
    late = site.provider("hangs", run_deadline=0.001)
    found = seen(late)
    assert found.phase is Phase.FAILED
    assert "run() has not returned within 0.001 s" in found.reason
    late.release(BURST)
    eventually(gone(late))
    assert site.clusters == []


def test_what_a_plugin_started_is_killed_with_it(site: Site) -> None:
    provider = site.provider("is deaf", grace_s=0.2)
    provider.request(RENTAL)
    pid = 0

    def is_asleep() -> bool:
        nonlocal pid
        children = Path(f"/proc/{site.pid()}/task/{site.pid()}/children")
        found = children.read_text().split() if children.exists() else []
        pid = int(found[0]) if found else 0
        return bool(pid)

    eventually(is_asleep)
    provider.release(BURST)
    stat_of = Path(f"/proc/{pid}/stat")
    assert not stat_of.exists() or stat_of.read_text().rpartition(")")[2].split()[0] in "ZX"
    eventually(gone(provider))
    assert site.clusters == []


# -- cleaning up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("cleanup-fails", "Issue deleting it."),
        ("cleanup-forgets", "it has not ended site-gke-0"),
        ("cleanup-exits", "cleanup: SystemExit"),
        ("cleanup-asks", "cleanup: EOFError"),
        ("cleanup-dies", "its process ended without a word"),
    ],
)
def test_a_burst_stays_until_the_plugin_has_cleaned_up(site: Site, mood: str, said: str) -> None:
    provider, _ = site.settled(mood)
    provider.release(BURST)
    eventually(lambda: said in seen(provider).reason)
    assert seen(provider).phase is Phase.LEAVING
    with pytest.raises(FlexError, match=said.split(":")[-1].strip()):
        provider.release(BURST)
    assert site.calls.count("cleanup") == 1


def test_cleaning_up_is_tried_again_after_a_while(site: Site) -> None:
    provider, _ = site.settled("cleanup-fails")
    provider.release(BURST)
    eventually(lambda: "Issue" in seen(provider).reason)
    (site.cloud / "well").touch()
    later = site.provider("cleanup-fails", retry_s=0.0)
    later.release(BURST)
    eventually(gone(later))
    assert site.clusters == []


def test_a_cleanup_that_hangs_is_ended_and_tried_again(site: Site) -> None:
    provider, _ = site.settled("cleanup-hangs")
    provider.release(BURST)
    eventually(lambda: "cleanup" in site.calls)
    first = site.pid("undo")
    site.provider("cleanup-hangs", release_deadline=0.001, retry_s=0.0).release(BURST)
    assert site.pid("undo") != first


def test_a_burst_whose_folder_was_removed_is_gone(site: Site) -> None:
    provider, _ = site.settled("cleanup-forgets")
    (site.rundir / BURST).rename(site.rundir / ".kept")
    assert provider.observe() == []
    provider.release(BURST)


def test_what_nobody_knows_is_left_to_people(site: Site) -> None:
    site.settled("dies")
    begun = site.rundir / BURST / "run" / "began"
    begun.write_text(begun.read_text().replace("cluster_name", "cluster"))
    provider = site.provider("dies")
    with pytest.raises(FlexError, match=f"nobody knows what it has rented.*{BURST}"):
        provider.release(BURST)
    assert "nobody knows" in seen(provider).reason
    assert seen(provider).phase is Phase.LEAVING


# -- when we die in the middle ---------------------------------------------------------------------


class Crash(Exception):
    """Our process dies here."""


def crash(*_: object) -> None:
    raise Crash


@pytest.fixture
def never_started(site: Site, monkeypatch: pytest.MonkeyPatch) -> FluxBurstProvider:
    """A provider that finds a burst whose record was written when our process died."""
    with monkeypatch.context() as patch:
        patch.setattr(fluxburst, "gated", crash)
        with pytest.raises(Crash):
            site.provider().request(RENTAL)
    return site.provider()


def test_the_plugin_runs_on_when_we_die_and_is_found_again(site: Site) -> None:
    code = (
        "import os, sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_fluxburst_provider import RENTAL, Site\n"
        "from pathlib import Path\n"
        "Site(Path(sys.argv[3])).provider().request(RENTAL)\n"
        "os._exit(1)"
    )
    words = [str(HERE), str(HERE.parents[1]), str(site.cloud.parent)]
    subprocess.run([sys.executable, "-c", code, *words], check=False)
    provider = site.provider()
    provider.request(RENTAL)
    eventually(lambda: seen(provider).phase is Phase.READY)
    assert site.calls == ["run 2 8 c2-standard-8"]


def test_what_was_written_down_and_never_started_is_started(
    site: Site, never_started: FluxBurstProvider
) -> None:
    provider = never_started
    assert seen(provider).phase is Phase.COMING
    provider.request(RENTAL)
    eventually(lambda: seen(provider).phase is Phase.READY)
    assert site.calls == ["run 2 8 c2-standard-8"]


def test_what_was_never_started_is_taken_away_without_the_plugin(
    site: Site, never_started: FluxBurstProvider
) -> None:
    provider = never_started
    provider.release(BURST)
    assert provider.observe() == []
    assert site.calls == []


def test_a_plugin_that_was_killed_is_not_run_again_and_its_cluster_goes(site: Site) -> None:
    provider = site.provider("hangs")
    provider.request(RENTAL)
    eventually(lambda: bool(site.clusters))
    os.killpg(site.pid(), signal.SIGKILL)
    eventually(lambda: seen(provider).phase is Phase.FAILED)
    assert "ended without a word" in seen(provider).reason
    again = site.provider()
    again.request(RENTAL)
    assert seen(again).phase is Phase.FAILED
    assert site.calls == ["run 2 8 c2-standard-8"]
    again.release(BURST)
    eventually(gone(again))
    assert site.clusters == []


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", ["os", "fluxburst_", "fluxburst_a.b", "fluxburst_A", "paper"])
def test_only_modules_of_flux_burst_are_plugins(site: Site, plugin: str) -> None:
    with pytest.raises(BadInput, match="plugin"):
        parse_fluxburst_config({**site.table(), "plugin": plugin})


def test_a_plugin_that_is_not_installed_is_refused_with_its_package(site: Site) -> None:
    config = parse_fluxburst_config({**site.table(), "plugin": "fluxburst_compute_engine"})
    with pytest.raises(BadInput, match="not installed") as caught:
        FluxBurstProvider(config, [TYPE])
    assert "flux-burst-compute-engine" in caught.value.remedy


def test_a_plugin_that_cannot_be_imported_has_failed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fluxburst_torn.py").write_text("import kubescaler_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    provider, found = site.settled(plugin="fluxburst_torn")
    assert found.phase is Phase.FAILED
    assert "No module named 'kubescaler_that_is_not_there'" in found.reason
    provider.release(BURST)
    assert provider.observe() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"clowd": "x"}}, "no parameter 'clowd': did you mean 'cloud'?"),
        ({"parameters": {"zzzzz": 1}}, "no parameter 'zzzzz': it has cloud, cluster_name"),
        ({"node_names": "node-{index}"}, "calls its nodes node-0, node-1: the list of hosts has"),
        ({"node_names": ""}, "set node_names"),
        ({"node_names": "{nam}-{index}"}, "KeyError: 'nam'"),
    ],
)
def test_what_does_not_fit_the_plugin_is_told_before_it_is_run(
    site: Site, changes: dict[str, Any], said: str
) -> None:
    provider, found = site.settled(**changes)
    assert found.phase is Phase.FAILED
    assert said in found.reason
    assert site.calls == []
    provider.release(BURST)
    assert provider.observe() == []


@pytest.mark.parametrize("missing", ["cloud", "cluster_name, with {burst} in it"])
def test_a_parameter_that_is_missing_is_told(site: Site, missing: str) -> None:
    table = site.table()
    del table["parameters"][missing.partition(",")[0]]
    provider = FluxBurstProvider(parse_fluxburst_config(table), [TYPE])
    provider.request(RENTAL)
    eventually(lambda: seen(provider).phase is Phase.FAILED)
    assert f"set parameters.{missing}" in seen(provider).reason
    assert site.calls == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": {"cluster_name": "mine"}}, "cluster_name needs {burst}"),
        ({"parameters": {"isolated_burst": True}}, "isolated_burst"),
        ({"rundir": "run"}, "rundir"),
        ({"run_deadline": 0}, "run_deadline"),
        ({"pluggin": "x"}, "pluggin"),
    ],
)
def test_configuration_that_cannot_work_is_refused(
    site: Site, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        parse_fluxburst_config(site.table(**changes))
    assert said in str(caught.value)


def test_texts_have_what_is_the_bursts_own(site: Site) -> None:
    provider = site.provider(broker_toml="[bootstrap]\nhosts = [{ host = 'x' }]")
    given = provider._task(RENTAL)
    assert given["parameters"]["cluster_name"] == "site-gke-0"  # type: ignore[index]
    assert given["defaults"]["name"] == "gke-0"  # type: ignore[index]
    assert given["defaults"]["hostnames"] == "gke-0-[0-1]"  # type: ignore[index]
    assert given["defaults"]["broker_toml"].startswith("[bootstrap]")  # type: ignore[index]


def test_an_unknown_place_in_a_text_is_refused(site: Site) -> None:
    provider = site.provider(parameters={"lead_port": "{prot}"})
    with pytest.raises(BadInput, match=r"nothing is called \{prot\}"):
        provider.request(RENTAL)


@pytest.mark.parametrize(
    "rental", [Rental("../x", TYPE.name, ("a",)), Rental("gke-0", "m5.large", ("a",))]
)
def test_bursts_and_types_that_cannot_be_are_refused(site: Site, rental: Rental) -> None:
    with pytest.raises(BadInput, match="no burst of"):
        site.provider().request(rental)


def test_variables_do_not_stand_above_parameters(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUXBURST_CLUSTER_NAME", "flux-bursted-cluster")
    provider = site.provider("hangs")
    provider.request(RENTAL)
    eventually(lambda: bool(site.clusters))
    assert site.clusters == ["site-gke-0"]
    environment = Path(f"/proc/{site.pid()}/environ").read_bytes()
    assert b"FLUX_FLEX_CHILD=" in environment
    assert b"FLUXBURST_" not in environment
