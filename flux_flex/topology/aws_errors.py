"""What AWS and botocore refuse, as errors of flux-flex: what, where, and the way out.

``explained(error, call, region)`` has a message of its own for each kind of failure. The codes
are those of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html. This
module imports botocore only when there is something to explain.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.quoting import one_line

_VANISHED = "InvalidInstanceID.NotFound"
_UNKNOWN_TYPE = "InvalidInstanceType"
_MALFORMED_ID = "InvalidInstanceID.Malformed"
_UNKNOWN_GROUP = re.compile(r"InvalidPlacementGroup(?:Id)?\..*")
_ID = re.compile(r"\bi-[0-9A-Za-z]+")
_TYPE = re.compile(r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)+")
# Up to the last @ of a word, for a password may have one, or a slash, that is not quoted.
_USER = re.compile(r"://\S*@")

# EC2 says RequestExpired both for an expired session and for a clock that is wrong.
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)
_NOT_ACCEPTED = frozenset(
    {"AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
     "InvalidSignatureException", "MissingAuthenticationToken", "SignatureDoesNotMatch",
     "UnrecognizedClientException"}
)  # fmt: skip
_FORBIDDEN = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedAccess", "UnauthorizedOperation"}
)
_NO_ACCOUNT = frozenset({"Blocked", "OptInRequired", "PendingVerification"})
_NO_SUCH_CALL = frozenset({"InvalidAction", "UnknownOperationException", "UnsupportedOperation"})
_THROTTLED = frozenset(
    {"BandwidthLimitExceeded", "EC2ThrottledException", "RequestLimitExceeded", "RequestThrottled",
     "RequestThrottledException", "SlowDown", "Throttling", "ThrottlingException",
     "ThrottledException", "TooManyRequestsException"}
)  # fmt: skip
_BROKEN = frozenset(
    {"InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable",
     "Unavailable"}
)  # fmt: skip

_RENEW = "renew them: aws sso login, or take the role again; then check this machine's clock"
_CREDENTIALS = "run aws configure or aws sso login, name a profile, or give the instance a role"
_CONNECTION = (
    "check the network, proxies, AWS_ENDPOINT_URL, and that a VPC without internet access has an "
    "endpoint for EC2"
)
_NOT_EC2 = "ask again; if it stays so, check AWS_ENDPOINT_URL and the proxies on the way"


class NothingFound(BadInput):
    """EC2 answered, and no instance is what was asked for. Exit code 3."""


class NoSuchGroup(NothingFound):
    """No placement group of this region and account has the name; another one's may."""


def place(call: str, region: str) -> str:
    """Where an error of a call happened: ``describe-instances in us-east-2``."""
    return f"{call} in {clean(region, 60)}" if region else call


def no_region() -> BadInput:
    remedy = "name a region, set AWS_DEFAULT_REGION (AWS_REGION is not read), or run aws configure"
    return BadInput("no AWS region is known", "aws", remedy)


def bad_region(region: str) -> BadInput:
    what = f"{clean(region, 60)!r} is no name of a region"
    return BadInput(what, "aws", "us-east-2 is one; aws ec2 describe-regions lists them")


def not_ec2(what: str, where: str) -> FlexError:
    """An answer that is not EC2's: HTML of a proxy, another service, a broken page."""
    return FlexError(what, where, _NOT_EC2)


def unknown_ids(ids: list[str], where: str) -> BadInput:
    shown = ", ".join(clean(one, 60) for one in ids[:5]) + (", …" if len(ids) > 5 else "")
    remedy = "check the ids, the region and the account; what has just started is known in a minute"
    return BadInput(f"no instance has the id {shown}", where, remedy)


def unknown_names(error: Exception) -> frozenset[str] | None:
    """What EC2 says that it does not know; None where it refuses for another reason.

    Ids as in ``The instance IDs 'i-…, i-…' do not exist``, types as in ``The following supplied
    instance types do not exist: [x1.big]``. Empty where the message names nothing.
    """
    forms = {_VANISHED: _ID, _UNKNOWN_TYPE: _TYPE}
    form = forms.get(code_of(error))
    return None if form is None else frozenset(form.findall(str(error)))


