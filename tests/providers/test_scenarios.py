"""What fails at L1 endpoints, on real sockets: each failure by its name."""

from dataclasses import replace
from functools import partial

import msgspec
import pytest
import trio
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionType
from wsproto.events import TextMessage

from appliance.net.errors import ConnectionBroken
from appliance.net.http import HttpResponse
from appliance.wire.jsonrpc import encode_error, encode_result
from tests.providers.chain import Chain
from tests.providers.endpoint import Answer
from tests.providers.rig import IMPATIENT, QUICK, rig
from tests.support.eventually import eventually

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
KINDS = pytest.mark.parametrize("kind", ["http", "ws"])


def fails_with(code: int, message: str, *methods: str) -> Answer:
    return lambda request: encode_error(bytes(request.id), code, message) if request.method in methods else None


@KINDS
async def test_the_first_endpoint_answers_and_ids_come_back_as_they_came(kind: str) -> None:
    async with rig(main=kind, backup="http") as r:
        for identifier in (b"17", b'"x"', b"null", b"1.50"):
            body = b'{"jsonrpc":"2.0","id":%b,"method":"web3_sha3","params":[]}' % identifier
            expected = b'{"jsonrpc":"2.0","id":%b,"result":"main web3_sha3"}' % identifier
            assert (await r.post(body)).body == expected
        assert r.endpoints["backup"].methods("web3_sha3") == []


@KINDS
async def test_a_killed_endpoint_is_replaced_within_the_same_request(kind: str) -> None:
    async with rig(main=kind, backup="http") as r:
        await r.until_known()
        await r.endpoints["main"].kill()
        assert await r.call("web3_sha3") == "backup web3_sha3"
        await r.until_active("backup")
        assert r.status("main")["state"] == "unwell"
        assert r.metric("eth_network_errors", provider="main") >= 1


@KINDS
async def test_a_hanging_endpoint_is_found_by_its_timeout_and_its_requests_move_on(kind: str) -> None:
    async with rig(IMPATIENT, main=kind, backup="ws") as r:
        await r.until_known()
        r.endpoints["main"].hang()
        assert await r.call("web3_sha3") == "backup web3_sha3"
        assert r.metric("eth_network_errors", provider="main") >= 1
        await r.until_active("backup")


@KINDS
async def test_an_endpoint_comes_back_after_it_has_been_well_for_a_while(kind: str) -> None:
    async with rig(main=kind, backup="http") as r:
        await r.until_known()
        await r.endpoints["main"].kill()
        await r.until_active("backup")
        await r.endpoints["main"].start(r.nursery)
        await r.until_active("main")
        assert await r.call("web3_sha3") == "main web3_sha3"
        await r.endpoints["main"].kill()


async def test_an_endpoint_whose_head_lags_is_left() -> None:
    async with rig(main="ws", backup="http") as r:
        await r.until_known()
        r.endpoints["main"].freeze()
        r.mine(5)
        await r.until_active("backup")
        assert "5 blocks behind" in r.status("main")["explain"]


async def test_errors_in_a_row_make_an_endpoint_unhealthy_and_a_success_resets_them() -> None:
    seldom = replace(QUICK, probe_interval_s=60)  # a good probe would have it on its way back at once
    async with rig(seldom, main="http", backup="http") as r:
        await r.until_known()
        main = r.endpoints["main"]
        main.answer = fails_with(-32005, "limit exceeded", "eth_gasPrice")
        for _ in range(2):
            assert await r.call("eth_gasPrice") == "backup eth_gasPrice"
        assert await r.call("web3_sha3") == "main web3_sha3"  # resets
        for _ in range(2):
            assert await r.call("eth_gasPrice") == "backup eth_gasPrice"
        assert r.active == "main"
        assert await r.call("eth_gasPrice") == "backup eth_gasPrice"
        assert r.active == "backup"
        assert "3 errors in a row" in r.status("main")["explain"]


@KINDS
async def test_an_endpoint_on_another_chain_is_asked_nothing_and_makes_nobody_stale(kind: str) -> None:
    async with rig(main="http", other=kind) as r:
        other = r.endpoints["other"]
        other.chain, other.chain_id = Chain(), 8453
        other.chain.mine_many(1000)
        why = "on chain 8453, and this group is on chain 1 (as main says; chain_id would decide)"
        await eventually(lambda: r.status("other")["explain"] == why)
        assert r.status("other")["state"] == "unwell"
        other.announce()
        await r.until_active("main")
        await eventually(lambda: r.status("main")["head"] == 3)
        assert (r.status("main")["state"], r.status("main")["explain"]) == ("well", "head 3")
        assert r.status("other")["head"] is None
        assert r.metric("eth_network_errors", provider="other") >= 1
        await r.endpoints["main"].kill()
        answer = await r.ask("eth_call")
        assert answer["error"]["message"].endswith(f"other ({why})")
        assert other.methods("eth_call") == []


