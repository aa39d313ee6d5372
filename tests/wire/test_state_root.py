"""Zero state roots: found in either kind of block, and the order to build that fills them in."""

import json

import pytest

from appliance.domain.errors import DecodeError
from appliance.wire.engine import decode_call
from appliance.wire.engine_answers import decode_payload
from appliance.wire.jsonrpc import decode_request
from appliance.wire.state_root import completion_request, has_zero_state_root
from tests.engine import messages as m

ZERO = "0x" + "00" * 32


@pytest.mark.parametrize(("root", "found"), [(ZERO, True), ("0x" + "01" * 32, False), (None, False)])
@pytest.mark.parametrize("version", [1, 3, 4])
def test_a_zero_state_root_is_found(root: str | None, found: bool, version: int) -> None:
    block = m.Block("b", state_root=root)
    assert has_zero_state_root(decode_payload(block.answer(version=version), version)) is found
    assert has_zero_state_root(block.assembled()) is found


@pytest.mark.parametrize(("version", "method"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3)])
def test_the_order_keeps_everything_but_transactions_and_pool(version: int, method: int) -> None:
    original = json.loads(m.build())
    request = decode_request(
        completion_request(json.dumps(original["params"]).encode(), version, [b'"0x7e"', b'"0x02"'])
    )
    assert request.method == f"engine_forkchoiceUpdatedV{method}"
    state, attributes = json.loads(bytes(request.params))
    assert state == original["params"][0]
    assert attributes == original["params"][1] | {"transactions": ["0x7e", "0x02"], "noTxPool": True}
    assert decode_call(request).attributes.no_tx_pool  # type: ignore[union-attr]


@pytest.mark.parametrize("params", [b"[]", b"[{}]", b"[{},null]", b"?"])
def test_an_order_that_cannot_be_read_is_a_decode_error(params: bytes) -> None:
    with pytest.raises(DecodeError, match="the order to build"):
        completion_request(params, 4, [])
