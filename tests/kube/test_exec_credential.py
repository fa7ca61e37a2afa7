"""Commands that give credentials: what hangs, fails, prints garbage, or wants a terminal."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kube_server import TOKEN, KubeServer

from flux_flex.errors import BadInput
from flux_flex.host import exec_credential
from flux_flex.host.exec_credential import ExecPlugin, read_plugin
from flux_flex.host.kube import PODS, Bounds, Kube, open_kube
from flux_flex.host.kubeconfig import connected

V1 = "client.authentication.k8s.io/v1"
NS = "bursts"
QUICK = Bounds(connect_s=2, read_s=2, call_s=5, tries=2, pause_s=(0.01, 0.05), watch_s=10)
NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def answer(status: object, version: str = V1, kind: str = "ExecCredential") -> str:
    return json.dumps({"apiVersion": version, "kind": kind, "status": status})


class Script:
    """A plugin that is a shell script beside its kubeconfig."""

    def __init__(self, server: KubeServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.path = folder / "plugin"

    def says(self, text: str) -> None:
        self.does(f"cat <<'END'\n{text}\nEND\n")

    def does(self, shell: str) -> None:
        self.path.write_text(f"#!/bin/sh\n{shell}")
        self.path.chmod(0o700)

    def kubeconfig(self, **more: Any) -> str:
        run = {"apiVersion": V1, "command": str(self.path)} | more
        return str(self.server.kubeconfig(self.folder / "config", user={"exec": run}))

    def kube(self, **more: Any) -> Kube:
        return open_kube(self.kubeconfig(**more), allow_exec=True, bounds=QUICK)

    def refused(self, **more: Any) -> BadInput:
        kube = self.kube(**more)
        with pytest.raises(BadInput) as caught:
            kube.get(PODS, "a", NS)
        assert not self.server.calls
        return caught.value


@pytest.fixture
def script(server: KubeServer, tmp_path: Path) -> Script:
    return Script(server, tmp_path)


def asks(script: Script, **more: Any) -> None:
    kube = script.kube(**more)
    assert kube.get(PODS, "a", NS) is None
    kube.close()


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_plugin_that_hangs_is_ended_with_all_that_it_started(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exec_credential, "DEADLINE_S", 0.3)
    script.does(f"sleep 3600 & echo $! > {tmp_path}/child\nwait\n")
    began_s = time.monotonic()
    error = script.refused()
    assert time.monotonic() - began_s < 60
    assert "did not run to its end: no answer within 0.3 s" in error.what
    child = int((tmp_path / "child").read_text())
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_plugin_that_fails_says_why_on_one_line(script: Script) -> None:
    script.does("echo first >&2; printf 'no \\033[31msession\\n' >&2; echo secret; exit 3\n")
    error = script.refused()
    assert error.what.endswith("plugin failed (3): no session")
    assert "secret" not in str(error)


def test_a_plugin_that_is_not_there_is_named_with_how_to_install_it(script: Script) -> None:
    error = script.refused(command="/no/such/plugin", installHint="see example.org")
    assert "/no/such/plugin did not run to its end: No such file" in error.what
    assert error.remedy == "see example.org"


def test_a_plugin_that_asks_on_the_terminal_gets_none(script: Script) -> None:
    script.does("read answer < /dev/tty || read answer || exit 7\necho $answer\n")
    assert "failed (7)" in script.refused().what


def test_a_plugin_that_cannot_do_without_a_terminal_is_not_run(
    script: Script, tmp_path: Path
) -> None:
    script.does(f"touch {tmp_path}/ran\n")
    with pytest.raises(BadInput, match="wants a terminal, and there is none"):
        script.kube(interactiveMode="Always")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "printed no ExecCredential"),
        ("token", "printed no ExecCredential"),
        ("[" * 100_000, "printed no ExecCredential"),
        ("[]", "printed no ExecCredential"),
        (answer({"token": "t"}, kind="Secret"), "printed no ExecCredential"),
        (answer({"token": "t"}, version="v2"), "another apiVersion"),
        (answer(None), "gave no credential"),
        (answer({}), "gave no credential"),
        (answer({"token": ""}), "gave no credential"),
        (answer({"token": ["t"]}), "no header can carry"),
        (answer({"token": "secret\r\nX-Evil: 1"}), "no header can carry"),
        (answer({"clientCertificateData": "x", "clientKeyData": "y"}), "not PEM"),
        (answer({"clientCertificateData": "-----BEGIN A-----\nM\n"}), "without the other"),
        (answer({"token": "secret", "expirationTimestamp": "soon"}), "that is no time"),
        (answer({"token": "secret", "expirationTimestamp": 5}), "that is no time"),
        (answer({"token": "secret", "expirationTimestamp": "2026-99-01T00:00:00Z"}), "no time"),
        (answer({"token": "secret", "expirationTimestamp": "2001-01-01T00:00:00Z"}), "expired"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_credential_is_refused_and_not_shown(
    script: Script, text: str, said: str
) -> None:
    script.says(text)
    error = script.refused()
    assert said in error.what
    assert "secret" not in str(error)
    assert error.where == str(script.folder / "config")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"command": ""}, "names no command"),
        ({"command": ["a"]}, "names no command"),
        ({"command": "a\0b"}, "names no command"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "is not supported"),
        ({"apiVersion": None}, "is not supported"),
        ({"args": "--all"}, "no list of words"),
        ({"args": [1]}, "no list of words"),
        ({"env": {"A": "b"}}, "no list of names and values"),
        ({"env": [{"name": "A"}]}, "no list of names and values"),
        ({"env": [{"name": "A=B", "value": "c"}]}, "no variable can have"),
    ],
)
def test_an_exec_that_cannot_be_run_is_refused_before_it_is(
    run: dict[str, object], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        read_plugin({"apiVersion": V1, "command": "plugin"} | run, {}, "config")


KEYS = ("token", "clientCertificateData", "clientKeyData", "expirationTimestamp")
VALUES = (
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
    | st.datetimes().map(lambda one: f"{one.isoformat()}Z")
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_whatever_it_prints_is_a_credential_or_refused(status: dict[str, object]) -> None:
    plugin = ExecPlugin(("plugin",), {}, V1, "config")
    try:
        found = plugin._read(status, NOW_S)
    except BadInput:
        return
    assert found.token.isprintable()
    assert found.token or found.key
    assert found.renew_s > NOW_S


def test_a_kubeconfig_that_others_can_write_runs_no_command(script: Script) -> None:
    path = script.kubeconfig()
    os.chmod(path, 0o620)
    with pytest.raises(BadInput, match="others can write it"):
        open_kube(path, allow_exec=True)


# -- what goes right -------------------------------------------------------------------------------


def test_to_open_does_not_run_it(script: Script, tmp_path: Path) -> None:
    script.does(f"touch {tmp_path}/ran\n")
    script.kube().close()
    assert not (tmp_path / "ran").exists()


def test_a_command_beside_the_kubeconfig_gets_its_words_and_variables(
    script: Script, tmp_path: Path
) -> None:
    script.does(
        f'printf "%s\\n" "$1" "$2" "$PROFILE" "$KUBERNETES_EXEC_INFO" > {tmp_path}/got\n'
        f"cat <<'END'\n{answer({'token': TOKEN})}\nEND\n"
    )
    env = [{"name": "PROFILE", "value": "hpc"}]
    asks(script, command="./plugin", args=["get token", "$HOME"], env=env, provideClusterInfo=True)
    first, second, profile, info = (tmp_path / "got").read_text().splitlines()
    assert (first, second, profile) == ("get token", "$HOME", "hpc")
    told = json.loads(info)
    assert (told["apiVersion"], told["kind"]) == (V1, "ExecCredential")
    assert told["spec"]["interactive"] is False
    assert told["spec"]["cluster"]["server"].startswith("https://127.0.0.1:")
    assert base64.b64decode(told["spec"]["cluster"]["certificate-authority-data"])


def counted(script: Script, until: str | None) -> Callable[[], int]:
    """Each run gives another token; how many there were."""
    more = f', "expirationTimestamp": "{until}"' if until else ""
    script.does(
        f"echo run >> {script.folder}/runs; n=$(wc -l < {script.folder}/runs)\n"
        f'echo "{{\\"apiVersion\\": \\"{V1}\\", \\"kind\\": \\"ExecCredential\\", \\"status\\":'
        f' {{\\"token\\": \\"token-$n\\"{more.replace(chr(34), chr(92) + chr(34))}}}}}"\n'
    )
    return lambda: len((script.folder / "runs").read_text().splitlines())


def test_it_is_run_again_before_its_token_ends(script: Script) -> None:
    runs = counted(script, "2027-01-15T09:00:00.123456789+00:00")
    script.server.trusts = lambda token: token == f"token-{runs()}"
    now_s = [NOW_S]
    path = script.kubeconfig()
    kube = Kube(lambda: connected(path, allow_exec=True, clock=lambda: now_s[0]), QUICK)
    for passed_s, expected in ((0.0, 1), (3539.0, 1), (1.0, 2)):
        now_s[0] += passed_s
        assert kube.get(PODS, "a", NS) is None
        assert runs() == expected
    kube.close()


def test_a_token_without_an_end_is_used_until_it_is_refused(script: Script) -> None:
    runs = counted(script, None)
    kube = script.kube()
    script.server.trusts = lambda token: token == "token-1"
    assert kube.get(PODS, "a", NS) is None
    assert kube.get(PODS, "a", NS) is None
    assert runs() == 1
    script.server.trusts = lambda token: token == "token-2"
    assert kube.get(PODS, "a", NS) is None
    assert runs() == 2
    kube.close()


def test_a_client_certificate_is_used_where_it_gives_one(
    script: Script, certificates: Path
) -> None:
    pair = {
        "clientCertificateData": (certificates / "server.crt").read_text(),
        "clientKeyData": (certificates / "server.key").read_text(),
    }
    script.says(answer(pair))
    client = connected(script.kubeconfig(), allow_exec=True)
    settings = client.configuration
    assert Path(settings.cert_file).read_text() == pair["clientCertificateData"]
    assert Path(settings.key_file).stat().st_mode & 0o077 == 0
    assert not settings.auth_settings()
    client.close()


def test_a_credential_is_in_no_repr() -> None:
    plugin = ExecPlugin(("plugin",), {"KEY": "secret"}, V1, "config")
    found = plugin._read({"token": "secret"}, NOW_S)
    assert found.token == "secret"
    assert "secret" not in repr(found) + repr(plugin)


def test_relative_paths_of_a_kubeconfig_are_beside_it(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.crt").write_bytes((server.certificates / "ca.crt").read_bytes())
    (tmp_path / "token").write_text(TOKEN)
    cluster = {"certificate-authority": "ca.crt"}
    path = server.kubeconfig(tmp_path / "config", cluster=cluster, user={"tokenFile": "token"})
    content = yaml.safe_load(path.read_text())
    del content["clusters"][0]["cluster"]["certificate-authority-data"]
    path.write_text(yaml.safe_dump(content))
    monkeypatch.chdir("/")
    kube = open_kube(str(path), bounds=QUICK)
    assert kube.get(PODS, "a", NS) is None
    kube.close()
