"""A kubeconfig, refused where it is unsafe: TLS that is not verified, commands that it would run.

    client = connected("/etc/flux/kubeconfig")       # an ApiClient of the kubernetes package

Where a cloud itself tells of the server and gives tokens, no file is needed:

    client = connected_to("https://…", ca_pem, token=lambda: "…")

Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ and
what the package does with the file, as read in its sources (29 to 37): a credential plugin has no
deadline, one that fails is passed over, and an OpenID issuer without a certificate is not verified.
"""

from __future__ import annotations

import base64
import copy
import os
import ssl
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from urllib3.util.ssl_ import create_urllib3_context

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.exec_credential import ExecCredential, ExecPlugin, read_plugin
from flux_flex.model.quoting import one_line

# Both are what the package calls a bearer token, the second one since version 36.
_KEYS = ("authorization", "BearerToken")
_PATHS = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}


def connected(
    path: str, context: str = "", *, allow_exec: bool = False,
    clock: Callable[[], float] = time.time,
) -> Any:  # fmt: skip
    """An ApiClient of the kubernetes package; an empty context is the file's current one.

    Nothing is asked of the cluster yet, but a credential plugin runs, within its deadline; a token
    of it is renewed before it ends. A certificate of it is when the server no longer takes it, and
    so connections are made anew. ``clock`` is in seconds since the epoch. Raises BadInput for a
    file that cannot be used, that turns the verification of TLS off, or that runs a credential
    plugin where that is not allowed, and for a plugin that gives no credential.
    """
    content, plugin = _checked(path, context, allow_exec)
    if plugin is not None:
        credential = plugin.credential(clock())
        content["users"][0]["user"] = _as_user(credential)
    # Here and not above: it takes a third of a second to import.
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        load: Callable[..., None] = config.load_kube_config_from_dict
        load(content, content["current-context"], settings, persist_config=False)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"cannot be used: {one_line(error)}", path, "try kubectl with it") from None
    if not settings.verify_ssl:
        raise BadInput(*_insecure(path))
    if plugin is not None and credential.token:
        _renew_with(settings, _Renewed(plugin, credential, clock))
    return client.ApiClient(settings)


def connected_to(server: str, ca_pem: str, token: Callable[[], str]) -> Any:
    """An ApiClient for the API at an https URL, which only ``ca_pem`` vouches for.

    ``token`` is asked for the bearer token of each request, also of a watch. Nothing is written to
    a file. Raises FlexError for a URL or a certificate that cannot be used.
    """
    if not server.startswith("https://"):
        raise FlexError("the server is not https", one_line(server), "credentials go over TLS only")
    # As urllib3 makes it, for each of its versions has its own way to check the server's name.
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError):
        what = "its certificate authority cannot be read"
        raise FlexError(what, one_line(server), "see who gave it") from None
    from kubernetes import client

    settings = client.Configuration()
    settings.host = server.rstrip("/")
    settings.verify_ssl = True
    _renew_with(settings, token)
    made = client.ApiClient(settings)
    # Not by a file, which would be left behind. Older packages know no other way, and would trust
    # all public authorities besides.
    made.rest_client.pool_manager.connection_pool_kw.update(ca_certs=None, ssl_context=context)
    return made


def runs_command(path: str, context: str = "", *, allow_exec: bool = False) -> bool:
    """Whether credentials come from a command, which may take its time. Raises BadInput as
    :func:`connected`, but for what is only known by running it."""
    return _checked(path, context, allow_exec)[1] is not None


# -- credentials -----------------------------------------------------------------------------------


class _Renewed:
    """The token of a plugin, which is run again before that ends."""

    def __init__(
        self, plugin: ExecPlugin, credential: ExecCredential, clock: Callable[[], float]
    ) -> None:
        self._plugin = plugin
        self._credential = credential
        self._clock = clock

    def __call__(self) -> str:
        now_s = self._clock()
        if now_s >= self._credential.renew_s:
            self._credential = self._plugin.credential(now_s)
        return self._credential.token


def _renew_with(settings: Any, token: Callable[[], str]) -> None:
    """Have the package ask for the token of each request: it calls this hook before it looks."""

    def renew(settings: Any) -> None:
        settings.api_key.update(dict.fromkeys(_KEYS, f"Bearer {token()}"))

    # The hook is only called where there is something to renew.
    settings.api_key = dict.fromkeys(_KEYS, "Bearer")
    settings.api_key_prefix = {}
    settings.refresh_api_key_hook = renew


