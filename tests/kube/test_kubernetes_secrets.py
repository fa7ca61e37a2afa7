"""The secrets of a burst: files of their owner alone, and seen nowhere but in Secrets."""

from __future__ import annotations

import base64
import logging
import os
import traceback
from pathlib import Path

import pytest
from kube_site import CURVE, MUNGE, NS, RENTAL, Site, comes_to, secret_file

from flux_flex.burst.providers import Phase
from flux_flex.burst.providers.kubernetes import read_secret
from flux_flex.errors import BadInput, FlexError


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = Path(secret_file(tmp_path / "key", MUNGE))
    path.chmod(mode)
    with pytest.raises(BadInput, match=f"others can read it: its mode is {mode:04o}") as caught:
        read_secret(str(path))
    assert MUNGE not in str(caught.value)


def test_a_secret_is_a_file_with_something_in_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, said in (
        (tmp_path / "pipe", "not a file"), (tmp_path, "cannot be read|not a file"),
        (tmp_path / "none", "No such file"), (secret_file(tmp_path / "empty", ""), "empty"),
        (secret_file(tmp_path / "large", "x" * 70_000), "too large"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            read_secret(str(path))


def test_a_secret_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_file(tmp_path / "key", MUNGE)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BadInput, match="another user owns it"):
        read_secret(path)


def test_bad_secrets_are_refused_before_anything_is_asked(site: Site) -> None:
    Path(site.table["curve_cert"]).chmod(0o644)
    with pytest.raises(BadInput, match="others can read it"):
        site.open()
    assert not site.server.calls


def test_secrets_are_seen_nowhere_but_in_the_secrets(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def tell(error: FlexError) -> None:
        said.extend([str(error), repr(error), *traceback.format_exception(error)])

    provider = site.open()
    provider.request(RENTAL)
    site.make_pods()
    comes_to(provider, Phase.COMING)
    echo = site.server.calls[-1].body + CURVE + base64.b64encode(CURVE.encode()).decode()
    for status in (422, 503):
        site.server.fail("PATCH", "secrets", status, times=9, status_body={"message": echo})
        tell(site.refuses())
        site.server.faults.clear()
    secret = site.server.get("secrets", NS, "small-0-curve")
    assert secret is not None
    site.server.put("secrets", secret | {"data": {"curve.cert": "bWluZQ=="}}, "argocd")
    tell(site.refuses())
    provider.release("small-0")
    for call in site.server.calls:
        said += [call.url, *call.headers.values(), call.body if call.plural != "secrets" else ""]
    for key in ("miniclusters", "pods", "events"):
        said += [str(one) for (plural, *_), one in site.server.objects.items() if plural == key]
    text = "\n".join([*said, caplog.text])
    assert "argocd" in text
    for secret_text in (CURVE, MUNGE):
        encoded = base64.b64encode(secret_text.encode()).decode()
        for part in (encoded, encoded[8:24], *secret_text.split()):
            assert len(part) < 8 or part in ("public-key", "secret-key") or part not in text