async def test_the_configured_chain_decides_also_against_the_first_endpoint() -> None:
    async with rig(replace(QUICK, chain_id=10), main="http", backup="ws") as r:
        r.endpoints["backup"].chain_id = 10
        await eventually(lambda: "this group is on chain 10 (chain_id)" in r.status("main")["explain"])
        await r.until_active("backup")
        assert await r.call("eth_gasPrice") == "backup eth_gasPrice"
        r.endpoints["main"].chain_id = 10  # the operator of the endpoint mended it
        await r.until_active("main")
        assert (r.status("main")["state"], r.status("main")["chain_id"]) == ("well", 10)


async def test_while_the_first_endpoint_is_silent_the_next_one_says_the_chain() -> None:
    async with rig(IMPATIENT, main="http", backup="http") as r:
        r.endpoints["main"].hang()
        await eventually(lambda: r.status("backup")["head"] == 3)
        r.endpoints["main"].chain_id = 5
        r.endpoints["main"].resume()
        await eventually(lambda: "as backup says" in r.status("main")["explain"])


async def test_who_was_away_says_its_chain_anew() -> None:
    async with rig(main="ws", backup="http") as r:
        await r.until_known()
        await r.endpoints["main"].kill()
        await r.until_active("backup")
        r.endpoints["main"].chain_id = 5
        await r.endpoints["main"].start(r.nursery)
        await eventually(lambda: "on chain 5" in r.status("main")["explain"])
        assert r.active == "backup"
        await r.endpoints["main"].kill()


async def test_an_endpoint_that_does_not_say_its_chain_is_not_well() -> None:
    async with rig(main="http", backup="http") as r:
        r.endpoints["main"].answer = fails_with(-32601, "the method eth_chainId does not exist", "eth_chainId")
        await eventually(lambda: "it does not say its chain: eth_chainId: -32601" in r.status("main")["explain"])
        await r.until_active("backup")


async def test_a_head_that_is_pushed_before_the_chain_is_known_is_not_lost() -> None:
    seldom = replace(QUICK, probe_interval_s=60)
    async with rig(seldom, main="ws") as r:
        await eventually(lambda: r.endpoints["main"].subscribed("newHeads"))
        await r.until_known()
        await r.endpoints["main"].kill()
        await r.endpoints["main"].start(r.nursery)
        await eventually(lambda: r.endpoints["main"].subscribed("newHeads"))
        r.mine()
        await eventually(lambda: r.status("main")["head"] == 4)
        await r.endpoints["main"].kill()


async def test_an_error_that_is_about_the_call_is_the_answer() -> None:
    async with rig(main="http", backup="http") as r:
        r.endpoints["main"].answer = fails_with(3, "execution reverted", "eth_call")
        assert (await r.ask("eth_call"))["error"] == {"code": 3, "message": "execution reverted"}
        assert r.endpoints["backup"].methods("eth_call") == []


async def test_a_transaction_is_sent_again_and_other_writes_are_not() -> None:
    async with rig(main="http", backup="http") as r:
        await r.until_known()
        r.endpoints["main"].answer = lambda request: (
            HttpResponse(502, b"bad gateway") if not request.method.startswith("eth_get") else None
        )
        assert (await r.call("eth_sendRawTransaction", "0x02aa")).startswith("0x")
        error = (await r.ask("eth_sendTransaction", {}))["error"]
        assert "may have been carried out" in error["message"]
        assert r.endpoints["backup"].methods("eth_sendTransaction") == []


async def test_all_unhealthy_names_each_endpoint_and_why_and_no_key() -> None:
    async with rig(main="ws", backup="http") as r:
        await r.until_known()
        for endpoint in r.endpoints.values():
            await endpoint.kill()
        await r.until_active(None)
        answer = await r.ask("web3_sha3")
        text = answer["error"]["message"]
        assert "main (" in text
        assert "backup (" in text
        assert "Connection refused" in text
        assert "secret" not in text
        assert "secret" not in msgspec.json.encode(r.providers.statistics()).decode()
        assert (await r.client.request("GET", "/healthz", timeout_s=60)).status == 503


@KINDS
async def test_a_subscriber_sees_each_block_once_through_a_failover(kind: str) -> None:
    async with rig(main="ws", backup=kind) as r, r.websocket() as client:
        await r.until_known()
        assert (await client.call("eth_subscribe", "newHeads")).startswith("0x")
        r.mine(2)
        assert await client.heads(2) == [4, 5]
        await r.endpoints["main"].kill()
        r.mine(3)
        assert await client.heads(3) == [6, 7, 8]
        await r.until_active("backup")
        r.mine(2)
        assert await client.heads(2) == [9, 10]


async def test_heads_come_over_http_alone_by_polling() -> None:
    async with rig(main="http") as r, r.websocket() as client:
        await client.call("eth_subscribe", "newHeads")
        r.mine(4)
        head = await client.notification()
        assert set(head) == {"number", "hash", "parentHash", "timestamp", "gasLimit"}
        assert await client.heads(3) == [5, 6, 7]


