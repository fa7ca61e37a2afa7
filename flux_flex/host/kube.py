"""The Kubernetes API: a few verbs on plain objects, over the client of the kubernetes package.

    kube = open_kube("/etc/flux/kubeconfig")
    made = kube.apply(MINICLUSTERS, manifest, manager="flux-flex")   # or raises FieldConflict
    kube.delete(MINICLUSTERS, "hpc-0", "bursts", uid=made["metadata"]["uid"])
    for kind, pod in kube.watch(PODS, "bursts", since="1234"):       # ends, or raises Expired
        ...

The kubernetes package reads the kubeconfig, gets credentials and makes the TLS connections, which
always verify. Requests go over its connection pool and not through its generated classes: those
log the body of an answer when debugging, which for an applied Secret is the secret, and they
differ between versions. Every call has a deadline; what may pass is tried again, within bounds.

Sources: https://kubernetes.io/docs/reference/using-api/api-concepts/ (watches, bookmarks, 410,
preconditions), .../using-api/server-side-apply/ (conflicts), and the client's sources, 29 to 37.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from flux_flex.host.kube_errors import (
    Expired,
    KubeError,
    Object,
    error_of,
    mapping,
    passes,
    refused,
    unreachable,
)
from flux_flex.host.kubeconfig import connected, connected_to, runs_command

# Answered with an object's metadata only, so that a Secret's content never comes back.
_METADATA_ONLY = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
_APPLY = "application/apply-patch+yaml"
_PAGE = 500
_PIECE = 1 << 16

log = logging.getLogger("flux_flex.kube")


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API. ``private``: the server's words about one are not passed on."""

    plural: str
    group: str = ""
    version: str = "v1"
    private: bool = False

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path of a collection, or of one object."""
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = ["namespaces", namespace] if namespace else []
        parts += [self.plural, *([name] if name else [])]
        return "/".join([root, self.version, *(urllib.parse.quote(part, "") for part in parts)])


MINICLUSTERS = Resource("miniclusters", "flux-framework.org", "v1alpha2")
SECRETS = Resource("secrets", private=True)
PODS = Resource("pods")
EVENTS = Resource("events")
SERVICES = Resource("services")
NODES = Resource("nodes")
NAMESPACES = Resource("namespaces")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that calls may take, in seconds.

    connect_s, read_s  to connect, and between two pieces of an answer
    call_s, tries      one call with all that is tried again
    pause_s            first and longest pause between two tries; each is twice the one before
    watch_s            after which the server is to end a watch that is then taken up again
    stale_s            how long a mirror answers while it has no contact
    """

    connect_s: float = 5.0
    read_s: float = 30.0
    call_s: float = 60.0
    tries: int = 5
    pause_s: tuple[float, float] = (0.5, 30.0)
    watch_s: float = 120.0
    stale_s: float = 60.0

    def pause(self, failures: int) -> float:
        """Seconds after so many failures in a row, at random so that clients get out of step."""
        first, longest = self.pause_s
        longest = min(longest, first * 2.0 ** min(failures, 16))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311


def open_kube(
    kubeconfig: str, context: str = "", *, allow_exec: bool = False, bounds: Bounds | None = None
) -> Kube:
    """The API of a cluster that a kubeconfig names; an empty context is its current one.

    Nothing is asked of the cluster yet. Raises BadInput for a file that cannot be used, that turns
    the verification of TLS off, or that runs a credential plugin where that is not allowed.
    """
    # A command for credentials may take its time, and opening must not.
    lazily = runs_command(kubeconfig, context, allow_exec=allow_exec)
    connect = partial(connected, kubeconfig, context, allow_exec=allow_exec)
    return Kube(connect, bounds or Bounds(), lazily=lazily)


def open_server(
    find: Callable[[], tuple[str, str, Callable[[], str]]], bounds: Bounds | None = None, *,
    explain: Callable[[KubeError], KubeError] = lambda error: error,
) -> Kube:  # fmt: skip
    """The API of a cluster that is found at the first call, and again after a 401.

    ``find`` gives its https URL, its authority in PEM, and what gives each request's bearer token.
    """
    return Kube(lambda: connected_to(*find()), bounds or Bounds(), lazily=True, explain=explain)


