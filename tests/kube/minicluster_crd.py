"""The CustomResourceDefinition of MiniClusters, with what a burst and its operator write there.

It has the names, types, defaults and required keys of the Flux Operator's v1alpha2 for those keys,
and no others: a server with it refuses what the operator's own would refuse. A test compares
it with the operator's own schema where there is a copy of that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Schema = dict[str, Any]


def _object(properties: Mapping[str, Schema], *required: str) -> Schema:
    made: Schema = {"type": "object", "properties": dict(properties)}
    return made | ({"required": [*required]} if required else {})


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
INT: Schema = {"type": "integer", "format": "int32"}
OFF: Schema = FLAG | {"default": False}
AMOUNT: Schema = {"anyOf": [{"type": "integer"}, TEXT], "x-kubernetes-int-or-string": True}
RESOURCES = _object({"limits": _map(AMOUNT), "requests": _map(AMOUNT)})

VOLUME = _object({"secretName": TEXT, "path": TEXT, "readOnly": OFF})
CONTAINER = _object(
    {
        "image": TEXT, "command": TEXT, "runFlux": FLAG, "commands": _object({"pre": TEXT}),
        "volumes": _map(VOLUME), "resources": RESOURCES,
    }
)  # fmt: skip
LEAD = _object(
    {"address": TEXT, "name": TEXT, "port": INT | {"default": 8050}, "size": INT},
    "address", "name", "size",
)  # fmt: skip
FLUX = _object(
    {
        "container": _object(
            {"disable": OFF, "image": TEXT, "mountPath": TEXT | {"default": "/mnt/flux"}}
        ),
        "topology": TEXT, "brokerConfig": TEXT, "mungeSecret": TEXT,
        "bursting": _object(
            {"leadBroker": LEAD, "clusters": _list(_object({"name": TEXT, "size": INT}))}
        ),
    }
)  # fmt: skip
SPEC = _object(
    {
        "size": INT | {"default": 1}, "maxSize": INT, "minSize": INT, "tasks": INT | {"default": 1},
        "interactive": OFF, "flux": FLUX, "containers": _list(CONTAINER),
        "pod": _object({"labels": _map(TEXT), "nodeSelector": _map(TEXT)}),
    },
    "containers",
)  # fmt: skip
CONDITION = _object(
    {
        "type": TEXT, "reason": TEXT, "message": TEXT, "status": TEXT,
        "lastTransitionTime": TEXT | {"format": "date-time"},
    },
    "type", "status", "reason", "message", "lastTransitionTime",
)  # fmt: skip
STATUS = _object(
    {
        "conditions": _list(CONDITION), "jobid": TEXT, "selector": TEXT, "size": INT,
        "maximumSize": INT,
    },
    "jobid", "selector", "size", "maximumSize",
)  # fmt: skip
SCHEMA = _object({"spec": SPEC, "status": STATUS})

GROUP = "flux-framework.org"


def definition(schema: Mapping[str, Any]) -> dict[str, Any]:
    """With ``schema`` as that of the version that is served."""
    names = {"plural": "miniclusters", "singular": "minicluster", "kind": "MiniCluster"}
    version = {
        "name": "v1alpha2", "served": True, "storage": True,
        "schema": {"openAPIV3Schema": dict(schema)}, "subresources": {"status": {}},
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"miniclusters.{GROUP}"},
        "spec": {
            "group": GROUP, "scope": "Namespaced", "versions": [version],
            "names": names | {"listKind": "MiniClusterList"},
        },
    }  # fmt: skip


CRD = definition(SCHEMA)

# A copy of the operator's own schema, where there is one.
OPERATORS = Path(
    os.environ.get("FLUX_FLEX_MINICLUSTER_SCHEMA")
    or Path(__file__).parents[3] / "shared/data/minicluster-v1alpha2.schema.json"
)
NO_COPY = f"no copy of the operator's schema at {OPERATORS}: set FLUX_FLEX_MINICLUSTER_SCHEMA"
