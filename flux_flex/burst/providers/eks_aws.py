"""AWS, asked through boto3: one place for clients, pages, retries, and what is refused.

    aws = Aws(region="us-east-2")
    aws.ask("eks", "describe_cluster", name="hpc")["cluster"]
    for name in aws.pages("eks", "list_nodegroups", "nodegroups", clusterName="hpc"): ...

Calls that AWS turns away for their number are tried again by boto3's adaptive mode, which also
slows down (https://docs.aws.amazon.com/boto3/latest/guide/retries.html). Profiles, roles and
AWS_ENDPOINT_URL are boto3's business; it is imported when a client is needed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flux_flex.errors import FlexError
from flux_flex.topology.aws_errors import bad_region, clean, code_of, explained, no_region, place

Answer = dict[str, Any]

NOT_FOUND = "ResourceNotFoundException"
IN_USE = "ResourceInUseException"

# The price list is one for all regions of the partition, and has its endpoint here:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
_REGION_OF = {"pricing": "us-east-1"}
_NAMES = {"eks": "EKS", "ec2": "EC2", "sts": "STS", "pricing": "the price list"}
_FORBIDDEN = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedAccess", "UnauthorizedOperation"}
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_ACTION = re.compile(r"to perform:? ([a-z0-9-]+:[A-Za-z]+)")
_HOST_LABEL = re.compile(r"[A-Za-z0-9-]{1,63}")
_TRIES = 6
_CONNECT_S = 5.0
_READ_S = 30.0
# What has more pages never ends.
_MOST_PAGES = 1000


@dataclass(eq=False)
class AwsRefusal(FlexError):
    """AWS refused or did not answer. ``code`` is AWS's, empty where no answer came."""

    code: str = ""


class Aws:
    """One account in one region. Calls may be made from several threads.

    Raises BadInput where no region is known or the profile is not there, and FlexError for
    credentials that cannot be had.
    """

    def __init__(self, region: str = "", profile: str = "") -> None:
        self.session, self._core = _session(region, profile)
        self.region = str(self.session.region_name)
        self._profile = profile
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def ask(self, service: str, operation: str, **question: object) -> Answer:
        """One call, such as ``("eks", "describe_cluster")``. Raises AwsRefusal."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        region = _REGION_OF.get(service, self.region)
        try:
            answer: Answer = getattr(self._client(service, region), operation)(**question)
        except (ClientError, BotoCoreError) as error:
            if code_of(error) in _EXPIRED:
                self._look_for_credentials()
            raise refusal(error, service, operation, region) from None
        except ResponseParserError:
            what = f"what answers is not {_NAMES[service]}"
            where = place(operation.replace("_", "-"), region)
            raise AwsRefusal(what, where, "check AWS_ENDPOINT_URL and proxies on the way") from None
        return answer

    def pages(self, service: str, operation: str, key: str, **question: object) -> Iterator[Any]:
        """What all pages of a listing have under ``key``. Raises AwsRefusal."""
        token = ""
        # EKS spells it small, the others do not.
        name = "nextToken" if service == "eks" else "NextToken"
        for _ in range(_MOST_PAGES):
            page = self.ask(service, operation, **question, **({name: token} if token else {}))
            yield from page.get(key) or []
            before, token = token, page.get(name) or ""
            if not token:
                return
            if token == before:
                break
        where = place(operation.replace("_", "-"), self.region)
        raise AwsRefusal("the pages do not end", where, "check AWS_ENDPOINT_URL and the proxies")

    def presigned(
        self, service: str, operation: str, headers: Mapping[str, str], lasts_s: int
    ) -> str:
        """The URL of a question without arguments that is signed and not asked: a secret. Raises
        AwsRefusal. Only of services with EC2's query protocol, such as STS."""
        from botocore.exceptions import BotoCoreError
        from botocore.signers import RequestSigner

        try:
            client = self._client(service, self.region)
            meta = client.meta
            with self._lock:
                session = self.session
                credentials = session.get_credentials()
            signer = RequestSigner(
                meta.service_model.service_id, self.region, service, "v4", credentials,
                session.events,
            )  # fmt: skip
            action = meta.method_to_api_mapping[operation]
            url = f"{meta.endpoint_url}/?Action={action}&Version={meta.service_model.api_version}"
            request = {
                "method": "GET", "url": url, "body": {}, "headers": {**headers}, "context": {},
            }  # fmt: skip
            signed: str = signer.generate_presigned_url(
                request, region_name=self.region, expires_in=lasts_s, operation_name=""
            )
        except BotoCoreError as error:
            raise refusal(error, service, operation, self.region) from None
        return signed

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _look_for_credentials(self) -> None:
        """Anew: somebody may have put new ones into their file."""
        session, core = _session(self.region, self._profile)
        with self._lock:
            self.session, self._core = session, core
            # Those that are in use by other threads end their calls.
            self._clients.clear()

    def _client(self, service: str, region: str) -> Any:
        from botocore.config import Config

        # Sessions may not be used by two threads at once, clients may.
        with self._lock:
            if service not in self._clients:
                retries: dict[str, object] = {"mode": "adaptive"}
                if self._core.get_config_variable("max_attempts") is None:
                    retries["total_max_attempts"] = _TRIES
                config = Config(
                    retries=retries,
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    user_agent_extra="flux-flex",
                )
                self._clients[service] = self.session.client(
                    service, region_name=region, config=config
                )
            return self._clients[service]


def refusal(error: Exception, service: str, operation: str, region: str) -> AwsRefusal:
    """The error of a call. What is told of EC2 in topology/aws_errors holds of all of AWS."""
    found = explained(error, operation.replace("_", "-"), region)
    name, code = _NAMES[service], code_of(error)
    what, remedy = found.what.replace("EC2", name), found.remedy.replace("EC2", name)
    if code in _FORBIDDEN:
        # EKS looks with the caller's eyes at roles and templates, and names what it misses.
        missing = _ACTION.search(str(error))
        action = missing[1] if missing else f"{service}:{getattr(error, 'operation_name', '')}"
        what = f"no permission for {clean(action, 80)}"
        remedy = "attach the IAM policy of docs/eks-policy.json"
    elif code.startswith("Invalid") and service == "eks":
        remedy = "check [burst.eks]: role, subnets, security groups, launch template, AMI type"
    return AwsRefusal(what, found.where, remedy, code)


def _session(region: str, profile: str) -> tuple[Any, Any]:
    """A session of boto3, with a region, and botocore's below it, which knows all settings."""
    import boto3
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        core = botocore.session.get_session()
        session = boto3.session.Session(
            profile_name=profile or None, region_name=region or None, botocore_session=core
        )
        found = session.region_name
    except (BotoCoreError, ValueError) as error:
        raise explained(error, "aws", region) from None
    if not found:
        raise no_region()
    if not _HOST_LABEL.fullmatch(found):
        raise bad_region(found)
    return session, core
