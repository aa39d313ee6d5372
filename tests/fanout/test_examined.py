"""Entries as filters see them."""

import json

import brotli
import trio

from appliance.domain.flashblocks import Encoding, Entry
from appliance.fanout import examined
from appliance.fanout.contents import NOTHING
from appliance.fanout.examined import REMEMBERED, SMALL_BYTES, Examined
from appliance.fanout.filters import Filter
from tests.fanout.fakes import MemoryLog

ADDRESS = b"\7" * 20


def entry(
    *, padding: int = 0, packed: bool = False, transaction: bytes = b"\0\1" + ADDRESS, body: bytes = b""
) -> Entry:
    message = {"diff": {"transactions": ["0x" + transaction.hex()]}, "padding": "x" * padding}
    text = body or json.dumps(message).encode()
    encoding = Encoding.BROTLI if packed else Encoding.TEXT
    return MemoryLog().append(1, 0, body=brotli.compress(text) if packed else text, encoding=encoding)


class Threads:
    """Stands in for threads, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def run_sync(self, work: object) -> bytes:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        assert callable(work)
        return bytes(work())


def test_a_small_text_is_judged_at_once() -> None:
    found = Examined(entry())
    assert found.verdict(Filter([ADDRESS])) is True
    assert found.verdict(Filter([b"\1" * 20])) is False
    assert found.verdict(Filter(topics=[bytes(32)])) is False


async def test_large_and_compressed_ones_are_looked_through_in_a_thread_once_for_all() -> None:
    for each in (entry(padding=SMALL_BYTES), entry(packed=True)):
        found, threads = Examined(each), Threads()
        assert found.verdict(Filter([ADDRESS])) is None
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(found.prepare, threads.run_sync)
        assert threads.calls == 1
        assert found.verdict(Filter([ADDRESS])) is True


async def test_what_cannot_be_read_passes_no_filter() -> None:
    for each in (entry(body=b"\xff\xff"), entry(body=b"not json")):
        assert await Examined(each).prepare(Threads().run_sync) == NOTHING
    broken = Examined(Entry(1, entry().payload_id, 0, 1, b"no brotli", Encoding.BROTLI))
    assert await broken.prepare(Threads().run_sync) == NOTHING
    assert broken.verdict(Filter([ADDRESS])) is False


def test_a_long_search_is_made_in_steps_and_its_verdict_is_kept() -> None:
    wanted = Filter([b"\1" * 20, *(number.to_bytes(20, "big") for number in range(1, 90))])
    found = Examined(entry(transaction=b"\2" * 20_000 + b"\1" * 20))
    assert found.verdict(wanted) is None
    decision, steps = found.decide(wanted), 1
    while not decision.run(lambda: 1.0, 0.0):
        steps += 1
    assert steps <= 91
    assert found.verdict(wanted) is True
    nobody = Filter(number.to_bytes(20, "big") for number in range(1, 90))
    assert found.verdict(nobody) is None
    assert found.decide(nobody).run(lambda: 0.0, 1.0)
    assert found.verdict(nobody) is False


def test_verdicts_are_bounded() -> None:
    found = Examined(entry())
    found.make()
    wanted = [Filter([number.to_bytes(20, "big")]) for number in range(REMEMBERED + 10)]
    for each in wanted:
        found.verdict(each)
    assert len(found._verdicts) == REMEMBERED
    assert wanted[0] not in found._verdicts
    assert wanted[-1] in found._verdicts
    assert examined.REMEMBERED == REMEMBERED


def test_a_verdict_goes_with_its_filter() -> None:
    found = Examined(entry())
    wanted = [Filter([number.to_bytes(20, "big")]) for number in range(10)]
    for each in wanted:
        found.verdict(each)
    del each, wanted[1:]
    assert list(found._verdicts) == wanted
