"""How a node is registered: its labels, in the configuration that kubeadm hands to the kubelet.

A kubelet that registers itself with its labels has them from its first moment, and nobody needs
kubectl for it. Workers get them in the JoinConfiguration that is written for them anyway; the lead
in the InitConfiguration of the tree's kubeadm-config.yaml, which is a template of the tree's own,
so a few lines are put into it, and nothing else in it changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flux_flex.errors import FlexError

KUBEADM_CONFIG = "kubeadm-config.yaml"

_FLAG = "node-labels"
_KIND = re.compile(r"kind: InitConfiguration[ \t]*")
_API = re.compile(r"kubeadm\.k8s\.io/v[0-9a-z]{1,20}")
# Extra arguments are a map up to v1beta3, and a list of names and values from v1beta4 on.
_WITH_MAPS = re.compile(r"kubeadm\.k8s\.io/v1(?:alpha[0-9]+|beta[0-3])")


def registration(labels: Mapping[str, str], api: str) -> dict[str, Any]:
    """``nodeRegistration`` in kubeadm's API version ``api``: what the tree's node registers with.

    The labels that the tree gives its kubelets itself stay: a kubelet adds up what it is given.
    """
    joined = ",".join(f"{name}={value}" for name, value in labels.items())
    if _WITH_MAPS.fullmatch(api):
        return {"kubeletExtraArgs": {_FLAG: joined}}
    return {"kubeletExtraArgs": [{"name": _FLAG, "value": joined}]}


def with_registration(text: str, labels: Mapping[str, str]) -> str:
    """A kubeadm-config.yaml whose InitConfiguration registers the node with its labels.

    The text may have unquoted ``${VARIABLES}``, which are filled in later, so it is not written
    anew: lines are put in, and then it has to say what it said before, and that. Raises FlexError
    where it is not the file that is known: no such document, or several, one that registers its
    node already, or one of another form.
    """
    documents = _documents(text)
    places = [n for n, one in enumerate(documents) if _is_init(one)]
    lines = text.splitlines(keepends=True)
    kinds = [n for n, line in enumerate(lines) if _KIND.fullmatch(line.rstrip("\n"))]
    if len(places) != 1 or len(kinds) != 1:
        raise FlexError("not one InitConfiguration", KUBEADM_CONFIG)
    document, api = documents[places[0]], documents[places[0]].get("apiVersion")
    if "nodeRegistration" in document:
        raise FlexError("it has a nodeRegistration of its own", KUBEADM_CONFIG)
    if not isinstance(api, str) or not _API.fullmatch(api):
        raise FlexError("an InitConfiguration of no kubeadm", KUBEADM_CONFIG)
    wanted = registration(labels, api)
    before, after = lines[: kinds[0] + 1], lines[kinds[0] + 1 :]
    made = "".join(before).rstrip("\n") + "\n" + _block(wanted) + "".join(after)
    documents[places[0]] = document | {"nodeRegistration": wanted}
    if _documents(made) != documents:
        raise FlexError("of a form that nothing can be put into", KUBEADM_CONFIG)
    return made


def _block(wanted: Mapping[str, Any]) -> str:
    """As people write it. A JSON string is a YAML string, and no label has a $ for envsubst."""
    arguments = wanted["kubeletExtraArgs"]
    if isinstance(arguments, dict):
        inner = f"    {_FLAG}: {json.dumps(arguments[_FLAG])}\n"
    else:
        value = json.dumps(arguments[0]["value"])
        inner = f"  - name: {_FLAG}\n    value: {value}\n"
    return f"nodeRegistration:\n  kubeletExtraArgs:\n{inner}"


def _documents(text: str) -> list[Any]:
    # Here, for it is the lead's alone, and only where the site knows its network.
    import yaml

    try:
        return list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise FlexError("not YAML before its variables are filled in", KUBEADM_CONFIG) from None


def _is_init(document: object) -> bool:
    return isinstance(document, dict) and document.get("kind") == "InitConfiguration"
