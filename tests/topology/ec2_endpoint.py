"""An EC2 on loopback: three calls of the query protocol, with pages, limits and scripted faults.

    with Endpoint([Machine("i-0123456789abcdef0", nodes=("nn-1", "nn-2", "nn-3"))]) as ec2:
        os.environ.update(variables(ec2.url))

It listens on 127.0.0.1 only, and takes any signature.

The XML has the shape of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html,
.../API_DescribeInstanceTopology.html and .../API_DescribeInstanceTypes.html. Benchmarks import
this too: what is said of a machine is rendered once, and exact filters are looked up.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

XMLNS = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'


def variables(url: str) -> dict[str, str]:
    """The environment in which boto3 asks the endpoint, with nothing from ~/.aws."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-2",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def isolate(monkeypatch: Any, url: str) -> None:
    """Let boto3 ask ``url`` for the time of a test: no AWS of the developer's, no waiting.

    Calls are tried three times, without botocore's pauses; the model of EC2 is read once.
    """
    import botocore.endpoint
    import botocore.retries.bucket
    import botocore.session

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**variables(url), "AWS_MAX_ATTEMPTS": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", lambda _: _loader())
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(botocore.retries.bucket.TokenBucket, "acquire", lambda *_, **__: True)


@cache
def _loader() -> Any:
    from botocore.loaders import create_loader

    return create_loader(None)


def cluster(n: int, kind: str = "hpc7a.96xlarge") -> list[Machine]:
    """Machines compute0, compute1, …: 8 below each lowest network node, 64 below the next."""
    return [
        Machine(
            f"i-{k:017x}",
            kind,
            nodes=("nn-0", f"nn-1-{k // 64}", f"nn-2-{k // 8}"),
            dns=f"ip-10-{k >> 16}-{k >> 8 & 255}-{k & 255}.us-east-2.compute.internal",
            ip=f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}",
            name=f"compute{k}",
        )
        for k in range(n)
    ]


@dataclass(frozen=True)
class Machine:
    """One instance; ``nodes`` None: the topology never lists it."""

    instance_id: str
    kind: str = "hpc7a.96xlarge"
    nodes: tuple[str, ...] | None = ("nn-1", "nn-2", "nn-3")
    state: str = "running"
    dns: str = ""
    ip: str = ""
    name: str = ""
    zone: str = "us-east-2b"
    zone_id: str = "use2-az2"
    group: str = ""
    capacity_block: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def all_tags(self) -> tuple[tuple[str, str], ...]:
        return (*self.tags, *((("Name", self.name),) if self.name else ()))


@dataclass(frozen=True)
class Shape:
    name: str
    cores: int = 192
    mib: int = 786_432
    gpus: int = 0


@dataclass(frozen=True)
class Fault:
    """An answer that is a refusal, or ``body`` as it is; after ``delay_s`` seconds."""

    code: str = ""
    message: str = ""
    status: int = 400
    body: bytes | None = None
    delay_s: float = 0.0


# A step of a script: None answers as usual, a fault fails, and a function does something to the
# endpoint before the usual answer.
Step = Fault | Callable[[], None] | None


