"""The network as Slurm's topology.conf, for its plugins topology/tree and topology/block.

https://slurm.schedmd.com/topology.conf.html: a leaf switch has ``Nodes``, any other ``Switches``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from flux_flex.model.hostlist import format_hostlist
from flux_flex.model.network import NetworkTree

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")

# The switch above all, and that of hosts of which only the zone is known.
_TOP = "ec2"
_SUFFIX = "-unplaced"


def slurm_conf(tree: NetworkTree) -> str:
    """The whole file: one line for each switch, and one for each accelerator domain.

    One switch stands above all, since Slurm runs no job on nodes that nothing connects. Where two
    names come to be one, the later has -2, -3 … at its end.
    """
    lines = ["# Written by flux-flex: where EC2 instances sit on the network."]
    lines += _switches(tree)
    blocks = _Names()
    blocks.take(tree.domains)
    lines += [
        f"BlockName={blocks.of[block]} Nodes={format_hostlist(hosts)}"
        for block, hosts in tree.domains.items()
    ]
    return "\n".join(lines) + "\n"


def _switches(tree: NetworkTree) -> Iterator[str]:
    branches = list(tree)
    names = _Names(_TOP)
    names.take(branch.name for branch in branches if branch.kind != "host")
    below: dict[str, list[str]] = {_TOP: []}
    hosts: dict[str, list[str]] = {}
    trail = [_TOP]  # trail[d] is what a branch of depth d hangs from
    for branch in branches:
        if branch.kind == "host":
            hosts.setdefault(trail[branch.depth], []).append(branch.name)
            continue
        del trail[branch.depth + 1 :]
        name = names.of[branch.name]
        below[trail[-1]].append(name)
        below[name] = []
        trail.append(name)
    for name, switches in below.items():
        members = hosts.get(name, [])
        if members and switches:  # a switch of Slurm has nodes or switches
            apart = names.free(name + _SUFFIX)
            switches = [*switches, apart]
            yield f"SwitchName={apart} Nodes={format_hostlist(members)}"
        if switches:
            yield f"SwitchName={name} Switches={format_hostlist(switches)}"
        elif members:
            yield f"SwitchName={name} Nodes={format_hostlist(members)}"


class _Names:
    """The names that Slurm knows things by, each given once.

    of    what each network node, zone or block is called
    """

    def __init__(self, *used: str) -> None:
        self.of: dict[str, str] = {}
        self._used = set(used)

    def take(self, texts: Iterable[str]) -> None:
        """Name all of these; those that need no change come first, so that they keep theirs."""
        for text in sorted(texts, key=lambda text: _fit(text) != text):
            self.of[text] = self.free(_fit(text))

    def free(self, wanted: str) -> str:
        """``wanted``, or with a number at its end; taken from now on."""
        name, number = wanted, 1
        while name in self._used:
            number += 1
            name = f"{wanted}-{number}"
        self._used.add(name)
        return name


def _fit(text: str) -> str:
    """A switch's name: Slurm separates with what zones and ids never have, but files may."""
    return _UNFIT.sub("_", text)
