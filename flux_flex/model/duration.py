"""Durations: Flux Standard Duration (RFC 23) in, short words for people out."""

from __future__ import annotations

import math
import re

from flux_flex.errors import BadInput

_FSD = re.compile(r"((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def parse_duration(value: object) -> float:
    """Seconds from a number or from text such as ``90``, ``10m`` or ``1.5h`` (RFC 23).

    Raises BadInput for anything else and for negative, infinite and NaN values: RFC 23 knows
    ``inf``, but nothing that is configured here can last for ever.
    """
    remedy = "write seconds, or a number with s, m, h or d, such as 10m"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise BadInput(f"{type(value).__name__} is no duration", "", remedy)
    if isinstance(value, str):
        found = _FSD.fullmatch(value.strip())
        if found is None:
            raise BadInput(f"{value[:40]!r} is no duration", "", remedy)
        seconds = float(found[1]) * _UNIT_S[found[2]]
    else:
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise BadInput(f"a duration of {seconds}", "", remedy)
    return seconds


def format_duration(seconds: float) -> str:
    """Two units at the most, for people: ``0s``, ``45s``, ``6m``, ``3h12m``, ``2d4h``.

    Infinity is ``never``.
    """
    if math.isinf(seconds):
        return "never"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s" if whole % 60 or not whole else f"{whole // 60}m"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
    days, hours = divmod(hours + (minutes >= 30), 24)
    return f"{days}d{hours}h" if hours else f"{days}d"
