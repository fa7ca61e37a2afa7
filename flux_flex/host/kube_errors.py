"""What a Kubernetes API server's refusals mean: what happened, and what to do about it.

    error = error_of(status, 403, where)      # a Status object, as api-concepts has it
    passes(error, "PATCH")                    # whether the same call may go through a little later

Sources: https://kubernetes.io/docs/reference/using-api/api-concepts/, and what an API server was
seen to say where only its words tell one refusal from another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from urllib3.exceptions import HTTPError, SSLError

from flux_flex.errors import FlexError
from flux_flex.model.quoting import one_line

Object = Mapping[str, Any]

_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
}  # fmt: skip
# An authorizer's words (apiserver, responsewriters.Forbidden), which name no content.
_LACKS = re.compile(r'User "[^"]*" cannot \w+ (resource|path) "[^"]*"')
_RIGHTS = "give the account the rights of docs/kubernetes-rbac.yaml"
# Admission's, where a quota is used up.
_QUOTA = "exceeded quota"
# In place of a field's error of its own, by release and resource.
_OTHER_UID = re.compile(r"metadata\.uid: Invalid value|uid mismatch|UID in precondition")
# A 500, but it says that what was sent is not in the schema: that does not pass.
_NOT_IN_SCHEMA = "failed to create typed patch object"


@dataclass(eq=False)
class KubeError(FlexError):
    """The API server refused, or did not answer (status 0). ``status`` is HTTP's."""

    status: int = 0
    reason: str = ""
    retry_after_s: float | None = None


class FieldConflict(KubeError):
    """Other field managers own what was to be applied; ``what`` names them."""


class Replaced(KubeError):
    """What has this name now is not the object that was meant."""


class Expired(KubeError):
    """410: the history from this resourceVersion on is gone; list again."""


def passes(error: KubeError, method: str) -> bool:
    """Whether the same call may go through a little later."""
    if isinstance(error, (FieldConflict, Replaced, Expired)):
        return False
    if error.status == HTTPStatus.CONFLICT:
        return method == "PATCH"
    if _NOT_IN_SCHEMA in error.what:
        return False
    return error.status in _PASSING or (error.status == 0 and error.reason != "TLS")


def refused(answer: Any, content: bytes, where: str, *, private: bool) -> KubeError:
    with suppress(ValueError):
        status = json.loads(content)
        if isinstance(status, Mapping):
            after = str(answer.headers.get("Retry-After", ""))
            wait_s = float(after) if after.isdecimal() else None
            return error_of(status, answer.status, where, wait_s, private=private)
    remedy = _remedy(answer.status, "") or "see what is in between"
    return KubeError(f"HTTP {answer.status}", where, remedy, answer.status)


def error_of(
    status: Object, code: int, where: str, retry_after_s: float | None = None, *,
    private: bool = False,
) -> KubeError:  # fmt: skip
    """What a Status object says (api-concepts). ``private``: without its message, which may show
    what was sent, except that a right is missing or a quota used up."""
    reason = str(status.get("reason") or f"HTTP {code}")
    said = one_line(status.get("message") or reason)
    if _OTHER_UID.search(said):
        return Replaced("it was deleted or replaced meanwhile", where, "try again", code, reason)
    owned = _owned_by_others(status)
    if code == HTTPStatus.CONFLICT and owned:
        what = f"another field manager owns what would be changed: {owned}"
        return FieldConflict(what, where, "let it go there, or set force_conflicts", code, reason)
    lacks = _missing_right(said) if code == HTTPStatus.FORBIDDEN else ""
    if private:
        said = lacks or (_QUOTA if _QUOTA in said else reason)
    elif lacks not in said:
        said = lacks
    if code == HTTPStatus.GONE:
        return Expired(said, where, "", code, reason)
    remedy = _RIGHTS if lacks else _remedy(code, said)
    return KubeError(said, where, remedy, code, reason, retry_after_s)


def _owned_by_others(status: Object) -> str:
    causes = mapping(status.get("details")).get("causes")
    fields = [
        f"{one_line(one.get('field'))}: {one_line(one.get('message'))}"
        for one in map(mapping, causes if isinstance(causes, list) else [])
        if one.get("reason") == "FieldManagerConflict"
    ]
    return "; ".join(fields[:3])


def _missing_right(said: str) -> str:
    """In the authorizer's own words. Of an apply that would create, it says no more than no."""
    if said.endswith("is forbidden:"):
        return "the account cannot create it"
    found = _LACKS.search(said)
    return found[0] if found else ""


def _remedy(code: int, said: str) -> str:
    if code == HTTPStatus.UNAUTHORIZED:
        return "renew the credentials in the kubeconfig"
    if code == HTTPStatus.FORBIDDEN:
        return "see the namespace, its quotas, and the cluster's admission policies"
    if code == HTTPStatus.NOT_FOUND:
        return "see that the namespace is there, and for MiniClusters the Flux Operator"
    if _NOT_IN_SCHEMA in said or code == HTTPStatus.UNPROCESSABLE_ENTITY:
        return "see the version of the Flux Operator: its MiniClusters may have other fields"
    return ""


def unreachable(error: HTTPError, where: str) -> KubeError:
    if isinstance(error, SSLError):
        remedy = "see certificate-authority-data and the server's name in the kubeconfig"
        return KubeError(f"TLS: {one_line(error)}", where, remedy, 0, "TLS")
    return KubeError(f"no answer: {one_line(error)}", where, "see whether kubectl reaches it")


def mapping(value: object) -> Object:
    """What should be one, from somebody else."""
    return value if isinstance(value, Mapping) else {}
