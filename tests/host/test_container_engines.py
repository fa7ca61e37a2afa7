"""Engines: which one is taken, and docker's through its real SDK against a scripted daemon."""

from __future__ import annotations

import gc
import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from flux_flex.errors import FlexError
from flux_flex.host import engines
from flux_flex.host.engines import PROJECT_LABEL, Engine, find_engine

PROJECT = "usernetes-2qt1hsjy5-0-abcdef"


class Daemon:
    """The parts of the Docker Engine API (1.41) that a removal by label uses."""

    def __init__(self, place: Path) -> None:
        self.socket = str(place)
        self.things: dict[str, dict[str, str]] = {
            kind: {f"{kind[0]}1": PROJECT, f"{kind[0]}2": PROJECT, f"{kind[0]}9": "somebody-else"}
            for kind in ("containers", "networks", "volumes")
        }
        self.images = [f"{PROJECT}_node:latest", "somebody-else_node:latest"]
        self.refusals: dict[str, tuple[int, str]] = {}
        self.removed: list[str] = []
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                daemon.read(self)

            def do_DELETE(self) -> None:
                daemon.delete(self)

        self.server = socketserver.ThreadingUnixStreamServer(self.socket, Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def read(self, request: BaseHTTPRequestHandler) -> None:
        url = urlparse(request.path)
        words = url.path.strip("/").split("/")
        if words == ["version"]:
            return self.answer(request, {"ApiVersion": "1.41"})
        kind = words[1]
        if len(words) > 3 or (kind == "networks" and len(words) == 3):
            name = words[2]
            return self.answer(request, {"Id": name, "Name": name, "State": {}})
        filters = json.loads(parse_qs(url.query)["filters"][0])
        ((project,),) = [one.split("=")[1:] for one in filters["label"]]
        assert filters["label"] == [f"{PROJECT_LABEL}={project}"]
        found = [n for n, whose in self.things[kind].items() if whose == project]
        listed: Any = [{"Id": name, "Name": name, "Names": [name]} for name in found]
        return self.answer(request, {"Volumes": listed} if kind == "volumes" else listed)

    def delete(self, request: BaseHTTPRequestHandler) -> None:
        url = urlparse(request.path)
        _, kind, name = url.path.strip("/").split("/", 2)
        if name in self.refusals:
            status, message = self.refusals[name]
            return self.answer(request, {"message": message}, status)
        if kind == "images":
            if name not in self.images:
                return self.answer(request, {"message": "no such image"}, 404)
            assert parse_qs(url.query)["noprune"] == ["True"]
            self.images.remove(name)
            self.removed.append(name)
            return self.answer(request, [])
        if self.things[kind].pop(name, None) is None:
            return self.answer(request, {"message": "no such thing"}, 404)
        self.removed.append(name)
        return self.answer(request, None, 204)

    def answer(self, request: BaseHTTPRequestHandler, document: Any, status: int = 200) -> None:
        text = b"" if document is None else json.dumps(document).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "docker.sock")
    yield made
    made.close()


def removed(daemon: Daemon, timeout_s: float = 10.0) -> list[str]:
    engine = Engine("docker", "docker-compose", daemon.socket)
    return engine.remove(PROJECT, timeout_s=timeout_s, environment={})


def test_docker_loses_what_carries_the_label_and_nothing_else(daemon: Daemon) -> None:
    assert removed(daemon) == []
    assert daemon.removed == ["c1", "c2", "n1", "n2", "v1", "v2", f"{PROJECT}_node:latest"]
    assert all(list(found.values()) == ["somebody-else"] for found in daemon.things.values())
    assert daemon.images == ["somebody-else_node:latest"]


def test_a_second_removal_finds_nothing(daemon: Daemon) -> None:
    removed(daemon)
    daemon.removed.clear()
    assert removed(daemon) == []
    assert daemon.removed == []


@pytest.mark.parametrize(
    ("status", "message", "is_left"),
    [
        (404, "no such container", False),
        (409, "removal of container c1 is already in progress", False),
        (409, "it is in use", True),
        (500, "driver failed", True),
    ],
)
def test_what_docker_refuses_to_remove_is_named_unless_it_is_going_anyway(
    daemon: Daemon, status: int, message: str, is_left: bool
) -> None:
    daemon.refusals["c1"] = (status, message)
    left = removed(daemon)
    assert [line.split(":")[0] for line in left] == (["container c1"] if is_left else [])
    assert not left or message in left[0]
    assert "c2" in daemon.removed


