"""Hostlists (RFC 29): the RFC's own vectors, folding, and what is refused."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_line import assert_reads_as_one_line

from flux_flex.errors import BadInput
from flux_flex.model.hostlist import expand_hostlist, expand_nodelist, format_hostlist
from flux_flex.model.idset import MAX_EXPANDED

names = st.one_of(
    st.from_regex(r"\A(n|rack1-node|x\.)?[0-9]{1,3}\Z"),
    st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,12}\Z"),
    st.from_regex(r"\An[0-9]{17,20}\Z"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("foox,fooy,fooz", "foox,fooy,fooz"),
        ("[1-3,5-6]", "1,2,3,5,6"),
        ("foo[1-5]", "foo1,foo2,foo3,foo4,foo5"),
        ("foo[0-4]-eth2", "foo0-eth2,foo1-eth2,foo2-eth2,foo3-eth2,foo4-eth2"),
        ("foo1,foo1,foo1", "foo1,foo1,foo1"),
        ("[00-02]", "00,01,02"),
        ("[00-2]", "00,01,02"),
        ("foo[1,1,2,1]", "foo1,foo1,foo2,foo1"),
        ("[005,4,11-13]", "005,004,011,012,013"),
    ],
)
def test_rfc29_vectors_hold(text: str, expected: str) -> None:
    assert expand_hostlist(text) == (expected.split(",") if expected else [])


def test_zero_padding_and_order_are_kept() -> None:
    assert expand_hostlist("n[098-101],login1,n[2,1]") == [
        *("n098", "n099", "n100", "n101"),
        "login1",
        *("n2", "n1"),
    ]


def test_bracket_groups_multiply_rightmost_fastest() -> None:
    assert expand_hostlist("r[0-1]n[08-09]") == ["r0n08", "r0n09", "r1n08", "r1n09"]


def test_empty_expressions_are_empty_lists() -> None:
    assert expand_hostlist("a,,b,") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("n[3-1]", "range 3-1 runs backwards"),
        ("n[1-02]", "different widths"),
        ("n[]", "neither a number nor a range"),
        ("n[1,,2]", "neither a number nor a range"),
        ("n[a]", "neither a number nor a range"),
        ("n[-1]", "neither a number nor a range"),
        ("n[٣]", "neither a number nor a range"),
        ("n[1", "character 2 has no partner"),
        ("n1]", "character 3 has no partner"),
        ("n[[1]]", "character 2 has no partner"),
        ("a b", "cannot be part of a host name"),
        ("a;reboot", "cannot be part of a host name"),
        ("a/../b", "cannot be part of a host name"),
        ("nœud1", "cannot be part of a host name"),
        ("n1\n", "cannot be part of a host name"),
        ("-rf", "starts with '-'"),
        (".ssh", "starts with '.'"),
        ("n[0-9999999999999999999]", "more than 18 digits"),
        ("n" * 256, "256 characters"),
        ("n" * 250 + "[1-999999]", "256 characters"),
        ("[0]" * 300, "300 characters"),
    ],
)
def test_text_that_is_not_a_hostlist_is_refused(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as refused:
        expand_hostlist(text)
    assert refused.value.where.startswith("hostlist '")
    assert refused.value.remedy


@pytest.mark.parametrize(
    "text", ["n[0-999999999999]", "n[0-999999][0-999999]", "n[0-999999],m", "[0-9]" * 200]
)
def test_huge_hostlists_are_refused_without_much_work(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadInput, match="over 1,000,000 hosts"):
        expand_hostlist(text)
    assert time.perf_counter() - started < 5


def test_million_hosts_are_expanded() -> None:
    assert len(expand_hostlist(f"n[0-{MAX_EXPANDED - 1}]")) == MAX_EXPANDED


def test_nodelist_joins_its_items_in_order() -> None:
    assert expand_nodelist(["b[1-2]", "a,c"]) == ["b1", "b2", "a", "c"]


def test_nodelist_error_names_the_item() -> None:
    with pytest.raises(BadInput, match="runs backwards") as refused:
        expand_nodelist(["a", "b[2-1]"], where="execution.nodelist")
    assert refused.value.where == "execution.nodelist[1]: hostlist 'b[2-1]'"


def test_nodelist_limit_is_for_all_items_together() -> None:
    with pytest.raises(BadInput, match="over 1,000,000 hosts"):
        expand_nodelist(["n[0-600000]", "m[0-600000]"])


def test_nodelist_that_is_a_string_is_refused() -> None:
    with pytest.raises(BadInput, match="a string, not a list"):
        expand_nodelist("node1")


def test_nodelist_item_that_is_no_string_is_refused() -> None:
    with pytest.raises(BadInput, match="a hostlist is a string, not null"):
        expand_nodelist([None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([], ""),
        (["login"], "login"),
        (["compute0", "compute1", "compute2"], "compute[0-2]"),
        (["n1", "n3", "n4", "n2"], "n[1,3-4,2]"),
        (["n1", "n1"], "n[1,1]"),
        (["n009", "n010", "n011"], "n[009-011]"),
        (["n9", "n10"], "n[9-10]"),
        (["n9", "n010"], "n9,n010"),
        (["n09", "n9"], "n09,n9"),
        (["a1", "b2", "a2"], "a1,b2,a2"),
        (["n" + "9" * 19, "n" + "9" * 19], f"n{'9' * 19},n{'9' * 19}"),
    ],
)
def test_neighbouring_numbers_fold(hosts: list[str], text: str) -> None:
    assert format_hostlist(hosts) == text
    assert expand_hostlist(text) == hosts


@pytest.mark.parametrize("host", ["", "a,b", "a[1]", "a b", "-x", "n" * 256, "n1\n", None])
def test_invalid_host_name_is_not_written(host: str) -> None:
    with pytest.raises(BadInput, match="not a host name"):
        format_hostlist(["ok1", host])


@given(st.lists(names, max_size=40))
@settings(deadline=None, max_examples=300)
def test_written_hostlist_reads_back_the_same(hosts: list[str]) -> None:
    assert expand_hostlist(format_hostlist(hosts)) == hosts


@given(st.one_of(st.text(), st.text("n0123456789,-[]._", max_size=30)))
@settings(deadline=None, max_examples=500)
def test_any_text_is_a_hostlist_or_bad_input(text: str) -> None:
    try:
        hosts = expand_hostlist(text)
    except BadInput as error:
        assert_reads_as_one_line(error)
    else:
        if len(hosts) < 10_000:
            assert expand_hostlist(format_hostlist(hosts)) == hosts
