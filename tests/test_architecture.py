"""The house stays as drawn in docs/architecture.md: who may import whom, and a few manners."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flux_flex"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 500

ANYWHERE = {"flux_flex", "flux_flex.errors", "flux_flex.fields", "flux_flex.pydantic_errors",
            "flux_flex.svg_text"}  # fmt: skip
# What a room may import of the others, and single modules of a room that are open to it.
ALLOWED = {
    "model": set(),
    "match": {"model"},
    "topology": {"model", "match", "host", "flux_flex.config"},
    "burst": {"model", "match", "flux_flex.host.instance", "flux_flex.host.kube",
              "flux_flex.host.kube_errors",
              "flux_flex.host.kube_mirror", "flux_flex.topology.aws_errors"},
    "host": {"model"},
    "usernetes": {"model", "match", "host", "topology", "flux_flex.config"},
    "simulate": {"model", "match", "burst", "host", "topology"},
    "cli": {"model", "match", "burst", "host", "topology", "simulate", "usernetes",
            "flux_flex.config"},
    "": {"flux_flex.model.duration", "flux_flex.cli"},
}  # fmt: skip
# Modules that let the world in: pure rooms have none of them.
IMPURE = {
    "os", "pathlib", "time", "datetime", "random", "io", "socket", "subprocess", "threading",
    "tempfile", "shutil", "glob", "urllib", "http", "logging", "secrets", "uuid", "asyncio",
}  # fmt: skip
# The date in a catalog is a type there, not a clock; a log is written and never read.
IMPURE_AND_YET = {
    ("burst/catalog.py", "datetime"), ("burst/controller.py", "logging"),
    ("burst/renting.py", "logging"), ("burst/verdicts.py", "logging"),
}  # fmt: skip
# Who may talk to the outside, by the library that does.
OUTSIDE = {
    "flux": ("host/",),
    "docker": ("host/",),
    "kubernetes": ("host/",),
    "boto3": ("host/", "topology/aws", "burst/providers/"),
    "botocore": ("host/", "topology/aws", "burst/providers/"),
}
HEAVY = (
    "numpy", "pydantic", "rich", "yaml", "boto3", "botocore", "docker", "kubernetes", "flux",
    "usernetes", "matplotlib",
)  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, with names imported from a package."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            for alias in node.names:
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "flux_flex"} - ANYWHERE


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def is_pure(path: Path) -> bool:
    """Same input, same output: the model, the embedded matcher, and the decision. The other
    engines and the providers are adapters."""
    name = name_of(path)
    pure = ("model/", "match/embedded/", "burst/")
    return name.startswith(pure) and not name.startswith("burst/providers/")


def test_there_is_something_to_look_at() -> None:
    rooms = {name_of(path).split("/")[0] for path in SOURCES}
    assert {"model", "match", "burst", "simulate", "host", "cli"} <= rooms


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_the_way_of_the_arrows(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    room = parts[0] if len(parts) > 1 else ""
    assert room in ALLOWED, f"a new room: say in this test what {room} may import"
    for module in ours(path):
        other = module.split(".")[1]
        assert other == room or {other, module} & ALLOWED[room], f"{room} imports {module}"


@pytest.mark.parametrize("path", [p for p in SOURCES if is_pure(p)], ids=name_of)
def test_pure_rooms_let_no_world_in(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path)} & IMPURE
    assert found <= {module for file, module in IMPURE_AND_YET if file == name_of(path)}
    assert not [call for call in calls(path) if getattr(call.func, "id", "") in ("open", "input")]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_outside_is_reached_only_from_its_own_places(path: Path) -> None:
    for module in {name.split(".")[0] for name in imports(path)} & OUTSIDE.keys():
        assert name_of(path).startswith(OUTSIDE[module]), f"imports {module}"


def test_the_command_line_imports_nothing_heavy_before_a_command_is_known() -> None:
    code = (
        "import sys; import flux_flex.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_fits_a_head(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_opens_with_what_it_is_for(path: Path) -> None:
    said = ast.get_docstring(tree_of(path))
    assert said
    assert len(said.splitlines()[0]) > 20


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_manners(path: Path) -> None:
    tree = tree_of(path)
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "bare except"
    for call in calls(path):
        name = getattr(call.func, "id", "") or getattr(call.func, "attr", "")
        if not name_of(path).startswith("cli/"):
            assert getattr(call.func, "id", "") != "print", f"print in line {call.lineno}"
        assert name != "sleep", f"sleep in line {call.lineno}"
        for keyword in call.keywords:
            shell = keyword.arg == "shell" and getattr(keyword.value, "value", True)
            assert not shell, f"shell=True in line {call.lineno}"
