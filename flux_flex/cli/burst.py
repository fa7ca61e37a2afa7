"""``flux-flex burst``: run the controller, ask it, and steer it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from flux_flex.burst.service import NAME
from flux_flex.cli.console import console, plain_table, print_json, word
from flux_flex.cli.output import write_out
from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import RpcError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.model.duration import format_duration
from flux_flex.model.jobid import parse_jobid
from flux_flex.model.money import format_usd

Document = Mapping[str, object]


def run(options: argparse.Namespace) -> int:
    """Run an action: 0, or FlexError."""
    if options.action == "serve":
        from flux_flex.cli.burst_serve import serve

        return serve(options)
    if options.action == "configure":
        from flux_flex.cli.burst_configure import configure

        return configure(options)
    if options.action == "reap":
        return _reap(options)
    if options.action == "eksctl-config":
        return _eksctl_config(options)
    document = _asked(options.action, _payload(options))
    if options.json:
        print_json(document)
        return 0
    printers: dict[str, Callable[[Document], None]] = {
        "status": _status,
        "list": _list,
        "explain": _explain,
        "budget": _budget,
        "eventlog": _eventlog,
        "start": lambda answer: _started(answer, options.provider),
        "stop": lambda _: console().print("renting nothing more; what is rented goes its way"),
        "drain": _drained,
    }
    printers[options.action](document)
    return 0


def _reap(options: argparse.Namespace) -> int:
    """Name what the provider has and the ledger does not; with --yes, release it."""
    from flux_flex.burst.ledger import KEY, fold
    from flux_flex.cli.burst_site import naming, open_provider
    from flux_flex.config import config_path, load_config

    instance = FluxInstance()
    site = load_config()
    with naming(config_path()):
        provider = open_provider(site, instance)
    try:
        there = provider.observe()
        # Read after it: the ledger has the intent of each request that could be seen there.
        book = fold(instance.log(KEY))
        orphans = [one for one in there if one.burst not in book.bursts]
        for one in orphans:
            if options.yes:
                provider.release(one.burst)
            did = "released" if options.yes else "not in the ledger"
            console().print(word(f"{one.burst}  {one.nodes} nodes, {one.phase.value}: {did}"))
    finally:
        provider.close()
    if not orphans:
        console().print("nothing is rented that the ledger does not know")
    elif not options.yes:
        console().print("--yes releases them")
    return 0


def _eksctl_config(options: argparse.Namespace) -> int:
    """Print a cluster for `eksctl create cluster`; nothing is made."""
    from flux_flex.burst.eksctl import eksctl_config, groups_of
    from flux_flex.cli.burst_site import cluster_plan, naming, slots_in, types_of
    from flux_flex.config import config_path, load_config

    site = load_config()
    with naming(config_path()):
        plan = cluster_plan(site.burst, options.name, options.region, tuple(options.zones))
        groups = groups_of(slots_in(site), types_of(site))
    write_out(eksctl_config(plan, groups))
    return 0


def _payload(options: argparse.Namespace) -> dict[str, object]:
    if options.action == "explain":
        return {"id": parse_jobid(options.jobid)}
    if options.action == "drain":
        return {"burst": options.burst} if options.burst else {}
    if options.action == "start":
        return {"provider": options.provider} if options.provider else {}
    return {}


def _asked(action: str, payload: Document) -> Document:
    """The service's answer. Raises FlexError for what it refuses, and where it does not run."""
    try:
        answer = FluxInstance().rpc(f"{NAME}.{action}", payload)
    except RpcError as error:
        import errno

        if error.errno == errno.ENOSYS:
            remedy = "start it with flux-flex burst serve, or load the broker module"
            raise FlexError("no controller runs in this instance", NAME, remedy) from None
        raise
    refused = answer.get("error")
    if isinstance(refused, Mapping):
        raise BadInput(*(str(refused.get(key, "")) for key in ("what", "where", "remedy")))
    return answer


# -- printed -------------------------------------------------------------------------------------


