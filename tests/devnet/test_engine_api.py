from typing import Any

import pytest

from appliance.devnet.chain import Fork, header_of
from appliance.devnet.engine_api import BUILT_KEPT, JOBS_KEPT, BuildJob, EngineApi
from appliance.devnet.messages import ExecutionPayload, PayloadAttributes, RpcError, decode_as, hex_data
from appliance.devnet.payload_id import payload_id
from tests.devnet.setting import (
    DEPOSIT,
    attributes,
    forkchoice,
    fresh_ledger,
    new_payload_params,
    shared_traffic,
    shared_wallet,
)

VERSIONS = {Fork.BEDROCK: (1, 1, 1), Fork.CANYON: (2, 2, 2), Fork.ECOTONE: (3, 3, 3), Fork.ISTHMUS: (3, 4, 4)}


def fresh_api(fork: Fork = Fork.ISTHMUS, **options: Any) -> EngineApi:
    return EngineApi(fresh_ledger(fork), name="test", **options)


def start(api: EngineApi, version: int = 3, **changes: Any) -> str:
    head = api.ledger.head
    params = [forkchoice(head.hash), attributes(head, **changes)]
    return str(api.call(f"engine_forkchoiceUpdatedV{version}", params)["payloadId"])


def error_code(api: EngineApi, method: str, params: list[Any]) -> int:
    with pytest.raises(RpcError) as caught:
        api.call(method, params)
    return caught.value.code


def test_forkchoice_with_attributes_answers_op_geths_payload_id() -> None:
    api = fresh_api()
    head = api.ledger.head
    expected = payload_id(head.hash, decode_as(PayloadAttributes, attributes(head)), 3)
    assert start(api) == expected
    assert start(fresh_api(id_version=4)) == "0x04" + expected[4:]


def test_forkchoice_without_attributes_builds_nothing() -> None:
    api = fresh_api()
    answer = api.call("engine_forkchoiceUpdatedV3", [forkchoice(api.ledger.head.hash), None])
    assert answer == {
        "payloadStatus": {"status": "VALID", "latestValidHash": api.ledger.head.hash, "validationError": None},
        "payloadId": None,
    }
    assert not api.jobs


def test_forkchoice_to_an_unknown_head_is_syncing() -> None:
    api = fresh_api()
    params = [forkchoice("0x" + "01" * 32), attributes(api.ledger.head)]
    answer = api.call("engine_forkchoiceUpdatedV3", params)
    assert answer["payloadStatus"]["status"] == "SYNCING"
    assert answer["payloadId"] is None


def test_same_attributes_twice_are_one_job() -> None:
    jobs: list[BuildJob] = []
    api = fresh_api(on_build=jobs.append)
    assert start(api) == start(api)
    assert len(jobs) == len(api.jobs) == 1


def test_newer_job_closes_the_older() -> None:
    jobs: list[BuildJob] = []
    api = fresh_api(on_build=jobs.append)
    start(api)
    start(api, prevRandao="0x" + "08" * 32)
    assert [job.closed for job in jobs] == [True, False]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"timestamp": hex(1_700_000_000)}, -38003),
        ({"timestamp": None}, -38003),
        ({"parentBeaconBlockRoot": None}, -38003),
        ({"eip1559Params": "0x01"}, -38003),
        ({"transactions": ["0x7e00"]}, -38003),
        ({"transactions": ["0xzz"]}, -38003),
        ({"prevRandao": 5}, -38003),
        ({"suggestedFeeRecipient": "nobody"}, -38003),
    ],
)
def test_attributes_that_cannot_be_built(changes: dict[str, Any], code: int) -> None:
    api = fresh_api()
    params = [forkchoice(api.ledger.head.hash), attributes(api.ledger.head, **changes)]
    assert error_code(api, "engine_forkchoiceUpdatedV3", params) == code
    assert not api.jobs


def test_attributes_under_the_wrong_version_are_minus_38005() -> None:
    api = fresh_api()
    params = [forkchoice(api.ledger.head.hash), attributes(api.ledger.head)]
    assert error_code(api, "engine_forkchoiceUpdatedV2", params) == -38005
    older = fresh_api(Fork.CANYON)
    params = [forkchoice(older.ledger.head.hash), attributes(older.ledger.head)]
    assert error_code(older, "engine_forkchoiceUpdatedV3", params) == -38005


