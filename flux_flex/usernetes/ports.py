"""Leases: which cluster of this host has which ports and which subnet.

    leases = Leases(state, config.port_range, config.subnets)
    ports = leases.ports("2QT1HSJy5.0", 4, same_for="2QT1HSJy5")    # bindable just now
    subnet = leases.subnet("2QT1HSJy5.0", index=0, of=2)
    leases.release("2QT1HSJy5.0")

All of them stand in one file under one lock. A lease whose cluster has no folder any more is
void, so nothing has to be tidied up after a crash. What other programs of the host use is seen
by trying to bind, which can only tell of this moment: a port may be taken before it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flux_flex.errors import FlexError
from flux_flex.usernetes.state import State, write_json

_ROUTES = Path("/proc/net/route")
_NODE_PREFIX = 24


class PortTaken(FlexError):
    """A port that was asked for by number has another user."""


@dataclass
class _Table:
    ports: dict[int, str] = field(default_factory=dict)
    subnets: dict[str, str] = field(default_factory=dict)

    def without(self, owner: str) -> _Table:
        return _Table(
            {port: name for port, name in self.ports.items() if name != owner},
            {subnet: name for subnet, name in self.subnets.items() if name != owner},
        )


class Leases:
    """The leases of one host, out of ``pool`` and ``network`` of its configuration."""

    def __init__(self, state: State, pool: range, network: str) -> None:
        self._state = state
        self._pool = pool
        self._network = ipaddress.IPv4Network(network)

    def ports(
        self, owner: str, count: int, *, same_for: str, avoid: Iterable[int] = ()
    ) -> tuple[int, ...]:
        """Lease ``count`` ports that nobody uses, and give back those that ``owner`` had.

        ``same_for`` is what the search begins from: nodes that begin alike are likely to find
        alike. Raises FlexError where fewer are free.
        """
        refused = set(avoid)
        with self._table() as table:
            table.ports = table.without(owner).ports
            free = (p for p in self._from(same_for) if p not in table.ports and p not in refused)
            found = [port for port, _ in zip(_bindable(free), range(count))]  # noqa: B905
            if len(found) < count:
                raise FlexError(
                    f"{count} ports are wanted, {len(found)} are free",
                    f"ports {self._pool.start}-{self._pool.stop - 1}",
                    "widen usernetes.ports in flex.toml",
                )
            table.ports.update(dict.fromkeys(found, owner))
        return tuple(found)

    def exactly(self, owner: str, ports: Sequence[int]) -> None:
        """Lease these ports, and give back others that ``owner`` had. Raises PortTaken."""
        with self._table() as table:
            table.ports = table.without(owner).ports
            for port in ports:
                if port in table.ports:
                    raise PortTaken(f"leased by {table.ports[port]}", f"port {port}")
                if not is_free(port):
                    raise PortTaken("another program uses it", f"port {port}")
            table.ports.update(dict.fromkeys(ports, owner))

    def subnet(self, owner: str, *, index: int, of: int, avoid: Iterable[str] = ()) -> str:
        """Lease a /24 for node ``index`` of a cluster of ``of`` nodes.

        The nodes of a cluster must have different subnets without asking each other, so each
        takes from a share of its own. Raises FlexError where none of the share is free.
        """
        count = 1 << (_NODE_PREFIX - self._network.prefixlen)
        mine = range(index, count, of) if index < count else range(0)
        base = int(self._network.network_address)
        with self._table() as table:
            table.subnets = table.without(owner).subnets
            used = [*_routes(), *map(ipaddress.IPv4Network, (*table.subnets, *avoid))]
            first = _spread(owner) % len(mine) if mine else 0
            for number in [*mine[first:], *mine[:first]]:
                candidate = ipaddress.IPv4Network((base + (number << 8), _NODE_PREFIX))
                if not any(candidate.overlaps(other) for other in used):
                    table.subnets[str(candidate)] = owner
                    return str(candidate)
        raise FlexError(
            f"no subnet is free for node {index + 1} of {of}",
            f"subnets {self._network}",
            "widen usernetes.subnets in flex.toml",
        )

    def release(self, owner: str) -> None:
        """Give back whatever ``owner`` has."""
        with self._table() as table:
            table.ports, table.subnets = table.without(owner).ports, table.without(owner).subnets

    @contextmanager
    def _table(self) -> Iterator[_Table]:
        """The table under its lock; written back if it was changed. Locked for milliseconds."""
        path = self._state.folder / "leases.json"
        descriptor = os.open(self._state.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            table = self._read(path)
            before = (dict(table.ports), dict(table.subnets))
            yield table
            if (table.ports, table.subnets) != before:
                write_json(path, {"ports": table.ports, "subnets": table.subnets})
        finally:
            os.close(descriptor)

    def _read(self, path: Path) -> _Table:
        try:
            document = json.loads(path.read_bytes())
            ports = {int(port): str(owner) for port, owner in document["ports"].items()}
            subnets = {
                str(ipaddress.IPv4Network(n)): str(o) for n, o in document["subnets"].items()
            }
        except FileNotFoundError:
            return _Table()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            remedy = "remove it once no cluster is up on this host"
            raise FlexError(f"not a table of leases: {error}"[:200], str(path), remedy) from None
        live = set(self._state.names())
        return _Table(
            {port: owner for port, owner in ports.items() if owner in live},
            {subnet: owner for subnet, owner in subnets.items() if owner in live},
        )

    def _from(self, start: str) -> Iterator[int]:
        """The pool once around, from a place that depends on ``start``."""
        first = _spread(start) % len(self._pool)
        yield from self._pool[first:]
        yield from self._pool[:first]


def is_free(port: int) -> bool:
    """Whether a TCP and a UDP socket of this host could take a port just now."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            # As engines do: what only lingers from connections that are closed is no user.
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - nothing listens
            except OSError:
                return False
    return True


def _bindable(ports: Iterable[int]) -> Iterator[int]:
    return (port for port in ports if is_free(port))


def _spread(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _routes() -> list[ipaddress.IPv4Network]:
    """The networks that this host has a route to, the default one aside."""
    try:
        lines = _ROUTES.read_text(encoding="ascii").splitlines()[1:]
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        words = line.split()
        if len(words) > 7 and words[1] != "00000000":
            address, mask = (int.from_bytes(bytes.fromhex(words[n])[::-1], "big") for n in (1, 7))
            prefix = bin(mask).count("1")
            found.append(ipaddress.IPv4Network((address & mask, prefix)))
    return found
