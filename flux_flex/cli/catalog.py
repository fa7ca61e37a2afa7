"""``flux-flex catalog update``: a catalogue of node types with what AWS says and asks today.

All types of the file are looked up anew, with those that are named besides: one date stands for
the whole file. Flux properties are the site's own and stay.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from flux_flex.burst.catalog import Catalog, NodeType, parse_catalog
from flux_flex.cli.output import write_out
from flux_flex.errors import BadInput
from flux_flex.model.quoting import printable
from flux_flex.simulate.files import read_yaml, write_all

_HEAD = """\
# Node types that may be rented, and what they cost.
#
# Written by flux-flex catalog update: properties are kept when it runs again, comments are not.
# PRICES CHANGE: these are AWS's list prices on the date below, without discounts and taxes.
"""


def run(options: argparse.Namespace) -> int:
    """Write the file: 0.

    ``options.file`` is the catalogue, ``options.types`` names to add (each may be several, with
    commas between), ``options.region`` and ``options.profile`` may be empty. Raises BadInput where
    a type or its price is not known; the file is then as it was. FlexError for what AWS refuses.
    """
    from flux_flex.burst.providers.eks_aws import Aws
    from flux_flex.burst.providers.eks_catalog import SOURCE, read_types

    path = Path(options.file)
    before = read_catalog(path) if path.exists() else None
    region = _region(options.region or "", before, path)
    kept = {one.name: one.properties for one in before.types} if before else {}
    names = [*kept, *(one for text in options.types or () for one in text.split(",") if one)]
    if not names:
        what = "there are no types to look up"
        raise BadInput(what, "--types", "name some, such as hpc7a.96xlarge,c7i.4xlarge")
    aws = Aws(region, options.profile or "")
    types = read_types(aws, names, kept)
    write_all([(path, catalog_text(types, aws.region, SOURCE, _today()))])
    write_out("".join(f"{printable(line)}\n" for line in _changes(before, types)))
    return 0


def catalog_text(types: Sequence[NodeType], region: str, source: str, date: datetime.date) -> str:
    """A catalogue as YAML, which :func:`flux_flex.burst.catalog.parse_catalog` takes."""
    document = {
        "source": source,
        "date": date,
        "region": region,
        "currency": "USD",
        "types": [_written(one) for one in types],
    }
    text: str = yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)
    # A file that our own reader refuses would be found out only when it is needed.
    parse_catalog(yaml.safe_load(text))
    return _HEAD + text


def _written(one: NodeType) -> dict[str, object]:
    """The keys of a type without those that say nothing."""
    document = one.model_dump(mode="json", exclude_defaults=True)
    if float(one.memory_gib).is_integer():
        document["memory_gib"] = int(one.memory_gib)
    return document


def read_catalog(path: Path) -> Catalog:
    """The catalogue in a file. Raises BadInput, whose ``where`` begins with the file."""
    try:
        return parse_catalog(read_yaml(path))
    except BadInput as error:
        raise error if error.where.startswith(str(path)) else error.at(str(path)) from None


def named_catalog(name: str) -> Catalog:
    """The catalogue that burst.catalog of flex.toml names. Raises BadInput."""
    if not name:
        raise BadInput("it is not set", "burst.catalog", "name the catalogue of node types")
    if not os.path.lexists(name):
        remedy = "name one that exists, or write it: docs/bursting.md"
        raise BadInput("no such file", f"burst.catalog: {name}", remedy)
    return read_catalog(Path(name))


def _region(named: str, before: Catalog | None, path: Path) -> str:
    """The region to ask; empty for that of the environment or profile."""
    if before is None or not named:
        return named or (before.region if before else "")
    if before.region != named:
        what = f"its prices are those of {before.region}, not of {named}"
        raise BadInput(what, f"{path}: region", "name another file, or leave --region out")
    return named


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date()


def _changes(before: Catalog | None, types: Sequence[NodeType]) -> list[str]:
    """A line for each type that is new, or costs something else than before."""
    old = {one.name: one.price_per_hour_usd for one in before.types} if before else {}
    lines = []
    for one in types:
        now = f"${one.price_per_hour_usd:,.4f}/h"
        if one.name not in old:
            lines.append(f"{one.name}: {now}, new")
        elif old[one.name] != one.price_per_hour_usd:
            lines.append(f"{one.name}: {now}, was ${old[one.name]:,.4f}/h")
    return lines or [f"{len(types)} types, no price has changed"]
