"""flux-flex catalog update, against moto's EC2 and a price list on loopback; and eksctl-config."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

moto = pytest.importorskip("moto")

from flux_flex.burst.catalog import Catalog, NodeType, parse_catalog  # noqa: E402
from flux_flex.burst.eksctl import ClusterPlan, SlotGroup, eksctl_config, groups_of  # noqa: E402
from flux_flex.burst.providers.eks_catalog import read_types  # noqa: E402
from flux_flex.burst.slots import Slot  # noqa: E402
from flux_flex.cli import catalog as command  # noqa: E402
from flux_flex.errors import BadInput, FlexError  # noqa: E402

REGION = "us-east-2"
TODAY = datetime.date(2026, 11, 23)


def product(
    usd: str, *, market: str = "OnDemand", unit: str = "Hrs", term: str = "OnDemand"
) -> str:
    """A product as the price list has it: JSON in a string."""
    price = {"unit": unit, "pricePerUnit": {"USD": usd}, "description": f"${usd} per hour"}
    terms = {term: {"SKU.JRTCKXETXF": {"priceDimensions": {"SKU.JRTCKXETXF.6YS6EN2CT7": price}}}}
    return json.dumps({"product": {"attributes": {"marketoption": market}}, "terms": terms})


class PriceList:
    """The call GetProducts of the Price List API, a page for each product."""

    def __init__(self) -> None:
        self.products: dict[str, list[str]] = {}
        self.asked: list[dict[str, str]] = []
        outer = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.dumps(outer.answer(json.loads(self.rfile.read(length)))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, question: dict[str, Any]) -> dict[str, object]:
        fields = {one["Field"]: one["Value"] for one in question["Filters"]}
        self.asked.append(fields)
        found = self.products.get(fields["instanceType"], [])
        page = int(question.get("NextToken") or 0)
        more = {"NextToken": str(page + 1)} if page + 1 < len(found) else {}
        return {"FormatVersion": "aws_v1", "PriceList": found[page : page + 1], **more}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@cache
def _loader() -> Any:
    from botocore.loaders import create_loader

    return create_loader(None)


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceList]:
    import botocore.session

    listed = PriceList()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    fake = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_PRICING": listed.url,
    }
    for name, value in fake.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.session, "create_loader", lambda _: _loader())
    monkeypatch.setattr(command, "_today", lambda: TODAY)
    with moto.mock_aws():
        yield listed
    listed.close()


def update(path: Path, *types: str, region: str = REGION) -> Catalog:
    options = argparse.Namespace(region=region, types=[*types], file=str(path), profile="")
    assert command.run(options) == 0
    return parse_catalog(yaml.safe_load(path.read_text()))


def test_a_catalogue_has_what_ec2_and_the_price_list_say(
    prices: PriceList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices.products["c6i.4xlarge"] = [product("0.6800000000")]
    prices.products["p4d.24xlarge"] = [product("21.957642")]
    made = update(tmp_path / "catalog.yaml", "c6i.4xlarge,p4d.24xlarge")
    assert (made.region, made.date, made.currency) == (REGION, TODAY, "USD")
    assert "Price List" in made.source
    c6i, p4d = made.types
    assert (c6i.name, c6i.cores, c6i.vcpus, c6i.memory_gib) == ("c6i.4xlarge", 8, 16, 32)
    assert (c6i.gpus, c6i.efa, c6i.price_per_hour_usd) == (0, 0, 0.68)
    assert (p4d.cores, p4d.gpus, p4d.gpu_model, p4d.efa) == (48, 8, "A100", 4)
    assert p4d.network_gbps == 400
    assert capsys.readouterr().out.splitlines()[0] == "c6i.4xlarge: $0.6800/h, new"
    asked = prices.asked[0]
    assert asked["regionCode"] == REGION
    assert (asked["operatingSystem"], asked["tenancy"]) == ("Linux", "Shared")


def test_all_types_of_the_file_are_refreshed_and_keep_their_properties(
    prices: PriceList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "catalog.yaml"
    old = NodeType(
        name="c6i.4xlarge", cores=1, vcpus=1, gpus=0, memory_gib=1.0, network_gbps=1.0,
        price_per_hour_usd=1.0, properties=("intel", "site-a"),
    )  # fmt: skip
    text = command.catalog_text([old], REGION, "by hand", datetime.date(2020, 1, 1))
    path.write_text(text)
    prices.products["c6i.4xlarge"] = [product("0.68")]
    prices.products["c6i.8xlarge"] = [product("1.36")]
    made = update(path, "c6i.8xlarge", region="")
    assert [one.name for one in made.types] == ["c6i.4xlarge", "c6i.8xlarge"]
    assert made.types[0].properties == ("intel", "site-a")
    assert made.types[0].cores == 8
    assert made.date == TODAY
    assert "c6i.4xlarge: $0.6800/h, was $1.0000/h" in capsys.readouterr().out


@pytest.mark.parametrize(
    "products",
    [
        [],
        [product("0.0000000000")],
        [product("0.68", market="CapacityBlock")],
        [product("0.68", unit="Quantity")],
        [product("0.68", term="Reserved")],
    ],
)
def test_a_price_that_is_not_known_is_refused_with_the_type_and_the_file_stays(
    prices: PriceList, tmp_path: Path, products: list[str]
) -> None:
    path = tmp_path / "catalog.yaml"
    prices.products["c6i.4xlarge"] = [product("0.68")]
    update(path, "c6i.4xlarge")
    before = path.read_text()
    prices.products["c6i.8xlarge"] = products
    with pytest.raises(BadInput, match=r"no on-demand price of c6i\.8xlarge in us-east-2"):
        update(path, "c6i.8xlarge")
    assert path.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["catalog.yaml"]


def test_the_pages_of_the_price_list_are_followed(prices: PriceList, tmp_path: Path) -> None:
    prices.products["c6i.4xlarge"] = [product("0.00"), product("0.68"), product("0.680")]
    assert update(tmp_path / "c.yaml", "c6i.4xlarge").types[0].price_per_hour_usd == 0.68
    assert len(prices.asked) == 3


def test_two_prices_of_one_type_are_not_chosen_from(prices: PriceList, tmp_path: Path) -> None:
    prices.products["c6i.4xlarge"] = [product("0.68"), product("0.70")]
    with pytest.raises(BadInput, match=r"several prices of c6i\.4xlarge .*\$0\.68, \$0\.7"):
        update(tmp_path / "c.yaml", "c6i.4xlarge")


def test_what_is_no_price_list_is_said_to_be_none(prices: PriceList, tmp_path: Path) -> None:
    prices.products["c6i.4xlarge"] = ['{"product": []}']
    with pytest.raises(BadInput, match="not the price list"):
        update(tmp_path / "c.yaml", "c6i.4xlarge")


def test_a_type_that_ec2_does_not_know_is_refused(prices: PriceList, tmp_path: Path) -> None:
    with pytest.raises(FlexError, match=r"z9\.huge"):
        update(tmp_path / "c.yaml", "z9.huge")


class Said:
    """EC2 with one type, whose network it tells in some way, and a price list."""

    region = REGION

    def __init__(self, network: dict[str, object]) -> None:
        cpus, memory = {"DefaultVCpus": 8, "DefaultThreadsPerCore": 2}, {"SizeInMiB": 16384}
        self._type = {"InstanceType": "x1", "VCpuInfo": cpus, "MemoryInfo": memory,
                      "NetworkInfo": network}  # fmt: skip

    def pages(self, service: str, *_: object, **__: object) -> list[object]:
        return [product("1.5") if service == "pricing" else self._type]


@pytest.mark.parametrize(
    ("network", "gbps"),
    [
        ({"NetworkCards": [{"BaselineBandwidthInGbps": 100.0}] * 4}, 400),
        ({"NetworkPerformance": "25 Gigabit"}, 25),
        ({"NetworkPerformance": "4x 100 Gigabit", "NetworkCards": [{}]}, 400),
    ],
)
def test_bandwidth_is_what_all_cards_sustain(network: dict[str, object], gbps: float) -> None:
    (found,) = read_types(Said(network), ["x1"])  # type: ignore[arg-type]
    assert (found.network_gbps, found.cores) == (gbps, 4)


@pytest.mark.parametrize("said", ["Up to 10 Gigabit", "High", ""])
def test_a_bandwidth_that_is_only_a_peak_is_not_taken(said: str) -> None:
    with pytest.raises(BadInput, match="does not tell the bandwidth of x1"):
        read_types(Said({"NetworkPerformance": said}), ["x1"])  # type: ignore[arg-type]


def test_a_file_of_another_region_is_not_overwritten(prices: PriceList, tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    prices.products["c6i.4xlarge"] = [product("0.68")]
    update(path, "c6i.4xlarge")
    with pytest.raises(BadInput, match="those of us-east-2, not of us-west-2"):
        update(path, region="us-west-2")


def test_without_a_file_types_have_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no types to look up"):
        update(tmp_path / "c.yaml")


# -- eksctl ----------------------------------------------------------------------------------------

HPC = NodeType(
    name="hpc7a.96xlarge", cores=192, vcpus=192, gpus=0, memory_gib=768.0, efa=2,
    network_gbps=300.0, price_per_hour_usd=7.2,
)  # fmt: skip
C7I = HPC.model_copy(update={"name": "c7i.4xlarge", "efa": 0})
PLAN = ClusterPlan("hpc", REGION, ("us-east-2a", "us-east-2b"))


def test_an_eksctl_cluster_has_an_empty_node_group_for_each_type_of_slots() -> None:
    slots = [Slot(f"hpc-{k}", HPC.name, ("a", "b")) for k in range(3)]
    slots.append(Slot("c-0", C7I.name, ("c",)))
    plan = ClusterPlan(
        "hpc", REGION, ("us-east-2a", "us-east-2b"), placement_group="near", spot=True,
        labels={"team": "hpc"}, disk_gib=80,
    )  # fmt: skip
    document = yaml.safe_load(eksctl_config(plan, groups_of(slots, [HPC, C7I])))
    assert document["kind"] == "ClusterConfig"
    assert document["apiVersion"] == "eksctl.io/v1alpha5"
    assert document["metadata"] == {"name": "hpc", "region": REGION}
    assert document["availabilityZones"] == ["us-east-2a", "us-east-2b"]
    assert document["accessConfig"] == {"authenticationMode": "API_AND_CONFIG_MAP"}
    system, hpc, c7i = document["managedNodeGroups"]
    assert (system["name"], system["minSize"]) == ("system", 1)
    assert hpc == {
        "name": "hpc7a-96xlarge",
        "instanceType": "hpc7a.96xlarge",
        "minSize": 0,
        "maxSize": 6,
        "desiredCapacity": 0,
        "privateNetworking": True,
        "availabilityZones": ["us-east-2a"],
        "efaEnabled": True,
        "placement": {"groupName": "near"},
        "spot": True,
        "volumeSize": 80,
        "labels": {"team": "hpc"},
    }
    assert "efaEnabled" not in c7i
    assert c7i["maxSize"] == 1


def test_what_eksctl_makes_of_it_is_said_at_the_top() -> None:
    head = eksctl_config(PLAN, [SlotGroup(HPC, 4)]).split("apiVersion")[0]
    assert "Nothing has been made" in head
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (ClusterPlan("hpc", REGION, ("us-east-2a",)), "two zones"),
        (ClusterPlan("hpc", REGION, ("us-east-2a", "us-west-2a")), "no zone of us-east-2"),
        (ClusterPlan("h_c", REGION, ("us-east-2a", "us-east-2b")), "no name of a cluster"),
    ],
)
def test_what_eksctl_would_refuse_is_refused(plan: ClusterPlan, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        eksctl_config(plan, [])


def test_slots_of_a_type_that_the_catalogue_lacks_are_refused() -> None:
    with pytest.raises(BadInput, match="no node type 'x'"):
        groups_of([Slot("x-0", "x", ("a",))], [HPC])