def _as_user(credential: ExecCredential) -> dict[str, str]:
    """What a plugin gave, as a user of a kubeconfig."""
    found = {"token": credential.token} if credential.token else {}
    if credential.certificate:
        pair = (("certificate", credential.certificate), ("key", credential.key))
        encoded = {f"client-{name}-data": text.encode() for name, text in pair}
        found |= {name: base64.b64encode(text).decode() for name, text in encoded.items()}
    return found


# -- what is refused -------------------------------------------------------------------------------


def _checked(path: str, context: str, allow_exec: bool) -> tuple[dict[str, Any], ExecPlugin | None]:
    """The one context, cluster and user that are meant, as a kubeconfig with absolute paths; and
    the credential plugin, if any. What is unsafe is refused before any of it is used."""
    try:
        with open(path, encoding="utf-8") as file:
            is_open = bool(stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o022)
            content = yaml.safe_load(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # Not the YAML error's text, which would show a line of a file that holds credentials.
        said = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise BadInput(f"cannot be read: {said}", path, "name a kubeconfig") from None
    name = context or (content.get("current-context") if isinstance(content, Mapping) else "")
    chosen = _named(content, "contexts", name, "context")
    cluster = _named(content, "clusters", chosen.get("cluster"), "cluster")
    user = _named(content, "users", chosen.get("user"), "user")
    if not cluster:
        what = f"it has no context {name!r}" if name else "it has no current context"
        raise BadInput(what, path, "name one of `kubectl config get-contexts`")
    if cluster.get("insecure-skip-tls-verify"):
        raise BadInput(*_insecure(path))
    if not str(cluster.get("server", "")).startswith("https://"):
        raise BadInput("the server is not https", path, "credentials go over TLS only")
    if "auth-provider" in user:
        # One of them runs a command, another does not verify its issuer unless told how.
        what = "auth-provider credentials are not supported"
        raise BadInput(what, path, "use a token, a client certificate or exec")
    plugin = _plugin(user, cluster, path, allow_exec=allow_exec, is_open=is_open)
    parts = {"cluster": dict(cluster), "user": dict(user)}
    for part, keys in _PATHS.items():
        for key in keys:
            if isinstance(file_name := parts[part].get(key), str) and file_name:
                parts[part][key] = str(Path(path).resolve().parent / file_name)
    alone: dict[str, Any] = {
        "current-context": name,
        "contexts": [{"name": name, "context": {**chosen, "cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": parts["cluster"]}],
        "users": [{"name": "u", "user": parts["user"]}],
    }
    return copy.deepcopy(alone), plugin


def _plugin(
    user: Mapping[str, Any], cluster: Mapping[str, Any], path: str, *, allow_exec: bool,
    is_open: bool,
) -> ExecPlugin | None:  # fmt: skip
    """The credential plugin that is to run; none where there is a token besides."""
    run = user.get("exec")
    if not isinstance(run, Mapping):
        return None
    if not allow_exec:
        command = one_line(run.get("command", ""))
        what = f"it runs the command {command} for credentials, which is not allowed"
        remedy = "set allow_exec = true, or use a token or a client certificate"
        raise BadInput(what, path, remedy)
    if user.get("token") or user.get("tokenFile"):
        return None
    if is_open:
        what = "others can write it, and so have commands run here"
        raise BadInput(what, path, "chmod go-w, and look at users[].user.exec")
    return read_plugin(run, cluster, path)


def _named(content: object, section: str, name: object, part: str) -> Mapping[str, Any]:
    """A part of the item of that name in a section; empty where there is none."""
    items = content.get(section) if isinstance(content, Mapping) else None
    for item in items if isinstance(items, list) else []:
        if isinstance(item, Mapping) and item.get("name") == name:
            found = item.get(part)
            return found if isinstance(found, Mapping) else {}
    return {}


def _insecure(path: str) -> tuple[str, str, str]:
    what = "insecure-skip-tls-verify is set: whoever is in between could take the credentials"
    return what, path, "give the cluster's certificate-authority-data instead"
