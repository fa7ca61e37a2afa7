"""The Kubernetes API of an EKS cluster: its address, its authority, and a token from AWS itself.

    kube = eks_kube(aws, "hpc")               # a Kube (host/kube); asks nothing yet
    access = cluster_access(aws, "hpc")       # endpoint, ca_pem, token, until
    access = renewed(access, aws, "hpc")      # a token lasts a quarter of an hour

A token is a GetCallerIdentity call that is signed and not made: the API server's authenticator
makes it, and so learns who signed. The header x-k8s-aws-id binds it to one cluster. As documented
in https://github.com/kubernetes-sigs/aws-iam-authenticator/blob/master/README.md (API Authorization
from Outside a Cluster), and as ``aws eks get-token`` does. EKS is asked in the thread of the first
call, and again when the API server takes a token no more.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from flux_flex.burst.providers.eks_aws import NOT_FOUND, Answer, Aws, AwsRefusal
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.kube import Bounds, Kube, open_server
from flux_flex.host.kube_errors import KubeError
from flux_flex.topology.aws_errors import clean, place

_PREFIX = "k8s-aws-v1."
_CLUSTER_HEADER = "x-k8s-aws-id"
# The signature's own expiry, as the AWS command line has it; the authenticator goes by the time of
# signing.
_PRESIGNED_S = 60
# Of the 15 minutes that the authenticator grants, one is for clocks that differ.
_LASTS_S = 14 * 60.0


# An UPDATING cluster answers as before.
_USABLE = frozenset({"ACTIVE", "UPDATING"})
_WORLD = frozenset({"0.0.0.0/0", "::/0"})


def eks_kube(
    aws: Aws, cluster: str, bounds: Bounds | None = None, clock: Callable[[], float] = time.time
) -> Kube:
    """The Kubernetes API of a cluster, as whoever ``aws`` is.

    AWS is asked in the first call, not here: that raises FlexError of AWS and BadInput, besides
    KubeError. ``clock`` is in seconds since the epoch.
    """
    login = _Login(aws, cluster, clock)
    return open_server(login.find, bounds, explain=login.explain)


class _Login:
    """Where one cluster is, and its tokens. The Kube that has it calls one method at a time."""

    def __init__(self, aws: Aws, cluster: str, clock: Callable[[], float]) -> None:
        self._aws = aws
        self._cluster = cluster
        self._clock = clock
        self._access: ClusterAccess | None = None

    def find(self) -> tuple[str, str, Callable[[], str]]:
        """What EKS says of the cluster now: endpoint, authority, and whence its tokens come."""
        self._access = access = cluster_access(self._aws, self._cluster, self._clock())
        return access.endpoint, access.ca_pem, self._token

    def explain(self, error: KubeError) -> KubeError:
        """With what to do about it where it was EKS that told of the cluster."""
        if error.status == HTTPStatus.UNAUTHORIZED:
            error.what = f"the cluster does not know this AWS role or user: {error.what}"
            error.remedy = (
                f"give it an access entry: aws eks create-access-entry --cluster-name "
                f"{self._cluster} --principal-arn ARN; aws sts get-caller-identity tells who it is"
            )
        elif error.status == 0 and error.reason == "TLS":
            error.remedy = "what answers is not this cluster: look for a proxy on the way"
        elif error.status == 0 and self._access is not None:
            error.remedy = self._access.reach
        return error

    def _token(self) -> str:
        assert self._access is not None
        self._access = renewed(self._access, self._aws, self._cluster, self._clock())
        return self._access.token


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How to talk to a cluster. TLS is verified against ``ca_pem``; there is no way to turn it off.

    endpoint   URL of the API server, https
    ca_pem     its certificate authority, PEM
    token      bearer token, in no repr
    until_s    when a new token is needed, seconds since the epoch
    reach      what to do where it does not answer
    """

    endpoint: str
    ca_pem: str = field(repr=False)
    token: str = field(repr=False)
    until_s: float = 0.0
    reach: str = ""


