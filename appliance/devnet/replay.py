"""Replaying a capture: a builder that streams the recorded bytes, and an EL that judges blocks by their hash.

The state behind recorded blocks is not known here, so VALID means: the parent is known and keccak(RLP(header))
over the payload, its transactions root rebuilt, is the hash that it claims.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from appliance.devnet.capture import CapturedPayload, envelope_of
from appliance.devnet.chain import header_of
from appliance.devnet.endpoints import ANY_PORT
from appliance.devnet.faults import Role
from appliance.devnet.flashblock_server import FlashblockServer
from appliance.devnet.merkle import keccak
from appliance.devnet.messages import (
    INVALID_ATTRIBUTES,
    METHOD_NOT_FOUND,
    UNKNOWN_PAYLOAD,
    ExecutionPayload,
    ForkchoiceState,
    PayloadAttributes,
    RpcError,
    decode_as,
    hex_data,
    parameter,
    quantity,
    status,
    unhex,
)
from appliance.devnet.server import SimulatedServer
from appliance.domain.payloads import PayloadId, PayloadStatus

Capture = Sequence[CapturedPayload]


class ReplayExecutionClient(SimulatedServer):
    """An EL that knows the parents of all captured payloads and whatever it has called VALID since.

    To forkchoiceUpdated with a captured payload's attributes it answers the captured payload id. Its own
    block for that id holds the deposits alone.
    """

    def __init__(self, capture: Capture, *, name: str = "el", secret: bytes | None = None) -> None:
        super().__init__(name=name, secret=secret, slow_s=0.3)
        self.capture = tuple(capture)
        self.head_hash = capture[0].base.parent_hash
        self.head_number = quantity(capture[0].base.block_number) - 1
        self.blocks: dict[str, ExecutionPayload] = {}
        self.started: list[PayloadId] = []  # payload ids in the order in which they were asked for
        self._known = {each.base.parent_hash for each in capture}

    async def answer(self, method: str, params: list[Any]) -> Any:
        """As a client of the recorded chain would."""
        if method.startswith("engine_forkchoiceUpdated"):
            return self._forkchoice_updated(params)
        if method.startswith("engine_getPayload"):
            return self._get_payload(parameter(params, 0))
        if method.startswith("engine_newPayload"):
            return self._new_payload(params)
        return self._answer_other(method)

    def _answer_other(self, method: str) -> Any:
        answers: dict[str, Callable[[], Any]] = {
            "engine_exchangeCapabilities": lambda: [
                f"engine_{name}" for name in ("forkchoiceUpdatedV3", "getPayloadV4", "newPayloadV4")
            ],
            "eth_chainId": lambda: hex(1301),
            "net_version": lambda: "1301",
            "eth_blockNumber": lambda: hex(self.head_number),
            "eth_syncing": lambda: False,
            # The recorded time is long ago; a health check asks whether blocks are coming now.
            "eth_getBlockByNumber": lambda: self._head_json(int(time.time())),
        }
        if method not in answers:
            raise RpcError(METHOD_NOT_FOUND, f"the method {method} does not exist/is not available")
        return answers[method]()

    def _head_json(self, timestamp: int) -> dict[str, Any]:
        return {"number": hex(self.head_number), "hash": self.head_hash, "timestamp": hex(timestamp)}

    def _forkchoice_updated(self, params: Sequence[Any]) -> dict[str, Any]:
        head = decode_as(ForkchoiceState, parameter(params, 0)).head_block_hash
        if head not in self._known:
            return {"payloadStatus": status(PayloadStatus.SYNCING), "payloadId": None}
        self._set_head(head)
        raw = parameter(params, 1)
        payload_id = None
        if raw is not None:
            payload_id = self._start(head, decode_as(PayloadAttributes, raw, INVALID_ATTRIBUTES))
        return {"payloadStatus": status(PayloadStatus.VALID, head), "payloadId": payload_id}

    def _set_head(self, head: str) -> None:
        self.head_hash = head
        block = self.blocks.get(head)
        if block is not None:
            self.head_number = quantity(block.block_number)
            return
        child = next((each for each in self.capture if each.base.parent_hash == head), None)
        if child is not None:
            self.head_number = quantity(child.base.block_number) - 1

    def _start(self, head: str, attributes: PayloadAttributes) -> PayloadId:
        wanted = quantity(attributes.timestamp)
        for each in self.capture:
            if each.base.parent_hash == head and quantity(each.base.timestamp) == wanted:
                self.started.append(each.payload_id)
                self.on_started(each)
                return each.payload_id
        raise RpcError(INVALID_ATTRIBUTES, f"Invalid payload attributes: nothing was captured on {head}")

    def on_started(self, captured: CapturedPayload) -> None:
        """A build was asked for; the builder streams."""

    def _get_payload(self, payload_id: str) -> dict[str, Any]:
        captured = next((each for each in self.capture if each.payload_id == payload_id), None)
        if captured is None or payload_id not in self.started:
            raise RpcError(UNKNOWN_PAYLOAD, "Unknown payload")
        return self.envelope(captured)

    def envelope(self, captured: CapturedPayload) -> dict[str, Any]:
        """The block that this client built: the deposits alone, its state root made up."""
        deposits = captured.attributes().transactions or []
        root = captured.base.parent_beacon_block_root
        draft = msgspec.structs.replace(
            captured.payload(),
            transactions=deposits,
            state_root=hex_data(keccak(unhex(captured.base.parent_hash))),
            gas_used=hex(50_000 * len(deposits)),
        )
        block_hash = hex_data(header_of(draft, root).hash)
        return envelope_of(msgspec.structs.replace(draft, block_hash=block_hash), root, captured.version)

    def _new_payload(self, params: Sequence[Any]) -> dict[str, Any]:
        payload = decode_as(ExecutionPayload, parameter(params, 0))
        try:
            computed = hex_data(header_of(payload, parameter(params, 2)).hash)
        except ValueError as error:
            return status(PayloadStatus.INVALID, None, f"malformed payload: {error}")
        if computed != payload.block_hash:
            error_text = f"blockhash mismatch, want {payload.block_hash}, got {computed}"
            return status(PayloadStatus.INVALID, None, error_text)
        if payload.parent_hash not in self._known:
            return status(PayloadStatus.SYNCING)
        self._known.add(payload.block_hash)
        self.blocks[payload.block_hash] = payload
        return status(PayloadStatus.VALID, payload.block_hash)


class ReplayBuilder(ReplayExecutionClient):
    """A builder that streams the captured messages, byte for byte, one each `interval_s` seconds.

    An interval of 0 sends them as fast as they are taken. Its getPayload answers the whole captured block.
    """

    role = Role.BUILDER

    def __init__(
        self,
        capture: Capture,
        *,
        name: str = "builder",
        secret: bytes | None = None,
        interval_s: float = 0.2,
        flashblocks_address: str = ANY_PORT,
    ) -> None:
        super().__init__(capture, name=name, secret=secret)
        self.websocket = FlashblockServer()
        self.interval_s = interval_s
        self._flashblocks_address = flashblocks_address
        self._streamed: dict[PayloadId, trio.Event] = {each.payload_id: trio.Event() for each in self.capture}

    @property
    def flashblocks_url(self) -> str:
        """Where the flashblocks are, after `run` has started with an address."""
        return f"ws://{self._flashblocks_address}/ws"

    async def wait_streamed(self, payload_id: PayloadId) -> None:
        """Return when the last message of a payload went out."""
        await self._streamed[payload_id].wait()

    async def _open_ports(self, nursery: trio.Nursery, address: str, stopping: trio.Event) -> str:
        self._flashblocks_address = await nursery.start(self.websocket.run, self._flashblocks_address)
        return await super()._open_ports(nursery, address, stopping)

    def on_started(self, captured: CapturedPayload) -> None:
        """Stream a payload once, however often its build is asked for."""
        if self.started.count(captured.payload_id) == 1 and self._nursery is not None:
            self._nursery.start_soon(self._stream, captured)

    async def _stream(self, captured: CapturedPayload) -> None:
        start = trio.current_time()
        for number, message in enumerate(captured.messages):
            await trio.sleep_until(start + number * self.interval_s)
            self.websocket.publish(message.decode())
        self._streamed[captured.payload_id].set()

    def envelope(self, captured: CapturedPayload) -> dict[str, Any]:
        """The whole captured block."""
        return captured.envelope()