class Refused(Exception):
    """What the API itself refuses."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)


@dataclass
class Params:
    """The parameters of a call, with the lists of the query protocol as lists."""

    raw: dict[str, str]

    def listed(self, name: str) -> list[str]:
        found = [(int(key[len(name) + 1 :]), value) for key, value in self.raw.items()
                 if re.fullmatch(rf"{name}\.[0-9]+", key)]  # fmt: skip
        return [value for _, value in sorted(found)]

    def filters(self) -> list[tuple[str, list[str]]]:
        names = (self.raw.get(f"Filter.{n}.Name") for n in itertools.count(1))
        return [(name, self.listed(f"Filter.{n}.Value"))
                for n, name in enumerate(itertools.takewhile(bool, names), 1) if name]  # fmt: skip

    def most(self) -> int | None:
        return int(self.raw.get("MaxResults", 0)) or None


@dataclass
class Endpoint:
    """The machines and types of one region, and what goes wrong.

    script    for an action, what happens at its first calls, one step for each
    always    for an action, the fault of each call after the script
    late      how many topology answers leave a machine out before it is in them
    is_full   machines are described with about as many bytes as EC2's
    calls     each call: its action and parameters
    """

    machines: Sequence[Machine]
    shapes: Sequence[Shape] = (Shape("hpc7a.96xlarge"),)
    script: dict[str, list[Step]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    is_full: bool = False
    calls: list[tuple[str, Params]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_id = {one.instance_id: one for one in self.machines}
        render = _described_in_full if self.is_full else _described
        self._described = {one.instance_id: render(one) for one in self.machines}
        self._located = {one.instance_id: _located(one) for one in self.machines
                         if one.nodes is not None}  # fmt: skip
        self._shapes = {one.name: _shape(one) for one in self.shapes}
        self._indexes: dict[str, dict[str, set[str]]] = {}
        self._rest_of: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    # -- running ---------------------------------------------------------------------------------

    def __enter__(self) -> Endpoint:
        handler = type("_Bound", (_Handler,), {"endpoint": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def end(self, *instance_ids: str) -> None:
        """Instances end, and EC2 forgets them."""
        for instance_id in instance_ids:
            del self._by_id[instance_id]
            self._located.pop(instance_id, None)
        self._indexes.clear()

    def asked(self, action: str) -> list[Params]:
        return [params for name, params in self.calls if name == action]

    # -- answering -------------------------------------------------------------------------------

    def answer(self, raw: dict[str, str]) -> tuple[int, bytes, float]:
        """Status, body and the delay before it, for the parameters of a call."""
        action = raw.get("Action", "")
        with self._lock:
            params = Params(raw)
            self.calls.append((action, params))
            steps = self.script.get(action, [])
            step = steps.pop(0) if steps else self.always.get(action)
            try:
                if callable(step):
                    step()
                elif step is not None:
                    return step.status, _refusal(step), step.delay_s
                return 200, self._answer(action, params), 0.0
            except Refused as refused:
                return 400, _refusal(refused.fault), 0.0

    def _answer(self, action: str, params: Params) -> bytes:
        if action == "DescribeInstances":
            return self._instances(params)
        if action == "DescribeInstanceTopology":
            return self._topology(params)
        if action == "DescribeInstanceTypes":
            return self._types(params)
        raise Refused("InvalidAction", f"The action {action} is not valid")

    def _instances(self, params: Params) -> bytes:
        ids, most = params.listed("InstanceId"), params.most()
        if ids and most is not None:
            raise Refused("InvalidParameterCombination", "InstanceIds and maxResults")
        if most is not None and not 5 <= most <= 1000:
            raise Refused("InvalidParameterValue", f"Value ({most}) for maxResults is invalid")
        found = self._of_ids(ids) if ids else list(self._by_id)
        found = self._filtered(found, params.filters())
        page, token = self._page(found, most, params)
        items = map(self._described.__getitem__, page)
        return _response("DescribeInstances", "reservationSet", "".join(items), token)

    def _topology(self, params: Params) -> bytes:
        ids, groups, most = params.listed("InstanceId"), params.listed("GroupName"), params.most()
        if ids and most is not None:
            raise Refused("InvalidParameterCombination", "InstanceIds and maxResults")
        if len(ids) > 100 or len(groups) > 100:
            raise Refused("InvalidParameterValue", "at most 100 ids and 100 groups")
        if most is not None and not 1 <= most <= 100:
            raise Refused("InvalidParameterValue", f"Value ({most}) for MaxResults is invalid")
        if {name for name, _ in params.filters()} - {"availability-zone", "instance-type"}:
            raise Refused("InvalidParameterValue", "The filter is invalid")
        members = self._index("placement-group-name")
        unknown = [one for one in groups if one not in members]
        if unknown:
            message = f"The Placement Group '{unknown[0]}' is unknown."
            raise Refused("InvalidPlacementGroup.Unknown", message)
        found = self._of_ids(ids) if ids else list(self._by_id)
        found = self._filtered(found, params.filters())
        if groups:
            found = [one for one in found if self._by_id[one].group in groups]
        found = [one for one in found
                 if self._by_id[one].state == "running" and one in self._located]  # fmt: skip
        page, token = self._page(found, None if ids else most or 20, params)
        items = "".join(self._located[one] for one in page if not self._is_late(one))
        return _response("DescribeInstanceTopology", "instanceSet", items, token)

    def _types(self, params: Params) -> bytes:
        names = params.listed("InstanceType")
        if len(names) > 100:
            raise Refused("InvalidParameterValue", "at most 100 instance types")
        unknown = [one for one in names if one not in self._shapes]
        if unknown:
            message = f"The following supplied instance types do not exist: [{unknown[0]}]"
            raise Refused("InvalidInstanceType", message)
        page, token = self._page(names or list(self._shapes), params.most() or 100, params)
        items = "".join(self._shapes[one] for one in page)
        return _response("DescribeInstanceTypes", "instanceTypeSet", items, token)

    def _is_late(self, instance_id: str) -> bool:
        left = self.late.get(instance_id, 0)
        self.late[instance_id] = left - 1
        return left > 0

    def _of_ids(self, ids: Iterable[str]) -> list[str]:
        wanted = list(ids)
        malformed = [one for one in wanted if not re.fullmatch(r"i-[0-9a-f]{8,17}", one)]
        if malformed:
            raise Refused("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
        unknown = [one for one in wanted if one not in self._by_id]
        if unknown:
            one, does = ("ID", "does") if len(unknown) == 1 else ("IDs", "do")
            message = f"The instance {one} '{', '.join(unknown)}' {does} not exist"
            raise Refused("InvalidInstanceID.NotFound", message)
        return wanted

    def _page(self, found: list[str], most: int | None, params: Params) -> tuple[list[str], str]:
        token = params.raw.get("NextToken")
        if token is not None:
            if token not in self._rest_of:
                raise Refused("InvalidNextToken", "The token is not valid")
            found = [one for one in self._rest_of[token]
                     if one in self._by_id or one in self._shapes]  # fmt: skip
        if most is None or len(found) <= most:
            return found, ""
        following = f"token-{len(self._rest_of)}"
        self._rest_of[following] = found[most:]
        return found[:most], following

    def _filtered(self, found: list[str], filters: list[tuple[str, list[str]]]) -> list[str]:
        for name, values in filters:
            if len(values) > 200:
                raise Refused("FilterLimitExceeded", "at most 200 values for a filter")
            passing = self._passing(name, values)
            found = [one for one in found if one in passing]
        return found

    def _passing(self, name: str, values: list[str]) -> set[str]:
        index = self._index(name)
        passing: set[str] = set()
        for value in values:
            plain = re.sub(r"\\(.)", r"\1", value)
            if not re.search(r"(?<!\\)[*?]", value):
                passing |= index.get(plain, set())
            elif name == "private-dns-name" and value.endswith(".*") and "*" not in value[:-1]:
                passing |= self._index("first label").get(plain[:-2], set())
            else:
                pattern = re.compile(_pattern(value))
                passing.update(*(ids for text, ids in index.items() if pattern.fullmatch(text)))
        return passing

    def _index(self, name: str) -> dict[str, set[str]]:
        """The ids of the machines by the value that a filter looks at."""
        if name not in self._indexes:
            index: dict[str, set[str]] = {}
            for one in self._by_id.values():
                for value in _values(one, name):
                    index.setdefault(value, set()).add(one.instance_id)
            self._indexes[name] = index
        return self._indexes[name]


Start = Callable[..., Endpoint]


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status, body, delay_s = self.endpoint.answer(dict(parse_qsl(text, True)))
        threading.Event().wait(delay_s)
        head = (
            f"HTTP/1.1 {status} -\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            self.wfile.write(head.encode() + body)
        except OSError:  # the client did not wait
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Tests say what they saw."""


