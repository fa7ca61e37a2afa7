"""The tables of ``simulate`` and ``plan``, made from the same documents as their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from flux_flex.cli.console import VERDICT_STYLE, plain_table, word
from flux_flex.model.duration import format_duration
from flux_flex.model.money import format_usd

# Longer tables help nobody on a terminal; the JSON has it all.
MAX_ROWS = 60

# From this width on a decision's figures have columns of their own.
WIDE = 100

_DECISION_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("at", "right"), ("job", "left"), ("verdict", "left"), ("reason", "left"), ("nodes", "right"),
    ("type", "left"), ("cost", "right"), ("here", "right"), ("there", "right"),
)  # fmt: skip

Row = Mapping[str, Any]


def decisions_table(decisions: Sequence[Row], *, width: int, with_time: bool) -> Table:
    """One row a decision; ``with_time`` adds when it was made.

    On a narrow terminal the columns whose figures the reason tells anyway make room for it.
    """
    shown = {"job", "verdict", "reason", "cost"}
    if with_time:
        shown.add("at")
    if width >= WIDE:
        shown |= {"nodes", "type", "here", "there"}
    table = plain_table()
    for title, justify in _DECISION_COLUMNS:
        if title in shown:
            reason = title == "reason"
            table.add_column(title, justify=justify, no_wrap=not reason, ratio=int(reason) or None)
    for row in decisions[:MAX_ROWS]:
        cells = _decision_cells(row)
        table.add_row(*(cells[title] for title, _ in _DECISION_COLUMNS if title in shown))
    return table


def _decision_cells(row: Row) -> dict[str, Text]:
    cells = {
        "at": word(duration(row["at_s"])),
        "job": word(f"{row['name'][:20]} {row['jobid']}"),
        "verdict": word(row["verdict"], VERDICT_STYLE.get(row["verdict"], "")),
        "reason": word(row["reason"]),
        "here": word(wait(row["start_here_s"], row["at_s"])),
    }
    way = row["chosen"] or _deferred(row)
    style = "" if row["chosen"] else "dim"
    told = (
        {
            "nodes": way["nodes"],
            "type": way["type"],
            "cost": usd(way["cost_usd"]),
            "there": wait(way["start_s"], row["at_s"]),
        }
        if way
        else dict.fromkeys(("nodes", "type", "cost", "there"), "")
    )
    return cells | {title: word(value, style) for title, value in told.items()}


def _deferred(row: Row) -> Row | None:
    """The alternative that would have been taken, were it not for the limit in the reason."""
    if row["verdict"] != "deferred":
        return None
    return next((one for one in row["alternatives"] if one["rejected"] == row["reason"]), None)


def wait(start_s: float | None, at_s: float) -> str:
    """How long after ``at_s`` something would start; never where it would not."""
    return "never" if start_s is None else format_duration(max(0.0, start_s - at_s))


def left_out(rows: Sequence[Row]) -> str:
    """What a table did not show."""
    hidden = len(rows) - MAX_ROWS
    return f"… {hidden} more; --json has them all" if hidden > 0 else ""


def summary_table(summary: Row) -> Table:
    """Without bursting and with it, side by side."""
    table = plain_table()
    for name, justify in (("", "left"), ("without bursting", "right"), ("with bursting", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for title, key, show in _FIGURES:
        row = [show(summary[side][key]) for side in ("without", "with")]
        if key not in _SHOWN_IF_ANY or any(summary[side][key] for side in ("without", "with")):
            table.add_row(title, *row)
    return table


def bursts_table(bursts: Sequence[Row], names: Mapping[str, str]) -> Table:
    """One row a burst; ``names`` are the jobs' names by id."""
    table = plain_table()
    for title, justify in (
        ("burst", "left"), ("nodes", "right"), ("type", "left"), ("provider", "left"),
        ("$/h", "right"), ("ready", "right"), ("jobs", "left"),
    ):  # fmt: skip
        table.add_column(title, justify=justify, no_wrap=title != "jobs")  # type: ignore[arg-type]
    for row in bursts[:MAX_ROWS]:
        jobs = ", ".join(f"{names.get(job, '')} {job}".strip() for job in row["jobs"][:6])
        more = len(row["jobs"]) - 6
        table.add_row(
            word(row["burst"]),
            str(row["nodes"]),
            word(row["type"]),
            word(row["provider"]),
            usd(row["cost_per_hour_usd"]),
            duration(row["ready_s"]),
            word(jobs + (f" and {more} more" if more > 0 else "")),
        )
    return table


def alternatives_table(decision: Row) -> Table:
    """Everything that was weighed for one job, the cheapest first."""
    table = plain_table()
    for title, justify in (
        ("type", "left"), ("provider", "left"), ("onto", "left"), ("nodes", "right"),
        ("new", "right"), ("starts in", "right"), ("cost", "right"), ("", "left"),
    ):  # fmt: skip
        reason = not title  # it is what this table is for, so it is the last to be cut
        table.add_column(title, justify=justify, overflow="fold", min_width=24 * reason)  # type: ignore[arg-type]
    for one in decision["alternatives"]:
        never = one["start_s"] is None
        table.add_row(
            word(one["type"]),
            word(one["provider"]),
            word(one["burst"] or "new nodes"),
            "" if never else str(one["nodes"]),
            "" if never else str(one["new_nodes"]),
            wait(one["start_s"], decision["at_s"]),
            "" if never else usd(one["cost_usd"]),
            word(one["rejected"] or "chosen", "" if one["rejected"] else "bold green"),
        )
    return table


def duration(seconds: float | None) -> str:
    """A duration for people, or a dash."""
    return "-" if seconds is None else format_duration(seconds)


def usd(amount: float | None) -> str:
    """Dollars and cents, or a dash."""
    return "-" if amount is None else format_usd(amount)


def _count(value: int) -> str:
    return f"{value:,}"


def _hours(value: float) -> str:
    return f"{value:,.1f}"


_FIGURES = (
    ("last job ended after", "makespan_s", duration),
    ("mean wait", "mean_wait_s", duration),
    ("longest wait", "max_wait_s", duration),
    ("node-hours here", "local_node_hours", _hours),
    ("node-hours rented", "rented_node_hours", _hours),
    ("dollars", "cost_usd", usd),
    ("jobs finished", "jobs_finished", _count),
    ("jobs not finished", "jobs_unfinished", _count),
    ("jobs refused", "jobs_refused", _count),
)
_SHOWN_IF_ANY = frozenset({"jobs_unfinished", "jobs_refused"})
