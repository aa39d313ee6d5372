"""What clients ask to follow, and the memory of logs."""

import msgspec
import pytest

from appliance.domain.errors import DecodeError
from appliance.providers.subscriptions import (
    LogMemory,
    Logs,
    NewHeads,
    PendingTransactions,
    Registry,
    Subject,
    as_removed,
    logs_params,
    notification,
    parse_subject,
    parse_unsubscribe,
)


@pytest.mark.parametrize(
    ("params", "subject"),
    [
        (b'["newHeads"]', NewHeads()),
        (b'["newHeads", {}]', NewHeads()),
        (b'["logs"]', Logs(b"")),
        (b'["logs", {}]', Logs(b"")),
        (b'["logs", {"address": "0xaa", "fromBlock": "0x1"}]', Logs(b',"address":"0xaa"')),
        (b'["logs", {"topics": [null, ["0x1", "0x2"]]}]', Logs(b',"topics":[null,["0x1","0x2"]]')),
        (b'["newPendingTransactions"]', PendingTransactions(False)),
        (b'["newPendingTransactions", true]', PendingTransactions(True)),
    ],
)
def test_subjects(params: bytes, subject: Subject) -> None:
    assert parse_subject(params) == subject


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (b"", "expected one of newHeads, logs"),
        (b"[]", "expected one of newHeads"),
        (b'["syncing"]', "found 'syncing'"),
        (b"[1]", "Expected `str`"),
        (b'["logs", {"address": 1}]', r"\$.address"),
        (b'["logs", {"topics": "0x1"}]', r"\$.topics"),
        (b'["newPendingTransactions", 1]', "Expected `bool`"),
        (b"{}", "Expected `array`"),
    ],
)
def test_a_wrong_subject_is_an_error_that_says_what(params: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        parse_subject(params)


def test_unsubscribe_takes_one_id() -> None:
    assert parse_unsubscribe(b'["0x1"]') == "0x1"
    for wrong in (b"", b"[]", b"[1]", b'["0x1","0x2"]'):
        with pytest.raises(DecodeError, match="one subscription id"):
            parse_unsubscribe(wrong)


def test_logs_are_asked_for_by_the_blocks_hash() -> None:
    asked = msgspec.json.decode(logs_params(b',"address":"0xaa"', "0xb1"))
    assert asked == [{"blockHash": "0xb1", "address": "0xaa"}]


def test_a_notification_is_as_go_ethereum_sends_it() -> None:
    assert msgspec.json.decode(notification("0x1", b'{"a":1}')) == {
        "jsonrpc": "2.0",
        "method": "eth_subscription",
        "params": {"subscription": "0x1", "result": {"a": 1}},
    }


def test_the_endpoints_own_subscription_has_the_same_parameters() -> None:
    assert PendingTransactions(False).params == b'["newPendingTransactions"]'
    assert PendingTransactions(True).params == b'["newPendingTransactions",true]'


def test_a_registry_knows_its_ids() -> None:
    registry = Registry(2)
    registry.add("0x1", NewHeads())
    full = [registry.full]
    registry.add("0x2", NewHeads())
    assert [*full, registry.full] == [False, True]
    assert registry.of(NewHeads()) == ["0x1", "0x2"]
    assert registry.remove("0x1")
    assert not registry.remove("0x1")
    assert registry.subjects == {NewHeads()}
    assert len(registry) == 1


def test_logs_are_remembered_until_they_are_taken_back() -> None:
    memory = LogMemory(2, 1000)
    logs = [msgspec.Raw(b"{}")]
    memory.remember("0x1", logs)
    assert memory.forget("0x1") == logs
    assert memory.forget("0x1") is None


def test_the_memory_is_bounded_by_blocks_and_by_bytes_and_knows_which() -> None:
    memory = LogMemory(2, 100)
    for number in range(3):
        memory.remember(f"0x{number}", [])
    assert memory.forget("0x0") is None
    gaps = [memory.has_gaps]
    memory.remember("0x3", [msgspec.Raw(b"x" * 101)])
    assert [*gaps, memory.has_gaps] == [False, True]
    assert memory.forget("0x2") is None


def test_a_removed_log_says_so() -> None:
    log = msgspec.Raw(b'{"data":"0x1","removed":false}')
    assert msgspec.json.decode(as_removed(log)) == {"data": "0x1", "removed": True}
    assert msgspec.json.decode(as_removed(msgspec.Raw(b'{"data":"0x1"}')))["removed"] is True