def code_of(error: Exception) -> str:
    """EC2's code of a refusal, on one line; empty for any other error."""
    return clean(str(_error_of(error).get("Code") or ""), 60)


def clean(text: str, most: int = 300) -> str:
    """Text from outside as one line that may stand in a message, without passwords in URLs."""
    return one_line(_USER.sub("://", text), most)


def explained(error: Exception, call: str, region: str) -> FlexError:
    """The error of flux-flex for one that botocore raised while it was preparing or making a call.

    ``call`` is as in ``describe-instances``.
    """
    from botocore.exceptions import ClientError

    where = place(call, region)
    if isinstance(error, ClientError):
        return _refused(error, where)
    return (
        _of_configuration(error, where)
        or _of_credentials(error, where)
        or _of_connection(error, where, region)
        or FlexError(clean(str(error)), where, "see the AWS configuration and try again")
    )


# -- EC2 refuses -----------------------------------------------------------------------------------


def _refused(error: Exception, where: str) -> FlexError:
    code = code_of(error)
    message = clean(str(_error_of(error).get("Message") or ""))
    status = _status_of(error)
    for codes, of in _REFUSALS:
        if code in codes:
            return of(error, where)
    if code == _MALFORMED_ID:
        remedy = "an instance id is i- and 8 or 17 hexadecimal digits"
        return BadInput(f"not the id of an instance: {message}", where, remedy)
    if _UNKNOWN_GROUP.fullmatch(code):
        remedy = "aws ec2 describe-placement-groups lists those of this region and account"
        return NoSuchGroup(f"no such placement group: {message}", where, remedy)
    if code in _BROKEN or status >= 500:
        what = f"EC2 fails: {code} {message}".rstrip()
        return FlexError(what, where, "try again later; see https://health.aws.amazon.com")
    if code and code.startswith(("Invalid", "Filter", "Malformed", "Missing", "Unknown")):
        remedy = "check the filters, groups and ids that are asked for"
        return BadInput(f"EC2 does not take the question: {code}: {message}", where, remedy)
    if not code or code == "Unknown" or code.isdigit():
        return not_ec2(f"what answers is not EC2: status {status}", where)
    return FlexError(f"EC2 refuses: {code}: {message}", where, "look the code up in EC2's API")


def _expired(_: Exception, where: str) -> FlexError:
    return FlexError("the AWS credentials have expired", where, _RENEW)


def _not_accepted(_: Exception, where: str) -> FlexError:
    remedy = f"{_CREDENTIALS}; check this machine's clock, and that the region is enabled"
    return FlexError("AWS does not accept the credentials", where, remedy)


def _forbidden(error: Exception, where: str) -> FlexError:
    operation = str(getattr(error, "operation_name", ""))
    service = "ec2" if operation.startswith("Describe") else "sts"
    remedy = "attach the IAM policy of docs/topology.md (docs/aws-policy.json)"
    if service == "sts":
        remedy = "let the role's trust policy name who takes it"
    return FlexError(f"no permission for {service}:{operation}", where, remedy)


def _no_account(error: Exception, where: str) -> FlexError:
    what = f"the account may not use EC2 here: {code_of(error)}"
    return FlexError(what, where, "enable the region, or EC2, for the account")


def _no_such_call(_: Exception, where: str) -> FlexError:
    remedy = "name a region that has it: see docs/topology.md, Regions"
    return FlexError("this region does not have the call", where, remedy)


def _throttled(_: Exception, where: str) -> FlexError:
    remedy = "try again in a few minutes; ask for fewer instances, or set AWS_MAX_ATTEMPTS higher"
    return FlexError("EC2 says again and again that this account asks too often", where, remedy)


_REFUSALS: tuple[tuple[frozenset[str], Callable[[Exception, str], FlexError]], ...] = (
    (_EXPIRED, _expired),
    (_NOT_ACCEPTED, _not_accepted),
    (_FORBIDDEN, _forbidden),
    (_NO_ACCOUNT, _no_account),
    (_NO_SUCH_CALL, _no_such_call),
    (_THROTTLED, _throttled),
)


