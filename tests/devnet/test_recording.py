from appliance.devnet.recording import Call, CallRecord


def test_last_calls_are_kept_and_all_are_counted() -> None:
    record = CallRecord(limit=2)
    for at, method in enumerate(("engine_getPayloadV3", "eth_chainId", "engine_getPayloadV4")):
        record.add(Call(at, method, []))
    assert len(record) == 2
    assert [call.at for call in record.of("engine_getPayload")] == [2]
    assert record.counts == {"engine_getPayloadV3": 1, "eth_chainId": 1, "engine_getPayloadV4": 1}