async def test_an_endpoint_that_takes_no_subscription_is_polled() -> None:
    async with rig(main="ws") as r, r.websocket() as client:
        r.endpoints["main"].refuses_subscriptions = True
        for websocket in list(r.endpoints["main"]._websockets):
            websocket.close(1001, "restart")
        await eventually(lambda: r.endpoints["main"].connections == 1)
        await client.call("eth_subscribe", "newHeads")
        r.mine(2)
        assert await client.heads(2) == [4, 5]


async def test_a_reorg_is_passed_on_and_its_logs_are_taken_back() -> None:
    async with rig(main="ws", backup="ws") as r, r.websocket() as client:
        heads = await client.call("eth_subscribe", "newHeads")
        logs = await client.call("eth_subscribe", "logs", {"address": "0xaa"})
        block = r.chain.mine("0x01", "0x02")
        r.endpoints["main"].announce(block)
        found = [await client.whole_notification() for _ in range(3)]
        assert [each["subscription"] for each in found] == [heads, logs, logs]
        new = r.chain.reorg(1, 2)
        r.endpoints["main"].announce(*new)
        found = [await client.whole_notification() for _ in range(4)]
        assert [each["result"]["hash"] for each in found if each["subscription"] == heads] == [b.hash for b in new]
        removed = [each["result"] for each in found if each["subscription"] == logs]
        assert [(log["data"], log["removed"]) for log in removed] == [("0x02", True), ("0x01", True)]


async def test_logs_are_filled_in_through_a_failover() -> None:
    async with rig(main="ws", backup="http") as r, r.websocket() as client:
        await r.until_known()
        await client.call("eth_subscribe", "logs", {"topics": [None, "0xbb"]})
        await r.endpoints["main"].kill()
        for number in range(3):
            r.chain.mine(f"0x{number}")
        assert [(await client.notification())["data"] for _ in range(3)] == ["0x0", "0x1", "0x2"]
        asked = next(each for each in r.endpoints["backup"].calls if each.method == "eth_getLogs")
        assert msgspec.json.decode(asked.params)[0]["topics"] == [None, "0xbb"]


async def test_pending_transactions_are_subscribed_anew_after_a_failover() -> None:
    async with rig(main="ws", backup="ws") as r, r.websocket() as client:
        await r.until_known()
        await client.call("eth_subscribe", "newPendingTransactions")
        for name in ("main", "backup"):
            endpoint = r.endpoints[name]
            await eventually(partial(endpoint.subscribed, "newPendingTransactions"))
            endpoint.announce_pending(f"0x{name}")
            assert await client.notification() == f"0x{name}"
            await endpoint.kill()


async def test_a_dropped_transaction_is_counted_and_three_are_too_many() -> None:
    async with rig(main="http", backup="http") as r:
        main = r.endpoints["main"]
        for _ in range(3):
            transaction_hash = await r.call("eth_sendRawTransaction", "0x02")
            await eventually(lambda: "eth_getTransactionByHash" in main.methods())
            del main.mempool[transaction_hash]
            main.mempool["filler" + transaction_hash] = {}
        await r.until_active("backup")
        assert r.metric("eth_mempool_drops", provider="main") == 3
        assert r.status("main")["explain"] == "3 mempool drops within 300 s"


async def test_subscribing_over_http_is_a_clear_error() -> None:
    async with rig(main="ws") as r:
        error = (await r.ask("eth_subscribe", "newHeads"))["error"]
        assert error["code"] == -32601
        assert "ws://" in error["message"]


async def test_stopping_closes_websocket_clients_with_1001() -> None:
    async with rig(main="ws") as r, r.websocket() as client:
        await client.call("web3_sha3")
        r.stopping.set()
        with pytest.raises(ConnectionBroken, match="1001 going away"):
            await client.notification()


async def test_a_client_that_does_not_read_is_closed_and_others_go_on() -> None:
    large = b"x" * 2**20
    async with rig(main="http") as r:
        r.endpoints["main"].answer = lambda request: (
            encode_result(bytes(request.id), b'"%b"' % large) if request.method == "eth_getLarge" else None
        )
        async with await silent(r.address) as client, r.websocket() as other:
            frames = Protocol(ConnectionType.CLIENT)
            for number in range(60):
                call = f'{{"jsonrpc":"2.0","id":{number},"method":"eth_getLarge","params":[]}}'
                await client.send_all(frames.send(TextMessage(call)))
            await eventually(lambda: r.metric("providers_clients_dropped_total", group="l1") == 1)
            assert await other.call("web3_sha3") == "main web3_sha3"
            await eventually(lambda: r.metric("providers_clients", group="l1") == 1)


async def silent(address: str) -> trio.SocketStream:
    """A websocket client that has read the answer to its handshake, and reads nothing more."""
    host, _, port = address.partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(HANDSHAKE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await stream.receive_some(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return stream


async def test_a_gap_that_is_too_large_closes_the_client_and_says_so() -> None:
    async with rig(replace(QUICK, max_missed_heads=4), main="http") as r, r.websocket() as client:
        await client.call("eth_subscribe", "newHeads")
        r.endpoints["main"].hang()
        r.mine(10)
        r.endpoints["main"].resume()
        with pytest.raises(ConnectionBroken, match="1013 9 heads were missed"):
            await client.notification()