# -- filters -------------------------------------------------------------------------------------


def _values(one: Machine, name: str) -> list[str]:
    simple = {
        "instance-id": one.instance_id,
        "instance-type": one.kind,
        "instance-state-name": one.state,
        "private-dns-name": one.dns,
        "first label": one.dns.partition(".")[0] if "." in one.dns else "",
        "private-ip-address": one.ip,
        "availability-zone": one.zone,
        "placement-group-name": one.group,
    }
    if name in simple:
        return [simple[name]] if simple[name] else []
    if name.startswith("tag:"):
        return [value for key, value in one.all_tags if key == name[4:]]
    raise Refused("InvalidParameterValue", f"The filter '{name}' is invalid")


def _pattern(value: str) -> str:
    pieces = re.findall(r"\\.|.", value, re.DOTALL)
    kinds = {"*": ".*", "?": "."}
    return "".join(kinds.get(one) or re.escape(one[-1]) for one in pieces)


# -- XML -----------------------------------------------------------------------------------------


def _response(action: str, key: str, items: str, token: str) -> bytes:
    following = f"<nextToken>{token}</nextToken>" if token else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response {XMLNS}>'
        f"<requestId>0</requestId><{key}>{items}</{key}>{following}</{action}Response>"
    ).encode()


def _refusal(fault: Fault) -> bytes:
    if fault.body is not None:
        return fault.body
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{fault.code}</Code><Message>{escape(fault.message)}</Message>"
        "</Error></Errors><RequestID>0</RequestID></Response>"
    ).encode()


