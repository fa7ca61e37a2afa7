"""A small Kubernetes API server on loopback, over HTTPS, for tests of the real client.

    with KubeServer(certificates) as server:
        server.kubeconfig(path)
        server.fail("PATCH", "miniclusters", 503, times=2)     # scripted faults
        server.put("pods", pod, namespace="bursts")            # as other controllers would
        server.calls                                           # all that was asked

It stores objects and does server-side apply with field managers, preconditions, foreground
deletion, garbage collection by owner, watches with bookmarks, and forgets history when it is told
to. It validates nothing: what it accepts, a real server may refuse.
"""

from __future__ import annotations

import base64
import copy
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kube_fields import grown, leaves, selects

TOKEN = "token-of-the-test"
Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name
GROUPS = {"miniclusters": "flux-framework.org"}


@dataclass
class Call:
    """One request. ``verb`` is RBAC's; ``body`` its text."""

    verb: str
    plural: str
    namespace: str
    name: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: str
    url: str


@dataclass
class Fault:
    """What happens to the next calls of a kind instead of, or before, their answer."""

    method: str
    plural: str
    status: int
    times: int
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False  # the change is made, its answer is lost
    slow_s: float = 0.0
    drip_s: float = 0.0  # the answer comes one byte at a time, so often
    status_body: Object | None = None


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None):
        self.code = code
        self.body = {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": message, "details": {"causes": causes or []},
        }  # fmt: skip


