"""Access to an EKS cluster's API, and how AWS's refusals are told."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

moto = pytest.importorskip("moto")

from test_eks_provider import REGION, ScriptedAws, Site, isolate  # noqa: E402

from flux_flex.burst.providers.eks_access import (  # noqa: E402
    ClusterAccess,
    cluster_access,
    eks_token,
    renewed,
)
from flux_flex.burst.providers.eks_aws import Aws, refusal  # noqa: E402
from flux_flex.errors import BadInput, FlexError  # noqa: E402

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedAws]:
    isolate(monkeypatch)
    with moto.mock_aws():
        yield Site().aws


def described(aws: ScriptedAws, **changes: object) -> None:
    """What EKS says of the cluster from now on; moto's certificate is none."""
    data = base64.b64encode(PEM.encode()).decode()
    said = {"certificateAuthority": {"data": data}, **changes}
    aws.changed["describe_cluster"] = lambda answer: answer["cluster"].update(said)


def test_a_token_is_a_presigned_question_that_is_bound_to_the_cluster(aws: ScriptedAws) -> None:
    token = eks_token(aws, "hpc")
    assert token.startswith("k8s-aws-v1.")
    assert "=" not in token
    text = token.removeprefix("k8s-aws-v1.")
    url = urlsplit(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
    query = parse_qs(url.query)
    assert (url.scheme, url.hostname) == ("https", f"sts.{REGION}.amazonaws.com")
    assert query["Action"] == ["GetCallerIdentity"]
    assert query["X-Amz-Expires"] == ["60"]
    assert query["X-Amz-SignedHeaders"] == ["host;x-k8s-aws-id"]
    assert query["X-Amz-Signature"][0]
    other = eks_token(aws, "other")
    assert other != token


def test_access_has_what_a_client_needs_to_verify_the_server(aws: ScriptedAws) -> None:
    described(aws)
    access = cluster_access(aws, "hpc")
    assert access.endpoint.startswith("https://")
    assert access.ca_pem == PEM


def test_a_token_is_in_no_repr(aws: ScriptedAws) -> None:
    described(aws)
    access = cluster_access(aws, "hpc")
    assert access.token not in repr(access)
    assert "k8s-aws-v1" not in f"{access} {access!r} {[access]}"


def test_a_token_is_renewed_when_it_no_longer_lasts(aws: ScriptedAws) -> None:
    described(aws)
    access = cluster_access(aws, "hpc")
    assert renewed(access, aws, "hpc") is access
    old = ClusterAccess(access.endpoint, access.ca_pem, "k8s-aws-v1.old", until_s=0.0)
    again = renewed(old, aws, "hpc")
    assert again.token.startswith("k8s-aws-v1.aHR0cHM6Ly9")
    assert again.until_s > access.until_s - 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"endpoint": "http://10.0.0.1"}, "no https endpoint"),
        ({"endpoint": None}, "no https endpoint"),
        ({"certificateAuthority": {}}, "no certificate authority"),
        ({"certificateAuthority": {"data": "%%%"}}, "no certificate authority"),
        ({"certificateAuthority": {"data": "aGVsbG8="}}, "not PEM"),
    ],
)
def test_a_cluster_that_cannot_be_verified_is_not_talked_to(
    aws: ScriptedAws, changes: dict[str, object], what: str
) -> None:
    described(aws, **changes)
    with pytest.raises(FlexError, match=what):
        cluster_access(aws, "hpc")


def test_a_cluster_of_another_name_is_said_to_be_missing(aws: ScriptedAws) -> None:
    with pytest.raises(BadInput, match="there is no EKS cluster 'other'"):
        cluster_access(aws, "other")


def test_without_credentials_there_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(FlexError, match="no AWS credentials are found"):
        eks_token(Aws(REGION), "hpc")


def test_a_token_is_not_signed_for_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    with pytest.raises(FlexError, match="https only") as caught:
        eks_token(Aws(REGION), "hpc")
    assert "Signature" not in str(caught.value)


