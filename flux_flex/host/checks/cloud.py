"""doctor's checks of what bursting needs: AWS credentials and a cluster that knows MiniClusters.

A site may never burst, so whatever lacks here is only a warning.
"""

from __future__ import annotations

import os

from flux_flex.host.checks.child import GROUP, PLURAL, VERSION, ask_child
from flux_flex.host.checks.findings import Finding, Problem, judged
from flux_flex.host.checks.survey import Survey

_AWS_S = 8.0
_CRD_S = 10.0

_OPERATOR = (
    "https://raw.githubusercontent.com/flux-framework/flux-operator/main/"
    "examples/dist/flux-operator.yaml"
)


def aws(survey: Survey) -> Finding:
    """Credentials as boto3 finds them in its own order, and a region. Nothing is asked of AWS."""
    said = ask_child(survey.machine, "aws", _AWS_S)
    method, region = str(said.get("method", "")), str(said.get("region", ""))
    problems = []
    if "error" in said:
        what = f"credentials cannot be read: {said['error']}"
        problems.append(Problem(what, "aws configure list", "warning"))
    elif not method:
        remedy = "aws configure    # or give the instance a role"
        problems.append(Problem("no credentials", remedy, "warning"))
    if "error" not in said and not region:
        remedy = "aws configure set region us-east-1    # yours"
        problems.append(Problem("no region", remedy, "warning"))
    return judged("aws", problems, f"credentials by {method}, region {region}")


def crd(survey: Survey) -> Finding:
    """Whether the cluster of the kubeconfig has the MiniCluster CRD of the Flux Operator."""
    name = f"{PLURAL}.{GROUP} {VERSION}"
    place = _kubeconfig(survey)
    if not place:
        return Finding("crd", "skipped", "no kubeconfig")
    said = ask_child(survey.machine, "crd", _CRD_S)
    host, status = said.get("host", ""), said.get("status")
    if "error" in said:
        what = f"the cluster of {place} cannot be asked: {said['error']}"
        return Finding("crd", "warning", what, "kubectl cluster-info")
    if said.get("found"):
        return Finding("crd", "found", f"{name} at {host}")
    if status in (200, 404):
        remedy = f"kubectl apply -f {_OPERATOR}"
        return Finding("crd", "warning", f"{host} does not know {name}", remedy)
    remedy = "kubectl auth whoami"
    return Finding("crd", "warning", f"{host} refuses to say (status {status})", remedy)


def _kubeconfig(survey: Survey) -> str:
    """The first kubeconfig that is there, as kubectl looks for it."""
    environ = survey.machine.environ
    home = environ.get("HOME", "")
    named = environ.get("KUBECONFIG") or (f"{home}/.kube/config" if home else "")
    places = [os.path.abspath(place) for place in named.split(":") if place]
    return next((place for place in places if survey.machine.exists(place)), "")
