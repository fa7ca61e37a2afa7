"""How a worker is invited: what `make join-command` wrote, read strictly, and said again safely.

Usernetes writes a script that calls ``kubeadm join … --token …``, and everybody on the host can
read a token in an argument list (ps). So the script is read, each part of it is checked, and the
worker gets a script of ours, which hands kubeadm a configuration file that only the user can read.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_flex.errors import FlexError
from flux_flex.usernetes.registration import registration

SCRIPT = "join-command"
CONFIG = "join-config.yaml"

# The folder of the job as the node's container sees it.
_MOUNTED = "/usernetes"

_ENDPOINT = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252})?:[0-9]{1,5}")
_NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252})?")
_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_API = re.compile(r"kubeadm\.k8s\.io/v[0-9a-z]{1,20}")
_SERVER = re.compile(r"(server: https://)127\.0\.0\.1(:[0-9]{1,5}\b)")


@dataclass(frozen=True)
class Invitation:
    """What a worker needs to join: all of it checked, none of it able to be anything else."""

    address: str
    node_name: str
    endpoint: str
    token: str
    hashes: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            scope = getattr(ipaddress.ip_address(self.address), "scope_id", None)
        except ValueError:
            scope = "none"
        if scope is not None:  # any text may stand there, and it goes into a script
            raise FlexError("no IP address", "the lead's address")
        for text, form, place in (
            (self.node_name, _NODE_NAME, "the lead's name"),
            (self.endpoint, _ENDPOINT, "the endpoint"),
            (self.token, _TOKEN, "the token"),
            *((one, _HASH, "a hash") for one in self.hashes),
        ):
            # The text itself may be the token: it is not said.
            if not isinstance(text, str) or not form.fullmatch(text):
                raise FlexError("not of the form that kubeadm prints", place)
        if not self.hashes:
            raise FlexError("no hash of the cluster's certificate", SCRIPT)

    def as_context(self) -> dict[str, object]:
        """For the event by which workers learn of it."""
        return {
            "address": self.address,
            "node_name": self.node_name,
            "endpoint": self.endpoint,
            "token": self.token,
            "hashes": list(self.hashes),
        }


def read_join_command(text: str, *, address: str, node_name: str) -> Invitation:
    """The invitation in what `make join-command` wrote on the lead of this address and name.

    Raises FlexError where there is no ``kubeadm join`` line, or not the one that kubeadm prints.
    """
    lines = [line for line in text.splitlines() if line.strip().startswith("kubeadm ")]
    try:
        words = shlex.split(lines[-1]) if lines else []
    except ValueError:
        words = []
    if len(words) < 3 or words[:2] != ["kubeadm", "join"]:
        raise FlexError("kubeadm printed no join command", SCRIPT, "look at the lead's log")
    options = _options(words[3:])
    return Invitation(
        address,
        node_name,
        words[2],
        options.get("--token", ""),
        tuple(filter(None, [options.get("--discovery-token-ca-cert-hash", "")])),
    )


def invitation_in(context: Mapping[str, object]) -> Invitation:
    """The invitation of an event. Raises FlexError where it is none."""
    hashes = context.get("hashes")
    address, name, endpoint, token = (
        str(context.get(key, "")) for key in ("address", "node_name", "endpoint", "token")
    )
    known = tuple(map(str, hashes)) if isinstance(hashes, list) else ()
    return Invitation(address, name, endpoint, token, known)


def join_script(invitation: Invitation) -> str:
    """What the worker's container runs: it knows the lead by name, and tells no secret."""
    return f"""\
#!/bin/bash
set -eu
echo "{invitation.address}  {invitation.node_name}" >/etc/hosts.u7s
cat /etc/hosts.u7s >>/etc/hosts
kubeadm join --config {_MOUNTED}/{CONFIG}
"""


def join_config(invitation: Invitation, api: str, labels: Mapping[str, str] | None = None) -> str:
    """A JoinConfiguration of the tree's kubeadm API version; JSON, which is YAML.

    With ``labels``, the worker registers itself with them.
    """
    if not _API.fullmatch(api):
        raise FlexError("no API version of kubeadm", "kubeadm-config.yaml")
    document: dict[str, object] = {
        "apiVersion": api,
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "token": invitation.token,
                "apiServerEndpoint": invitation.endpoint,
                "caCertHashes": list(invitation.hashes),
            }
        },
    }
    if labels:
        document["nodeRegistration"] = registration(labels, api)
    return json.dumps(document, indent=2) + "\n"


def kubeconfig_elsewhere(text: str, address: str) -> str:
    """The lead's kubeconfig as it works on other hosts: there 127.0.0.1 is somebody else."""
    host = f"[{address}]" if ":" in address else address
    return _SERVER.sub(rf"\g<1>{host}\g<2>", text)


def _options(words: Sequence[str]) -> dict[str, str]:
    """``--name value`` pairs; anything else makes the line one that kubeadm did not print."""
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise FlexError("not the join command that kubeadm prints", SCRIPT)
    return dict(zip(words[::2], words[1::2], strict=True))
