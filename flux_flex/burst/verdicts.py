"""Verdicts, shown with the jobs that they are about (`flux jobs -o "{user.flex.burst}"`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from flux_flex.errors import FlexError
from flux_flex.host.instance import Instance
from flux_flex.model.jobid import f58

# What the verdict is called in a job's memo.
MEMO = "flex.burst"

# Each memo stays in the job's eventlog. So a verdict of which only the numbers have changed, as
# countdowns do, is written this often at most.
_SAME_S = 3600.0
_NUMBERS = re.compile(r"[0-9][0-9.,hmsd]*")

log = logging.getLogger("flux_flex.burst")


class Verdicts:
    """What jobs have been told, so that they are told nothing twice."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._said: dict[int, tuple[str, float]] = {}

    def keep(self, jobids: Collection[int]) -> None:
        """Forget all other jobs."""
        self._said = {job: said for job, said in self._said.items() if job in jobids}

    def tell(self, jobid: int, text: str) -> None:
        """Show a verdict with its job, where it is another than before."""
        now_s = self._instance.now()
        before, at_s = self._said.get(jobid, ("", now_s))
        alike = _NUMBERS.sub("#", text) == _NUMBERS.sub("#", before)
        if text == before or (alike and 0 <= now_s - at_s < _SAME_S):
            return
        try:
            self._instance.memo(jobid, {MEMO: text})
        except FlexError as error:
            log.info("job %s: %s", f58(jobid), error.what)  # it may have ended in the meantime
            return
        self._said[jobid] = text, now_s
