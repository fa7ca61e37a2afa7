"""The network as Slurm's topology.conf, for its plugins topology/tree and topology/block.

https://slurm.schedmd.com/topology.conf.html: a leaf switch has ``Nodes``, any other ``Switches``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from flux_flex.model.hostlist import format_hostlist
from flux_flex.model.network import NetworkTree

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")

# The switch above all, and that of hosts of which only the zone is known.
_TOP = "ec2"
_SUFFIX = "-unplaced"


def slurm_conf(tree: NetworkTree) -> str:
    """The whole file: one line for each switch, and one for each accelerator domain.

    One switch stands above all, since Slurm runs no job on nodes that nothing connects.
    """
    lines = ["# Written by flux-flex: where EC2 instances sit on the network."]
    lines += _switches(tree)
    lines += [
        f"BlockName={_name(block)} Nodes={format_hostlist(hosts)}"
        for block, hosts in tree.domains.items()
    ]
    return "\n".join(lines) + "\n"


def _switches(tree: NetworkTree) -> Iterator[str]:
    below: dict[str, list[str]] = {_TOP: []}
    hosts: dict[str, list[str]] = {}
    trail = [_TOP]  # trail[d] is what a branch of depth d hangs from
    for branch in tree:
        if branch.kind == "host":
            hosts.setdefault(trail[branch.depth], []).append(branch.name)
            continue
        del trail[branch.depth + 1 :]
        name = _name(branch.name)
        below[trail[-1]].append(name)
        below[name] = []
        trail.append(name)
    for name, switches in below.items():
        members = hosts.get(name, [])
        if members and switches:  # a switch of Slurm has nodes or switches
            switches = [*switches, name + _SUFFIX]
            yield f"SwitchName={name}{_SUFFIX} Nodes={format_hostlist(members)}"
        if switches:
            yield f"SwitchName={name} Switches={format_hostlist(switches)}"
        elif members:
            yield f"SwitchName={name} Nodes={format_hostlist(members)}"


def _name(text: str) -> str:
    """A switch's name: Slurm separates with what zones and ids never have, but files may."""
    return _UNFIT.sub("_", text)
