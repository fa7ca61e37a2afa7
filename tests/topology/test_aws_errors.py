"""What AWS refuses: each kind of failure has a message of its own, with a place and a way out."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as raised
from ec2_endpoint import Fault, Machine, Start, cluster
from hypothesis import given
from hypothesis import strategies as st

from flux_flex.errors import BadInput, FlexError
from flux_flex.topology.aws import Account, NoSuchGroup, NothingFound, Patience, Selection, fetch
from flux_flex.topology.aws_errors import clean, explained

POLICY = Path(__file__).resolve().parents[2] / "docs" / "aws-policy.json"
ACTIONS = ("DescribeInstances", "DescribeInstanceTopology", "DescribeInstanceTypes")
CALLS = ("describe-instances", "describe-instance-topology", "describe-instance-types")

WHOLE_REGION = Selection()


def refusal(selection: Selection = WHOLE_REGION, **keys: Any) -> FlexError:
    with pytest.raises(FlexError) as caught:
        fetch(selection, **keys)
    error = caught.value
    assert error.what
    assert error.where
    assert error.remedy
    assert error.__cause__ is None
    return error


# -- EC2 refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "call"), [*zip(ACTIONS, CALLS, strict=True)])
def test_a_missing_permission_is_named_with_the_policy(
    start: Start, action: str, call: str
) -> None:
    message = "You are not authorized. Encoded authorization failure message: " + "x" * 2_000
    start(always={action: Fault("UnauthorizedOperation", message, 403)})
    error = refusal()
    assert error.what == f"no permission for ec2:{action}"
    assert error.where == f"{call} in us-east-2"
    assert "docs/topology.md" in error.remedy


def test_the_policy_has_just_the_actions_that_are_used() -> None:
    (statement,) = json.loads(POLICY.read_text())["Statement"]
    assert statement["Action"] == [f"ec2:{action}" for action in ACTIONS]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("ExpiredToken", "have expired"),
        ("RequestExpired", "have expired"),
        ("AuthFailure", "does not accept the credentials"),
        ("SignatureDoesNotMatch", "does not accept the credentials"),
        ("OptInRequired", "the account may not use EC2 here: OptInRequired"),
        ("InvalidAction", "this region does not have the call"),
        ("UnsupportedOperation", "this region does not have the call"),
        ("InvalidParameterValue", "EC2 does not take the question: InvalidParameterValue: because"),
        ("SomethingElse", "EC2 refuses: SomethingElse: because"),
    ],
)
def test_each_refusal_says_what_it_is(start: Start, code: str, says: str) -> None:
    start(always={"DescribeInstanceTopology": Fault(code, "because")})
    error = refusal()
    assert says in error.what
    assert error.where == "describe-instance-topology in us-east-2"


def test_throttling_that_ends_is_not_noticed(start: Start) -> None:
    fault = Fault("RequestLimitExceeded", "Request limit exceeded.", 503)
    ec2 = start(script={"DescribeInstanceTopology": [fault, fault]})
    assert len(fetch(Selection()).located) == 3
    assert len(ec2.asked("DescribeInstanceTopology")) == 3


def test_throttling_without_end_is_told(start: Start) -> None:
    fault = Fault("RequestLimitExceeded", "Request limit exceeded.", 503)
    ec2 = start(always={"DescribeInstances": fault})
    assert "asks too often" in refusal().what
    assert len(ec2.calls) == 3


def test_a_broken_server_is_asked_again(start: Start) -> None:
    faults = [Fault(status=500, body=b""), Fault(status=503, body=b"<html>busy</html>")]
    start(script={"DescribeInstances": faults})
    assert len(fetch(Selection()).located) == 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault("InternalError", "An internal error has occurred", 500),
        Fault("Unavailable", "The server is overloaded", 503),
        Fault(status=502, body=b"<html>bad gateway</html>"),
    ],
)
def test_a_server_that_stays_broken_is_told(start: Start, fault: Fault) -> None:
    start(always={"DescribeInstances": fault})
    assert "EC2 fails" in refusal().what


def test_an_unknown_id_is_named(start: Start) -> None:
    start()
    error = refusal(Selection(instance_ids=(f"i-{0:017x}", f"i-{77:017x}", f"i-{78:017x}")))
    assert isinstance(error, BadInput)
    assert error.what == f"no instance has the id i-{77:017x}, i-{78:017x}"


def test_an_id_of_no_form_is_told_from_an_unknown_one(start: Start) -> None:
    start()
    error = refusal(Selection(instance_ids=("compute0",)))
    assert isinstance(error, BadInput)
    assert "not the id of an instance" in error.what
    assert "compute0" in error.what


def test_an_unknown_id_that_is_not_named_does_not_go_round_for_ever(start: Start) -> None:
    fault = Fault("InvalidInstanceID.NotFound", "Some instance does not exist")
    start(always={"DescribeInstances": fault})
    assert "does not say which" in refusal(Selection(instance_ids=(f"i-{0:017x}",))).what
    assert "instances end faster" in refusal().what


def test_an_unknown_group_is_told_from_an_empty_one(start: Start) -> None:
    start([Machine(f"i-{0:017x}", group="empty", state="terminated")])
    error = refusal(Selection(groups=("blue",)))
    assert isinstance(error, NoSuchGroup)
    assert "no such placement group: The Placement Group 'blue' is unknown" in error.what
    empty = refusal(Selection(groups=("empty",)))
    assert "no instance matches: group empty" in empty.what
    assert not isinstance(empty, NoSuchGroup)


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection(filters=(("tag:cluster", ("a", "b")),)), "filter tag:cluster=a,b"),
        (Selection(hosts=tuple(f"n{k}" for k in range(9))), "host n0, n1, n2, n3, n4, … (9)"),
        (Selection(hosts=("",)), "host "),
    ],
)
def test_what_was_asked_is_told_where_nothing_matches(
    start: Start, selection: Selection, says: str
) -> None:
    start()
    error = refusal(selection)
    assert isinstance(error, NothingFound)
    assert error.what == f"no instance matches: {says}"


def test_a_region_without_instances_is_told(start: Start) -> None:
    start([Machine(f"i-{0:017x}", state="terminated")])
    assert refusal().what == "no instance matches: all of the region"


# -- no EC2 at all -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"not XML at all", "the answer is not XML"),
        (b"", "the answer is not XML"),
        (b"<DescribeInstancesResponse>", "the answer is not XML"),
        (b"<html><body>Welcome to the hotel</body></html>", "the answer has no Reservations"),
        (
            b"<r><reservationSet><item><instancesSet><item><instanceId>../x</instanceId></item>"
            b"</instancesSet></item></reservationSet></r>",
            "'../x' is not an EC2 name",
        ),
        (
            b"<r><reservationSet><item><instancesSet><item><amiLaunchIndex>x</amiLaunchIndex>"
            b"</item></instancesSet></item></reservationSet></r>",
            "the answer is XML, but not EC2's",
        ),
        (b"<r><reservationSet/><nextToken>again</nextToken></r>", "the pages do not end"),
    ],
)
def test_an_answer_that_is_not_ec2s_is_told(start: Start, body: bytes, says: str) -> None:
    start(always={"DescribeInstances": Fault(status=200, body=body)})
    error = refusal()
    assert error.what == says
    assert error.where.startswith("describe-instances in us-east-2")
    assert "AWS_ENDPOINT_URL" in error.remedy


@pytest.mark.parametrize("status", [301, 403])
@pytest.mark.parametrize(
    "body", [b"", b"no", b"<html>no</html>", b"<Response><Errors/></Response>", b"<Response/>"]
)
def test_a_refusal_that_is_not_ec2s_is_told(start: Start, status: int, body: bytes) -> None:
    start(always={"DescribeInstances": Fault(status=status, body=body)})
    assert "AWS_ENDPOINT_URL" in refusal().remedy


def test_the_place_of_a_bad_answer_has_call_region_and_page(start: Start) -> None:
    body = b"<r><instanceSet><item><instanceId>i-1</instanceId></item></instanceSet></r>"
    start(cluster(150), script={"DescribeInstanceTopology": [None, Fault(status=200, body=body)]})
    where = "describe-instance-topology in us-east-2: page 2: Instances[0]"
    assert refusal().where == where


def test_an_answer_that_is_slow_is_not_waited_for(start: Start) -> None:
    start(always={"DescribeInstances": Fault("Slow", delay_s=0.3)})
    assert "does not answer in time" in refusal(patience=Patience(read_s=0.05)).what


def test_nobody_there_is_told(environment: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "cannot connect to http://127.0.0.1" in refusal().what


def test_no_password_of_an_endpoint_is_shown(environment: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
        environment.setenv("AWS_ENDPOINT_URL", f"http://user:s3cret@{place}")
        error = refusal()
    assert "s3cret" not in str(error)
    assert f"http://{place}" in error.what


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://u:p@e.example/x, or a@b", "see https://e.example/x, or a@b"),
        ('Invalid endpoint: "ftp://u:p@q/r@e"', 'Invalid endpoint: "ftp://e"'),
        ("http://" + "u" * 400 + ":p@e", "http://e"),
    ],
)
def test_a_url_is_shown_without_its_user(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("region", "says"),
    [("us-nowhere-9", "there is no region us-nowhere-9"), ("us-east-2", "cannot connect to http")],
)
def test_a_region_that_has_no_endpoint_is_told_from_a_network_that_is_down(
    environment: pytest.MonkeyPatch, region: str, says: str
) -> None:
    def unresolved(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    environment.delenv("AWS_ENDPOINT_URL")
    environment.setattr(socket, "getaddrinfo", unresolved)
    error = refusal(account=Account(region=region))
    assert error.what.startswith(says)


# -- the configuration ---------------------------------------------------------------------------


def test_missing_credentials_are_told(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    assert refusal().what == "no AWS credentials are found"


def test_half_of_the_credentials_is_told(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    assert "half of the AWS credentials" in refusal().what


def test_a_missing_region_is_told(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_DEFAULT_REGION")
    error = refusal()
    assert error.what == "no AWS region is known"
    assert "AWS_DEFAULT_REGION" in error.remedy


@pytest.mark.parametrize("region", ["a b", "x/../y", "us-east-2\n", "é"])
def test_a_region_that_can_be_none_is_told(environment: pytest.MonkeyPatch, region: str) -> None:
    assert isinstance(refusal(account=Account(region=region)), BadInput)


def test_an_unknown_profile_is_told(environment: pytest.MonkeyPatch) -> None:
    error = refusal(account=Account(profile="blue"))
    assert isinstance(error, BadInput)
    assert error.what == "there is no AWS profile 'blue'"


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ENDPOINT_URL", "no url"), ("AWS_MAX_ATTEMPTS", "many"), ("AWS_MAX_ATTEMPTS", "0")],
)
def test_a_variable_that_cannot_be_used_is_told(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    assert "the AWS configuration cannot be used" in refusal().what


def test_a_configuration_that_cannot_be_read_is_told(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[broken")
    environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "the AWS configuration cannot be used" in refusal().what


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (raised.SSOTokenLoadError(error_msg="x"), "sign-in does not hold"),
        (raised.UnauthorizedSSOTokenError(), "sign-in does not hold"),
        (raised.CredentialRetrievalError(provider="p", error_msg="x"), "cannot be had"),
        (raised.NoRegionError(), "no AWS region is known"),
        (raised.SSLError(endpoint_url="https://e", error="x"), "certificate of https://e"),
        (raised.ConnectTimeoutError(endpoint_url="https://e", error="x"), "cannot connect"),
        (raised.ConnectionClosedError(endpoint_url="https://e"), "cannot connect"),
        (raised.ProxyConnectionError(proxy_url="https://p", error="x"), "cannot connect"),
        (raised.ParamValidationError(report="x"), "Parameter validation failed"),
    ],
)
def test_what_botocore_raises_is_explained(error: Exception, says: str) -> None:
    found = explained(error, "describe-instances", "us-east-2")
    assert says in found.what
    assert found.remedy


def test_a_role_that_may_not_be_taken_is_not_mistaken_for_ec2s() -> None:
    response: Any = {"Error": {"Code": "AccessDenied", "Message": "no"}}
    error = explained(raised.ClientError(response, "AssumeRole"), "describe-instances", "us-east-2")
    assert error.what == "no permission for sts:AssumeRole"
    assert "trust policy" in error.remedy


@given(st.text(max_size=40), st.text(max_size=500), st.integers(200, 599))
def test_no_refusal_can_write_to_the_terminal(code: str, message: str, status: int) -> None:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = raised.ClientError(response, "DescribeInstances")
    found = explained(error, "describe-instances", "us-east-2")
    assert found.what.isprintable()
    assert len(found.what) < 450
