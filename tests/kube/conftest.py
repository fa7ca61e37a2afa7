"""Fixtures of the tests that talk to a Kubernetes API: a stand-in for a server, and a real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The controller's small world, for bursts that a controller asks for.
sys.path.insert(0, str(Path(__file__).parents[1] / "burst"))

from kube_apiserver import ApiServer, find_binaries
from kube_certificates import make_certificates
from kube_server import KubeServer
from kube_site import QUICK, RENTAL, Cluster, Site
from minicluster_crd import CRD

from flux_flex.burst.providers.kubernetes import KubernetesProvider
from flux_flex.host.kube import Kube, open_kube

# Python's ssl forgets to close a socket that its peer resets between connecting and the handshake,
# as a server that is killed may. Such a socket, and no other, has no remote address any more.
_RESET = r"unclosed <ssl.SSLSocket fd=\d+, family=\d+, type=\d+, proto=\d+, laddr=\([^)]*\)>$"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(f"ignore:{_RESET}:ResourceWarning"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# -- the stand-in ----------------------------------------------------------------------------------


@pytest.fixture
def server(certificates: Path, _no_proxy: None) -> Iterator[KubeServer]:
    with KubeServer(certificates) as running:
        yield running


@pytest.fixture
def kube(server: KubeServer, tmp_path: Path) -> Iterator[Kube]:
    opened = open_kube(str(server.kubeconfig(tmp_path / "config")), bounds=QUICK)
    yield opened
    opened.close()


@pytest.fixture
def site(server: KubeServer, tmp_path: Path) -> Iterator[Site]:
    made = Site(server, tmp_path)
    yield made
    made.close()


@pytest.fixture
def provider(site: Site) -> KubernetesProvider:
    """A provider that has asked for a burst, whose pods have been made."""
    made = site.open()
    made.observe()
    made.request(RENTAL)
    site.make_pods()
    return made


# -- the real one ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def api(certificates: Path) -> Iterator[ApiServer]:
    """A kube-apiserver that knows MiniClusters, one for all tests; each has its own namespace."""
    with ApiServer(find_binaries(), certificates) as running:
        running.install(CRD)
        yield running


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path, _no_proxy: None) -> Iterator[Cluster]:
    made = Cluster(api, tmp_path)
    yield made
    made.close()