def _error_of(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None)
    found = response.get("Error") if isinstance(response, dict) else None
    return found if isinstance(found, dict) else {}


def _status_of(error: Exception) -> int:
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0


# -- botocore gives up -----------------------------------------------------------------------------


def _of_configuration(error: Exception, where: str) -> FlexError | None:
    from botocore import exceptions as raised

    if isinstance(error, raised.ProfileNotFound):
        name = clean(str(error.kwargs.get("profile", "")), 60)
        remedy = "aws configure list-profiles lists those there are"
        return BadInput(f"there is no AWS profile {name!r}", where, remedy)
    if isinstance(error, raised.NoRegionError):
        return no_region()
    if isinstance(error, raised.InvalidRegionError):
        return bad_region(str(error.kwargs.get("region_name", "")))
    kinds = (
        raised.ConfigParseError, raised.ConfigNotFound, raised.InvalidConfigError,
        raised.InvalidRetryConfigurationError, raised.EndpointProviderError,
        raised.InvalidIMDSEndpointError, raised.InvalidIMDSEndpointModeError, ValueError,
    )  # fmt: skip
    if isinstance(error, kinds) and not isinstance(error, raised.HTTPClientError):
        what = f"the AWS configuration cannot be used: {clean(str(error))}"
        return BadInput(what, where, "look at the AWS_ variables and ~/.aws/config")
    return None


def _of_credentials(error: Exception, where: str) -> FlexError | None:
    from botocore import exceptions as raised

    if isinstance(error, raised.NoCredentialsError):
        return FlexError("no AWS credentials are found", where, _CREDENTIALS)
    if isinstance(error, raised.PartialCredentialsError):
        return FlexError(f"half of the AWS credentials: {clean(str(error))}", where, _CREDENTIALS)
    # LoginError is newer than the oldest boto3 that will do.
    sessions: list[type[Exception]] = [raised.SSOError, raised.TokenRetrievalError]
    sessions += [getattr(raised, "LoginError", raised.SSOError), raised.NoAuthTokenError]
    if isinstance(error, tuple(sessions)):
        return FlexError(f"the AWS sign-in does not hold: {clean(str(error))}", where, _RENEW)
    others = (
        raised.CredentialRetrievalError, raised.MetadataRetrievalError,
        raised.RefreshWithMFAUnsupportedError, raised.UnknownCredentialError,
    )  # fmt: skip
    if isinstance(error, others):
        what = f"the AWS credentials cannot be had: {clean(str(error))}"
        return FlexError(what, where, _CREDENTIALS)
    return None


def _of_connection(error: Exception, where: str, region: str) -> FlexError | None:
    from botocore import exceptions as raised

    url = clean(str(getattr(error, "kwargs", {}).get("endpoint_url", "")), 100)
    if isinstance(error, raised.SSLError):
        what = f"the certificate of {url} cannot be checked"
        return FlexError(what, where, "check AWS_CA_BUNDLE, the clock, and proxies on the way")
    if isinstance(error, raised.EndpointConnectionError):
        if f".{region}." in url and region not in _known_regions():
            remedy = "aws ec2 describe-regions lists them; for a new one, update boto3"
            return BadInput(f"there is no region {region}", where, remedy)
        return FlexError(f"cannot connect to {url}", where, _CONNECTION)
    if isinstance(error, raised.ReadTimeoutError):
        return FlexError(f"{url} does not answer in time", where, _CONNECTION)
    if isinstance(error, (raised.ConnectionError, raised.HTTPClientError)):
        return FlexError(f"cannot connect: {clean(str(error))}", where, _CONNECTION)
    return None


def _known_regions() -> set[str]:
    """The regions of EC2 that this botocore has heard of."""
    import botocore.session

    session = botocore.session.get_session()
    partitions = session.get_available_partitions()
    return {one for part in partitions for one in session.get_available_regions("ec2", part)}
