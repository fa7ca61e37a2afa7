"""Where rented nodes come from: five methods, one file for each provider.

    class Provider:
        def types(self) -> Sequence[NodeType]                 what it rents, with prices
        def request(self, rental: Rental) -> None             begin; a second time changes nothing
        def observe(self) -> Sequence[Observed]               all that is there, whoever asked
        def release(self, burst: str) -> None                 undo; a second time changes nothing
        def close(self) -> None                               let go of connections

``request`` and ``release`` return as soon as the other side has taken them on; :meth:`observe`
tells what became of it. They may take long and are called off the broker's reactor, one at a time
for each burst. Everything that a provider makes carries the burst's id as a label or tag, so that
:meth:`observe` finds it without the ledger.

Third parties add a provider by the entry point group ``flux_flex.providers``: its name is the
provider's, its object is called with the decoded table ``[burst.NAME]`` of flex.toml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from flux_flex.burst.catalog import NodeType
from flux_flex.errors import FlexError

ENTRY_POINTS = "flux_flex.providers"


@dataclass(frozen=True, slots=True)
class Rental:
    """What is to be rented.

    burst   its id, which is also the name of its slot in the instance's list of hosts
    type    name of the node type
    hosts   one for each node: what its broker is called, which the lead broker lists as down
    jobs    ids (F58) of the jobs that it is for, for people
    """

    burst: str
    type: str
    hosts: tuple[str, ...]
    jobs: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        return len(self.hosts)


class Phase(str, Enum):
    """How far a burst is, on the provider's side."""

    COMING = "coming"
    READY = "ready"
    LEAVING = "leaving"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Observed:
    """A burst as the provider has it; ``reason`` says for people why it waits or has failed.

    ``no_capacity`` tells a type that cannot be had now from what would fail again at once.
    """

    burst: str
    phase: Phase
    nodes: int = 0
    reason: str = ""
    no_capacity: bool = False


class NoCapacity(FlexError):
    """The provider has no nodes of this type now; another type, or later, may do."""


class Provider(Protocol):
    """What the controller asks of a provider; see the module. All methods raise FlexError."""

    def types(self) -> Sequence[NodeType]:
        """The node types that it rents, with their prices."""
        ...

    def request(self, rental: Rental) -> None:
        """Begin to rent. Again with the same burst: nothing more is rented. Raises NoCapacity."""
        ...

    def observe(self) -> Sequence[Observed]:
        """Every burst of this instance that is there in any phase, found by label or tag."""
        ...

    def release(self, burst: str) -> None:
        """Begin to take a burst away, with all that was made for it; nothing if it is not there."""
        ...

    def close(self) -> None:
        """Let go of connections; what is rented stays."""
        ...
