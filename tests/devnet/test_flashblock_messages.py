import brotli
import msgspec
import pytest

from appliance.devnet.chain import Fork
from appliance.devnet.engine_api import BuildJob, EngineApi
from appliance.devnet.flashblock_messages import encode, flashblock
from appliance.domain.flashblocks import Encoding, Flashblock, FlashblockBase
from appliance.wire import flashblock as wire
from tests.devnet.setting import DEPOSIT, attributes, forkchoice, fresh_ledger, shared_traffic


def job_with(users: int, fork: Fork = Fork.ISTHMUS) -> BuildJob:
    jobs: list[BuildJob] = []
    api = EngineApi(fresh_ledger(fork), name="test", on_build=jobs.append)
    head = api.ledger.head
    api.call("engine_forkchoiceUpdatedV3", [forkchoice(head.hash), attributes(head)])
    for sequence in range(users):
        transaction = shared_traffic().take(sequence)
        assert transaction is not None
        jobs[0].execution.add(transaction)
    return jobs[0]


@pytest.mark.parametrize("encoding", list(Encoding))
def test_message_is_one_that_the_appliance_decodes(encoding: Encoding) -> None:
    job = job_with(2)
    message = encode(flashblock(job, 0, 0), encoding)
    body = message.encode() if isinstance(message, str) else message
    decoded = wire.decode(body, encoding)
    assert isinstance(decoded, Flashblock)
    assert (decoded.payload_id, decoded.index, decoded.block_number) == (job.payload_id, 0, 1)
    assert decoded.base is not None
    assert decoded.diff is not None
    assert decoded.base.parent_hash == job.parent.hash
    assert decoded.diff.block_hash == job.block().hash
    assert len(decoded.diff.transactions) == 3
    assert isinstance(message, str) == (encoding is Encoding.TEXT)


def test_later_flashblocks_hold_new_transactions_and_no_base() -> None:
    job = job_with(3)
    message = flashblock(job, 2, start=2)
    assert "base" not in message
    assert message["diff"]["transactions"] == job.block().payload().transactions[2:]
    assert len(message["metadata"]["receipts"]) == 2
    assert message["diff"]["gas_used"] == hex(job.execution.gas_used), "gas is the whole block's"


def test_base_may_be_repeated() -> None:
    job = job_with(1)
    first = flashblock(job, 0, 0)
    again = flashblock(job, 1, 1, repeat_base=True)
    assert again["base"] == first["base"]
    assert set(first["base"]) == set(FlashblockBase.__struct_fields__)


def test_withdrawals_root_begins_with_isthmus() -> None:
    assert "withdrawals_root" in flashblock(job_with(0), 0, 0)["diff"]
    assert "withdrawals_root" not in flashblock(job_with(0, Fork.ECOTONE), 0, 0)["diff"]


def test_brotli_and_text_are_the_same_message() -> None:
    message = flashblock(job_with(0), 0, 0)
    packed = encode(message, Encoding.BROTLI)
    assert isinstance(packed, bytes)
    assert msgspec.json.decode(brotli.decompress(packed)) == msgspec.json.decode(str(encode(message, Encoding.TEXT)))
    assert msgspec.json.decode(brotli.decompress(packed))["diff"]["transactions"] == ["0x" + DEPOSIT.hex()]
