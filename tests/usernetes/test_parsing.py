"""Whatever is read that others wrote: a request, an invitation, a record, a table of leases."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flux_flex.errors import BadInput, FlexError
from flux_flex.model.usernetes import MOST_PORTS, UsernetesRequest, usernetes_request
from flux_flex.usernetes.join import (
    Invitation,
    invitation_in,
    join_config,
    join_script,
    kubeconfig_elsewhere,
    read_join_command,
)
from flux_flex.usernetes.ports import Leases
from flux_flex.usernetes.state import RECORD, Record, State

TOKEN = "abcdef.0123456789abcdef"
HASH = "sha256:" + 64 * "0"
NAME = "2QT1HSJy5.0"
HOSTILE = ["\n", '"', "'", "$(touch x)", "`id`", "../", ";", "\0", "\x1b[2J", "a b", "ƒ", "\ud800"]
FAST = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

texts = st.text(max_size=30) | st.sampled_from(HOSTILE) | st.just("x" * 10_000)
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def check_said(error: FlexError, where: str) -> None:
    """A message that names the place, on lines that a terminal can show, and tells no token."""
    text = str(error)
    assert text.replace("\n", "").isprintable()
    assert len(text) < 1000
    assert TOKEN not in text
    assert where in error.where


# -- the request ---------------------------------------------------------------------------------

OPTIONS = st.dictionaries(
    st.sampled_from(["kubernetes", "image", "ports"]) | texts,
    anything | st.dictionaries(st.sampled_from(["nodes", "cpus", "memory"]) | texts, anything),
    max_size=4,
)
USER = st.fixed_dictionaries(
    {}, optional={"usernetes": anything | OPTIONS, "usernetes_debug": anything, "other": anything}
)


@FAST
@given(USER | anything)
@example({"usernetes": []})
@example({"usernetes": "yes", "usernetes_debug": {}})
@example({"usernetes": {"kubernetes": {"cpus": float("nan"), "memory": 1 << 5000}}})
@example({"usernetes": {"ports": [1 << 5000]}})
@example({"usernetes\n\x1b[2J": 1})
def test_any_attributes_are_a_request_or_bad_input(user: Any) -> None:
    try:
        request = usernetes_request({"attributes": {"user": user}})
    except BadInput as error:
        check_said(error, "attributes.user")
        return
    if request is None:
        return
    assert request.nodes is None or 1 <= request.nodes <= 100_000
    assert request.cpus is None or 0.01 <= request.cpus <= 100_000
    assert request.memory_bytes is None or 6 << 20 <= request.memory_bytes <= 1 << 50
    assert re.fullmatch(r"[A-Za-z0-9._:/@-]{0,255}", request.image)
    assert len(set(request.ports)) == len(request.ports) <= MOST_PORTS
    assert all(1 <= port <= 65535 for port in request.ports)


@FAST
@given(anything)
def test_attributes_may_be_anything(attributes: Any) -> None:
    assert usernetes_request({}) is None
    if not isinstance(attributes, dict):
        assert usernetes_request({"attributes": attributes}) is None


@pytest.mark.parametrize("key", ["usernetes", "usernetes_debug"])
@pytest.mark.parametrize("value", [[], [1], {"a": 1}, 2, -1, 0.5, float("nan"), "maybe", 1 << 5000])
def test_a_switch_that_is_neither_yes_nor_no_is_refused(key: str, value: object) -> None:
    with pytest.raises(BadInput, match=key):
        usernetes_request({"attributes": {"user": {"usernetes": "yes", key: value}}})


@pytest.mark.parametrize(
    ("user", "nearest"),
    [
        ({"usernetes-debug": 1}, "usernetes_debug"),
        ({"usernetess": 1}, "usernetes"),
        ({"usernetes": {"kubernets": {}}}, "kubernetes"),
        ({"usernetes": {"imag": "x"}}, "image"),
        ({"usernetes": {"port": [1]}}, "ports"),
        ({"usernetes": {"kubernetes": {"node": 1}}}, "nodes"),
        ({"usernetes": {"kubernetes": {"mem": "8g"}}}, "memory"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(user: Any, nearest: str) -> None:
    with pytest.raises(BadInput) as caught:
        usernetes_request({"attributes": {"user": user}})
    assert nearest in caught.value.remedy


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kubernetes": {"nodes": 1}}, UsernetesRequest(nodes=1)),
        ({"kubernetes": {"nodes": 100_000}}, UsernetesRequest(nodes=100_000)),
        ({"kubernetes": {"nodes": 0}}, "nodes"),
        ({"kubernetes": {"nodes": 100_001}}, "nodes"),
        ({"kubernetes": {"nodes": True}}, "nodes"),
        ({"kubernetes": {"nodes": 1.0}}, "nodes"),
        ({"kubernetes": {"cpus": 0.01}}, UsernetesRequest(cpus=0.01)),
        ({"kubernetes": {"cpus": 0.009}}, "cpus"),
        ({"kubernetes": {"cpus": 100_001}}, "cpus"),
        ({"kubernetes": {"cpus": float("inf")}}, "cpus"),
        ({"kubernetes": {"memory": "6m"}}, UsernetesRequest(memory_bytes=6 << 20)),
        ({"kubernetes": {"memory": "5m"}}, "memory"),
        ({"kubernetes": {"memory": "1024TiB"}}, UsernetesRequest(memory_bytes=1 << 50)),
        ({"kubernetes": {"memory": "1025t"}}, "memory"),
        ({"kubernetes": {"memory": "8g\n"}}, "memory"),
        ({"image": "a" * 255}, UsernetesRequest(image="a" * 255)),
        ({"image": "a" * 256}, "image"),
        ({"image": "a/../../b"}, "image"),
        ({"image": "a$(id)"}, "image"),
        ({"image": "a\n"}, "image"),
        ({"image": "${HOME}"}, "image"),
        ({"image": "-v"}, "image"),
        ({"ports": [1, 65535]}, UsernetesRequest(ports=(1, 65535))),
        ({"ports": 80}, UsernetesRequest(ports=(80,))),
        ({"ports": [0]}, "ports"),
        ({"ports": [65536]}, "ports"),
        ({"ports": ["80"]}, "ports"),
        ({"ports": [[80]]}, "ports"),
        ({"ports": [80, 80]}, "ports"),
        ({"ports": list(range(1, 18))}, "ports"),
    ],
)
def test_every_option_has_a_range(options: Any, expected: UsernetesRequest | str) -> None:
    jobspec = {"attributes": {"user": {"usernetes": options}}}
    if isinstance(expected, str):
        with pytest.raises(BadInput, match=expected):
            usernetes_request(jobspec)
    else:
        assert usernetes_request(jobspec) == expected


# -- the invitation --------------------------------------------------------------------------------

LINE = f"kubeadm join u7s-n0:6443 --token {TOKEN} --discovery-token-ca-cert-hash {HASH}"
SCRIPT = (
    r"#!/bin/bash\nset -eu\n"
    r'echo "[0-9a-fA-F.:]+  [a-z0-9][a-z0-9.-]*" >/etc/hosts\.u7s\n'
    r"cat /etc/hosts\.u7s >>/etc/hosts\n"
    r"kubeadm join --config /usernetes/join-config\.yaml\n"
)

address = st.sampled_from(["10.0.0.1", "::1", "fe80::1%eth0", 'fe80::1%"$(id)"']) | texts
endpoint = st.sampled_from(["u7s-n0:6443", "10.0.0.1:6443"]) | texts
node_name = st.sampled_from(["u7s-n0", "-n0"]) | texts
token = st.just(TOKEN) | texts
hashes = st.lists(st.just(HASH) | texts, max_size=3)


def check_what_was_made(invitation: Invitation) -> None:
    script = join_script(invitation)
    assert re.fullmatch(SCRIPT, script), script
    assert invitation.token not in script
    checked = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    document = json.loads(join_config(invitation, "kubeadm.k8s.io/v1beta4"))
    assert document["discovery"]["bootstrapToken"]["token"] == invitation.token
    assert re.fullmatch(r"[ -~\n]+", join_config(invitation, "kubeadm.k8s.io/v1beta4"))


@FAST
@given(address, endpoint, node_name, token, hashes)
@example("10.0.0.1", "u7s-n0:6443", "u7s-n0", TOKEN, [HASH])
@example('fe80::1%"; touch x; "', "u7s-n0:6443", "u7s-n0", TOKEN, [HASH])
@example("10.0.0.1", "u7s-n0:6443\n", "u7s-n0", TOKEN, [HASH])
@example("10.0.0.1", "u7s-n0:6443", "u7s-n0", TOKEN + "\n", [HASH])
def test_an_invitation_is_refused_or_makes_the_expected_script(
    address: str, endpoint: str, node_name: str, token: str, hashes: list[str]
) -> None:
    context = {"address": address, "endpoint": endpoint, "node_name": node_name}
    try:
        invitation = invitation_in({**context, "token": token, "hashes": hashes})
    except FlexError as error:
        check_said(error, "")
        return
    check_what_was_made(invitation)


@FAST
@given(st.dictionaries(st.sampled_from(["address", "endpoint", "token", "hashes"]), anything))
def test_an_event_without_sense_is_no_invitation(context: dict[str, Any]) -> None:
    with pytest.raises(FlexError):
        invitation_in(context)


@FAST
@given(
    st.lists(
        st.sampled_from([*LINE.split(), "\n", '"', "'", "\\", "#", ";", "$(id)", "`id`", "\0"])
        | texts,
        max_size=12,
    ),
    st.booleans(),
)
@example(LINE.split(), True)
@example([*LINE.split(), ";", "id"], True)
@example([*LINE.split(), "--node-name", "$(id)"], True)
def test_a_join_command_is_refused_or_makes_the_expected_script(
    words: list[str], begins: bool
) -> None:
    text = " ".join(["kubeadm join u7s-n0:6443", *words] if begins else words)
    try:
        invitation = read_join_command(text, address="10.0.0.1", node_name="u7s-n0")
    except FlexError as error:
        check_said(error, "")
        return
    check_what_was_made(invitation)


def test_what_kubeadm_prints_is_read() -> None:
    text = f"#!/bin/bash\nset -eux\n{LINE} \n"
    invitation = read_join_command(text, address="10.0.0.1", node_name="u7s-n0")
    assert invitation == Invitation("10.0.0.1", "u7s-n0", "u7s-n0:6443", TOKEN, (HASH,))
    check_what_was_made(invitation)


@FAST
@given(texts, st.sampled_from(["10.0.0.1", "::1", "fe80::1"]))
def test_a_kubeconfig_may_be_any_text(text: str, address: str) -> None:
    assert kubeconfig_elsewhere(text, address) == text


@pytest.mark.parametrize("api", ["", "v1", "kubeadm.k8s.io/v1\n", 'kubeadm.k8s.io/v1"', "x" * 9999])
def test_an_api_version_that_is_none_is_refused(api: str) -> None:
    invitation = Invitation("10.0.0.1", "u7s-n0", "u7s-n0:6443", TOKEN, (HASH,))
    with pytest.raises(FlexError):
        join_config(invitation, api)


# -- records and leases ----------------------------------------------------------------------------

RECORDED = Record(
    name=NAME, rank=0, host="n0", uid=0, lead=True, key="k", project="usernetes-x"
).model_dump(mode="json")
NESTED = b"[" * 100_000

documents = (
    st.binary(max_size=60)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(sorted(RECORDED)), anything).map(
        lambda changes: json.dumps(RECORDED | changes).encode()
    )
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    return State.open(tmp_path_factory.mktemp("state") / "state")


@FAST
@given(documents)
def test_a_garbled_record_is_a_flex_error(state: State, content: bytes) -> None:
    with state.lock(NAME, create=True) as held:
        (held.folder / RECORD).write_bytes(content)
        try:
            record = held.read()
        except FlexError as error:
            check_said(error, RECORD)
            assert state.peek(NAME) is None
            assert list(state.records()) == []
        else:
            assert record is not None
            held.write(record)
            assert held.read() is not None


@pytest.mark.parametrize("kind", ["directory", "dangling"])
def test_a_record_that_is_no_file_is_a_flex_error_or_none(state: State, kind: str) -> None:
    with state.lock("other.0", create=True) as held:
        if kind == "directory":
            (held.folder / RECORD).mkdir()
            with pytest.raises(FlexError):
                held.read()
        else:
            (held.folder / RECORD).symlink_to("nowhere")
            assert held.read() is None
        held.remove()


TABLES = st.fixed_dictionaries(
    {
        "ports": st.dictionaries(texts | st.just("30000"), anything) | anything,
        "subnets": st.dictionaries(texts | st.just("10.100.0.0/24"), anything) | anything,
    }
).map(lambda table: json.dumps(table).encode())


@FAST
@given(documents | TABLES)
def test_a_garbled_table_of_leases_is_a_flex_error(state: State, content: bytes) -> None:
    leases = Leases(state, range(30000, 30100), "10.100.0.0/16")
    path: Path = state.folder / "leases.json"
    path.write_bytes(content)
    try:
        leases.release(NAME)
    except FlexError as error:
        check_said(error, str(path))
    finally:
        path.unlink()


def test_a_table_of_leases_that_is_nested_too_deep_is_a_flex_error(state: State) -> None:
    path = state.folder / "leases.json"
    path.write_bytes(NESTED)
    try:
        with pytest.raises(FlexError, match="leases"):
            Leases(state, range(30000, 30100), "10.100.0.0/16").release(NAME)
    finally:
        path.unlink()


def test_a_record_that_is_nested_too_deep_is_a_flex_error(state: State) -> None:
    with state.lock("deep.0", create=True) as held:
        (held.folder / RECORD).write_bytes(NESTED)
        with pytest.raises(FlexError, match="record"):
            held.read()
        held.remove()
