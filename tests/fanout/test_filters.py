"""Filters: what they ask for, what passes them, and that an index over many says what each one says."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fanout import filters
from appliance.fanout.contents import Contents, Scan, extract
from appliance.fanout.filters import MAX_ITEMS, Filter, FilterIndex, InvalidFilterError, parse_filter
from tests.fanout.oracle import passes

DATA = Path(__file__).parents[1] / "data" / "flashblocks"
ADDRESSES = [bytes([number]) * 20 for number in range(4)]
TOPICS = [bytes([number]) * 32 for number in range(3)]
FILTERS = st.builds(
    Filter,
    st.sets(st.sampled_from(ADDRESSES), max_size=3),
    st.sets(st.sampled_from(TOPICS), max_size=2),
    match_all=st.booleans(),
).filter(lambda wanted: wanted.items > 0)
LOGS = st.builds(
    lambda address, topics: {"address": "0x" + address.hex(), "topics": ["0x" + topic.hex() for topic in topics]},
    st.sampled_from(ADDRESSES),
    st.lists(st.sampled_from(TOPICS), max_size=2),
)
MESSAGES = st.builds(
    lambda balances, outside, inside, calls: {
        "diff": {"transactions": ["0x" + (b"\xee" * 3 + call).hex() for call in calls]},
        "metadata": {
            "new_account_balances": {"0x" + address.hex().upper(): "0x1" for address in balances},
            "receipts": {"0x01": {"Eip1559": {"logs": outside}}, "0x02": {"type": "0x2", "logs": inside}},
        },
    },
    *(st.lists(each, max_size=2) for each in (st.sampled_from(ADDRESSES), LOGS, LOGS, st.sampled_from(ADDRESSES))),
).map(lambda message: json.dumps(message).encode())


def judge(wanted: Filter, contents: Contents) -> bool:
    scan = Scan(wanted.addresses, contents)
    assert scan.run(lambda: 0.0, 1.0)
    return wanted.after_scan(contents, scan.hits)


@given(MESSAGES, FILTERS)
def test_a_filter_says_what_the_rule_says(message: bytes, wanted: Filter) -> None:
    contents = extract(message)
    assert judge(wanted, contents) == passes(message, wanted)
    assert wanted.without_scan(contents) in (None, passes(message, wanted))


@given(st.lists(MESSAGES, max_size=3), st.lists(FILTERS, max_size=8), st.lists(FILTERS, max_size=4))
def test_an_index_says_of_each_filter_what_it_says_itself(
    messages: list[bytes], stay: list[Filter], gone: list[Filter]
) -> None:
    index = FilterIndex()
    for wanted in (*gone, *stay):
        index.add(wanted)
    for wanted in gone:
        index.remove(wanted)
    assert index.items == sum(wanted.items for wanted in set(stay))
    assert len(index) == len(set(stay))
    for contents in map(extract, messages):
        scan = Scan(index.addresses, contents)
        assert scan.run(lambda: 0.0, 1.0)
        found: set[Filter] = set()
        for _ in index.matching(contents, scan.hits, found):
            pass
        assert found == {wanted for wanted in stay if judge(wanted, contents)}


def test_an_index_that_everybody_left_is_empty() -> None:
    index, wanted = FilterIndex(), Filter(ADDRESSES, TOPICS)
    index.add(wanted)
    index.add(Filter(ADDRESSES, TOPICS))
    index.remove(wanted)
    assert wanted in index
    index.remove(wanted)
    assert wanted not in index
    assert (len(index), index.items, len(index.addresses)) == (0, 0, 0)


def test_equal_filters_are_one_and_ways_to_match_that_mean_the_same_are_equal() -> None:
    assert len({Filter(ADDRESSES), Filter(reversed(ADDRESSES)), Filter(ADDRESSES, match_all=True)}) == 1
    assert Filter(ADDRESSES, TOPICS) != Filter(ADDRESSES, TOPICS, match_all=True)
    assert Filter(ADDRESSES) != object()
    assert repr(Filter(ADDRESSES, TOPICS, match_all=True)) == "<Filter 4 addresses, 3 topics, all>"


def test_the_examples_of_websocket_proxy() -> None:
    contents = extract((DATA / "schema" / "base-wsproxy-filter-2.json").read_bytes())
    for address, expected in [
        ("4200000000000000000000000000000000000010", True),  # in a log
        ("4200000000000000000000000000000000000007", True),  # in the balances
        ("fc56e7272eebbba5bc6c544e159483c4a38f8ba3", True),  # in a transaction
        ("1111111111111111111111111111111111111111", False),
    ]:
        assert judge(Filter([bytes.fromhex(address)]), contents) is expected
    topic = bytes.fromhex("b0444523268717a02698be47d0803aa7468c00acbed2f8bd93a0459cde61dd89")
    nobody = b"\x11" * 20
    assert judge(Filter(topics=[topic]), contents)
    assert judge(Filter([nobody], [topic]), contents)
    assert not judge(Filter([nobody], [topic], match_all=True), contents)


def test_a_query_without_items_asks_for_everything() -> None:
    for query in ({}, {"match": "all"}, {"addresses": "", "topics": " , "}, {"other": "x"}):
        assert parse_filter(query) is None


def test_items_are_separated_by_commas_in_either_case() -> None:
    query = {"addresses": f"0x{'AB' * 20}, 0x{'ab' * 20},0x{'01' * 20}", "topics": f"0X{'cd' * 32},", "match": "all"}
    assert parse_filter(query) == Filter([b"\xab" * 20, b"\1" * 20], [b"\xcd" * 32], match_all=True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"match": "some"}, "match must be any or all"),
        ({"addresses": "0x12"}, "addresses: expected 0x and 40 hex digits, found 0x12"),
        ({"addresses": "ab" * 20}, f"addresses: expected 0x and 40 hex digits, found {'ab' * 20}"),
        (
            {"addresses": f"0x{'01' * 20},0x{'zz' * 20}"},
            f"addresses: expected 0x and 40 hex digits, found 0x{'zz' * 20}",
        ),
        ({"topics": "0x" + "11" * 20}, f"topics: expected 0x and 64 hex digits, found 0x{'11' * 20}"),
        ({"topics": "x" * 500}, f"topics: expected 0x and 64 hex digits, found {'x' * 70}"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(query: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse_filter(query)
    assert str(caught.value) == message


def test_a_filter_has_so_many_items_and_no_more() -> None:
    texts = [f"0x{number:040x}" for number in range(MAX_ITEMS)]
    wanted = parse_filter({"addresses": ",".join(texts)})
    assert wanted is not None
    assert wanted.items == MAX_ITEMS
    with pytest.raises(InvalidFilterError, match="at most 256 are taken"):
        parse_filter({"addresses": ",".join(texts), "topics": "0x" + "00" * 32})


def test_all_filters_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MAX_ITEMS_IN_ALL", 5)
    index = FilterIndex()
    index.add(Filter(ADDRESSES))
    assert index.has_room_for(Filter(ADDRESSES))
    assert index.has_room_for(Filter(TOPICS[:1]))
    assert not index.has_room_for(Filter(ADDRESSES[:1], TOPICS[:1]))
