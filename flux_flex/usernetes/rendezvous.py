"""Where lead and workers meet: an eventlog in the KVS, which only the instance owner can read.

    ports     lead      which ports the cluster has (attempt, ports)
    taken     anybody   a port of that attempt cannot be had here (attempt, port)
    join      lead      how to join, and the kubeconfig (attempt, invitation, kubeconfig)
    joined    worker    it has joined (attempt)
    ready     lead      all are in
    failed    anybody   what failed: the others stop

Everybody reads the log from its beginning, so nobody can come too late for an event; nobody
compares the clocks of hosts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from flux_flex.errors import FlexError
from flux_flex.host.instance import Event, EventStream, Instance

_LISTENING_S = 0.5


class Aborted(FlexError):
    """Another node failed, and said so."""


class Rendezvous:
    """One node's view of the log under ``key``."""

    def __init__(self, instance: Instance, key: str, rank: int) -> None:
        self._instance = instance
        self._key = key
        self._rank = rank
        self._stream: EventStream = instance.watch(key)
        self._waiting: deque[Event] = deque()

    def post(self, name: str, **context: object) -> None:
        """Tell the others."""
        self._instance.post(self._key, name, {"rank": self._rank, **context})

    def next(self, timeout_s: float) -> Event | None:
        """The next event, or None if none came in time. Raises Aborted if it is a failure."""
        return self._waiting.popleft() if self._waiting else self._received(timeout_s)

    def pause(self, seconds: float) -> None:
        """Let time pass. Events that come are kept for later; a failure ends it at once."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            event = self._received(rest)
            if event is not None:
                self._waiting.append(event)

    def has_failed(self) -> bool:
        """Whether another node has said that it failed.

        It says so before Flux ends the others, but Flux may be the faster one by a moment.
        """
        try:
            while self._received(_LISTENING_S) is not None:
                pass
        except Aborted:
            return True
        return False

    def _received(self, timeout_s: float) -> Event | None:
        event = self._stream.next(timeout_s)
        if event is not None and event.name == "failed" and rank_of(event) != self._rank:
            raise Aborted(str(event.context.get("note", "no reason"))[:1000], "another node failed")
        return event


def rank_of(event: Event) -> int:
    """Who posted an event; -1 where it does not say."""
    rank = event.context.get("rank")
    return rank if isinstance(rank, int) and not isinstance(rank, bool) else -1


def attempt_of(event: Event) -> int:
    """Which attempt an event is about; 0 where it does not say."""
    attempt = event.context.get("attempt")
    return attempt if isinstance(attempt, int) and not isinstance(attempt, bool) else 0


def ports_in(event: Event) -> dict[str, int]:
    """The ports that an event names. Raises FlexError where it names none."""
    ports = event.context.get("ports")
    if not isinstance(ports, Mapping) or not all(
        isinstance(name, str) and type(port) is int and 0 < port < 65536
        for name, port in ports.items()
    ):
        raise FlexError("an event without ports", event.name)
    return dict(ports)