class Kube:
    """The verbs. All raise KubeError where the server refuses or does not answer.

    connect   makes an ApiClient; again after a 401. What it raises comes from the verbs then
    lazily    connect at the first call and not at once, where that takes long
    explain   may give a refusal a remedy that fits how the cluster was found
    """

    def __init__(
        self, connect: Callable[[], Any], bounds: Bounds, *, lazily: bool = False,
        explain: Callable[[KubeError], KubeError] = lambda error: error,
    ) -> None:  # fmt: skip
        self.bounds = bounds
        self._connect = connect
        self._explain = explain
        self._lock = threading.Lock()
        self._client = None if lazily else connect()
        self._closed = threading.Event()

    def close(self) -> None:
        """Let go of the connections; what waits for its next try gives up."""
        self._closed.set()
        if self._client is not None:
            self._client.close()

    # -- verbs -------------------------------------------------------------------------------------

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """An object, of a private resource its metadata only. None if it is not there."""
        try:
            return self._call("GET", resource, namespace, name)
        except KubeError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def list(
        self, resource: Resource, namespace: str, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """All objects that selectors select, and the resourceVersion to watch from."""
        found: list[Object] = []
        query = _selected(labels, fields) | {"limit": str(_PAGE)}
        while True:
            try:
                page = self._call("GET", resource, namespace, query=query)
            except Expired:
                # The pages took too long: the first one again, and no more pages.
                if "limit" not in query:
                    raise
                found, query = [], _selected(labels, fields)
                continue
            found += self._items(page, resource, namespace)
            metadata = mapping(page.get("metadata"))
            more = metadata.get("continue")
            if not more:
                return found, str(metadata.get("resourceVersion", ""))
            query = query | {"continue": more}

    def _items(self, page: Object, resource: Resource, namespace: str) -> Sequence[Object]:
        items = page.get("items") or []
        listed = [mapping(one) for one in items] if isinstance(items, list) else [{}]
        if not all(mapping(one.get("metadata")).get("uid") for one in listed):
            where = self._where(resource, namespace, "")
            raise KubeError("the list has no objects", where, "see what is in between")
        return listed

    def create(self, resource: Resource, body: Object, namespace: str = "") -> bool:
        """Make an object; False if there is one of that name."""
        try:
            self._call("POST", resource, namespace, body=body)
        except KubeError as error:
            if error.status == HTTPStatus.CONFLICT and error.reason == "AlreadyExists":
                return False
            raise
        return True

    def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, uid: str = ""
    ) -> Object:
        """Apply on the server's side. Raises FieldConflict where others own a field.

        With ``uid`` only to the object that has it; raises Replaced where that is gone.
        """
        metadata = body["metadata"]
        if uid:
            body = {**body, "metadata": {**metadata, "uid": uid}}
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        query |= {"force": "true"} if force else {}
        namespace = str(metadata.get("namespace", ""))
        return self._call("PATCH", resource, namespace, metadata["name"], query=query, body=body)

    def delete(
        self, resource: Resource, name: str, namespace: str, *, uid: str,
        propagation: str = "Background",
    ) -> None:  # fmt: skip
        """Delete the object of this uid. Nothing if it is gone, or another has its name now."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": propagation,
        }
        try:
            self._call("DELETE", resource, namespace, name, body=body)
        except KubeError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    def watch(
        self, resource: Resource, namespace: str, since: str, *, labels: str = "", fields: str = ""
    ) -> Stream:
        """What changes after a resourceVersion. Raises Expired where that is too long ago."""
        query = _selected(labels, fields) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(max(1, round(self.bounds.watch_s))),
        }
        url = resource.path(namespace) + _query(query)
        try:
            return self._begun(resource, namespace, url)
        except KubeError as error:
            if error.status != HTTPStatus.UNAUTHORIZED:
                raise
        self._reconnect()
        return self._begun(resource, namespace, url)

    def _begun(self, resource: Resource, namespace: str, url: str) -> Stream:
        where = self._where(resource, namespace, "")
        # A connection that died says nothing: the server ends a watch in time, or it is dead.
        read_s = self.bounds.watch_s + self.bounds.read_s
        try:
            answer = self._open("GET", url, None, {"Accept": _accepted(resource)}, read_s)
            if answer.status >= HTTPStatus.BAD_REQUEST:
                said = refused(answer, self._read(answer), where, private=resource.private)
                raise self._explain(said)
        except HTTPError as error:
            raise self._explain(unreachable(error, where)) from None
        return Stream(answer, where)

    # -- one call ----------------------------------------------------------------------------------

    def _call(
        self, method: str, resource: Resource, namespace: str = "", name: str = "", *,
        query: Mapping[str, str] | None = None, body: Object | None = None,
    ) -> Object:  # fmt: skip
        where = self._where(resource, namespace, name)
        url = resource.path(namespace, name) + _query(query or {})
        headers = {"Accept": _accepted(resource, is_list=method == "GET" and not name)}
        if body is not None:
            headers["Content-Type"] = _APPLY if method == "PATCH" else "application/json"
        end = time.monotonic() + self.bounds.call_s
        for failures in range(self.bounds.tries):
            try:
                return self._once(method, url, headers, body, where, resource)
            except KubeError as error:
                pause_s = self.bounds.pause(failures)
                if error.retry_after_s is not None:
                    pause_s = error.retry_after_s
                if error.status == HTTPStatus.UNAUTHORIZED and not failures:
                    self._reconnect()
                    pause_s = 0.0
                elif not passes(error, method):
                    raise
                last = failures + 1 == self.bounds.tries
                if last or time.monotonic() + pause_s > end or self._closed.wait(pause_s):
                    raise
                log.info("%s: trying again: %s", where, error.what)
        raise AssertionError("tries is at least 1")

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: Object | None, where: str,
        resource: Resource,
    ) -> Object:  # fmt: skip
        text = None if body is None else json.dumps(body)
        try:
            answer = self._open(method, url, text, headers, self.bounds.read_s)
            content = self._read(answer)
        except HTTPError as error:
            raise self._explain(unreachable(error, where)) from None
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise self._explain(refused(answer, content, where, private=resource.private))
        return _decoded(content, where)

    def _open(
        self, method: str, url: str, text: str | None, headers: Mapping[str, str], read_s: float
    ) -> Any:
        """The answer, of which only the head has been read."""
        with self._lock:
            # A token may be renewed in here.
            client = self._connected()
            found = client.configuration.auth_settings().values()
            sent = {one["key"]: one["value"] for one in found if one["value"]}
        # The pool's own retries do not know which answers pass.
        return client.rest_client.pool_manager.request(
            method,
            client.configuration.host + url,
            body=text,
            headers={**headers, **sent, "User-Agent": "flux-flex"},
            timeout=urllib3.Timeout(connect=self.bounds.connect_s, read=read_s),
            retries=False,
            preload_content=False,
        )

    def _read(self, answer: Any) -> bytes:
        """The rest of an answer, which must be there before the call's time is over."""
        end = time.monotonic() + self.bounds.call_s
        content = bytearray()
        for piece in _pieces(answer):
            content += piece
            if time.monotonic() > end:
                answer.close()
                raise HTTPError(f"the answer took longer than {self.bounds.call_s:g} s")
        answer.release_conn()
        return bytes(content)

    def _connected(self) -> Any:
        """The client; the lock is held."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _reconnect(self) -> None:
        """With what the kubeconfig has now: tokens and certificates are renewed in their files."""
        with self._lock:
            if self._closed.is_set():
                return
            old, self._client = self._client, self._connect()
        # Watches that are open keep their connections.
        if old is not None:
            old.close()

    def _where(self, resource: Resource, namespace: str, name: str) -> str:
        place = "/".join(part for part in (namespace, resource.plural, name) if part)
        with self._lock:
            host = self._connected().configuration.host
        return f"{host} {place}"


class Stream:
    """The events of one watch as (type, object): ADDED, MODIFIED, DELETED and BOOKMARK."""

    def __init__(self, answer: Any, where: str) -> None:
        self._answer = answer
        self._where = where

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        """Ends when the server ends the watch. Raises Expired, or KubeError where it is cut."""
        try:
            # What is cut in the middle of a line has no end of line.
            rest = b""
            for piece in _pieces(self._answer):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (self._event(line) for line in lines if line.strip())
        except HTTPError as error:
            raise unreachable(error, self._where) from None
        finally:
            self._answer.close()

    def _event(self, line: bytes) -> tuple[str, Object]:
        event = _decoded(line, self._where)
        kind, about = str(event.get("type")), mapping(event.get("object"))
        if kind == "ERROR":
            code = about.get("code")
            raise error_of(about, code if isinstance(code, int) else 500, self._where)
        metadata = mapping(about.get("metadata"))
        if not metadata.get("resourceVersion") or not (metadata.get("uid") or kind == "BOOKMARK"):
            raise KubeError("the watch sent no object", self._where, "see what is in between")
        return kind, about

    def close(self) -> None:
        """End it from another thread, also while that one waits for the next event."""
        with suppress(OSError, ValueError, RuntimeError, AttributeError):
            self._answer.shutdown()


def _pieces(answer: Any) -> Iterator[bytes]:
    """The content as it comes. Where nothing says where a piece ends, stream() waits for 64 KiB."""
    if not hasattr(answer, "read1"):  # urllib3 1
        yield from answer.stream()
        return
    while piece := answer.read1(_PIECE):
        yield piece


def _accepted(resource: Resource, *, is_list: bool = False) -> str:
    kind = "List" if is_list else ""
    return _METADATA_ONLY.format(kind) if resource.private else "application/json"


def _decoded(content: bytes, where: str) -> Object:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, Mapping):
        raise KubeError("the answer is no JSON object", where, "see what is in between")
    return value


def _query(query: Mapping[str, str]) -> str:
    return "?" + urllib.parse.urlencode(query) if query else ""


def _selected(labels: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in given.items() if value}
