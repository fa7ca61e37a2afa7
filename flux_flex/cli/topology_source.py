"""Where ``flux-flex topology`` gets its answers: from EC2, its cache, files, or the site."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flux_flex.cli import printable
from flux_flex.cli.console import console
from flux_flex.config import TopologyConfig, load_config
from flux_flex.errors import BadInput
from flux_flex.host.instance import Instance
from flux_flex.model.duration import format_duration, parse_duration
from flux_flex.model.jgf import parse_jgf
from flux_flex.model.rv1 import parse_r
from flux_flex.simulate.files import read_json
from flux_flex.topology.answers import Answers, merged, read_answers
from flux_flex.topology.mapping import Network, network_of_hosts, network_of_instances
from flux_flex.topology.site import read_host_map, site_answers

_FILTER_REMEDY = "write NAME=VALUE[,VALUE…], such as tag:cluster=blue"


@dataclass(frozen=True)
class Source:
    """What EC2 answered, and the network that it makes of the hosts in question."""

    answers: Answers
    network: Network


def read_source(
    options: argparse.Namespace,
    hosts: Sequence[str] | None,
    instance: Instance | None = None,
    *,
    site: bool = False,
) -> Source:
    """The network of ``hosts``; of all instances that are asked for where that is None.

    With ``site``, EC2 is not asked: files that are given, or what the site knows itself. Raises
    BadInput, and FlexError for what EC2 refuses.
    """
    config = load_config().topology
    if not site:
        _refuse_what_means_nothing(options, hosts)
    host_map = read_host_map(options.host_map or config.host_map)
    if options.offline:
        answers = _offline(options, hosts)
    elif site:
        known = site_answers(config, instance)
        if known is None:
            what = "nothing is known of the network here"
            remedy = "give --offline FILE, or write that file with flux-flex topology fetch"
            raise BadInput(what, config.file, remedy)
        answers = known
    else:
        answers = _asked(options, config, [host_map.get(host, host) for host in hosts or ()])
    if hosts is None:
        network = network_of_instances(answers, options.names, host_map)
    else:
        network = network_of_hosts(answers, hosts, host_map)
    if not network.places:
        what = "no instance has a place on the network"
        remedy = "look at the names of hosts and instances; give --host-map where they differ"
        raise BadInput(what, "topology", remedy)
    return Source(answers, network)


def read_hosts(document: object) -> list[str] | None:
    """The hosts of an R or the nodes of a JGF; None for None. Raises BadInput."""
    if document is None:
        return None
    if isinstance(document, Mapping) and "execution" in document:
        return [target.host for target in parse_r(document).ranks]
    graph = parse_jgf(document)
    return [graph.names[node] for node in graph.once(graph.of_type("node"))]


def _refuse_what_means_nothing(options: argparse.Namespace, hosts: Sequence[str] | None) -> None:
    """Raise BadInput for an option that would be ignored beside another."""
    if options.offline:
        for name in ("filter", "region", "profile", "max_age"):
            if getattr(options, name):
                what = "files are read, and EC2 is not asked"
                place = f"--{name.replace('_', '-')}"
                raise BadInput(what, place, "leave it out, or --offline")
    if hosts is not None:
        for name in ("instance", "group"):
            if getattr(options, name):
                what = "an R or a JGF says already which hosts are wanted"
                raise BadInput(what, f"--{name}", "leave it out; use --host-map for host names")


# -- from files ----------------------------------------------------------------------------------


def _offline(options: argparse.Namespace, hosts: Sequence[str] | None) -> Answers:
    answers = read_answers([(name, read_json(Path(name))) for name in options.offline])
    if hosts is not None or not (options.instance or options.group):
        return answers
    unknown = [one for one in options.instance if one not in answers.located]
    if unknown:
        what = f"the files do not say where {unknown[0][:60]!r} sits"
        raise BadInput(what, "--instance", "record the topology of this instance too")
    groups = set(options.group)
    return answers.only(
        one.instance_id
        for one in answers.located.values()
        if one.instance_id in options.instance or one.group in groups
    )


# -- from EC2 ------------------------------------------------------------------------------------


def _asked(options: argparse.Namespace, config: TopologyConfig, hosts: Sequence[str]) -> Answers:
    """What EC2 says, in each of the regions and accounts that are named."""
    from flux_flex.topology.aws import Account, NothingFound, Selection
    from flux_flex.topology.cache import cached_fetch, default_folder

    profiles = options.profile or [config.profile]
    regions = options.region or [config.region]
    accounts = [Account(*pair) for pair in itertools.product(profiles, regions)]
    # An id is in one of several regions, and unknown in the others.
    required = tuple(options.instance) if len(accounts) == 1 else ()
    selection = Selection(
        instance_ids=required,
        groups=tuple(options.group),
        filters=tuple(_filters(options.filter)),
        hosts=(*hosts, *(() if required else options.instance)),
    )
    folder = Path(config.cache) if config.cache else default_folder()
    most_s = config.cache_age if options.max_age is None else parse_duration(options.max_age)
    found: list[Answers] = []
    with _progress() as progress:
        for account in accounts:
            try:
                fetched = cached_fetch(
                    selection, account, folder=folder, max_age_s=most_s, now=time.time,
                    progress=progress,
                )  # fmt: skip
            except NothingFound:
                # One region of several may have none of them.
                if account is accounts[-1] and not found:
                    raise
                continue
            if fetched.age_s is not None:
                age = format_duration(fetched.age_s)
                text = f"EC2's answer of {age} ago, from the cache; --max-age 0 asks again"
                print(f"flux-flex: {printable(text)}", file=sys.stderr)  # noqa: T201
            found.append(fetched.answers)
    answers = merged(found)
    unknown = [one for one in options.instance if one not in answers.instances]
    if unknown:
        what = f"no region or account that was asked has {unknown[0][:60]}"
        raise BadInput(what, "--instance", "check the id, --region and --profile")
    return answers


def _filters(texts: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for text in texts:
        name, sign, values = text.partition("=")
        if not (name and sign and values):
            raise BadInput(f"{text[:60]!r} is no filter", "--filter", _FILTER_REMEDY)
        yield name, tuple(values.split(","))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress, TaskID

    with Progress(console=console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(printable(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield advance
