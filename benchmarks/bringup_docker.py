"""What benchmarks ask docker for, by its command: to remove what a run made, all of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from flux_flex.host.engines import PROJECT_LABEL

_IMAGES = "label=flux-flex.standin"


class Failed(Exception):
    """A step that had to work did not: there is nothing to measure."""


def docker(*words: str, check: bool = True) -> list[str]:
    """What a docker command prints, in words. Raises Failed."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise Failed(f"docker {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.split()


def remove_project(project: str) -> None:
    """Remove all of a compose project, and what is still on its way into it."""
    label = f"label={PROJECT_LABEL}={project}"
    for _ in range(10):
        if not any(list(_removed(label))):
            break
    docker("rmi", "--no-prune", f"{project}_node", check=False)


def _removed(label: str) -> Iterator[bool]:
    for listing, removing in (
        (("ps", "-a", "-q"), ("rm", "-f", "-v")),
        (("network", "ls", "-q"), ("network", "rm")),
        (("volume", "ls", "-q"), ("volume", "rm", "-f")),
    ):
        found = docker(*listing, "--filter", label)
        if found:
            docker(*removing, *found, check=False)
        yield bool(found)


def images() -> set[str]:
    """The images of stand-ins, those without a name as well: they are the engine's cache."""
    return set(docker("images", "-q", "--no-trunc", "--filter", _IMAGES))


def remove_images(before: set[str]) -> None:
    """Remove the stand-in's images that were not there before, unless somebody uses them."""
    for image in images() - before:
        docker("rmi", image, check=False)
