# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.
"""Flux job-validator plugin: jobs whose flux-flex attributes are wrong are refused when submitted.

Flux loads it when the broker's configuration names this file, by its path:

    [ingest.validator]
    plugins = ["jobspec", "/usr/libexec/flux/flux-flex-validator.py"]

It runs in Flux's own Python, as the instance owner. If flux_flex cannot be imported there, jobs
that ask for nothing of flux-flex still pass, and the others are told why not: a plugin that does
not load would have Flux refuse every job.
"""

import errno
import sys

# flux_flex, and what it was installed with. Last, so that Flux's own modules are found first.
sys.path += ["@PACKAGE_DIR@", "@LIBRARY_DIR@"]

try:
    from flux_flex.host.ingest import Validator

    reason = ""
except Exception as error:  # noqa: BLE001  # too old a Python fails in many ways
    from flux.job.validator import ValidatorPlugin

    reason = f"flux-flex's job validator does not load: {type(error).__name__}: {error}"

    class Validator(ValidatorPlugin):
        def validate(self, job):
            attributes = job.jobspec.get("attributes") or {}
            user, system = (attributes.get(key) or {} for key in ("user", "system"))
            asks = "usernetes" in user or "burstable" in user or "burstable" in system
            return (errno.EINVAL, reason) if asks else None


if __name__ == "__main__":
    sys.exit(reason or 0)  # an empty text would be an error, too
