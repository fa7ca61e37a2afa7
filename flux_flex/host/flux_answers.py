"""What a broker answers, checked before it is believed, and how a refusal is told."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.instance import Event
from flux_flex.model.quoting import json_kind, quoted

_REMEDIES = {
    errno.ENOSYS: "load the module that answers it, see `flux module list`",
    errno.EPERM: "ask as the owner of the instance",
    errno.ETIMEDOUT: "look at `flux dmesg`, and ask again",
    errno.EHOSTUNREACH: "look at `flux overlay status`",
}


@dataclass(eq=False)
class RpcError(FlexError):
    """A request that a broker refused, with the ``errno`` it answered."""

    errno: int = 0

    def at(self, place: str) -> RpcError:
        where = f"{place}: {self.where}" if self.where else place
        return type(self)(self.what, where, self.remedy, self.errno)


def reason_of(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or errno.EIO)


def refused(error: OSError, place: str) -> RpcError:
    number = error.errno or errno.EIO
    return RpcError(reason_of(error), place, _REMEDIES.get(number, ""), number)


def unknown(error: RpcError, place: str, remedy: str) -> FlexError:
    """BadInput where a broker says that there is no such thing, else the same error."""
    if error.errno in (errno.ENOENT, errno.EINVAL, errno.EEXIST):
        return BadInput(error.what, place or error.where, remedy)
    return error.at(place) if place else error


def parse_event(line: str, place: str) -> Event:
    try:
        entry = checked_mapping(json.loads(line), place)
    except (ValueError, RecursionError):
        raise FlexError(f"{quoted(line)} is no event (RFC 18)", place) from None
    return Event(
        checked_seconds(entry.get("timestamp"), f"{place}: timestamp"),
        checked_text(entry.get("name"), f"{place}: name"),
        checked_mapping(entry.get("context", {}), f"{place}: context"),
    )


def checked_mapping(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise senseless(value, "an object", place)
    return value


def checked_list(value: object, place: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise senseless(value, "a list", place)
    return value


def checked_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise senseless(value, "text", place)
    return value


def checked_whole(value: object, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise senseless(value, "a whole number", place)
    return value


def checked_seconds(value: object, place: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # An int of thousands of digits is no float; nothing near it is a time.
        seconds = float(value) if abs(value) < 1 << 63 else math.inf
        if math.isfinite(seconds):
            return seconds
    raise senseless(value, "a number of seconds", place)


def senseless(value: object, wanted: str, place: str) -> FlexError:
    what = f"the answer has {json_kind(value)} where {wanted} should be"
    return FlexError(what, place, "flux-flex knows flux-core 0.88; tell us of a newer one")
