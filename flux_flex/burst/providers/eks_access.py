"""The Kubernetes API of an EKS cluster: its address, its authority, and a token from AWS itself.

    access = cluster_access(aws, "hpc")       # endpoint, ca_pem, token, until
    access = renewed(access, aws, "hpc")      # a token lasts a quarter of an hour

A token is a GetCallerIdentity call that is signed and not made: the API server's authenticator
makes it, and so learns who signed. The header x-k8s-aws-id binds it to one cluster. As documented
in https://github.com/kubernetes-sigs/aws-iam-authenticator/blob/master/README.md (API Authorization
from Outside a Cluster), and as ``aws eks get-token`` does.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass, field, replace
from typing import Any

from flux_flex.burst.providers.eks_aws import NOT_FOUND, Answer, Aws, AwsRefusal, refusal
from flux_flex.errors import BadInput, FlexError
from flux_flex.topology.aws_errors import clean, place

_PREFIX = "k8s-aws-v1."
_CLUSTER_HEADER = "x-k8s-aws-id"
# The signature's own expiry, as the AWS command line has it; the authenticator goes by the time of
# signing.
_PRESIGNED_S = 60
# Of the 15 minutes that the authenticator grants, one is for clocks that differ.
_LASTS_S = 14 * 60.0


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How to talk to a cluster. TLS is verified against ``ca_pem``; there is no way to turn it off.

    endpoint   URL of the API server, https
    ca_pem     its certificate authority, PEM
    token      bearer token, in no repr
    until_s    when a new token is needed, seconds since the epoch
    """

    endpoint: str
    ca_pem: str = field(repr=False)
    token: str = field(repr=False)
    until_s: float = 0.0


def cluster_access(aws: Aws, cluster: str) -> ClusterAccess:
    """Access to a cluster as whoever ``aws`` is. Raises BadInput, and FlexError of AWS."""
    described = describe_cluster(aws, cluster)
    where = f"cluster {cluster}"
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
    until_s = time.time() + _LASTS_S
    return ClusterAccess(endpoint, ca_pem, eks_token(aws.session, cluster), until_s)


def renewed(access: ClusterAccess, aws: Aws, cluster: str) -> ClusterAccess:
    """The same access with a token that lasts; the same object while the old one does."""
    now_s = time.time()
    if now_s < access.until_s:
        return access
    return replace(access, token=eks_token(aws.session, cluster), until_s=now_s + _LASTS_S)


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


def eks_token(session: Any, cluster: str) -> str:
    """A bearer token for the API server of a cluster, from a boto3 session with a region.

    It is as good as the credentials for a quarter of an hour: keep it out of logs and arguments.
    Raises FlexError where there are no credentials.
    """
    from botocore.exceptions import BotoCoreError
    from botocore.signers import RequestSigner

    region = str(session.region_name)
    try:
        client = session.client("sts", region_name=region)
        signer = RequestSigner(
            client.meta.service_model.service_id, region, "sts", "v4",
            session.get_credentials(), session.events,
        )  # fmt: skip
        # STS of the region, which works from inside a VPC, and in all partitions.
        request = {
            "method": "GET",
            "url": f"{client.meta.endpoint_url}/?Action=GetCallerIdentity&Version=2011-06-15",
            "body": {},
            "headers": {_CLUSTER_HEADER: cluster},
            "context": {},
        }
        signed = signer.generate_presigned_url(
            request, region_name=region, expires_in=_PRESIGNED_S, operation_name=""
        )
    except BotoCoreError as error:
        raise refusal(error, "sts", "get_caller_identity", region) from None
    if not signed.startswith("https://"):
        what = "a token is signed for https only"
        raise FlexError(what, place("get-caller-identity", region), "unset AWS_ENDPOINT_URL_STS")
    return _PREFIX + base64.urlsafe_b64encode(signed.encode()).rstrip(b"=").decode()
