"""What a group does by itself: probe each endpoint, poll the active one for heads, look after transactions."""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.providers.group import Group
from appliance.providers.heads import Header
from appliance.providers.mempool_watch import Sighting, Watched
from appliance.providers.quantity import decode_number, decode_quantity
from appliance.providers.retry import Verdict, error_of
from appliance.wire.jsonrpc import MALFORMED, Response

# A look is one call, two where the transaction is not there. What is over this waits for the next round.
LOOKS_A_ROUND: Final = 64
LATEST: Final = b'["latest",false]'


class _Transaction(msgspec.Struct):
    """What a look needs of an answer to eth_getTransactionByHash; a block number of null is pending."""

    sender: str = msgspec.field(name="from", default="")
    nonce: str = "0x0"
    blockNumber: str | None = None  # noqa: N815 the field's name on the wire


async def probe_for_ever(group: Group, name: str) -> None:
    """Ask one endpoint for its head, now and then, whether it is well or not."""
    while True:
        await probe(group, name)
        with trio.move_on_after(group.settings.probe_interval_s):
            await group.wait_unknown(name)


async def probe(group: Group, name: str) -> None:
    """One probe, and what it means."""
    try:
        if not group.chain.knows(name):
            group.said_chain(name, await _chain_at(group, name))
        if group.chain.wrong(name):
            return  # its head is another chain's
        judged, response = await group.ask_one(name, "eth_getBlockByNumber", LATEST)
    except _Refused as error:
        group.refused(name, str(error))
        return
    except (UnavailableError, DecodeError) as error:
        group.probe_failed(name, str(error))
        return
    if judged.verdict is Verdict.REFUSED:
        group.refused(name, judged.why)
    elif judged.verdict is not Verdict.ANSWER or response is None:
        group.probe_failed(name, judged.why)
    else:
        _take_head(group, name, response)


async def _chain_at(group: Group, name: str) -> int:
    judged, response = await group.ask_one(name, "eth_chainId", b"[]")
    if judged.verdict is Verdict.REFUSED:
        raise _Refused(judged.why)
    if judged.verdict is not Verdict.ANSWER or response is None:
        raise UnavailableError(judged.why)
    error = error_of(response)
    if error is not None:
        raise UnavailableError(f"it does not say its chain: eth_chainId: {error.code} {error.message[:200]}")
    return decode_number("eth_chainId", response.result)


class _Refused(UnavailableError):
    """The endpoint does not take us."""


def _take_head(group: Group, name: str, response: Response) -> None:
    try:
        group.probed(name, Header.decode(response.result, of_block=True))
    except DecodeError as error:
        group.probe_failed(name, f"eth_getBlockByNumber: {error}")


async def poll_for_ever(group: Group, wanted: Callable[[], bool]) -> None:
    """While somebody wants heads: ask the active endpoint, if it does not push them."""
    while True:
        await trio.sleep(group.settings.poll_interval_s)
        name = group.active
        if name is not None and wanted() and not group.links[name].pushes_heads:
            await _poll(group, name)


async def _poll(group: Group, name: str) -> None:
    try:
        judged, response = await group.ask_one(name, "eth_getBlockByNumber", LATEST)
        if judged.verdict is Verdict.ANSWER and response is not None:
            group.polled_head(name, Header.decode(response.result, of_block=True))
        else:
            group.failed(name, judged.why)
    except (UnavailableError, DecodeError) as error:
        group.failed(name, str(error))


async def look_for_ever(group: Group) -> None:
    """Look after the transactions that were sent through the group."""
    while True:
        with trio.move_on_after(group.settings.probe_interval_s):
            async with trio.open_nursery() as nursery:
                for name in group.links:
                    nursery.start_soon(_greet_for_ever, group, name)
        await _look_round(group)


async def _look_round(group: Group) -> None:
    """One look at each that is due. An endpoint that does not say is asked no more: each silence takes its timeout."""
    silent: set[str] = set()
    for watched in group.watch.due(trio.current_time(), LOOKS_A_ROUND):
        if watched.endpoint in silent:
            continue
        sighting = await _look(group, watched)
        if sighting is None:
            silent.add(watched.endpoint)
        elif group.watch.looked(watched, sighting):
            group.dropped_from_mempool(watched.endpoint, watched.hash)


async def _greet_for_ever(group: Group, name: str) -> None:
    """Learn sender and nonce of one endpoint's new transactions at once: a silent one keeps nobody else waiting."""
    while True:
        accepted = group.accepted
        await _greet(group, [each for each in group.watch.newcomers() if each.endpoint == name][:LOOKS_A_ROUND])
        await accepted.wait()


async def _greet(group: Group, newcomers: list[Watched]) -> None:
    """That one is not known yet means nothing so early."""
    for watched in newcomers:
        sighting = await _look(group, watched)
        if sighting is None:
            return
        if sighting in {Sighting.PENDING, Sighting.MINED}:
            group.watch.looked(watched, sighting)


async def _look(group: Group, watched: Watched) -> Sighting | None:
    """What its endpoint knows of a transaction; None when it does not say."""
    try:
        found = await _transaction_at(group, watched.endpoint, watched)
        if found is None:
            return await _where_to(group, watched)
        watched.sender, watched.nonce = found.sender, decode_quantity(found.nonce)
    except (UnavailableError, DecodeError):
        return None
    return Sighting.PENDING if found.blockNumber is None else Sighting.MINED


async def _where_to(group: Group, watched: Watched) -> Sighting:
    """Its endpoint does not know it: replaced, mined elsewhere already, or gone."""
    if watched.nonce is not None:
        params = msgspec.json.encode([watched.sender, "pending"])
        count = await _result_at(group, watched.endpoint, "eth_getTransactionCount", params)
        if decode_number("eth_getTransactionCount", count) > watched.nonce:
            return Sighting.REPLACED
    for name in group.links:
        if name != watched.endpoint and await _mined_at(group, name, watched):
            return Sighting.MINED
    return Sighting.UNKNOWN


async def _mined_at(group: Group, name: str, watched: Watched) -> bool:
    try:
        found = await _transaction_at(group, name, watched)
    except (UnavailableError, DecodeError):
        return False
    return found is not None and found.blockNumber is not None


async def _transaction_at(group: Group, name: str, watched: Watched) -> _Transaction | None:
    params = msgspec.json.encode([watched.hash])
    result = await _result_at(group, name, "eth_getTransactionByHash", params)
    try:
        return msgspec.json.decode(result, type=_Transaction | None)
    except MALFORMED as error:
        raise DecodeError(f"eth_getTransactionByHash: {error}") from None


async def _result_at(group: Group, name: str, method: str, params: bytes) -> msgspec.Raw:
    judged, response = await group.ask_one(name, method, params)
    if judged.verdict is not Verdict.ANSWER or response is None or not bytes(response.result):
        raise UnavailableError(f"{method}: {judged.why or 'an error'}")
    return response.result