class KubeServer:
    def __init__(self, certificates: Path) -> None:
        self.certificates = certificates
        self.token = TOKEN
        self.objects: dict[Key, Object] = {}
        self.owners: dict[Key, dict[str, set[str]]] = {}  # fields to their managers
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.bookmark_s = 0.2
        self.page = 500
        self.pieces = 1  # in how many chunks each event of a watch is sent
        self.trusts: Callable[[str], bool] = lambda token: token == self.token
        self._version = 100
        self._oldest = 0
        self._history: list[tuple[int, str, str, str, Object]] = []
        self.news = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self.cuts = 0
        self._half = b""
        self.ending = False

    # -- life --------------------------------------------------------------------------------------

    def __enter__(self) -> KubeServer:
        server = self

        class Handler(_Handler):
            kube = server

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates / "server.crt", self.certificates / "server.key")
        self._http.socket = context.wrap_socket(
            self._http.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending = True
        self.cut_watches()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def kubeconfig(self, path: Path, **changes: Any) -> Path:
        """A kubeconfig for it; ``cluster`` and ``user`` change its parts."""
        ca = base64.b64encode((self.certificates / "ca.crt").read_bytes()).decode()
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority-data": ca,
        } | changes.get("cluster", {})
        user = changes.get("user", {"token": self.token})
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    # -- what tests do to it -----------------------------------------------------------------------

    def fail(
        self, method: str, plural: str, status: int = 0, *, times: int = 1, **more: Any
    ) -> None:
        """The next calls get an HTTP status; 0 cuts the connection."""
        self.faults.append(Fault(method, plural, status, times, **more))

    def forget(self) -> None:
        """Compact the history: watches from before now get 410, those that are open end with it."""
        with self.news:
            self._version += 2
            self._oldest = self._version
            self._history.clear()
            self.news.notify_all()

    def cut_watches(self, half_a_line: bool = False) -> None:
        """End the connections of all watches, in the middle of a line if so told."""
        with self.news:
            self._half = b'{"type": "ADDED", "object": {"meta' if half_a_line else b""
            self.cuts += 1
            self.news.notify_all()

    def put(self, plural: str, body: Mapping[str, Any], manager: str = "kubectl") -> Object:
        """Make or replace an object, as somebody else."""
        with self.news:
            body = copy.deepcopy(dict(body))
            key = plural, body["metadata"].get("namespace", ""), body["metadata"]["name"]
            old = self.objects.get(key)
            kept = {} if old is None else {k: old["metadata"][k] for k in ("uid",)}
            body["metadata"] = {"uid": str(uuid.uuid4())} | body["metadata"] | kept
            owners = self.owners.setdefault(key, {})
            for path in leaves(body):
                owners.setdefault(path, set()).add(manager)
            self._store(key, body, "ADDED" if old is None else "MODIFIED")
            return body

    def remove(self, plural: str, namespace: str, name: str) -> None:
        with self.news:
            self._drop((plural, namespace, name))

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        with self.news:
            return copy.deepcopy(self.objects.get((plural, namespace, name)))

    def names(self, plural: str) -> set[str]:
        with self.news:
            return {key[2] for key in self.objects if key[0] == plural}

    def finish_deletions(self) -> None:
        """What waited for its dependents goes, and what it owned."""
        with self.news:
            for key, one in [*self.objects.items()]:
                if "deletionTimestamp" in one["metadata"]:
                    self._drop(key)

    # -- the store ---------------------------------------------------------------------------------

    def _store(self, key: Key, body: Object, kind: str) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = body
        self._tell(key, kind, body)

    def _tell(self, key: Key, kind: str, body: Object) -> None:
        self._history.append((self._version, key[0], key[1], kind, copy.deepcopy(body)))
        self.news.notify_all()

    def _drop(self, key: Key) -> None:
        one = self.objects.pop(key, None)
        self.owners.pop(key, None)
        if one is None:
            return
        self._version += 1
        one["metadata"]["resourceVersion"] = str(self._version)
        self._tell(key, "DELETED", one)
        for other, candidate in [*self.objects.items()]:
            references = candidate["metadata"].get("ownerReferences", [])
            if any(ref["uid"] == one["metadata"]["uid"] for ref in references):
                self._drop(other)

    def create(self, call: Call) -> Object:
        body = json.loads(call.body)
        key = call.plural, call.namespace, body["metadata"]["name"]
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{call.plural} "{key[2]}" already exists')
        body["metadata"]["uid"] = str(uuid.uuid4())
        self._store(key, body, "ADDED")
        return body

    def apply(self, call: Call) -> Object:
        assert call.headers["Content-Type"] == "application/apply-patch+yaml"
        body, manager = json.loads(call.body), call.query["fieldManager"]
        key = call.plural, call.namespace, call.name
        old = self.objects.get(key)
        if (uid := body["metadata"].pop("uid", "")) and uid != (old or {}).get("metadata", {}).get(
            "uid"
        ):
            raise Refusal(409, "Conflict", f"Precondition failed: UID in precondition: {uid}")
        owners = {path: set(who) for path, who in self.owners.get(key, {}).items()}
        wanted, had = leaves(body), leaves(old or {})
        taken = [
            (path, next(iter(owners[path] - {manager})))
            for path, value in wanted.items()
            if owners.get(path, set()) - {manager} and had.get(path) != value
        ]
        if taken and call.query.get("force") != "true":
            causes = [
                {
                    "reason": "FieldManagerConflict",
                    "message": f'conflict with "{who}" using {body["apiVersion"]}',
                    "field": "." + path.replace("\t", "."),
                }
                for path, who in taken
            ]
            message = f"Apply failed with {len(taken)} conflict(s)"
            raise Refusal(409, "Conflict", message, causes)
        for path, _ in taken:
            owners[path] = set()
        for path in [*owners]:
            if path not in wanted and owners[path] == {manager}:
                del owners[path]
                had.pop(path, None)
        for path in wanted:
            owners.setdefault(path, set()).add(manager)
        self.owners[key] = owners
        new = grown({**had, **wanted}) | {
            "apiVersion": body["apiVersion"],
            "kind": body["kind"],
        }
        known = dict(old["metadata"]) if old else {"uid": str(uuid.uuid4())}
        kept = ("uid", "resourceVersion", "deletionTimestamp", "name", "namespace")
        names = {k: v for k, v in body["metadata"].items() if k in ("name", "namespace")}
        new.setdefault("metadata", {}).update(names | {k: known[k] for k in kept if k in known})
        if new != old:
            self._store(key, new, "MODIFIED" if old else "ADDED")
        return self.objects[key]

    def delete(self, call: Call) -> Object:
        key = call.plural, call.namespace, call.name
        one = self._found(key)
        options = json.loads(call.body or "{}")
        uid = options.get("preconditions", {}).get("uid", one["metadata"]["uid"])
        if uid != one["metadata"]["uid"]:
            raise Refusal(409, "Conflict", f"Precondition failed: UID in precondition: {uid}")
        if options.get("propagationPolicy") == "Foreground":
            one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self._store(key, one, "MODIFIED")
        else:
            self._drop(key)
        return one

    def _found(self, key: Key) -> Object:
        if key not in self.objects:
            raise Refusal(404, "NotFound", f'{key[0]} "{key[2]}" not found')
        return self.objects[key]

    def read(self, call: Call) -> Object:
        return self._found((call.plural, call.namespace, call.name))

    def list(self, call: Call) -> Object:
        found = [
            one for key, one in self.objects.items()
            if key[:2] == (call.plural, call.namespace) and selects(call.query, one)
        ]  # fmt: skip
        start = int(call.query.get("continue", "0"))
        limit = min(self.page, int(call.query.get("limit", "0")) or len(found) or 1)
        metadata = {"resourceVersion": str(self._version)}
        if start + limit < len(found):
            metadata["continue"] = str(start + limit)
        return {"kind": "List", "metadata": metadata, "items": found[start : start + limit]}

    # -- watches -----------------------------------------------------------------------------------

    def watch(
        self, call: Call, cut: int, send: Callable[[Object], None],
        send_half: Callable[[bytes], None],
    ) -> bool:  # fmt: skip
        """Send events until the time is over (True) or the watch is cut after ``cut`` (False)."""
        since = int(call.query["resourceVersion"])
        end = time.monotonic() + float(call.query["timeoutSeconds"])
        while time.monotonic() < end and not self.ending:
            with self.news:
                if self.cuts != cut:
                    half = self._half
                    break
                if since < self._oldest - 1:
                    gone = Refusal(410, "Expired", f"too old resource version: {since}")
                    events: list[Object] = [{"type": "ERROR", "object": gone.body}]
                else:
                    events = [
                        {"type": kind, "object": one}
                        for version, plural, namespace, kind, one in self._history
                        if version > since and (plural, namespace) == (call.plural, call.namespace)
                        and selects(call.query, one)
                    ]  # fmt: skip
                    since = self._version
                    if not events and not self.news.wait(self.bookmark_s):
                        bookmark = {"metadata": {"resourceVersion": str(self._version)}}
                        events = [{"type": "BOOKMARK", "object": bookmark}]
            for event in events:
                send(event)
                if event["type"] == "ERROR":
                    return True
        else:
            return not self.ending
        send_half(half)
        return False

    def is_forgotten(self, call: Call) -> bool:
        return int(call.query["resourceVersion"]) < self._oldest - 1


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or does not trust the certificate, is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    kube: KubeServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        call, cut = self._call(), self.kube.cuts
        self.kube.calls.append(call)
        try:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or not self.kube.trusts(token):
                raise Refusal(401, "Unauthorized", "Unauthorized")
            fault = self._fault(call)
            if fault is not None and not fault.after:
                return self._do(fault, call)
            if call.verb == "watch":
                with self.kube.news:
                    if self.kube.is_forgotten(call):
                        raise Refusal(410, "Expired", "too old resource version")
                return self._stream(call, cut)
            with self.kube.news:
                text = json.dumps(self._shown(self._change(call)))
            if fault is not None:
                return self._do(fault, call)
            return self._send(200, text)
        except Refusal as refusal:
            return self._send(refusal.code, json.dumps(refusal.body))

    def _change(self, call: Call) -> Object:
        verbs = {
            "get": self.kube.read, "list": self.kube.list, "create": self.kube.create,
            "patch": self.kube.apply, "delete": self.kube.delete,
        }  # fmt: skip
        key = call.plural, call.namespace, call.name
        if call.verb == "patch" and key not in self.kube.objects:
            self.kube.calls.append(replace(call, verb="create"))
        return verbs[call.verb](call)

    def _call(self) -> Call:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        words = parts.path.split("/")[3 if parts.path.startswith("/api/") else 4 :]
        namespace = ""
        if words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        name = words[1] if len(words) > 1 else ""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(self.command)
        verb = verb or ("get" if name else "watch" if query.get("watch") else "list")
        return Call(verb, words[0], namespace, name, query, dict(self.headers), body, self.path)

    def _fault(self, call: Call) -> Fault | None:
        for fault in self.kube.faults:
            method = "WATCH" if call.verb == "watch" else self.command
            if fault.times and (fault.method, fault.plural) == (method, call.plural):
                fault.times -= 1
                return fault
        return None

    def _do(self, fault: Fault, call: Call) -> None:
        if fault.slow_s:
            threading.Event().wait(fault.slow_s)
        if not fault.status:
            self.close_connection = True
            self.connection.close()
            return
        if fault.drip_s:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b" ")
                threading.Event().wait(fault.drip_s)
            return
        said = "scripted"
        if fault.status == 403:
            said = (
                f'is forbidden: User "test" cannot {call.verb} resource "{call.plural}": scripted'
            )
        body = fault.status_body or Refusal(fault.status, "Scripted", said).body
        self._send(fault.status, json.dumps(body), fault.headers)

    def _shown(self, one: Object) -> Object:
        accepted = self.headers.get("Accept", "")
        if "as=PartialObjectMetadata" not in accepted:
            return one
        if ("items" in one) != ("as=PartialObjectMetadataList;" in accepted):
            raise Refusal(406, "NotAcceptable", f"not as {accepted}")
        if "items" in one:
            return one | {"items": [{"metadata": each["metadata"]} for each in one["items"]]}
        return {"kind": "PartialObjectMetadata", "metadata": one["metadata"]}

    def _send(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, call: Call, cut: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def send_raw(data: bytes) -> None:
            if data:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

        def send(event: Object) -> None:
            line = json.dumps(event).encode() + b"\n"
            step = -(-len(line) // self.kube.pieces)
            for start in range(0, len(line), step):
                send_raw(line[start : start + step])

        whole = self.kube.watch(call, cut, send, send_raw)
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True
            self.connection.close()