def cluster_access(aws: Aws, cluster: str, now_s: float | None = None) -> ClusterAccess:
    """Access to a cluster as whoever ``aws`` is. Raises BadInput, and FlexError of AWS.

    ``now_s`` is in seconds since the epoch; None for the clock's.
    """
    now_s = time.time() if now_s is None else now_s
    described = describe_cluster(aws, cluster)
    where = f"cluster {cluster}"
    status = str(described.get("status") or "")
    if status and status not in _USABLE:
        what = f"it is {clean(status, 40)}, not ACTIVE"
        coming = status in ("CREATING", "PENDING")
        remedy = "wait until it is ACTIVE" if coming else "see aws eks describe-cluster"
        raise FlexError(what, where, remedy)
    endpoint = str(described.get("endpoint") or "")
    if not endpoint.startswith("https://"):
        raise FlexError("EKS gives no https endpoint for it", where, "wait until it is ACTIVE")
    try:
        data = described["certificateAuthority"]["data"]
        ca_pem = base64.b64decode(data, validate=True).decode("ascii")
    except (LookupError, TypeError, binascii.Error, UnicodeDecodeError):
        what = "EKS gives no certificate authority for it"
        raise FlexError(what, where, "wait until it is ACTIVE") from None
    if "-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise FlexError("its certificate authority is not PEM", where, "see aws eks")
    token = eks_token(aws, cluster)
    return ClusterAccess(endpoint, ca_pem, token, now_s + _LASTS_S, _reach(described))


def _reach(described: Answer) -> str:
    """What to do where the endpoint does not answer, by who may reach it."""
    network = described.get("resourcesVpcConfig") or {}
    if network.get("endpointPublicAccess") is False:
        return (
            "its endpoint is private: run flux-flex in its VPC, or in a network that is joined to"
            " it, and let its cluster security group take HTTPS from there"
        )
    allowed = [clean(str(one), 50) for one in network.get("publicAccessCidrs") or []]
    if allowed and not _WORLD & {*allowed}:
        return f"its endpoint answers {', '.join(allowed[:5])} only: let this host's address in"
    return "check the network, and proxies on the way"


def renewed(
    access: ClusterAccess, aws: Aws, cluster: str, now_s: float | None = None
) -> ClusterAccess:
    """The same access with a token that lasts; the same object while the old one does."""
    now_s = time.time() if now_s is None else now_s
    if now_s < access.until_s:
        return access
    return replace(access, token=eks_token(aws, cluster), until_s=now_s + _LASTS_S)


def describe_cluster(aws: Aws, cluster: str) -> Answer:
    """EKS's description of a cluster. Raises BadInput where there is none of this name."""
    try:
        described: Answer = aws.ask("eks", "describe_cluster", name=cluster)["cluster"]
    except AwsRefusal as error:
        if error.code != NOT_FOUND:
            raise
        what = f"there is no EKS cluster {clean(cluster, 100)!r}"
        remedy = "check burst.eks: cluster, region and profile; aws eks list-clusters lists them"
        raise BadInput(what, error.where, remedy) from None
    return described


def eks_token(aws: Aws, cluster: str) -> str:
    """A bearer token for the API server of a cluster.

    It is as good as the credentials for a quarter of an hour: keep it out of logs and arguments.
    Raises FlexError where there are no credentials.
    """
    # STS of the region, which works from inside a VPC, and in all partitions.
    named = {_CLUSTER_HEADER: cluster}
    signed = aws.presigned("sts", "get_caller_identity", named, _PRESIGNED_S)
    if not signed.startswith("https://"):
        what = "a token is signed for https only"
        where = place("get-caller-identity", aws.region)
        raise FlexError(what, where, "unset AWS_ENDPOINT_URL_STS")
    return _PREFIX + base64.urlsafe_b64encode(signed.encode()).rstrip(b"=").decode()
