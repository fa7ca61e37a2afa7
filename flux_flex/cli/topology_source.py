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
from typing import TYPE_CHECKING

from flux_flex.cli import say
from flux_flex.cli.console import console
from flux_flex.config import TopologyConfig, load_config
from flux_flex.errors import BadInput
from flux_flex.host.instance import Instance
from flux_flex.model.duration import format_duration, parse_duration
from flux_flex.model.jgf import parse_jgf
from flux_flex.model.quoting import printable
from flux_flex.model.rv1 import parse_r
from flux_flex.simulate.files import read_json
from flux_flex.topology.answers import Answers, merged, read_answers
from flux_flex.topology.mapping import Network, network_of_hosts, network_of_instances
from flux_flex.topology.site import read_host_map, site_known

if TYPE_CHECKING:
    from flux_flex.topology.aws import Account, Selection

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
    _refuse_what_means_nothing(options, hosts, site=site)
    host_map = _host_map(options, config)
    if options.offline:
        answers = _offline(options, hosts)
    elif site:
        known = site_known(config, instance)
        if known is None:
            what = "nothing is known of the network here"
            remedy = "give --offline FILE, or write that file with flux-flex topology fetch"
            raise BadInput(what, config.file, remedy)
        answers, told = known
        host_map = {**told, **host_map}
    else:
        answers = _asked(options, config, [host_map.get(host, host) for host in hosts or ()])
    if hosts is None:
        network = network_of_instances(answers, options.names or "dns", host_map)
    else:
        network = network_of_hosts(answers, hosts, host_map)
    if not network.places:
        raise _nowhere(answers, [host_map.get(host, host) for host in network.unmapped])
    return Source(answers, network)


def read_hosts(document: object) -> list[str] | None:
    """The hosts of an R or the nodes of a JGF; None for None. Raises BadInput."""
    if document is None:
        return None
    if isinstance(document, Mapping) and "execution" in document:
        return [target.host for target in parse_r(document).ranks]
    graph = parse_jgf(document)
    return [graph.names[node] for node in graph.once(graph.of_type("node"))]


