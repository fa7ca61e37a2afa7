"""What instances are called: by their tags, unless that is what something else is called."""

from __future__ import annotations

import pytest

from flux_flex.errors import BadInput
from flux_flex.topology.answers import Answers, Ec2Instance, Located
from flux_flex.topology.mapping import network_of_hosts, network_of_instances

REAL, LIAR, UNLISTED = "i-0000000a", "i-0000000b", "i-0000000c"


def answers(tag: str) -> Answers:
    """Two located instances, the second with a Name tag of its choice, and one not located."""

    def told(one: str, name: str) -> Ec2Instance:
        return Ec2Instance(one, "t", "running", "", "", name)

    return Answers(
        {one: told(one, tag if one == LIAR else "") for one in (REAL, LIAR, UNLISTED)},
        {
            one: Located(one, "t", ("nn-1", "leaf"), "us-east-2b", "use2-az2")
            for one in (REAL, LIAR)
        },
    )


@pytest.mark.parametrize(
    "tag", [REAL, UNLISTED, "nn-1", "leaf", "us-east-2b", "use2-az2", "us-east-2"]
)
def test_a_tag_that_means_something_else_is_no_name(tag: str) -> None:
    network = network_of_instances(answers(tag), "tag")
    assert {(one.host, one.instance_id) for one in network.places} == {(REAL, REAL), (LIAR, LIAR)}
    assert network.tree.hosts == (REAL, LIAR)


@pytest.mark.parametrize("tag", [LIAR, "compute0"])
def test_a_tag_of_its_own_is_a_name(tag: str) -> None:
    names = {one.instance_id: one.host for one in network_of_instances(answers(tag), "tag").places}
    assert names == {REAL: REAL, LIAR: tag}


def test_a_host_of_r_that_is_called_as_a_network_node_is_refused_by_name() -> None:
    network = network_of_hosts(answers("leaf"), ["leaf"])
    with pytest.raises(BadInput, match="'leaf' is both a host and a network node") as got:
        network.tree  # noqa: B018 - it is made when it is asked for
    assert got.value.where == f"host leaf ({LIAR})"
