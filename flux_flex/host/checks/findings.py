"""What the checks of doctor say: findings, and how several problems become one.

A check is a function from a Survey (checks_survey.py) to a :class:`Finding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["found", "missing", "warning", "unknown", "skipped"]

_GRAVITY: Mapping[Status, int] = {"missing": 3, "warning": 2, "unknown": 1}


@dataclass(frozen=True)
class Finding:
    """What one check found: ``what`` in a line, ``remedy`` the commands or lines that mend it."""

    name: str
    status: Status
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Problem:
    """One of the things that a check finds wrong."""

    what: str
    remedy: str = ""
    status: Status = "missing"


def judged(name: str, problems: Sequence[Problem], fine: str) -> Finding:
    """The finding of all problems together, as grave as the gravest; ``fine`` without any."""
    if not problems:
        return Finding(name, "found", fine)
    remedies = dict.fromkeys(problem.remedy for problem in problems if problem.remedy)
    worst = max((problem.status for problem in problems), key=lambda status: _GRAVITY[status])
    return Finding(name, worst, "; ".join(p.what for p in problems), "\n".join(remedies))


def judged_lines(name: str, problems: Sequence[Problem], fine: str, place: str) -> Finding:
    """As :func:`judged`; remedies that begin with a TOML table are put together below ``place``,
    each table once, before the others."""
    tables: dict[str, list[str]] = {}
    others: list[str] = []
    for remedy in dict.fromkeys(problem.remedy for problem in problems if problem.remedy):
        first, *lines = remedy.splitlines()
        if first.startswith("["):
            tables.setdefault(first, []).extend(lines)
        else:
            others.append(remedy)
    above = [place] if tables else []
    lines = [line for table, rows in tables.items() for line in (table, *rows)]
    finding = judged(name, problems, fine)
    return replace(finding, remedy="\n".join([*above, *lines, *others]))
