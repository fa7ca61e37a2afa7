"""The job-validator plugin: a job that asks flux-flex for nonsense is refused when it is submitted.

    [ingest.validator]
    plugins = ["jobspec", "feasibility", "/usr/libexec/flux/flux-flex-validator.py"]

The installer puts that file there; it loads this one. Flux's own Python runs it
(flux-config-ingest(5)), so this file needs the bindings, and nothing
that the bindings do not need.
"""

from __future__ import annotations

import errno
from typing import Any

from flux_flex.errors import BadInput
from flux_flex.host.flux_bindings import bindings
from flux_flex.model.burst_request import check_burst_request
from flux_flex.model.usernetes import usernetes_request

_PLUGIN: Any = bindings("flux.job.validator").ValidatorPlugin


class Validator(_PLUGIN):  # type: ignore[misc]
    """Refuses a jobspec whose flux-flex attributes cannot be meant, and says what may be."""

    def validate(self, args: Any) -> tuple[int, str] | None:
        """None to let the job in, else an errno and what `flux submit` prints."""
        try:
            usernetes_request(args.jobspec)
            check_burst_request(args.jobspec)
        except BadInput as error:
            return errno.EINVAL, f"{error.where}: {error.what}; {error.remedy}"
        return None
