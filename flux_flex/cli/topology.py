"""``flux-flex topology``: fetch where instances sit, show it, and tell a running instance."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_flex.cli import say
from flux_flex.cli.output import write_out
from flux_flex.cli.topology_source import Source, counted, read_hosts, read_source
from flux_flex.errors import BadInput
from flux_flex.host.flux_instance import FluxInstance, enclosing_instance
from flux_flex.simulate.files import read_json, write_all
from flux_flex.topology.annotate import annotated_r, graph_document_of_r, merged_jgf, write
from flux_flex.topology.mapping import Network

# How many hosts without a place are named before the rest is only counted.
_MOST_NAMED = 20


def run(options: argparse.Namespace) -> int:
    """Run an action: 0, or BadInput or FlexError."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "fetch": _fetch,
        "show": _show,
        "tell": _tell,
    }
    return actions[options.action](options)


# -- fetch ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """What the topology is to be merged into, decoded: an R or a JGF, or neither."""

    R: Mapping[str, object] | None = None
    jgf: Mapping[str, object] | None = None
    place: str = ""


def _fetch(options: argparse.Namespace) -> int:
    if options.no_scheduling and options.format != "r":
        what = f"the format {options.format} has no scheduling key"
        raise BadInput(what, "--no-scheduling", "leave it out, or give --format r")
    base = _base(options)
    source = read_source(options, _hosts(base))
    _complain(source.network, strict=options.strict)
    try:
        text = _text(options, source, base)
    except BadInput as error:
        raise error.at(base.place) if base.place else error from None
    if options.file and options.file != "-":
        write_all([(Path(options.file), text)])
        say(f"{counted(len(source.network.places), 'host')} written to {options.file}")
    else:
        write_out(text)
    return 0


def _base(options: argparse.Namespace) -> _Base:
    given = [name for name in ("r", "jgf", "live") if getattr(options, name)]
    if len(given) > 1:
        what = f"--{given[0]} and --{given[1]} both say which hosts there are"
        raise BadInput(what, "topology fetch", "give one of them")
    if options.live:
        from flux_flex.topology.live import whole_r

        return _Base(R=whole_r(FluxInstance()), place="the running instance")
    path = options.r or options.jgf
    if not path:
        return _Base()
    document = read_json(Path(path))
    if not isinstance(document, dict):
        raise BadInput("no JSON object", path, "give an R (RFC 20) or a JGF")
    return _Base(R=document, place=path) if options.r else _Base(jgf=document, place=path)


def _hosts(base: _Base) -> list[str] | None:
    """The hosts of what is merged into; None where all instances are wanted."""
    try:
        return read_hosts(base.R if base.R is not None else base.jgf)
    except BadInput as error:
        raise error.at(base.place) from None


def _text(options: argparse.Namespace, source: Source, base: _Base) -> str:
    network = source.network
    if options.format == "aws":
        return _json(source.answers.only(p.instance_id for p in network.places).document())
    if options.format == "r" and base.R is not None:
        return _json(annotated_r(base.R, network, scheduling=not options.no_scheduling))
    if options.format == "jgf" and base.R is not None:
        return _json(graph_document_of_r(base.R, network))
    if options.format == "jgf" and base.jgf is not None:
        return _json(merged_jgf(base.jgf, network))
    if options.format == "r" and base.jgf is not None:
        raise BadInput("a JGF cannot become an R", "--jgf", "give --r, or another --format")
    return write(options.format, network)


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"


def _complain(network: Network, *, strict: bool) -> None:
    """Name the hosts that have no place. Raises BadInput with ``strict``."""
    if network.unmapped:
        say(f"no place known: {_listed(network.unmapped)}")
    for host, ids in list(network.claimed.items())[:_MOST_NAMED]:
        say(f"several instances are called {host}: {_listed(ids)}")
    missing = [*network.unmapped, *network.claimed]
    if strict and missing:
        remedy = "name their instances with --host-map, or leave --strict out"
        have = "has" if len(missing) == 1 else "have"
        raise BadInput(f"{counted(len(missing), 'host')} {have} no place", "--strict", remedy)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


# -- show and tell -------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    from flux_flex.cli.topology_show import show
    from flux_flex.topology.standing import EMPTY, standing_of

    if options.r and options.live:
        what = "--r and --live both say which hosts there are"
        raise BadInput(what, "topology show", "give one of them")
    if options.svg == "-":
        what = "a picture is not written to standard output, where the tree goes"
        raise BadInput(what, "--svg", "name a file")
    instance = None if options.r else enclosing_instance()
    if options.live and instance is None:
        instance = FluxInstance()  # which says why there is none
    if options.job and instance is None:
        raise BadInput("no running instance to ask", "--job", "run inside an instance")
    R = read_json(Path(options.r)) if options.r else instance.resources() if instance else None
    source = read_source(options, read_hosts(R), instance, site=True)
    return show(source.network, standing_of(instance) if instance else EMPTY, options)


def _tell(options: argparse.Namespace) -> int:
    from flux_flex.topology.live import refuses_unknown_properties, tell

    instance = FluxInstance()
    source = read_source(options, read_hosts(instance.resources()), instance)
    _complain(source.network, strict=options.strict)
    told = tell(instance, source.answers, source.network)
    hosts = counted(len(source.network.places), "host")
    say(f"{hosts} told to the instance's key-value store")
    if told is None:
        say("this scheduler takes properties from R only: see docs/topology.md, resource.path")
    else:
        say(f"{counted(told, 'property', 'properties')} set in fluxion")
        if refuses_unknown_properties(instance):
            say("ingest.validator.plugins has feasibility, which refuses jobs that require them")
            say("put them in R instead: see docs/topology.md, resource.path")
    return 0
