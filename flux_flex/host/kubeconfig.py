"""A kubeconfig, refused where it is unsafe: TLS that is not verified, commands that it would run.

    client = connected("/etc/flux/kubeconfig")       # an ApiClient of the kubernetes package

Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ and
what the package does with the file, as read in its sources (29 to 37): a credential plugin that
fails is logged and passed over, and an OpenID issuer without a certificate is not verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from flux_flex.errors import BadInput

_MOST_TEXT = 500


def connected(path: str, context: str = "", *, allow_exec: bool = False) -> Any:
    """An ApiClient of the kubernetes package; an empty context is the file's current one.

    Nothing is asked of the cluster yet. Raises BadInput for a file that cannot be used, that turns
    the verification of TLS off, or that runs a credential plugin where that is not allowed.
    """
    plugin = _check_kubeconfig(path, context, allow_exec)
    # Here and not above: it takes a third of a second to import.
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        load: Callable[..., None] = config.load_kube_config
        load(path, context or None, settings, persist_config=False)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"cannot be used: {short(error)}", path, "try kubectl with it") from None
    # The package logs what a plugin says when it fails, and goes on without credentials.
    if plugin and not settings.api_key and not settings.cert_file:
        raise BadInput(f"the credential plugin {plugin} gave no credential", path, "run it by hand")
    if not settings.verify_ssl:
        raise BadInput(*_insecure(path))
    return client.ApiClient(settings)


def _check_kubeconfig(path: str, context: str, allow_exec: bool) -> str:
    """Refuse what is unsafe before any of it is used; the name of the credential plugin, if any."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
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
    run = user.get("exec")
    plugin = str(run.get("command", "")) if isinstance(run, Mapping) else ""
    if plugin and not allow_exec:
        what = f"it runs the command {plugin} for credentials, which is not allowed"
        raise BadInput(what, path, "set allow_exec = true, or use a token or a client certificate")
    return plugin


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


def short(said: object) -> str:
    """What somebody else said, on one line of a bearable length."""
    text = " ".join(str(said).split())
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
