"""Types that the configuration models share: how a field is read, whichever file it stands in."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict

from flux_flex.errors import BadInput
from flux_flex.model.duration import parse_duration

# Unknown keys, "5" for 5, and NaN are refused in every file of ours.
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _seconds(value: object) -> float:
    try:
        return parse_duration(value)
    except BadInput as error:
        raise ValueError(f"{error.what}: {error.remedy}") from None


# Seconds; in the file a number or a Flux Standard Duration (RFC 23) such as 10m.
Duration = Annotated[float, BeforeValidator(_seconds)]