def test_ethereum_attributes_are_taken_as_well() -> None:
    api = fresh_api()
    name = start(api, transactions=None, noTxPool=None, gasLimit=None, eip1559Params=None)
    envelope = api.call("engine_getPayloadV4", [name])
    assert envelope["executionPayload"]["transactions"] == []
    assert envelope["executionPayload"]["extraData"] == "0x"


@pytest.mark.parametrize("fork", list(Fork))
def test_what_getpayload_answers_newpayload_calls_valid(fork: Fork) -> None:
    api = fresh_api(fork)
    forkchoice_version, get_version, new_version = VERSIONS[fork]
    name = start(api, forkchoice_version)
    envelope = api.call(f"engine_getPayloadV{get_version}", [name])
    payload = envelope if get_version == 1 else envelope["executionPayload"]
    root = None if get_version < 3 else envelope["parentBeaconBlockRoot"]
    decoded = decode_as(ExecutionPayload, payload)
    assert hex_data(header_of(decoded, root).hash) == payload["blockHash"]
    status = api.call(f"engine_newPayloadV{new_version}", [payload, [], root, []][: max(1, new_version)])
    assert status["status"] == "VALID"
    head = api.call(f"engine_forkchoiceUpdatedV{forkchoice_version}", [forkchoice(payload["blockHash"]), None])
    assert head["payloadStatus"]["status"] == "VALID"
    assert api.call("eth_blockNumber", []) == "0x1"


def test_envelope_has_the_fields_of_its_version() -> None:
    api = fresh_api()
    name = start(api)
    envelope = api.call("engine_getPayloadV4", [name])
    assert set(envelope) == {
        "executionPayload",
        "blockValue",
        "blobsBundle",
        "shouldOverrideBuilder",
        "parentBeaconBlockRoot",
        "executionRequests",
    }
    assert envelope["executionPayload"]["transactions"] == [hex_data(DEPOSIT)]
    assert envelope["executionPayload"]["blobGasUsed"] == envelope["executionPayload"]["excessBlobGas"] == "0x0"
    assert api.call("engine_getPayloadV5", [name]) == envelope, "a closed job answers the same for ever"


def test_getpayload_errors() -> None:
    api = fresh_api()
    assert error_code(api, "engine_getPayloadV4", ["0x0300000000000000"]) == -38001
    assert error_code(api, "engine_getPayloadV4", []) == -38001
    assert error_code(api, "engine_getPayloadV3", [start(api)]) == -38005


def test_old_payload_ids_are_forgotten() -> None:
    api = fresh_api()
    names = [start(api, prevRandao=f"0x{number:064x}") for number in range(JOBS_KEPT + 1)]
    assert error_code(api, "engine_getPayloadV4", [names[0]]) == -38001
    assert api.call("engine_getPayloadV4", [names[1]])


def test_job_shows_what_alter_makes_of_its_block() -> None:
    api = fresh_api()
    api.alter = lambda block: type(block)(block.header, block.transactions, block.nonces, "0x" + "ab" * 32)
    envelope = api.call("engine_getPayloadV4", [start(api)])
    assert envelope["executionPayload"]["blockHash"] == "0x" + "ab" * 32
    assert api.call("engine_newPayloadV4", new_payload_params(envelope))["status"] == "INVALID"


def test_job_grows_until_it_is_closed() -> None:
    jobs: list[BuildJob] = []
    api = fresh_api(on_build=jobs.append)
    start(api)
    first = jobs[0].block()
    assert jobs[0].block() is first, "a block is sealed once"
    transaction = shared_traffic().take(0)
    assert transaction is not None
    jobs[0].execution.add(transaction)
    assert jobs[0].block().transactions == (*first.transactions, transaction.raw)


def test_built_blocks_are_remembered_for_a_while() -> None:
    jobs: list[BuildJob] = []
    api = fresh_api(on_build=jobs.append)
    start(api)
    api.note_built(jobs[0])
    assert api.built[jobs[0].block().hash] == jobs[0].payload_id
    for number in range(BUILT_KEPT):
        api.built[f"0x{number}"] = jobs[0].payload_id
    api.note_built(jobs[0])
    assert len(api.built) <= BUILT_KEPT + 1


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ([], -32602),
        ([{"parentHash": 1}, [], "0x00", []], -32602),
        (["payload", [], "0x00", []], -32602),
    ],
)
def test_malformed_newpayload(params: list[Any], code: int) -> None:
    assert error_code(fresh_api(), "engine_newPayloadV4", params) == code


