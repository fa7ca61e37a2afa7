"""The network as a Graphviz graph: network nodes as boxes, hosts folded under their leaf.

https://graphviz.org/doc/info/lang.html
"""

from __future__ import annotations

from flux_flex.model.hostlist import format_hostlist
from flux_flex.model.network import NetworkTree


def dot(tree: NetworkTree) -> str:
    """One box for each zone and network node; the hosts of a leaf share one, as a hostlist."""
    lines = ["digraph topology {", "  rankdir=TB;", '  node [shape=box, fontname="sans-serif"];']
    trail: list[str] = []
    hosts: dict[str, list[str]] = {}
    for branch in tree:
        if branch.kind == "host":
            hosts.setdefault(trail[branch.depth - 1], []).append(branch.name)
            continue
        del trail[branch.depth :]
        lines.append(
            f"  {_quoted(branch.name)} [label={_quoted(_label(branch.name, branch.kind))}];"
        )
        if trail:
            lines.append(f"  {_quoted(trail[-1])} -> {_quoted(branch.name)};")
        trail.append(branch.name)
    for above, names in hosts.items():
        leaf = _quoted(f"hosts of {above}")
        lines.append(f"  {leaf} [shape=note, label={_quoted(format_hostlist(names))}];")
        lines.append(f"  {_quoted(above)} -> {leaf};")
    return "\n".join([*lines, "}"]) + "\n"


def _label(name: str, kind: str) -> str:
    return name if kind == "network node" else f"{kind} {name}"


def _quoted(text: str) -> str:
    """A quoted ID of the DOT language, in which a backslash would begin an escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