def counted(number: int, one: str, several: str = "") -> str:
    """``1 host``, ``2 hosts``."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _refuse_what_means_nothing(
    options: argparse.Namespace, hosts: Sequence[str] | None, *, site: bool
) -> None:
    """Raise BadInput for an option that would be ignored beside another."""
    if options.offline and not site:
        for name in ("filter", "region", "profile", "max_age"):
            if getattr(options, name):
                what = "files are read, and EC2 is not asked"
                place = f"--{name.replace('_', '-')}"
                raise BadInput(what, place, "leave it out, or --offline")
    if hosts is not None:
        for name in ("instance", "group", "names"):
            if getattr(options, name):
                say = "what hosts are called" if name == "names" else "which hosts are wanted"
                what = f"an R or a JGF says already {say}"
                raise BadInput(what, f"--{name}", "leave it out; use --host-map for host names")


def _host_map(options: argparse.Namespace, config: TopologyConfig) -> dict[str, str]:
    """The instance ids of hosts. Who gives a file trusts it; that of flex.toml is read by prologs
    too, so nobody else may be able to write it."""
    if not options.host_map:
        return read_host_map(config.host_map)
    found = read_json(Path(options.host_map))
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        remedy = 'write {"compute0": "i-0123456789abcdef0"}'
        raise BadInput("no map of hosts", options.host_map, remedy)
    return found


def _nowhere(answers: Answers, names: Iterable[str]) -> BadInput:
    """Why none of the hosts, whose names or instance ids are given, has a place."""
    wanted = set(names)
    types = {one.instance_type for one in answers.instances.values()
             if not one.is_gone and one.names & wanted}  # fmt: skip
    if types and types <= set(answers.types_without_topology()):
        shown = ", ".join(sorted(types)[:5]) + (", …" if len(types) > 5 else "")
        remedy = "see docs/topology.md, Regions; if they started just now, try --max-age 0 later"
        return BadInput(f"EC2 has no topology for {shown}", "topology", remedy)
    what = "no instance has a place on the network"
    remedy = "look at the names of hosts and instances; give --host-map where they differ"
    return BadInput(what, "topology", remedy)


# -- from files ----------------------------------------------------------------------------------


def _offline(options: argparse.Namespace, hosts: Sequence[str] | None) -> Answers:
    answers = read_answers([(name, read_json(Path(name))) for name in options.offline])
    if hosts is not None or not (options.instance or options.group):
        return answers
    located = answers.located
    unknown = [one for one in options.instance if one not in located]
    if unknown:
        what = f"the files do not say where {unknown[0][:60]!r} sits"
        raise BadInput(what, "--instance", "record the topology of this instance too")
    groups = set(options.group)
    empty = groups - {one.group for one in located.values()}
    if empty:
        what = f"the files have no instance in a placement group {min(empty)[:60]!r}"
        raise BadInput(what, "--group", "check the name, or record the topology of its instances")
    chosen = answers.only(
        i
        for i in (dict.fromkeys(options.instance) or located)
        if not groups or located[i].group in groups
    )
    _refuse_if_left_out(options, chosen.located)
    return chosen


def _refuse_if_left_out(options: argparse.Namespace, found: Iterable[str]) -> None:
    """Raise BadInput for an id that was asked for and is not among those found."""
    left_out = set(options.instance).difference(found)
    if not left_out:
        return
    first = min(left_out)[:60]
    if options.group or options.filter:
        groups = [f"in group {' or '.join(options.group)}"] if options.group else []
        what = f"{first} is not {' with '.join([*groups, *options.filter])}"
        raise BadInput(what, "--instance", "--group and --filter narrow: leave them or the id out")
    what = f"no region or account that was asked has {first}, or it has ended"
    raise BadInput(what, "--instance", "check the id, --region and --profile")


# -- from EC2 ------------------------------------------------------------------------------------


def _asked(options: argparse.Namespace, config: TopologyConfig, hosts: Sequence[str]) -> Answers:
    """What EC2 says, in each of the regions and accounts that are named."""
    from flux_flex.topology.aws import Account, NothingFound
    from flux_flex.topology.cache import cached_fetch, default_folder

    pairs = itertools.product(
        options.profile or [config.profile], options.region or [config.region]
    )
    accounts = [Account(*pair) for pair in pairs]
    selections = _selections(options, hosts, is_one=len(accounts) == 1)
    folder = Path(config.cache) if config.cache else default_folder()
    most_s = config.cache_age if options.max_age is None else parse_duration(options.max_age)
    with _progress() as progress:

        def ask(selection: Selection, account: Account) -> Answers:
            fetched = cached_fetch(
                selection, account, folder=folder, max_age_s=most_s, now=time.time,
                progress=progress,
            )  # fmt: skip
            if fetched.age_s is not None:
                _tell_age(fetched.answers, account, fetched.age_s)
            return fetched.answers

        try:
            answers = _everywhere(ask, selections, accounts)
        except NothingFound:
            # Of one account only ids that exist get so far.
            if options.group or options.filter:
                _refuse_if_left_out(options, ())
            raise
    _refuse_if_left_out(options, answers.instances)
    return answers


def _selections(
    options: argparse.Namespace, hosts: Sequence[str], *, is_one: bool
) -> list[Selection]:
    """What is asked of each account: one question where it ``is_one``.

    Of several, each may have some of the ids and groups: ids need not exist then, and EC2 is asked
    for one group at a time, for it refuses all groups for an unknown one.
    """
    from flux_flex.topology.aws import Selection

    groups = tuple(dict.fromkeys(options.group))
    filters = tuple(_filters(options.filter))
    each = [groups] if is_one or not groups else [(group,) for group in groups]
    required = tuple(options.instance) if is_one else ()
    named = (*hosts, *(() if is_one else options.instance))
    return [Selection(required, some, filters, named) for some in each]


def _everywhere(
    ask: Callable[[Selection, Account], Answers],
    selections: Sequence[Selection],
    accounts: Sequence[Account],
) -> Answers:
    """The answers of all accounts to all questions.

    Raises NothingFound where no account has anything, NoSuchGroup where none has a group: one of
    several accounts may have no instance that is asked for.
    """
    from flux_flex.topology.aws import NoSuchGroup, NothingFound

    found: list[Answers] = []
    empty: list[NothingFound] = []
    for selection in selections:
        unknown: list[NoSuchGroup] = []
        for account in accounts:
            try:
                found.append(ask(selection, account))
            except NoSuchGroup as error:
                unknown.append(error)
            except NothingFound as error:
                empty.append(error)
        if len(unknown) == len(accounts):
            raise unknown[-1]
    if not found:
        raise empty[-1]
    return merged(found)


def _tell_age(answers: Answers, account: Account, age_s: float) -> None:
    regions = sorted({one.region for one in answers.located.values()} - {""})
    place = ", ".join(filter(None, [account.profile, account.region or " ".join(regions)]))
    text = f"EC2's answer of {format_duration(age_s)} ago for {place or 'this account'}, "
    text += "from the cache; --max-age 0 asks again"
    say(text)


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
