"""A real kube-apiserver with its etcd on loopback, for tests: no nodes, no controllers.

    with ApiServer(find_binaries(), certificates) as api:
        api.install(definition)                       # a CustomResourceDefinition
        api.ask("GET", "/api/v1/namespaces")          # as the cluster's administrator
        api.kubeconfig(path, user={"token": token})
        api.restart()

Both run from a temporary folder, on ports that are free, over TLS with certificates of the test.
They have rights by RBAC, and keep nothing. The programs are found as envtest of Kubernetes' own
controller-runtime finds them, so its `setup-envtest` serves, and so does any other copy.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from kube_certificates import new_key

_START_S = 90.0
_STOP_S = 20.0
_LOOK_S = 0.1
Object = dict[str, Any]


@dataclass(frozen=True)
class Binaries:
    apiserver: str
    etcd: str


def find_binaries() -> Binaries:
    """In KUBEBUILDER_ASSETS, else on PATH; skips the test where they are not."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    found = {}
    for name in ("kube-apiserver", "etcd"):
        path = shutil.which(name, path=folder or None) or shutil.which(name)
        if path is None:
            where = f"neither in KUBEBUILDER_ASSETS={folder} nor" if folder else "not"
            pytest.skip(
                f"{name} is {where} on PATH: set KUBEBUILDER_ASSETS to a folder that has"
                " kube-apiserver and etcd, see docs/testing.md"
            )
        found[name] = path
    return Binaries(found["kube-apiserver"], found["etcd"])


