"""What can be asked of a controller, as JSON documents: status, explain, list, budget, and more.

The broker module and ``flux-flex burst serve`` answer RPCs with these; ``flux-flex burst …`` prints
them. Times are seconds since the epoch, money is US dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flux_flex.burst.controller import Controller
from flux_flex.burst.ledger import KEY, Entry, State
from flux_flex.burst.slots import REASON
from flux_flex.errors import BadInput
from flux_flex.model.jobid import f58

# The service's name on the broker: a request to flex-burst.status is answered by status.
NAME = "flex-burst"


class Service:
    """Answers to questions about one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    @property
    def topics(self) -> Mapping[str, Callable[[Mapping[str, object]], dict[str, object]]]:
        """The methods by name; each takes the request's payload. They raise BadInput."""
        return {
            "status": self.status,
            "explain": self.explain,
            "list": self.list,
            "budget": self.budget,
            "eventlog": self.eventlog,
            "start": self.start,
            "stop": self.stop,
            "drain": self.drain,
        }

    def status(self, _: Mapping[str, object]) -> dict[str, object]:
        """How the controller is: bursts by state, providers, and what is set aside."""
        book = self._controller.ledger.book
        now_s = self._controller.instance.now()
        return {
            "deciding": self._controller.deciding,
            "bursts": {
                state.value: sum(one.state is state for one in book.bursts.values())
                for state in State
            },
            "nodes": sum(one.rental.nodes for one in book.bursts.values()),
            "cost_per_hour": sum(one.cost_per_hour_usd for one in book.bursts.values()),
            "protected": dict(book.protected),
            "aside": [
                {
                    "provider": provider,
                    "type": kind,
                    "until": one.until_s,
                    "times": one.times,
                    "why": one.why,
                }
                for (provider, kind), one in sorted(book.aside.items())
                if one.until_s > now_s
            ],
            "troubles": self._controller.troubles,
            "slots": {
                "total": len(self._controller.slots),
                "free": sum(slot.name not in book.bursts for slot in self._controller.slots),
            },
        }

    def gauges(self) -> dict[str, float]:
        """The same as numbers, by names of Prometheus."""
        book, now_s = self._controller.ledger.book, self._controller.instance.now()
        limits = self._controller.settings.config.limits
        found = {
            f'flux_flex_bursts{{state="{state.value}"}}': float(
                sum(one.state is state for one in book.bursts.values())
            )
            for state in State
        }
        found["flux_flex_burst_nodes"] = float(sum(b.rental.nodes for b in book.bursts.values()))
        found["flux_flex_burst_cost_per_hour_usd"] = sum(
            one.cost_per_hour_usd for one in book.bursts.values()
        )
        found["flux_flex_burst_spent_usd"] = book.spent_usd(now_s - limits.period, now_s)
        found["flux_flex_burst_protected_providers"] = float(len(book.protected))
        found["flux_flex_burst_deciding"] = float(self._controller.deciding)
        for verdict in ("stay", "burst", "deferred", "impossible"):
            count = sum(one.verdict == verdict for one in self._controller.decisions.values())
            found[f'flux_flex_burst_jobs{{verdict="{verdict}"}}'] = float(count)
        return found

    def list(self, _: Mapping[str, object]) -> dict[str, object]:
        """The bursts that are not over."""
        now_s = self._controller.instance.now()
        bursts = sorted(self._controller.ledger.book.bursts.items())
        return {"bursts": [_entry(entry, now_s) for _, entry in bursts]}

    def explain(self, payload: Mapping[str, object]) -> dict[str, object]:
        """All that was weighed for one job at the last decision."""
        jobid = payload.get("id")
        decision = self._controller.decisions.get(jobid) if isinstance(jobid, int) else None
        if decision is None and isinstance(jobid, int):
            return self._rented_for(jobid)
        if decision is None:
            what = "no decision about this job"
            raise BadInput(what, str(jobid)[:40], "name a burstable job that waits; see flux jobs")
        now_s = self._controller.instance.now()
        return {
            "id": decision.job.jobid,
            "job": f58(decision.job.jobid),
            "user": decision.job.user,
            "verdict": decision.verdict,
            "reason": decision.reason,
            "starts_here_in": _left(decision.local_start_s, now_s),
            "flux_estimate_in": _left(decision.job.flux_start_s, now_s),
            "alternatives": [
                {
                    "provider": way.provider,
                    "type": way.type,
                    "burst": way.burst,
                    "nodes": way.nodes,
                    "new_nodes": way.new_nodes,
                    "starts_in": _left(way.start_s, now_s),
                    "cost": way.cost_usd,
                    "rejected": way.rejected,
                }
                for way in decision.alternatives
            ],
        }

    def _rented_for(self, jobid: int) -> dict[str, object]:
        """What the ledger has of a job that was decided about before this controller began."""
        book = self._controller.ledger.book
        for entry in book.bursts.values():
            if jobid in entry.jobs and not entry.is_leaving:
                what = f"{entry.rental.nodes} x {entry.rental.type} are rented as {entry.burst}"
                return {
                    "id": jobid,
                    "job": f58(jobid),
                    "user": entry.user,
                    "verdict": "burst",
                    "reason": f"{what}, {entry.state.value}; an earlier controller decided it",
                    "starts_here_in": None,
                    "flux_estimate_in": None,
                    "alternatives": [],
                }
        remedy = "name a burstable job that waits; see flux jobs"
        raise BadInput("no decision about this job", f58(jobid), remedy)

    def budget(self, _: Mapping[str, object]) -> dict[str, object]:
        """What the running period has cost, and what the limits are."""
        limits = self._controller.settings.config.limits
        now_s = self._controller.instance.now()
        book = self._controller.ledger.book
        return {
            "budget": limits.budget,
            "period": limits.period,
            "spent": book.spent_usd(now_s - limits.period, now_s),
            "cost_per_hour": sum(one.cost_per_hour_usd for one in book.bursts.values()),
            "cost_per_hour_limit": limits.cost_per_hour,
            "nodes_limit": limits.nodes,
        }

    def eventlog(self, _: Mapping[str, object]) -> dict[str, object]:
        """The ledger, whole (RFC 18)."""
        events = self._controller.instance.log(KEY)
        return {
            "events": [
                {"timestamp": one.timestamp, "name": one.name, "context": dict(one.context)}
                for one in events
            ]
        }

    def start(self, payload: Mapping[str, object]) -> dict[str, object]:
        """Decide again; or, with ``provider``, rent there again after it was protected."""
        provider = payload.get("provider")
        if provider is not None:
            known_ones = self._controller.renting.providers
            if not isinstance(provider, str) or provider not in known_ones:
                known = ", ".join(known_ones)
                raise BadInput("no such provider", str(provider)[:40], f"it has: {known}")
            self._controller.ledger.reset(provider)
        else:
            self._controller.deciding = True
        return {"deciding": self._controller.deciding}

    def stop(self, _: Mapping[str, object]) -> dict[str, object]:
        """Rent nothing more; what is rented goes its way."""
        self._controller.deciding = False
        return {"deciding": False}

    def drain(self, payload: Mapping[str, object]) -> dict[str, object]:
        """Let bursts go as soon as what runs on them has ended: one by name; or all, and then
        nothing more is rented until ``start``."""
        wanted = payload.get("burst")
        book = self._controller.ledger.book
        if wanted is None:
            names = sorted(book.bursts)
            self._controller.deciding = False
        elif isinstance(wanted, str) and wanted in book.bursts:
            names = [wanted]
        else:
            raise BadInput("no such burst", str(wanted)[:60], "see flux-flex burst list")
        for name in names:
            self._controller.let_go(name, REASON)
        return {"bursts": names, "deciding": self._controller.deciding}


def _left(moment_s: float | None, now_s: float) -> float | None:
    """Seconds from now; None for what is not in sight."""
    return None if moment_s is None or moment_s == float("inf") else max(0.0, moment_s - now_s)


def _entry(entry: Entry, now_s: float) -> dict[str, object]:
    return {
        "burst": entry.burst,
        "state": entry.state.value,
        "provider": entry.provider,
        "type": entry.rental.type,
        "nodes": entry.rental.nodes,
        "hosts": list(entry.rental.hosts),
        "jobs": [f58(job) for job in entry.jobs],
        "user": entry.user,
        "since": entry.intended_s,
        "cost_per_hour": entry.cost_per_hour_usd,
        "cost": entry.cost_usd(0.0, now_s),
        "reason": entry.reason,
    }