# -- refusals --------------------------------------------------------------------------------------


def client_error(code: str, message: str = "", operation: str = "CreateNodegroup") -> Exception:
    from botocore.exceptions import ClientError

    answer: Any = {"Error": {"Code": code, "Message": message},
                   "ResponseMetadata": {"HTTPStatusCode": 400}}  # fmt: skip
    return ClientError(answer, operation)


@pytest.mark.parametrize(
    ("code", "message", "what", "remedy"),
    [
        ("ExpiredTokenException", "", "the AWS credentials have expired", "aws sso login"),
        ("UnrecognizedClientException", "", "does not accept the credentials", "aws configure"),
        ("ThrottlingException", "Rate exceeded", "EKS says again and again", "try again"),
        ("ServerException", "oops", "EKS refuses: ServerException: oops", "EKS's API"),
        ("InvalidParameterException", "no such subnet", "EKS does not take the question:"
         " InvalidParameterException: no such subnet", r"check \[burst\.eks\]"),
        ("AccessDeniedException", "", "no permission for eks:CreateNodegroup", "eks-policy.json"),
        ("AccessDeniedException", "User: u is not authorized to perform: iam:PassRole on resource:"
         " nodes", "no permission for iam:PassRole", "eks-policy.json"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_and_the_way_out(
    code: str, message: str, what: str, remedy: str
) -> None:
    error = refusal(client_error(code, message), "eks", "create_nodegroup", REGION)
    assert what in error.what
    assert error.where == "create-nodegroup in us-east-2"
    assert re.search(remedy, error.remedy)
    assert error.code == code


def test_calls_that_come_too_often_are_tried_again_with_growing_intervals(
    aws: ScriptedAws,
) -> None:
    for service in ("eks", "ec2"):
        retries = aws._client(service, REGION).meta.config.retries
        assert retries["mode"] == "adaptive"
        assert retries["total_max_attempts"] == 6


def test_the_site_s_number_of_tries_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    retries = Aws(REGION)._client("eks", REGION).meta.config.retries
    assert retries["total_max_attempts"] == 2


def test_an_unknown_profile_or_no_region_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    with pytest.raises(BadInput, match="no AWS profile 'nobody'"):
        Aws(REGION, "nobody")
    with pytest.raises(BadInput, match="no AWS region is known"):
        Aws()


def test_new_credentials_in_their_file_are_found_after_the_old_ones_have_expired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch)
    for name in KEYS:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def sign_in(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=x\n")

    sign_in("OLD")
    aws = Aws(REGION)
    old = eks_token(aws, "hpc")
    sign_in("NEW")

    def expired(**_: object) -> None:
        raise client_error("ExpiredTokenException", operation="DescribeCluster")

    monkeypatch.setattr(aws._client("eks", REGION), "describe_cluster", expired, raising=False)
    with pytest.raises(FlexError, match="have expired"):
        aws.ask("eks", "describe_cluster", name="hpc")
    keys = [base64.urlsafe_b64decode(one.removeprefix("k8s-aws-v1.") + "==").decode()
            for one in (old, eks_token(aws, "hpc"))]  # fmt: skip
    assert "Credential=OLD" in keys[0]
    assert "Credential=NEW" in keys[1]


def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_EKS", "http://127.0.0.1:9")
    with pytest.raises(FlexError, match=r"cannot connect to http://127\.0\.0\.1:9") as caught:
        Aws(REGION).ask("eks", "describe_cluster", name="hpc")
    assert "describe-cluster in us-east-2" in str(caught.value)


def test_pages_that_do_not_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    aws = Aws(REGION)
    monkeypatch.setattr(Aws, "ask", lambda *_, **__: {"nodegroups": ["a"], "nextToken": "again"})
    with pytest.raises(FlexError, match="do not end"):
        [*aws.pages("eks", "list_nodegroups", "nodegroups", clusterName="hpc")]