class ApiServer:
    """``certificates``: the folder of :func:`kube_certificates.make_certificates`."""

    def __init__(self, binaries: Binaries, certificates: Path) -> None:
        self.binaries = binaries
        self.certificates = certificates
        self._groups: dict[str, str] = {}

    def __enter__(self) -> ApiServer:
        with ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="flux-flex-kube-")
            self.folder = Path(stack.enter_context(folder))
            self.port, self._etcd_port, self._peer_port = _free_ports(3)
            new_key(self.folder / "accounts.key")
            self._pool = stack.enter_context(self._connections())
            self._etcd = self._begin("etcd", self._etcd_command())
            stack.callback(_end, self._etcd)
            stack.callback(lambda: _end(self._server))
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """All connections are cut, and nothing is remembered of what changed before."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """As a crash would, until :meth:`restart`: else it waits for open watches to end."""
        self._server.kill()
        self._server.wait()

    def compact(self) -> None:
        """Forget the history in etcd up to now, as the server itself does every five minutes."""
        base = f"https://127.0.0.1:{self._etcd_port}/v3/kv"
        answer = self._pool.request("POST", f"{base}/range", body=json.dumps({"key": "AA=="}))
        revision = answer.json()["header"]["revision"]
        body = json.dumps({"revision": revision, "physical": True})
        done = self._pool.request("POST", f"{base}/compaction", body=body)
        assert done.status == 200, done.data

    # -- what the administrator does ---------------------------------------------------------------

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Object:
        """One call, which has to go well. A PATCH is a merge patch."""
        kind = "merge-patch+json" if method == "PATCH" else "json"
        answer = self._pool.request(
            method, f"https://127.0.0.1:{self.port}{path}",
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": f"application/{kind}"},
        )  # fmt: skip
        assert answer.status < 300, (method, path, answer.data.decode())
        found: Object = answer.json()
        return found

    def path(self, plural: str, namespace: str = "", name: str = "") -> str:
        parts = ["namespaces", namespace] if namespace else []
        return "/".join([self._groups.get(plural, "/api/v1"), *parts, plural] + [name] * bool(name))

    def create(self, plural: str, body: Mapping[str, Any], namespace: str = "") -> Object:
        root = body["apiVersion"]
        self._groups[plural] = f"/apis/{root}" if "/" in root else "/api/v1"
        return self.ask("POST", self.path(plural, namespace), body)

    def install(self, definition: Mapping[str, Any]) -> None:
        """A CustomResourceDefinition, and wait until it is served."""
        spec = self.create("customresourcedefinitions", definition)["spec"]
        plural = spec["names"]["plural"]
        self._groups[plural] = f"/apis/{spec['group']}/{spec['versions'][0]['name']}"
        self._wait_until_served(plural)

    def _wait_until_served(self, plural: str) -> None:
        url = f"https://127.0.0.1:{self.port}{self.path(plural)}"
        self._wait(lambda: self._pool.request("GET", url).status == 200, f"{plural} are not served")

    def kubeconfig(self, path: Path, user: Object | None = None) -> Path:
        """For a user of the API, the administrator if none is given. TLS is verified."""

        def encoded(name: str) -> str:
            return base64.b64encode((self.certificates / name).read_bytes()).decode()

        admin = {
            "client-certificate-data": encoded("admin.crt"),
            "client-key-data": encoded("admin.key"),
        }
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority-data": encoded("ca.crt"),
        }
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or admin}],
        }  # fmt: skip
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content))
        return path

    # -- the two programs --------------------------------------------------------------------------

    def _etcd_command(self) -> list[str]:
        client, peer = (f"https://127.0.0.1:{p}" for p in (self._etcd_port, self._peer_port))
        options = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client, "advertise-client-urls": client,
            "listen-peer-urls": peer, "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }  # fmt: skip
        for prefix in ("", "peer-"):
            options |= {
                f"{prefix}cert-file": self.certificates / "server.crt",
                f"{prefix}key-file": self.certificates / "server.key",
                f"{prefix}trusted-ca-file": self.certificates / "ca.crt",
                f"{prefix}client-cert-auth": "true",
            }
        return [self.binaries.etcd, *(f"--{key}={value}" for key, value in options.items())]

    def _server_command(self) -> list[str]:
        issuer = "https://kubernetes.default.svc"
        options = {
            "bind-address": "127.0.0.1", "advertise-address": "127.0.0.1",
            "secure-port": self.port, "endpoint-reconciler-type": "none",
            "cert-dir": self.folder,
            "tls-cert-file": self.certificates / "server.crt",
            "tls-private-key-file": self.certificates / "server.key",
            "client-ca-file": self.certificates / "ca.crt",
            "etcd-servers": f"https://127.0.0.1:{self._etcd_port}",
            "etcd-cafile": self.certificates / "ca.crt",
            "etcd-certfile": self.certificates / "admin.crt",
            "etcd-keyfile": self.certificates / "admin.key",
            "authorization-mode": "RBAC",
            "service-account-issuer": issuer, "api-audiences": issuer,
            "service-account-key-file": self.folder / "accounts.key",
            "service-account-signing-key-file": self.folder / "accounts.key",
            "service-cluster-ip-range": "10.0.0.0/24",
            # Else pods would need an account that a controller makes.
            "disable-admission-plugins": "ServiceAccount",
        }  # fmt: skip
        return [self.binaries.apiserver, *(f"--{key}={value}" for key, value in options.items())]

    def _begin(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _start(self) -> None:
        self._server = self._begin("kube-apiserver", self._server_command())
        url = f"https://127.0.0.1:{self.port}/readyz"

        def is_ready() -> bool:
            try:
                return self._pool.request("GET", url).status == 200
            except urllib3.exceptions.HTTPError:
                return False

        self._wait(is_ready, "the server does not get ready")
        for plural in self._groups:
            self._wait_until_served(plural)

    def _wait(self, condition: Any, what: str) -> None:
        end = time.monotonic() + _START_S
        while not condition():
            for process in (self._etcd, self._server):
                if process.poll() is not None:
                    pytest.fail(f"{process.args[0]} has ended: {self._logs()}")  # type: ignore[index]
            if time.monotonic() > end:
                pytest.fail(f"{what}: {self._logs()}")
            try:
                self._server.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                continue

    def _logs(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in logs)

    def _connections(self) -> urllib3.PoolManager:
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
        names = ("admin.crt", "admin.key")
        context.load_cert_chain(*(self.certificates / name for name in names))
        return urllib3.PoolManager(ssl_context=context, timeout=10, retries=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Of loopback; all are held until the last is found, so that they differ."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
