"""EC2's answers on disk: used while young, private to their owner, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_flex.errors import BadInput
from flux_flex.topology.answers import Answers, Ec2Instance, InstanceShape, Located
from flux_flex.topology.aws import Account, Selection
from flux_flex.topology.cache import Fetched, cached_fetch, default_folder

BLUE = Selection(groups=("blue",))
HERE = Account(region="us-east-2")
NOON = 1_790_000_000.0


def answers(name: str = "compute0") -> Answers:
    one = "i-0123456789abcdef0"
    return Answers(
        {one: Ec2Instance(one, "p5.48xlarge", "running", "ip-1.ec2.internal", "10.0.0.1", name)},
        {one: Located(one, "p5.48xlarge", ("nn-1", "nn-2"), "us-east-2b", "use2-az2", "blue")},
        {"p5.48xlarge": InstanceShape("p5.48xlarge", 96, 8, 2_097_152)},
    )


class Ec2:
    """An EC2 that counts how often it is asked."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.answers = answers()

    def __call__(self, *_: object, **__: object) -> Answers:
        self.n_asked += 1
        return self.answers


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Ec2:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return Ec2()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "topology"


@pytest.fixture
def ask(ec2: Ec2, folder: Path) -> Callable[..., Fetched]:
    def asked(
        selection: Selection = BLUE, account: Account = HERE, at: float = NOON, most: float = 60.0
    ) -> Fetched:
        return cached_fetch(
            selection, account, folder=folder, max_age_s=most, now=lambda: at, fetch=ec2
        )

    return asked


Ask = Callable[..., Fetched]


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_young_answer_is_used_again_and_says_its_age(ask: Ask, ec2: Ec2) -> None:
    assert ask() == Fetched(answers(), None)
    assert ask(at=NOON + 59) == Fetched(answers(), 59.0)
    assert ec2.n_asked == 1


def test_an_old_answer_is_replaced(ask: Ask, ec2: Ec2) -> None:
    ask()
    ec2.answers = answers("compute1")
    assert ask(at=NOON + 60) == Fetched(answers("compute1"), None)
    assert ask(at=NOON + 61) == Fetched(answers("compute1"), 1.0)


def test_an_answer_from_the_future_is_not_used(ask: Ask, ec2: Ec2) -> None:
    ask()
    assert ask(at=NOON - 1).age_s is None
    assert ec2.n_asked == 2


def test_with_no_age_allowed_ec2_is_asked_and_the_answer_is_kept(ask: Ask, ec2: Ec2) -> None:
    assert ask(most=0).age_s is None
    assert ask(most=0).age_s is None
    assert ec2.n_asked == 2
    assert ask().age_s == 0.0


def with_another(kind: str, state: str) -> Answers:
    """The usual answers, and one more instance, which has no place."""
    usual, two = answers(), "i-0123456789abcdef2"
    more = Ec2Instance(two, kind, state, "", "10.0.0.2", "compute2")
    return Answers({**usual.instances, two: more}, usual.located, usual.shapes)


@pytest.mark.parametrize(
    ("given", "most"),
    [
        (with_another("p5.48xlarge", "running"), 60),
        (with_another("t3.micro", "pending"), 60),
        (Answers(answers().instances, {}, {}), 60),
        (with_another("t3.micro", "running"), 3600),
        (with_another("p5.48xlarge", "stopped"), 3600),
    ],
)
def test_an_answer_that_will_change_is_used_for_a_minute_only(
    ask: Ask, ec2: Ec2, given: Answers, most: int
) -> None:
    ec2.answers = given
    ask()
    assert ask(at=NOON + most - 1, most=3600) == Fetched(given, most - 1)
    assert ask(at=NOON + 10, most=10).age_s is None
    assert ask(at=NOON + 10 + most, most=3600).age_s is None
    assert ec2.n_asked == 3


def test_each_question_has_an_answer_of_its_own(ask: Ask, ec2: Ec2) -> None:
    questions = [
        (BLUE, HERE),
        (Selection(groups=("red",)), HERE),
        (Selection(hosts=("blue",)), HERE),
        (Selection(instance_ids=("blue",)), HERE),
        (Selection(filters=(("tag:a", ("b",)),)), HERE),
        (BLUE, Account(region="us-west-2")),
        (BLUE, Account(profile="blue", region="us-east-2")),
    ]
    for question in questions:
        assert ask(*question).age_s is None
    for question in questions:
        assert ask(*question).age_s == 0.0
    assert ec2.n_asked == len(questions)