def _status(document: Document) -> None:
    out = console()
    bursts, slots = _mapping(document, "bursts"), _mapping(document, "slots")
    told = ", ".join(f"{count} {state}" for state, count in bursts.items() if count) or "none"
    rate = format_usd(_number(document, "cost_per_hour"))
    out.print(word(f"bursts     {told}; {document.get('nodes')} nodes, {rate}/h"))
    out.print(word(f"slots      {slots.get('free')} of {slots.get('total')} free"))
    out.print(word(f"deciding   {'yes' if document.get('deciding') else 'no: burst start'}"))
    for provider, reason in _mapping(document, "protected").items():
        out.print(word(f"protected  {provider}: {reason}", "red"))
        out.print(word(f"           flux-flex burst start --provider {provider}", "cyan"))
    for place, what in _mapping(document, "troubles").items():
        out.print(word(f"trouble    {place}: {what}", "red"))
    for one in _rows(document, "aside"):
        left = format_duration(max(0.0, _number(one, "until") - time.time()))
        why = f": {one['why']}" if one.get("why") else ""
        out.print(word(f"set aside  {one.get('type')} at {one.get('provider')} for {left}{why}"))


def _list(document: Document) -> None:
    table = _table(("burst", "state", "type", "nodes", "user", "jobs", "$/h", "cost", "for"))
    for one in _rows(document, "bursts"):
        jobs = one.get("jobs")
        table.add_row(
            *(word(one.get(key, "")) for key in ("burst", "state", "type", "nodes", "user")),
            word(" ".join(map(str, jobs)) if isinstance(jobs, list) else ""),
            word(format_usd(_number(one, "cost_per_hour"))),
            word(format_usd(_number(one, "cost"))),
            word(format_duration(max(0.0, time.time() - _number(one, "since")))),
        )
    console().print(table if table.row_count else "nothing is rented")


def _explain(document: Document) -> None:
    out = console()
    out.print(word(f"{document.get('job')} of {document.get('user')}"))
    out.print(word(f"{document.get('verdict')}: {document.get('reason')}"))
    for key, said in (("starts_here_in", "here"), ("flux_estimate_in", "Flux's own estimate")):
        if document.get(key) is not None:
            out.print(word(f"{said}: in {format_duration(_number(document, key))}"))
    table = _table(("type", "provider", "onto", "nodes", "new", "starts in", "cost", ""))
    for one in _rows(document, "alternatives"):
        starts = one.get("starts_in")
        table.add_row(
            word(one.get("type", "")),
            word(one.get("provider", "")),
            word(one.get("burst") or "new nodes"),
            word(one.get("nodes", "")),
            word(one.get("new_nodes", "")),
            word(format_duration(starts) if isinstance(starts, (int, float)) else "never"),
            word(format_usd(_number(one, "cost"))),
            word(one.get("rejected") or "taken"),
        )
    if table.row_count:
        out.print()
        out.print(table)


def _budget(document: Document) -> None:
    spent, period = format_usd(_number(document, "spent")), _number(document, "period")
    limit = document.get("budget")  # 0 is one
    of = "" if limit is None else f" of {format_usd(_number(document, 'budget'))}"
    rate = format_usd(_number(document, "cost_per_hour"))
    out = console()
    out.print(word(f"{spent}{of} in the last {format_duration(period)}; now {rate}/h"))


def _eventlog(document: Document) -> None:
    out = console()
    for event in _rows(document, "events"):
        context = _mapping(event, "context")
        told = " ".join(f"{key}={value}" for key, value in context.items())
        line = f"{_number(event, 'timestamp'):.6f} {event.get('name')} {told}"
        out.print(word(line), soft_wrap=True)


def _started(document: Document, provider: str | None) -> None:
    if provider:
        console().print(word(f"{provider} is trusted again"))
    if document.get("deciding") is False:
        console().print(word("nothing more is rented until: flux-flex burst start", "cyan"))
    elif not provider:
        console().print("renting where it is worth it")


def _drained(document: Document) -> None:
    names = document.get("bursts")
    told = " ".join(map(str, names)) if isinstance(names, list) and names else ""
    console().print(word(f"draining {told}" if told else "nothing is rented"))
    if document.get("deciding") is False:
        console().print(word("nothing more is rented until: flux-flex burst start", "cyan"))


def _table(columns: Sequence[str]) -> Table:
    table = plain_table()
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _rows(document: Document, key: str) -> list[Document]:
    found = document.get(key)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _mapping(document: Document, key: str) -> Document:
    found = document.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(document: Document, key: str) -> float:
    found = document.get(key)
    return float(found) if isinstance(found, (int, float)) else 0.0
