"""What a kubeconfig's command gives as credential: run within a deadline, its answer checked.

    plugin = read_plugin(user["exec"], cluster, "/etc/flux/kubeconfig")
    credential = plugin.credential(now_s)       # token, or certificate and key; renew_s

The kubernetes package runs such commands without a deadline, from within any request, and goes on
without credentials where one fails. Here it has no terminal to ask on, and a word of why it failed
comes back; what it prints on its standard output is a secret and is shown nowhere.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
#client-go-credential-plugins and .../docs/reference/config-api/client-authentication.v1/
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from flux_flex.errors import BadInput
from flux_flex.host.checks.machine import run_bounded
from flux_flex.model.quoting import one_line

DEADLINE_S = 30.0

_VERSIONS = tuple(f"client.authentication.k8s.io/{one}" for one in ("v1", "v1beta1"))
_EXTENSION = "client.authentication.k8s.io/exec"
# A credential is renewed this long before it ends, or a tenth of its life.
_EARLY_S = 60.0
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_TOKEN = re.compile(r"[!-~]{1,65536}")
_PEM = re.compile(r"\s*-----BEGIN [A-Z0-9 ]+-----[\x20-\x7e\s]+")


@dataclass(frozen=True)
class ExecCredential:
    """A token, or a client's certificate and key in PEM; ``renew_s`` in seconds since the epoch."""

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    renew_s: float = math.inf


@dataclass(frozen=True)
class ExecPlugin:
    """A command as a kubeconfig names it. ``more`` is added to this process's environment."""

    words: tuple[str, ...]
    more: Mapping[str, str] = field(repr=False)
    version: str
    where: str
    hint: str = ""

    def credential(self, now_s: float) -> ExecCredential:
        """Run it. Raises BadInput where it fails, hangs, or gives what is no credential."""
        answer = run_bounded(self.words, {**os.environ, **self.more}, DEADLINE_S)
        if not answer.ok:
            # Not its standard output, which may hold half of a credential.
            said = _printable(answer.err)
            code = "did not run to its end" if answer.code is None else f"failed ({answer.code})"
            self._refuse(f"{code}: {said}" if said else f"{code}, and does not say why")
        try:
            given: Any = json.loads(answer.out)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, Mapping) or given.get("kind") != "ExecCredential":
            self._refuse("printed no ExecCredential")
        if given.get("apiVersion") != self.version:
            self._refuse(f"answered in another apiVersion than {self.version}")
        status = given.get("status")
        return self._read(status if isinstance(status, Mapping) else {}, now_s)

    def _read(self, status: Mapping[str, Any], now_s: float) -> ExecCredential:
        token = status.get("token") or ""
        pair = status.get("clientCertificateData") or "", status.get("clientKeyData") or ""
        if token and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
            self._refuse("printed a token that no header can carry")
        if any(pair) and not all(isinstance(one, str) and _PEM.fullmatch(one) for one in pair):
            self._refuse("printed a certificate or key that is not PEM, or one without the other")
        if not token and not any(pair):
            self._refuse("gave no credential")
        renew_s, until = math.inf, status.get("expirationTimestamp")
        if until is not None:
            until_s = _seconds(until)
            if until_s is None:
                self._refuse("printed an expirationTimestamp that is no time")
            if until_s <= now_s:
                self._refuse("gave a credential that has expired already")
            renew_s = until_s - min(_EARLY_S, (until_s - now_s) / 10)
        return ExecCredential(token, *pair, renew_s)

    def _refuse(self, what: str) -> NoReturn:
        remedy = self.hint or "run it by hand, with nothing on its standard input"
        name = _printable(self.words[0])
        raise BadInput(f"the credential plugin {name} {what}", self.where, remedy) from None


def read_plugin(run: Mapping[str, Any], cluster: Mapping[str, Any], path: str) -> ExecPlugin:
    """The plugin of a user in the kubeconfig at ``path``. BadInput for what cannot be run."""
    command, version = run.get("command"), run.get("apiVersion")
    args, env = run.get("args") or [], run.get("env") or []
    if not command or not isinstance(command, str) or "\0" in command:
        raise BadInput("its exec names no command", path, "see users[].user.exec.command")
    if version not in _VERSIONS:
        what = f"exec in apiVersion {_printable(str(version))!r} is not supported"
        raise BadInput(what, path, f"use {' or '.join(_VERSIONS)}")
    if not isinstance(args, list) or not all(isinstance(one, str) for one in args):
        raise BadInput("exec.args is no list of words", path, "quote what is a number")
    if run.get("interactiveMode") == "Always":
        what = f"the credential plugin {_printable(command)} wants a terminal, and there is none"
        raise BadInput(what, path, "use a credential that needs nobody to type")
    more = dict(_pair(one, path) for one in (env if isinstance(env, list) else [None]))
    if os.sep in command:
        # As kubectl has it: beside the file, and else on the PATH.
        command = str(Path(path).resolve().parent / command)
    spec: dict[str, Any] = {"interactive": False}
    if run.get("provideClusterInfo") is True:
        spec["cluster"] = _cluster_info(cluster, path)
    told = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    more["KUBERNETES_EXEC_INFO"] = json.dumps(told)
    hint = _printable(str(run.get("installHint") or ""))
    return ExecPlugin((command, *args), more, version, path, hint)


def _pair(one: object, path: str) -> tuple[str, str]:
    """A variable for its environment."""
    found = (one.get("name"), one.get("value")) if isinstance(one, Mapping) else (None, None)
    name, value = found
    if not isinstance(name, str) or not isinstance(value, str) or "\0" in name + value:
        raise BadInput("exec.env is no list of names and values", path, "quote what is a number")
    if not name or "=" in name:
        raise BadInput("exec.env has a name that no variable can have", path, "see exec.env")
    return name, value


def _cluster_info(cluster: Mapping[str, Any], path: str) -> dict[str, Any]:
    kept = ("server", "tls-server-name", "certificate-authority-data", "proxy-url")
    info = {key: cluster[key] for key in kept if cluster.get(key)}
    file = cluster.get("certificate-authority")
    if file and "certificate-authority-data" not in info:
        try:
            content = (Path(path).resolve().parent / str(file)).read_bytes()
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror}", str(file), "see the path") from None
        info["certificate-authority-data"] = base64.b64encode(content).decode()
    for one in cluster.get("extensions") or []:
        if isinstance(one, Mapping) and one.get("name") == _EXTENSION:
            info["config"] = one.get("extension")
    return info


def _seconds(text: object) -> float | None:
    """RFC 3339 as seconds since the epoch; None for what is no such time."""
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    zone = "+00:00" if found[3] in "Zz" else found[3]
    try:
        return datetime.datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").timestamp()
    except (ValueError, OverflowError):
        return None


def _printable(said: str) -> str:
    """Its last line, which is where programs say why, without what a terminal would obey."""
    lines = [line for line in said.splitlines() if line.strip()] or [""]
    return one_line(lines[-1], 200)
