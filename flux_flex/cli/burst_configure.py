"""``flux-flex burst configure``: the files that an instance needs so that rented nodes can join it.

The wizard's way is a file to read first: it writes R, the lead's and the rented nodes' broker.toml,
starts nothing, and says what to do with them. The certificate is named by its path and never read.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flux_flex.burst.bootstrap import (
    Lead,
    follower_options,
    follower_toml,
    hosts_of,
    lead_options,
    lead_toml,
    placeholder_r,
    with_cores,
)
from flux_flex.burst.catalog import NodeType
from flux_flex.cli.burst_site import naming
from flux_flex.cli.catalog import named_catalog
from flux_flex.cli.output import write_out
from flux_flex.config import BurstSettings, BurstSlot, config_path, load_config, slots_of
from flux_flex.errors import BadInput
from flux_flex.model.quoting import printable
from flux_flex.simulate.files import read_json, write_all

R_FILE = "R.json"
LEAD_FILE = "broker.toml"
FOLLOWER_FILE = "broker-burst.toml"


def configure(options: argparse.Namespace) -> int:
    """Write the files: 0. ``options.r`` is the own hosts' R, ``options.out`` a folder.

    Raises BadInput where flex.toml, its catalogue or R lack something, or a file is not writable.
    """
    burst = load_config().burst
    slots = slots_of(burst)
    with naming(config_path()):
        _check(burst)
        types = _types(burst, slots)
    own_r = read_json(Path(options.r))
    try:
        R = placeholder_r(own_r, burst.lead.name, slots, types)
    except BadInput as error:
        raise error.at(options.r) from None
    folder = Path(options.out or ".").resolve()
    lead = Lead(burst.lead.name, burst.lead.address, burst.lead.port)
    certificate = burst.local.curve_cert
    hosts = hosts_of(R)
    write_all(
        [
            (folder / R_FILE, json.dumps(R) + "\n"),
            (folder / LEAD_FILE, lead_toml(hosts, lead, certificate, str(folder / R_FILE))),
            (folder / FOLLOWER_FILE, follower_toml(hosts, lead, certificate)),
        ]
    )
    own = len(hosts) - sum(len(slot.hosts) for slot in slots)
    write_out("".join(f"{printable(line)}\n" for line in _next_steps(folder, burst, slots, own)))
    return 0


def _check(burst: BurstSettings) -> None:
    """Raise BadInput for a key that may be empty elsewhere, but not here."""
    needed: Mapping[str, tuple[object, str]] = {
        "burst.slots": (burst.slots, "add a table [[burst.slots]] for each type of nodes"),
        "burst.catalog": (burst.catalog, "name the catalogue of node types"),
        "burst.lead.name": (burst.lead.name, "name the lead broker's host, as R has it"),
        "burst.lead.address": (burst.lead.address, "give an address that rented nodes can reach"),
    }
    for key, (value, remedy) in needed.items():
        if not value:
            raise BadInput("it is not set", key, remedy)


def _types(burst: BurstSettings, slots: Sequence[BurstSlot]) -> list[NodeType]:
    """The types of the slots. Raises BadInput where the catalogue has none of that name."""
    catalog = named_catalog(burst.catalog)
    cores = burst.local.cores if burst.provider == "local" else 0
    try:
        return [with_cores(catalog.get(name), cores) for name in _unique(s.type for s in slots)]
    except BadInput as error:
        raise error.at("burst.slots") from None


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _next_steps(
    folder: Path, burst: BurstSettings, slots: Sequence[BurstSlot], own: int
) -> list[str]:
    certificate = shlex.quote(burst.local.curve_cert)
    rented = sum(len(slot.hosts) for slot in slots)
    starting = shlex.join(["flux", "broker", *lead_options(own, str(folder / LEAD_FILE))])
    joining = shlex.join(
        ["flux", "broker", *follower_options(slots[0].hosts[0], str(folder / FOLLOWER_FILE))]
    )
    return [
        f"{own} own hosts and {rented} for {len(slots)} bursts, in {folder}:",
        f"  {R_FILE}, {LEAD_FILE} for the own hosts, {FOLLOWER_FILE} for rented ones",
        "  (written anew each time: keep what you add elsewhere, or add it again)",
        "",
        f"1. If there is no certificate: flux keygen {certificate}",
        "   Every broker needs this same file, readable by the instance's owner alone.",
        f"2. Merge {LEAD_FILE} into the configuration of the own hosts. It makes every broker a",
        f"   child of the lead, at TCP port {burst.lead.port}, which rented nodes have to reach.",
        "3. Jobs wait for hosts that are down only under some policies. With fluxion:",
        "     [sched-fluxion-qmanager]",
        '     queue-policy = "easy"        # or conservative or hybrid, but not fcfs',
        "4. Start the instance anew; it does not wait for the rented hosts:",
        f"     {starting}",
        "   Then `flux resource list` shows them down, and a broker joins with, for one,",
        f"     {joining}",
    ]
