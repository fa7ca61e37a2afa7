"""The burst configuration: validated once, every key with a type, a default and a sentence.

These tables stand under ``burst`` in a scenario.
Durations are seconds or Flux Standard Durations (RFC 23) such as ``10m``; money is US dollars.
Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from flux_flex.burst.catalog import NodeType
from flux_flex.fields import STRICT, Duration
from flux_flex.pydantic_errors import bad_input

Money = Annotated[float, Field(ge=0, le=1e9)]


class Limits(BaseModel):
    """What may be rented at the most. A limit that is left out does not apply."""

    model_config = STRICT

    nodes: int | None = Field(default=None, ge=0, le=100_000, description="nodes rented at once")
    cost_per_hour: Money | None = Field(default=None, description="dollars an hour, all nodes")
    budget: Money | None = Field(default=None, description="dollars in one period")
    period: Duration = Field(
        default=30 * 86400.0, gt=0, description="the budget's period, like 30d"
    )
    per_user: int | None = Field(
        default=None, ge=0, le=100_000, description="nodes rented at once for the jobs of one user"
    )
    types: tuple[str, ...] | None = Field(
        default=None, strict=False, description="node types that may be rented, all if left out"
    )


class Provider(BaseModel):
    """Where nodes come from, and how long they take."""

    model_config = STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="a name such as eks")
    boot: Duration = Field(default=360.0, description="from the request to usable nodes, like 6m")
    types: tuple[NodeType, ...] = Field(
        min_length=1, strict=False, description="the node types it rents"
    )

    @field_validator("types")
    @classmethod
    def _names_differ(cls, types: tuple[NodeType, ...]) -> tuple[NodeType, ...]:
        names = [node_type.name for node_type in types]
        if len(set(names)) < len(names):
            raise ValueError(f"two node types have one name: {', '.join(names)}")
        return types


class Lead(BaseModel):
    """The broker that rented brokers join."""

    model_config = STRICT

    address: str = Field(description="a host name or IP address that rented nodes can reach")
    port: int = Field(default=8050, ge=1, le=65535, description="its TCP port")
    name: str = Field(description="its host name in the list of hosts")


class MiniClusterConfig(BaseModel):
    """What each MiniCluster manifest says besides its nodes. Secrets are given by name only."""

    model_config = STRICT

    image: str = Field(description="container image that holds Flux")
    lead: Lead = Field(description="the broker that rented brokers join")
    curve_secret: str = Field(description="name of the Secret that holds curve.cert")
    munge_secret: str = Field(default="", description="name of the Secret that holds munge.key")
    namespace: str = Field(default="default", description="Kubernetes namespace")
    command: str = Field(default="", description="empty for brokers that join and wait for work")


class BurstConfig(BaseModel):
    """When to rent, from whom, and how much."""

    model_config = STRICT

    threshold: Duration = Field(
        default=600.0, description="rent only where a job starts sooner by more than this"
    )
    idle_timeout: Duration = Field(
        default=300.0, description="how long rented nodes may idle before they go"
    )
    release: Duration = Field(
        default=0.0, description="from the end of idling until nodes are gone and no longer paid"
    )
    depth: int = Field(
        default=32, ge=1, le=100_000, description="how many pending jobs, from the head, to weigh"
    )
    efa_from_nodes: int = Field(
        default=0, ge=0, description="jobs of this many nodes or more need EFA; 0 for never"
    )
    limits: Limits = Field(default=Limits(), description="what may be rented at the most")
    providers: tuple[Provider, ...] = Field(
        min_length=1, strict=False, description="where nodes come from"
    )
    minicluster: MiniClusterConfig | None = Field(
        default=None, description="what manifests need; without it none are written"
    )

    @model_validator(mode="after")
    def _names_agree(self) -> BurstConfig:
        known = [node_type.name for provider in self.providers for node_type in provider.types]
        unknown = [name for name in self.limits.types or () if name not in known]
        if unknown:
            raise ValueError(
                f"limits.types names {unknown[0]!r}, which no provider has: {', '.join(known)}"
            )
        names = [provider.name for provider in self.providers]
        if len(set(names)) < len(names):
            raise ValueError(f"two providers have one name: {', '.join(names)}")
        return self


def parse_burst_config(value: object) -> BurstConfig:
    """The burst configuration in a decoded document. Raises BadInput with the key path."""
    try:
        return BurstConfig.model_validate(value)
    except ValidationError as error:
        raise bad_input(error, BurstConfig) from error
