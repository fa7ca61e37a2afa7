"""Node types as AWS has them today: figures from EC2, prices from the AWS Price List API.

    types = read_types(Aws(region="us-east-2"), ["hpc7a.96xlarge"])

Prices are those of Linux on demand with shared tenancy. Nothing is guessed: a type of which AWS
does not tell the price or the bandwidth is refused by name.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html,
https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html and
https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/reading-an-offer.html (what a product
looks like).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from flux_flex.burst.catalog import NodeType
from flux_flex.burst.providers.eks_aws import Aws
from flux_flex.errors import BadInput

SOURCE = (
    "AWS: EC2 DescribeInstanceTypes, and the AWS Price List API"
    " (Linux, on demand, shared tenancy); written by flux-flex catalog update"
)

# The API's own limit for names in one call.
_NAMES = 100
_PRODUCT = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}
_GIGABITS = re.compile(r"(?:([0-9]+)x )?([0-9]+(?:\.[0-9]+)?) Gigabit")


def read_types(
    aws: Aws, names: Sequence[str], properties: Mapping[str, Sequence[str]] | None = None
) -> list[NodeType]:
    """The node types of these names, in their order; ``properties`` are kept, by name.

    Raises BadInput for a type that the region does not have, or of which the price or the
    bandwidth is not known, and FlexError of AWS.
    """
    wanted = list(dict.fromkeys(names))
    described = _described(aws, wanted)
    kept = properties or {}
    return [
        _node_type(described[name], _price_usd(aws, name), kept.get(name, ())) for name in wanted
    ]


# -- figures -------------------------------------------------------------------------------------


def _described(aws: Aws, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for first in range(0, len(names), _NAMES):
        question = {"InstanceTypes": [*names[first : first + _NAMES]]}
        for one in aws.pages("ec2", "describe_instance_types", "InstanceTypes", **question):
            found[str(one.get("InstanceType"))] = one
    for name in names:
        if name not in found:
            remedy = "check the name and the region"
            raise BadInput(f"{aws.region} has no instance type {name[:60]}", "--types", remedy)
    return found


def _node_type(one: Mapping[str, Any], usd: Decimal, properties: Sequence[str]) -> NodeType:
    cpus, network = one["VCpuInfo"], one["NetworkInfo"]
    gpus = (one.get("GpuInfo") or {}).get("Gpus") or []
    has_efa = network.get("EfaSupported")
    efa = (network.get("EfaInfo") or {}).get("MaximumEfaInterfaces", 1) if has_efa else 0
    vcpus = int(cpus["DefaultVCpus"])
    return NodeType(
        name=one["InstanceType"],
        cores=int(cpus.get("DefaultCores") or vcpus // cpus.get("DefaultThreadsPerCore", 1)),
        vcpus=vcpus,
        gpus=sum(int(gpu.get("Count", 0)) for gpu in gpus),
        gpu_model=str(gpus[0].get("Name", "")) if gpus else "",
        memory_gib=one["MemoryInfo"]["SizeInMiB"] / 1024,
        efa=int(efa),
        network_gbps=_gbps(one["InstanceType"], network),
        price_per_hour_usd=float(usd),
        properties=tuple(properties),
    )


def _gbps(name: str, network: Mapping[str, Any]) -> float:
    """What all network cards sustain together, Gbit/s."""
    cards = network.get("NetworkCards") or []
    sustained = [card.get("BaselineBandwidthInGbps") for card in cards]
    if sustained and all(sustained):
        return float(sum(sustained))
    # "Up to" is a peak, and "High" is no number.
    said = _GIGABITS.fullmatch(str(network.get("NetworkPerformance") or ""))
    if said is None:
        remedy = "leave it out, and write it into the catalogue by hand"
        raise BadInput(f"EC2 does not tell the bandwidth of {name}", "--types", remedy)
    return int(said[1] or 1) * float(said[2])


# -- prices --------------------------------------------------------------------------------------


def _price_usd(aws: Aws, name: str) -> Decimal:
    """Dollars an hour. Raises BadInput where the price list has no price, or several."""
    fields = {**_PRODUCT, "instanceType": name, "regionCode": aws.region}
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()
    ]
    question: dict[str, object] = {"ServiceCode": "AmazonEC2", "Filters": filters}
    listed = aws.pages("pricing", "get_products", "PriceList", **question)
    prices = {usd for product in listed for usd in _hourly(product, name)}
    remedy = "look it up at https://aws.amazon.com/ec2/pricing/on-demand/ and write it by hand"
    if not prices:
        what = f"the price list has no on-demand price of {name} in {aws.region}"
        raise BadInput(what, "--types", remedy)
    if len(prices) > 1:
        several = ", ".join(f"${usd}" for usd in sorted(prices))
        what = f"the price list has several prices of {name} in {aws.region}: {several}"
        raise BadInput(what, "--types", remedy)
    return prices.pop()


def _hourly(product: object, name: str) -> Iterator[Decimal]:
    """The prices of an hour in one product, which comes as JSON text; 0 is no price."""
    where = f"get-products: {name}"
    try:
        read: Any = json.loads(product) if isinstance(product, str) else product
        attributes = read["product"]["attributes"]
        # Capacity blocks are products of the same type with prices of their own.
        if attributes.get("marketoption", "OnDemand") != "OnDemand":
            return
        for term in (read.get("terms") or {}).get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                usd = Decimal(dimension["pricePerUnit"].get("USD", "0"))
                if dimension.get("unit") == "Hrs" and usd > 0:
                    yield usd.normalize()
    except (LookupError, TypeError, AttributeError, ValueError, InvalidOperation):
        what = "what answers is not the price list"
        raise BadInput(what, where, "check AWS_ENDPOINT_URL and the proxies") from None