def test_newpayload_of_another_shape_is_refused() -> None:
    api = fresh_api()
    params = new_payload_params(api.call("engine_getPayloadV4", [start(api)]))
    payload = {key: value for key, value in params[0].items() if key != "withdrawalsRoot"}
    assert error_code(api, "engine_newPayloadV4", [payload, *params[1:]]) == -32602
    payload = {key: value for key, value in params[0].items() if key != "blobGasUsed"}
    assert error_code(api, "engine_newPayloadV4", [payload, *params[1:]]) == -32602
    assert error_code(api, "engine_newPayloadV4", [params[0], ["0x01"], params[2], []]) == -32602
    assert error_code(api, "engine_newPayloadV4", [params[0], [], None, []]) == -32602
    assert error_code(api, "engine_newPayloadV4", [params[0], [], params[2], ["0x00"]]) == -32602
    assert error_code(api, "engine_newPayloadV3", params[:3]) == -38005


def test_capabilities_are_all_engine_methods_but_itself() -> None:
    names = fresh_api().call("engine_exchangeCapabilities", [["engine_newPayloadV4"]])
    assert "engine_exchangeCapabilities" not in names
    assert {"engine_forkchoiceUpdatedV3", "engine_getPayloadV5", "engine_newPayloadV4"} < set(names)
    assert len(names) == 3 + 5 + 4


def test_unknown_method() -> None:
    assert error_code(fresh_api(), "engine_getPayloadV6", []) == -32601
    assert error_code(fresh_api(), "debug_everything", []) == -32601


def test_small_eth_methods() -> None:
    api = fresh_api()
    assert api.call("eth_chainId", []) == hex(901)
    assert api.call("net_version", []) == "901"
    assert api.call("eth_syncing", []) is False
    assert "devnet" in api.call("web3_clientVersion", [])


@pytest.mark.parametrize("name", ["Extra", "GasPrice", "GasLimit", "MaxDASize"])
def test_miner_settings_are_kept(name: str) -> None:
    api = fresh_api()
    assert api.call(f"miner_set{name}", ["0x10"]) is True
    assert api.settings == {f"miner_set{name}": ["0x10"]}


def test_block_queries() -> None:
    api = fresh_api()
    jobs: list[BuildJob] = []
    api = fresh_api(on_build=jobs.append)
    start(api)
    transaction = shared_traffic().take(0)
    assert transaction is not None
    jobs[0].execution.add(transaction)
    envelope = api.call("engine_getPayloadV4", [jobs[0].payload_id])
    api.call("engine_newPayloadV4", new_payload_params(envelope))
    block_hash = envelope["executionPayload"]["blockHash"]
    found = api.call("eth_getBlockByHash", [block_hash, False])
    assert found["hash"] == block_hash
    assert found["transactions"][1] == hex_data(transaction.hash)
    full = api.call("eth_getBlockByHash", [block_hash, True])
    assert full["transactions"][1]["from"] == hex_data(transaction.sender)
    assert api.call("eth_getBlockByNumber", ["latest", False])["number"] == "0x0"
    assert api.call("eth_getBlockByNumber", ["0x7", False]) is None
    assert api.call("eth_getBlockByHash", ["0x00"]) is None
    assert error_code(api, "eth_getBlockByNumber", ["soon"]) == -32602


def test_sent_transaction_waits_in_the_mempool() -> None:
    api = fresh_api()
    signed = shared_wallet().sign("dave", 0)
    assert api.call("eth_sendRawTransaction", [hex_data(signed.raw)]) == hex_data(signed.hash)
    assert len(api.mempool) == 1
    assert error_code(api, "eth_sendRawTransaction", [hex_data(signed.raw)]) == -32000
    assert error_code(api, "eth_sendRawTransaction", ["0x02ff"]) == -32000
    assert error_code(api, "eth_sendRawTransactionConditional", [hex_data(signed.raw), {}]) == -32000
    assert api.call("eth_getTransactionCount", [hex_data(signed.sender), "latest"]) == "0x0"
    assert error_code(api, "eth_getTransactionCount", ["dave"]) == -32602
