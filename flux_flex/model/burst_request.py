"""What a job may say of bursting in its jobspec's attributes, checked when it is submitted.

    flux submit --setattr=burstable …                  # nodes may be rented for it: all or none
    flux submit --setattr=burstable=best-effort …      # it also takes those that come
    flux submit --setattr=burstable=false …            # not even in the queue for bursts

``burstable`` stands in ``attributes.system``, where Flux puts what has no other prefix, or in
``attributes.user``. ``attributes.user.flex.held`` is what `flux submit --burst` sets beside it.
Flux's own Python runs this for each job, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping

from flux_flex.errors import BadInput
from flux_flex.model.quoting import brief, json_kind, quoted

BURSTABLE = "burstable"
BEST_EFFORT = "best-effort"

_PLACES = ("user", "system")
_FLEX = "attributes.user.flex"


def check_burst_request(jobspec: Mapping[str, object]) -> None:
    """Raise BadInput, with the key path, for an attribute of bursting that cannot be meant."""
    attributes = jobspec.get("attributes")
    if not isinstance(attributes, Mapping):
        return
    said = {}
    for place in _PLACES:
        table = attributes.get(place)
        if not isinstance(table, Mapping):
            continue
        if BURSTABLE in table:
            said[place] = _burstable(table[BURSTABLE], f"attributes.{place}.{BURSTABLE}")
        if place == "system" and isinstance(table.get("flex"), Mapping) and "held" in table["flex"]:
            # It would stay held for ever: nobody looks there.
            what = f"it belongs into {_FLEX}.held"
            raise BadInput(what, "attributes.system.flex.held", "say --setattr=user.flex.held=true")
    if len({bool(value) for value in said.values()}) > 1:
        what = f"it is {brief(said['user'])} here, and {brief(said['system'])} in attributes.system"
        raise BadInput(what, f"attributes.user.{BURSTABLE}", "say it once")
    user = attributes.get("user")
    if isinstance(user, Mapping) and "flex" in user:
        _check_flex(user["flex"])


def _burstable(value: object, place: str) -> bool | str:
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value == BEST_EFFORT:
        return BEST_EFFORT
    what = f"{brief(value)} says nothing of bursting"
    raise BadInput(what, place, f"say true, false, 1, 0 or {BEST_EFFORT}, or leave it away")


def _check_flex(flex: object) -> None:
    """``flex`` is flux-flex's own: whoever writes another key there expects what does not come."""
    if not isinstance(flex, Mapping):
        raise BadInput(json_kind(flex), _FLEX, "give a mapping with held, or leave it away")
    for key in flex:
        if key != "held":
            raise BadInput(f"unknown key {quoted(str(key))}", _FLEX, "known key: held")
    held = flex.get("held", False)
    if not isinstance(held, int) or held not in (0, 1):
        what = f"{brief(held)} is neither true nor false"
        raise BadInput(what, f"{_FLEX}.held", "say true, false, 1 or 0, or leave it away")
