"""Node types that can be rented: what a node has, and what it costs an hour.

A catalog is a file that a site keeps (see examples/burst-queue/catalog.yaml). It says where its
figures come from and when they were looked up, because prices change::

    catalog = parse_catalog(yaml.safe_load(text))
    catalog.get("hpc7a.12xlarge").price_per_hour_usd

Cores are physical cores, as Flux counts them (hwloc), not the vCPUs that EC2 sells.
"""

from __future__ import annotations

import datetime
import difflib
from collections import Counter
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from flux_flex.errors import BadInput
from flux_flex.pydantic_errors import bad_input

# Strict: "96" is no number of cores, nor is true, and a typo in YAML is better refused than read.
_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

# What RFC 20 refuses in a property: the operators and quotes of a constraint expression.
_PROPERTY = r"^[^\s!&'\"`|()]{1,128}$"


def _written_as_date(value: object) -> object:
    """Refuse 20261123, which pydantic would take for seconds since 1970."""
    if isinstance(value, datetime.datetime) or not isinstance(value, (str, datetime.date)):
        raise ValueError("should be a date written 2026-11-23")
    return value


class NodeType(BaseModel):
    """One node type; figures are for one node.

    name                EC2 instance type, or another provider's name of that form
    cores               physical cores
    vcpus               hardware threads that are sold; at least ``cores``
    gpus                GPUs
    gpu_model           their model, empty when there are none or it does not matter
    memory_gib          memory, GiB
    efa                 EFA network interfaces, 0 for none
    network_gbps        sustained network bandwidth, Gbit/s
    price_per_hour_usd  price, USD for an hour
    properties          Flux properties (RFC 20) that such a node has
    """

    model_config = _CONFIG

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$",
        description="a node type like hpc7a.12xlarge: small letters, digits, '.' and '-'",
    )
    cores: int = Field(ge=1, le=4096, description="physical cores of one node, 1 to 4096")
    vcpus: int = Field(ge=1, le=16384, description="vCPUs of one node, at least its cores")
    gpus: int = Field(ge=0, le=1024, description="GPUs of one node, 0 for none")
    gpu_model: str = Field(default="", max_length=64, description="model of the GPUs, like H100")
    memory_gib: float = Field(gt=0, le=1e6, description="memory of one node in GiB")
    efa: int = Field(default=0, ge=0, le=1024, description="EFA interfaces, 0 for none")
    network_gbps: float = Field(gt=0, le=1e6, description="network bandwidth of one node in Gbit/s")
    price_per_hour_usd: float = Field(
        ge=0, le=1e6, description="price of one node for an hour in USD, 0 or more"
    )
    properties: tuple[Annotated[str, Field(pattern=_PROPERTY)], ...] = Field(
        default=(), strict=False, description="Flux properties of such a node, a list of words"
    )

    @field_validator("vcpus")
    @classmethod
    def _cover_cores(cls, vcpus: int, info: ValidationInfo) -> int:
        cores = info.data.get("cores")
        if cores is not None and vcpus < cores:
            raise ValueError(f"{vcpus} vcpus are fewer than the {cores} cores")
        return vcpus


class Catalog(BaseModel):
    """Node types of one region with the origin of their figures.

    source      where the figures come from
    date        when they were looked up
    region      the region that the prices hold for
    currency    USD
    types       the node types, at least one, each name once
    """

    model_config = _CONFIG

    source: str = Field(min_length=1, description="where the figures come from")
    date: Annotated[datetime.date, Field(strict=False), BeforeValidator(_written_as_date)] = Field(
        description="when the figures were looked up, like 2026-11-23"
    )
    region: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="a region like us-east-2")
    currency: Literal["USD"] = Field(description="only USD is understood")
    types: tuple[NodeType, ...] = Field(
        min_length=1, strict=False, description="a list of node types, at least one"
    )

    @field_validator("types")
    @classmethod
    def _names_differ(cls, node_types: tuple[NodeType, ...]) -> tuple[NodeType, ...]:
        name, count = Counter(node_type.name for node_type in node_types).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} node types are called {name}")
        return node_types

    def get(self, name: str) -> NodeType:
        """The node type of that name; BadInput, with the nearest name, when there is none."""
        for node_type in self.types:
            if node_type.name == name:
                return node_type
        known = [node_type.name for node_type in self.types]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise BadInput(
            f"the catalog has no node type {name!r}",
            remedy=f"did you mean {nearest[0]!r}?" if nearest else f"it has: {', '.join(known)}",
        )


def parse_catalog(value: object) -> Catalog:
    """The catalog in a decoded YAML or JSON document.

    Raises BadInput for the first thing that is wrong; ``where`` is its key path, like
    ``types[2].price_per_hour_usd``, and an unknown key is answered with the nearest known one.
    """
    try:
        return Catalog.model_validate(value)
    except ValidationError as error:
        raise bad_input(error, Catalog) from error
