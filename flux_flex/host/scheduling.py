"""Which scheduler an instance runs, and whether it lets jobs wait for hosts that are down.

    found = scheduling_of(ask, config)      # ask(topic) answers an RPC, or None where nobody does
    found.policy_of("batch")                # "easy"
    found.waits("batch")                    # True

Fluxion is asked for what it runs with (``sched-fluxion-qmanager.params``), since a policy may
have been given when the module was loaded. One that does not answer that goes by the
configuration. Names are those of flux-sched 0.54, flux-config-sched-fluxion-qmanager(5), and of
flux-core 0.88; which of them let such jobs wait was seen on these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

QMANAGER = "sched-fluxion-qmanager"
PARAMS = f"{QMANAGER}.params"
# It has what `flux module list` shows.
MODULES = "module.list"

# The schedulers that come with flux-core: none of them refuses a job for hosts that are down.
_CORE: Mapping[str, str] = {
    "sched-simple": "fcfs", "sched-fifo": "fcfs", "sched-backfill": "easy",
}  # fmt: skip
# What fluxion does without being told.
_DEFAULT = "fcfs"
# The queue that fluxion has where none is configured.
_UNNAMED = "default"

Ask = Callable[[str], Mapping[str, object] | None]


@dataclass(frozen=True, slots=True)
class Scheduling:
    """The scheduler of an instance.

    scheduler      the module that schedules; empty where there is none
    policy         fcfs, easy, conservative or hybrid; empty for a scheduler that is not known
    own            the policies of queues that have their own, by name
    parents        the queues that virtual queues (RFC 33) are part of
    default_queue  the queue of jobs that name none; empty without one
    """

    scheduler: str
    policy: str
    own: Mapping[str, str] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    default_queue: str = ""

    def policy_of(self, queue: str = "") -> str:
        """The policy of a queue; without a name, that of jobs that name none."""
        name = queue or self.default_queue or _UNNAMED
        return self.own.get(self.parents.get(name, name), self.policy)

    def waits(self, queue: str = "") -> bool | None:
        """Whether jobs of a queue wait for hosts that are down; None where that is not known."""
        if self.scheduler in _CORE:
            return True
        return self.policy_of(queue) != "fcfs" if self.scheduler == QMANAGER else None


def scheduling_of(ask: Ask, config: Mapping[str, object]) -> Scheduling | None:
    """The scheduler of an instance with this configuration; None where nobody may be asked.

    ``ask`` may raise; what it raises is not caught here.
    """
    modules = ask(MODULES)
    if modules is None:
        return None
    scheduler = _scheduler_in(modules)
    default = _below(config, "policy", "jobspec", "defaults", "system", "queue")
    queues = _below(config, "queues")
    parents = {
        name: parent
        for name, queue in (queues.items() if isinstance(queues, Mapping) else ())
        if isinstance(parent := _below(queue, "parent"), str)
    }
    policy, own = _CORE.get(scheduler, ""), dict[str, str]()
    if scheduler == QMANAGER:
        policy, own = _policies(_below(ask(PARAMS), "params"), _below(config, QMANAGER))
    return Scheduling(scheduler, policy, own, parents, default if isinstance(default, str) else "")


def _scheduler_in(modules: Mapping[str, object]) -> str:
    """The module that provides the service ``sched``."""
    listed = modules.get("mods")
    for module in listed if isinstance(listed, list) else ():
        services, name = _below(module, "services"), _below(module, "name")
        if isinstance(services, list) and "sched" in services and isinstance(name, str):
            return name
    return ""


def _policies(params: object, configured: object) -> tuple[str, dict[str, str]]:
    """Fluxion's policy, and those of its queues: what it says, or else what is configured."""
    key = "queue-policy"
    if isinstance(params, Mapping):
        own = {
            name: policy
            for name, queue in params.items()
            if isinstance(policy := _below(queue, key), str)
        }
        policy = params.get(key)
    else:
        policy = _below(configured, key)
        per_queue = str(_below(configured, "queue-policy-per-queue") or "")
        pairs = (entry.partition(":") for entry in per_queue.split())
        own = {name: of_queue for name, _, of_queue in pairs if of_queue}
    return policy if isinstance(policy, str) else _DEFAULT, own


def _below(table: object, *keys: str) -> object:
    """The value below the keys, or None."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table
