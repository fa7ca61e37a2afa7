"""Reasons as people read them: one clause or sentence for each verdict and each rejection."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flux_flex.burst.plan import Alternative
from flux_flex.model.duration import format_duration
from flux_flex.model.money import format_usd

STOPPED = "renting is stopped, until flux-flex burst start"
SHUNNED = "nodes were open for it, and it did not start there; see flux job eventlog"


def start_here(start_s: float, now_s: float, *, fits: bool) -> str:
    """When a job starts here; ``fits`` says whether this system could ever run it."""
    if not fits:
        return "cannot start here"
    if math.isinf(start_s):
        return "waits here behind jobs without a time limit"
    wait_s = start_s - now_s
    return f"starts here in {format_duration(wait_s)}" if wait_s >= 0.5 else "starts here now"


def renting(way: Alternative, now_s: float, local_s: float) -> str:
    """What is rented for a job, and what that gains it over ``local_s``, its start here."""
    there, here = format_duration(way.start_s - now_s), format_duration(local_s - now_s)
    instead = f"in {there} instead of {here}"
    if not way.burst:
        return f"{way.nodes} x {way.type}, {format_usd(way.cost_per_hour_usd)}/h, ready {instead}"
    if way.new_nodes:
        return f"joins {way.burst} with {way.new_nodes} more x {way.type}, ready {instead}"
    return f"joins {way.burst} on {way.nodes} x {way.type}, no more nodes, starts {instead}"


def too_late(start_s: float, local_s: float, threshold_s: float) -> str:
    """Why a start there at ``start_s`` is not worth renting for."""
    gain = format_duration(max(0.0, local_s - start_s))
    return f"not sooner by more than {format_duration(threshold_s)}: by {gain}"


def too_large(most: int, nodes: int, *, exact: bool) -> str:
    """More nodes than may ever be rented; ``nodes`` is a lower bound where not ``exact``."""
    takes = f"it takes {nodes}" if exact else f"it takes {nodes} or more"
    return f"at most {most} node{'s' * (most != 1)} may be rented at once, {takes}"


def behind(job: str, nodes: int) -> str:
    """Nobody passes a job that the scheduler lets wait for nodes that are not here."""
    what = f"{nodes} node{'s' * (nodes != 1)}" if nodes else "cores"
    return f"stands behind {job}, which waits for {what} not here, and fcfs lets nobody pass"


def at_worst(longest_s: float) -> str:
    """Why the budget has to cover more than a job costs."""
    if math.isinf(longest_s):
        return "as a job without a time limit waits, which could take its nodes"
    return f"as a job of {format_duration(longest_s)} waits, which could take its nodes"


def no_slot(node_type: str, room: int, nodes: int, *, exact: bool = True) -> str:
    """Hosts for so many nodes of this type are set aside in no slot, free or not."""
    if not room:
        return f"no slot is for {node_type}"
    takes = f"it takes {nodes}" if exact else f"it takes {nodes} or more"
    return f"{takes}, a slot for {node_type} has {room} host{'s' * (room != 1)} at most"


def no_allowed(node_type: str, nodes: int) -> str:
    """A constraint refuses the hosts of every slot of a type, free or not."""
    hosts = f"{nodes} hosts" if nodes > 1 else "a host"
    return f"no slot for {node_type} has {hosts} that the job's constraint allows"


def no_room(node_type: str, nodes: int) -> str:
    """No slot of this type takes so many nodes and is free."""
    hosts = f"{nodes} hosts" if nodes > 1 else "a host"
    return f"no slot with {hosts} for {node_type} is free"


def set_aside(node_type: str, left_s: float, why: str) -> str:
    """The provider could not give a type, and is not asked again for a while; ``why`` is empty
    where it had no capacity."""
    what = f"{node_type} failed ({why})" if why else f"no capacity for {node_type}"
    return f"{what}, asking again in {format_duration(left_s)}"


def protected(provider: str, reason: str) -> str:
    """A provider is asked for nothing more until somebody has looked after it."""
    return f"{provider} is in protected mode: {reason}"


def out_of_hours(first_minute: int, end_minute: int) -> str:
    """It is not the time of day to rent."""
    first, end = (f"{one // 60:02}:{one % 60:02}" for one in (first_minute, end_minute))
    return f"nodes are rented from {first} to {end}"


def outdone(way: Alternative, chosen: Alternative) -> str:
    """Why another way was preferred to one that was open too."""
    if round(way.cost_usd, 6) > round(chosen.cost_usd, 6):
        return "costs more"
    return "starts later" if way.start_s > chosen.start_s else "no better than the one taken"


def no_type_fits(seen: Sequence[Alternative]) -> str:
    """One sentence for why no type fits: the reason that most types share."""
    reasons = [one.rejected for one in seen]
    most = max(reasons, key=lambda why: (reasons.count(why), -reasons.index(why)))
    if len(set(reasons)) == 1:
        return f"no type here fits: {most}"
    return f"no type here fits: {seen[reasons.index(most)].type}: {most}"