@pytest.mark.parametrize(
    "name",
    ["AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2",
     "AWS_ACCESS_KEY_ID", "AWS_CONFIG_FILE"],
)  # fmt: skip
def test_another_environment_is_another_question(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ask()
    monkeypatch.setenv(name, "another")
    assert ask().age_s is None
    monkeypatch.delenv(name)
    assert ask().age_s == 0.0


def test_no_key_is_written_down(ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "precious")
    ask()
    assert b"precious" not in only_file(folder).read_bytes()


def test_no_password_of_an_endpoint_is_written_down(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"):
        monkeypatch.setenv(name, "http://ada:precious@ec2.example")
    ask()
    assert b"precious" not in only_file(folder).read_bytes()
    assert ask().age_s == 0.0


def test_the_order_of_names_does_not_matter(ask: Ask, ec2: Ec2) -> None:
    ask(Selection(hosts=("a", "b"), filters=(("x", ("1", "2")), ("a", ("1",)))))
    ask(Selection(hosts=("b", "a"), filters=(("a", ("1",)), ("x", ("2", "1")))))
    assert ec2.n_asked == 1


# -- who may read and write ----------------------------------------------------------------------


def test_only_the_owner_can_read_what_is_kept(ask: Ask, folder: Path) -> None:
    before = os.umask(0)
    try:
        ask()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_is_not_used(
    ask: Ask, ec2: Ec2, folder: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    ask()
    folder.chmod(mode)
    assert ask() == Fetched(answers(), None)
    assert ec2.n_asked == 2
    (record,) = caplog.records
    assert record.name == "flux_flex.topology"
    assert record.levelno == logging.WARNING
    assert "others can write it" in record.getMessage()


def test_a_folder_of_somebody_else_is_not_used(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert ask().age_s is None
    assert "somebody else's" in caplog.text


def test_a_file_that_others_can_write_is_not_believed(ask: Ask, folder: Path) -> None:
    ask()
    only_file(folder).chmod(0o622)
    assert ask().age_s is None
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


def test_a_link_is_replaced_and_not_followed(ask: Ask, folder: Path, tmp_path: Path) -> None:
    ask()
    file = only_file(folder)
    other = tmp_path / "other"
    file.rename(other)
    kept = other.read_bytes()
    file.symlink_to(other)
    assert ask(at=NOON + 1).age_s is None
    assert not file.is_symlink()
    assert other.read_bytes() == kept


def test_a_link_to_a_folder_is_not_followed(ask: Ask, folder: Path, tmp_path: Path) -> None:
    folder.parent.mkdir()
    (tmp_path / "other").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "other")
    assert ask().age_s is None
    assert list((tmp_path / "other").iterdir()) == []


def test_a_pipe_is_not_waited_for(ask: Ask, folder: Path) -> None:
    ask()
    file = only_file(folder)
    file.unlink()
    os.mkfifo(file, 0o600)
    assert ask().age_s is None
    assert ask().age_s == 0.0


# -- what cannot be kept, or is not what was kept ------------------------------------------------


def test_an_answer_that_cannot_be_kept_is_still_an_answer(
    ask: Ask, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.write_text("no directory")
    assert ask() == Fetched(answers(), None)
    assert "is not kept" in caplog.text


def test_a_full_disk_leaves_the_old_answer_and_no_rubbish(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask()
    kept = only_file(folder).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert ask(at=NOON + 100).age_s is None
    assert "No space left" in caplog.text
    assert only_file(folder).read_bytes() == kept


def test_ctrl_c_leaves_the_old_answer_and_no_rubbish(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask()
    kept = only_file(folder).read_bytes()

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(at=NOON + 100)
    assert only_file(folder).read_bytes() == kept


def test_what_is_a_month_old_goes_when_an_answer_is_kept_and_nothing_else(
    ask: Ask, folder: Path
) -> None:
    ask()
    own = only_file(folder).name
    made = {
        "old": [f"{'0' * 64}.json", f".{'1' * 64}.json.{'2' * 16}"],
        "young": [f"{'3' * 64}.json"],
        "old, and not ours": ["notes.json", f"{'4' * 63}.json", f"{'5' * 64}.json.bak"],
    }
    for age, names in made.items():
        days = 31 if age.startswith("old") else 29
        then = time.time() - days * 86_400
        for name in names:
            (folder / name).write_text("x")
            os.utime(folder / name, (then, then))
    ask(Selection(groups=("red",)))
    left = {one.name for one in folder.iterdir()}
    assert own in left
    assert not left & {*made["old"]}
    assert left > {*made["young"], *made["old, and not ours"]}


def damaged(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def damage(document: dict[str, Any]) -> None:
        document[key] = value

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        damaged("format", "other"),
        damaged("version", 2),
        damaged("fetched", None),
        damaged("fetched", True),
        damaged("fetched", "1790000000"),
        damaged("fetched", float("nan")),
        damaged("asked", {}),
        damaged("instance_ids", []),
        damaged("answers", None),
        damaged("answers", {"Instances": "none"}),
        damaged("answers", {"Instances": [{"InstanceId": "../x"}]}),
        dict.clear,
    ],
)
def test_a_damaged_file_is_as_if_it_were_not_there(
    ask: Ask, folder: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    ask()
    document = json.loads(only_file(folder).read_text())
    damage(document)
    only_file(folder).write_text(json.dumps(document))
    assert ask() == Fetched(answers(), None)
    assert ask() == Fetched(answers(), 0.0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"1" * 5_000, b"[" * 100_000])
def test_a_file_that_is_no_json_object_is_as_if_it_were_not_there(
    ask: Ask, folder: Path, content: bytes
) -> None:
    ask()
    only_file(folder).write_bytes(content)
    assert ask().age_s is None
    assert ask().age_s == 0.0


@settings(max_examples=40)
@given(cut=st.integers(0, 2_000), flip=st.integers(0, 7))
def test_no_damage_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    ec2 = Ec2()

    def ask() -> Fetched:
        return cached_fetch(BLUE, HERE, folder=folder, max_age_s=60.0, now=lambda: NOON, fetch=ec2)

    ask()
    content = bytearray(only_file(folder).read_bytes())
    content[cut % len(content)] ^= 1 << flip
    only_file(folder).write_bytes(content)
    assert isinstance(ask().answers, Answers)
    only_file(folder).write_bytes(content[: cut % len(content)])
    assert ask().age_s is None


# -- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "folder"),
    [
        ("/var/cache", "/var/cache/flux-flex/topology"),
        ("", "/home/ada/.cache/flux-flex/topology"),
        ("relative", "/home/ada/.cache/flux-flex/topology"),
    ],
)
def test_the_folder_is_where_caches_are(
    monkeypatch: pytest.MonkeyPatch, base: str, folder: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_folder() == Path(folder)


def test_somebody_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(BadInput, match="no home directory"):
        default_folder()
