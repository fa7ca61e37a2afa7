"""A job's span: how much of the network its hosts take up, shown with the job and kept beside it.

    record_span(instance, jobid, config.topology)   # by the first of the job's ranks, at its start

    flux jobs -o "{id} {user.flex.span}"            # nn1:1 nn2:1 nn3:2 4 hops
    flux job info ID flex-topology                  # where each of its hosts was, as JSON

It is the job's history: nothing takes it away again. A job of one host has no span, and where the
site knows nothing of its network, nothing is recorded.

    python -I -m flux_flex.topology.jobs            # with FLUX_JOB_ID

is what 51-flux-flex-span of prolog.d calls. It ends with 0 whatever happens: not to know a network
is no reason to fail a job, or to drain its nodes.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flux_flex.errors import FlexError
from flux_flex.host.flux_instance import FluxInstance
from flux_flex.host.instance import Instance
from flux_flex.model.jobid import f58, job_kvs_key, parse_jobid
from flux_flex.model.quoting import one_line
from flux_flex.model.rv1 import parse_r
from flux_flex.topology.site import site_network

if TYPE_CHECKING:  # each costs a prolog more than all the rest of this file
    from flux_flex.config import TopologyConfig
    from flux_flex.model.network import NetworkPlace
    from flux_flex.topology.mapping import Network

# Where `flux jobs -o "{user.flex.span}"` finds it, and the key beside what else the KVS has of the
# job (RFC 16).
MEMO = "flex.span"
KEY = "flex-topology"

# How long the program may take. Flux's own limit for a prolog would fail the job.
_MOST_S = 60.0

log = logging.getLogger("flux_flex.topology")


def record_span(instance: Instance, jobid: int, config: TopologyConfig) -> None:
    """Show the span of a running job's hosts in its memo, and keep their places in its KVS.

    One rank does it for the whole job. Raises nothing: what keeps it from recording is a line in
    the log.
    """
    try:
        _record(instance, jobid, config)
    except FlexError as error:
        log.warning("the span of job %s is not recorded: %s", f58(jobid), one_line(error))
    except Exception as error:  # noqa: BLE001 - nor is a bug of ours a reason to fail a job
        what = f"{type(error).__name__}: {one_line(error)}"
        log.warning("the span of job %s is not recorded: %s", f58(jobid), what)


def _record(instance: Instance, jobid: int, config: TopologyConfig) -> None:
    hosts = tuple(dict.fromkeys(one.host for one in parse_r(instance.allocation(jobid)).ranks))
    if len(hosts) < 2:
        return
    network = site_network(config, hosts, instance)
    if network is None:
        return
    # Both are made before either is shown.
    text, document = span_text(network), span_document(network)
    instance.kvs_put(job_kvs_key(jobid, KEY), document)
    instance.memo(jobid, {MEMO: text})


def span_text(network: Network) -> str:
    """The span for a column of `flux jobs`, such as ``nn1:1 nn2:1 nn3:2 4 hops 1 unplaced``.

    How many network nodes of each layer the hosts are under, top first, and how many hops the two
    furthest apart are; before that how many regions and zones, where these are several or all that
    is known. Last, how many hosts have no known place. Raises BadInput where the places make no
    tree.
    """
    words = []
    if network.places:
        span = network.tree.span(place.host for place in network.places)
        regions, zones = ({p.region for p in network.places}, {p.zone for p in network.places})
        words += [f"regions:{len(regions)}"] if len(regions) > 1 else []
        words += [f"zones:{len(zones)}"] if len(zones) > 1 or not span.layers else []
        words += [f"nn{layer}:{count}" for layer, count in enumerate(span.layers, start=1)]
        words.append(f"{span.diameter} hops")
    unplaced = _unplaced(network)
    return " ".join([*words, f"{len(unplaced)} unplaced"] if unplaced else words)


def span_document(network: Network) -> dict[str, object]:
    """The same, and where each host is, as a JSON object of version 1; see docs/topology.md.

    ``span`` is that of the hosts with a place, and null where none has one. Raises BadInput where
    the places make no tree.
    """
    found: dict[str, object] | None = None
    if network.places:
        span = network.tree.span(place.host for place in network.places)
        found = {
            "layers": list(span.layers),
            "diameter": span.diameter,
            "mean_hops": round(span.mean_hops, 3),
        }
    return {
        "version": 1,
        "hosts": {place.host: _entry(place) for place in network.places},
        "span": found,
        "unplaced": _unplaced(network),
    }


def _entry(place: NetworkPlace) -> dict[str, object]:
    return {
        "network_nodes": list(place.network_nodes),
        "zone": place.zone,
        "zone_id": place.zone_id,
        "region": place.region,
        "instance_id": place.instance_id,
        "instance_type": place.instance_type,
        "capacity_block": place.capacity_block,
    }


def _unplaced(network: Network) -> list[str]:
    return [*network.unmapped, *network.claimed]


# -- the program -----------------------------------------------------------------------------------


def main() -> int:
    """Record the span of the job in FLUX_JOB_ID, if this rank is its first. Always 0."""
    logging.basicConfig(stream=sys.stdout, format="topology: %(message)s", level=logging.INFO)
    # Without a handler: it ends this process, even one that waits inside Flux's library. Whoever
    # started it may have left the signal ignored or blocked, which a new program inherits.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, _MOST_S)
    try:
        jobid = parse_jobid(os.environ.get("FLUX_JOB_ID", ""))
        instance = FluxInstance()
        if instance.rank() == first_rank(instance.allocation(jobid)):
            # Here, for all other ranks are done by now.
            from flux_flex.config import load_config

            record_span(instance, jobid, load_config().topology)
    except (FlexError, OSError, ValueError) as error:
        log.warning("the span of the job is not recorded: %s", one_line(error))
    return 0


def first_rank(R: Mapping[str, object]) -> int:
    """The lowest rank of a job's R; -1 where it has none. Raises BadInput for what is no R."""
    ranks = parse_r(R).ranks
    return ranks[0].rank if ranks else -1


if __name__ == "__main__":
    sys.exit(main())