def _described(one: Machine, more: str = "") -> str:
    tags = "".join(
        f"<item><key>{escape(key)}</key><value>{escape(value)}</value></item>"
        for key, value in one.all_tags
    )
    group = f"<groupName>{escape(one.group)}</groupName>" if one.group else "<groupName/>"
    return (
        f"<item><reservationId>r-{one.instance_id[2:]}</reservationId><ownerId>1</ownerId>"
        f"<groupSet/><instancesSet><item><instanceId>{one.instance_id}</instanceId>"
        f"<instanceState><code>16</code><name>{one.state}</name></instanceState>"
        f"<privateDnsName>{escape(one.dns)}</privateDnsName>"
        f"<instanceType>{one.kind}</instanceType>"
        "<launchTime>2026-10-01T08:00:00.000Z</launchTime>"
        f"<placement><availabilityZone>{one.zone}</availabilityZone>{group}"
        "<tenancy>default</tenancy></placement>"
        f"<privateIpAddress>{escape(one.ip)}</privateIpAddress>"
        f"<tagSet>{tags}</tagSet>{more}</item></instancesSet></item>"
    )


def _described_in_full(one: Machine) -> str:
    """With as many elements and bytes as EC2's own answer: two interfaces, two volumes."""
    time = "2026-10-01T08:00:00.000Z"
    address = f"<privateIpAddress>{one.ip}</privateIpAddress>"
    interface = (
        "<item><networkInterfaceId>eni-0123456789abcdef0</networkInterfaceId><subnetId>subnet-0"
        "</subnetId><vpcId>vpc-0</vpcId><description/><ownerId>1</ownerId><status>in-use</status>"
        f"<macAddress>02:00:00:00:00:00</macAddress>{address}<sourceDestCheck>true"
        "</sourceDestCheck><groupSet><item><groupId>sg-0</groupId><groupName>default</groupName>"
        "</item></groupSet><attachment><attachmentId>eni-attach-0</attachmentId><deviceIndex>0"
        f"</deviceIndex><status>attached</status><attachTime>{time}</attachTime>"
        "<deleteOnTermination>true</deleteOnTermination><networkCardIndex>0</networkCardIndex>"
        f"</attachment><privateIpAddressesSet><item>{address}<primary>true</primary></item>"
        "</privateIpAddressesSet><ipv6AddressesSet/><interfaceType>efa</interfaceType></item>"
    )
    device = (
        "<item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-0123456789abcdef0</volumeId>"
        f"<status>attached</status><attachTime>{time}</attachTime><deleteOnTermination>true"
        "</deleteOnTermination></ebs></item>"
    )
    words = ("imageId", "keyName", "clientToken", "hypervisor", "architecture", "rootDeviceType",
             "virtualizationType", "subnetId", "vpcId", "bootMode", "platformDetails",
             "usageOperation", "rootDeviceName", "currentInstanceBootMode")  # fmt: skip
    return _described(
        one,
        "".join(f"<{word}>word-0123456789abcdef0</{word}>" for word in words)
        + "<monitoring><state>disabled</state></monitoring><cpuOptions><coreCount>192</coreCount>"
        "<threadsPerCore>1</threadsPerCore></cpuOptions><metadataOptions><state>applied</state>"
        "<httpTokens>required</httpTokens></metadataOptions>"
        f"<blockDeviceMapping>{device * 2}</blockDeviceMapping>"
        f"<networkInterfaceSet>{interface * 2}</networkInterfaceSet>",
    )


def _located(one: Machine) -> str:
    nodes = "".join(f"<item>{node}</item>" for node in one.nodes or ())
    group = f"<groupName>{escape(one.group)}</groupName>" if one.group else ""
    block = f"<capacityBlockId>{one.capacity_block}</capacityBlockId>" if one.capacity_block else ""
    return (
        f"<item><instanceId>{one.instance_id}</instanceId><instanceType>{one.kind}</instanceType>"
        f"{group}<networkNodeSet>{nodes}</networkNodeSet>"
        f"<availabilityZone>{one.zone}</availabilityZone><zoneId>{one.zone_id}</zoneId>"
        f"{block}</item>"
    )


def _shape(one: Shape) -> str:
    gpus = one.gpus and f"<gpuInfo><gpus><item><count>{one.gpus}</count></item></gpus></gpuInfo>"
    return (
        f"<item><instanceType>{one.name}</instanceType><vCpuInfo><defaultCores>{one.cores}"
        f"</defaultCores></vCpuInfo><memoryInfo><sizeInMiB>{one.mib}</sizeInMiB></memoryInfo>"
        f"{gpus or ''}</item>"
    )