def test_a_daemon_that_is_not_there_is_an_error_with_its_socket(tmp_path: Path) -> None:
    engine = Engine("docker", "docker-compose", str(tmp_path / "none.sock"))
    with pytest.raises(FlexError, match="docker does not answer") as got:
        engine.remove(PROJECT, timeout_s=5, environment={})
    assert got.value.where == str(tmp_path / "none.sock")


def test_a_daemon_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "docker.sock"))
        silent.listen()
        engine = Engine("docker", "docker-compose", str(tmp_path / "docker.sock"))
        began = time.monotonic()
        with pytest.raises(FlexError, match="docker does not answer"):
            engine.remove(PROJECT, timeout_s=0.3, environment={})
        assert time.monotonic() - began < 10


# The SDK leaves its connection to the collector when it cannot read the first answer.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_daemon_that_talks_nonsense_is_an_error(tmp_path: Path) -> None:
    class Nonsense(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n]]")

    place = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(place, Nonsense) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        engine = Engine("docker", "docker-compose", place)
        with pytest.raises(FlexError, match="docker does not answer"):
            engine.remove(PROJECT, timeout_s=5, environment={})
        gc.collect()
        server.shutdown()


# -- which engine ----------------------------------------------------------------------------------


def commands(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 0\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """/run/user and the system's socket, in a folder of the test."""
    folder = tmp_path / "run"
    (folder / "user").mkdir(parents=True)
    monkeypatch.setattr(engines, "RUNTIME", str(folder / "user"))
    monkeypatch.setattr(engines, "SYSTEM_SOCKETS", (str(folder / "docker.sock"),))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "docker.sock"))
        yield folder


@pytest.mark.parametrize(
    ("there", "kind", "compose"),
    [
        (("dockerd-rootless.sh", "docker", "podman"), "docker", "docker compose"),
        (("containerd-rootless.sh", "nerdctl", "podman"), "nerdctl", "nerdctl compose"),
        (("podman", "podman-compose", "docker"), "podman", "podman-compose"),
        (("docker",), "docker", "docker compose"),
    ],
)
def test_engines_are_detected_in_the_order_of_usernetes(
    tmp_path: Path, sockets: Path, there: tuple[str, ...], kind: str, compose: str
) -> None:
    path = commands(tmp_path, *there)
    found = find_engine("", "", uid=sockets.stat().st_uid, path=path)
    assert (found.kind, found.compose) == (kind, compose)
    assert bool(found.socket) is (kind == "docker")


def test_docker_without_its_plugin_is_used_with_docker_compose(
    tmp_path: Path, sockets: Path
) -> None:
    path = commands(tmp_path, "docker", "docker-compose")
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    assert find_engine("docker", "", uid=0, path=path).compose == "docker-compose"


def test_the_site_chooses_engine_and_compose(tmp_path: Path, sockets: Path) -> None:
    found = find_engine("podman", "my-compose --x", uid=0, path=commands(tmp_path, "docker"))
    assert (found.kind, found.compose, found.socket) == ("podman", "my-compose --x", "")
    assert found.environment() == {"CONTAINER_ENGINE": "podman", "COMPOSE": "my-compose --x"}


def test_a_machine_without_an_engine_or_compose_is_told_what_to_install(
    tmp_path: Path, sockets: Path
) -> None:
    with pytest.raises(FlexError, match="no container engine") as got:
        find_engine("", "", uid=0, path=str(tmp_path))
    assert "install docker, podman or nerdctl" in got.value.remedy
    with pytest.raises(FlexError, match="no compose command") as got:
        find_engine("podman", "", uid=0, path=commands(tmp_path, "podman"))
    assert "podman-compose" in got.value.remedy


def test_without_any_socket_docker_is_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "RUNTIME", str(tmp_path / "none"))
    monkeypatch.setattr(engines, "SYSTEM_SOCKETS", ())
    with pytest.raises(FlexError, match="no docker daemon"):
        find_engine("docker", "docker-compose", uid=0, path="")
