"""Questions that are asked in a process of their own, since a library may wait for others.

A profile of AWS may name a program that prints credentials, a kubeconfig one that prints a token,
and neither boto3 nor the Kubernetes client limits its time. Flux's bindings bring C code with them.
The child answers with one line of JSON, without secrets, and is killed when its time is up.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import flux_flex
from flux_flex.errors import FlexError
from flux_flex.host.checks.machine import Machine
from flux_flex.host.checks.tables import from_json

GROUP = "flux-framework.org"
VERSION = "v1alpha2"
PLURAL = "miniclusters"

# The most that one request to a cluster may take, in seconds.
_REQUEST_S = 3

# The child imports from where we do, and not from the directory that it happens to run in.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from flux_flex.host.checks.child import reply; reply(sys.argv[2])"
)


def ask_child(machine: Machine, question: str, timeout_s: float) -> Mapping[str, Any]:
    """The child's answer; ``error`` is in it where there is none to be had."""
    ours = str(Path(flux_flex.__file__).resolve().parents[1])
    places = [ours, *(place for place in sys.path if place.startswith("/") and place != ours)]
    words = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(places), question]
    answer = machine.run(words, machine.environ, timeout_s)
    if not answer.ok:
        return {"error": answer.why}
    # A library, or what it ran, may have printed before.
    said = from_json(answer.out.strip().rpartition("\n")[2])
    return said if isinstance(said, dict) else {"error": "the answer makes no sense"}


def reply(question: str) -> None:
    """What the child does: answer one question on standard output.

    An error of a library is told by its kind alone, since its words may quote what is secret.
    """
    try:
        said = _QUESTIONS[question]()
    except Exception as error:  # noqa: BLE001 - whatever a library raises is an answer here
        said = {"error": type(error).__name__}
    sys.stdout.write(f"\n{json.dumps(said)}\n")


def bindings() -> dict[str, Any]:
    """Where Flux's bindings come from, and the versions of the library and of the wheel."""
    from importlib.metadata import PackageNotFoundError, version

    from flux_flex.host.flux_bindings import bindings as find

    try:
        flux = find("flux")
        find("flux.job")
        library = find("flux.core.inner").raw.flux_core_version_string()
    except FlexError as error:
        return {"error": error.what, "remedy": error.remedy}
    try:
        wheel = version("flux-python") if "site-packages" in flux.__file__ else ""
    except PackageNotFoundError:
        wheel = ""
    text = library.decode() if isinstance(library, bytes) else str(library)
    return {"file": flux.__file__, "library": text, "wheel": wheel}


def aws() -> dict[str, Any]:
    """How boto3 finds credentials, and the region. Credentials are found, not used or refreshed."""
    import botocore.session

    session = botocore.session.get_session()
    session.set_config_variable("metadata_service_timeout", 1)
    session.set_config_variable("metadata_service_num_attempts", 1)
    region = session.get_config_variable("region")
    credentials = session.get_credentials()
    return {"method": credentials.method if credentials else "", "region": region or ""}


def crd() -> dict[str, Any]:
    """Whether the cluster of the kubeconfig knows MiniClusters. Any user of it may ask this."""
    from kubernetes import client, config

    untyped: Any = config
    configuration = client.Configuration()
    untyped.load_kube_config(client_configuration=configuration)
    configuration.retries = False
    host = urlsplit(configuration.host).hostname or ""
    api = client.CustomObjectsApi(client.ApiClient(configuration))
    try:
        known = api.get_api_resources(GROUP, VERSION, _request_timeout=_REQUEST_S)
    except client.ApiException as error:
        return {"host": host, "status": error.status}
    return {"host": host, "status": 200, "found": any(r.name == PLURAL for r in known.resources)}


_QUESTIONS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "bindings": bindings,
    "aws": aws,
    "crd": crd,
}
