"""permessage-deflate without context takeover (RFC 7692): what is agreed, our messages, the client's. Pure.

Without context takeover a compressed message stands for itself, so that one frame serves everybody. Our window is 4 KiB
(12 bits): some clients ask for no more (Python's websockets), and on flashblocks 32 KiB would save 3 % more.
"""

import zlib
from typing import Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

NAME: Final = "permessage-deflate"
WINDOW_BITS: Final = 12
LEVEL: Final = 6  # 10 KB take 70 us; 9 takes five times as long for 4 % less

_TAIL: Final = b"\x00\x00\xff\xff"  # what a sender leaves out (RFC 7692, 7.2.1)
_MAX_OFFERS: Final = 16  # that are looked at; clients send one or two
_FLAGS: Final = frozenset({"server_no_context_takeover", "client_no_context_takeover"})
_WINDOWS: Final = frozenset({"server_max_window_bits", "client_max_window_bits"})
_BITS: Final = {str(bits): bits for bits in range(8, 16)}


def negotiate(offers: str) -> str | None:
    """The answer to `Sec-WebSocket-Extensions`; None where nothing is offered that we can do (then there is no header).

    An offer is declined if it has a parameter that is unknown, malformed or there twice (7.1), or asks for a window
    smaller than ours; the next one may do. It is always agreed that neither side takes its context over.
    """
    for offer in offers.split(",", _MAX_OFFERS)[:_MAX_OFFERS]:
        name, *rest = (part.strip() for part in offer.split(";"))
        parameters = _parameters(rest) if name.lower() == NAME else None
        if parameters is None:
            continue
        window = parameters.get("server_max_window_bits")
        if window is None or _BITS[window] >= WINDOW_BITS:
            answer = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
            return answer if window is None else f"{answer}; server_max_window_bits={WINDOW_BITS}"
    return None


def _parameters(parts: list[str]) -> dict[str, str] | None:
    """An offer's parameters by name; None if one is not as it must be."""
    found: dict[str, str] = {}
    for name, value in map(_parameter, parts):
        if name in found or not _is_valid(name, value):
            return None
        found[name] = value
    return found


def _parameter(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':  # RFC 6455, 9.1: a value may be quoted
        text = text[1:-1]
    return name.strip().lower(), text if "=" in part else ""


def _is_valid(name: str, value: str) -> bool:
    if name in _FLAGS:
        return not value
    return name in _WINDOWS and (value in _BITS or (name == "client_max_window_bits" and not value))


def compress(message: bytes) -> bytes:
    """A message's payload for a frame with the bit RSV1. zlib lets other threads run meanwhile."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS)
    packed = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return packed.removesuffix(_TAIL)


class Inflate(Extension):
    """wsproto's hook for compressed messages from a client, at most ``max_bytes`` each when they are unfolded.

    A decompressor lives as long as its message, so that one who says nothing costs none. wsproto announces a frame's
    header again when only a part of it had come.
    """

    name = NAME

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = 0
        self._compressed = False
        self._is_control = False
        self._decompressor: zlib._Decompress | None = None

    def enabled(self) -> bool:
        """It was negotiated, or it would not be here."""
        return True

    def offer(self) -> bool:
        """A server offers nothing."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """RSV1 marks the first frame of a compressed message, and no other (RFC 7692, 6.1)."""
        self._is_control = opcode.iscontrol()
        if rsv.rsv1 and (self._is_control or opcode is Opcode.CONTINUATION):
            return CloseReason.PROTOCOL_ERROR
        if not self._is_control and opcode is not Opcode.CONTINUATION:
            self._begin(compressed=rsv.rsv1)
        return RsvBits(True, False, False)

    def _begin(self, *, compressed: bool) -> None:
        self._compressed = compressed
        self._room = self._max_bytes
        self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS) if compressed else None

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """What some bytes of a frame unfold to."""
        if self._is_control or not self._compressed:
            return data
        return self._unfold(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """What is left when a frame ends."""
        if self._is_control or not self._compressed or not fin:
            return None
        rest = self._unfold(_TAIL)
        self._begin(compressed=False)
        return rest

    def _unfold(self, data: bytes) -> bytes | CloseReason:
        if (
            self._decompressor is None or self._decompressor.eof
        ):  # a last block may be marked, and padding follow (7.2.3)
            return b""
        try:
            unfolded = self._decompressor.decompress(data, self._room + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._room -= len(unfolded)
        return CloseReason.MESSAGE_TOO_BIG if self._room < 0 else unfolded
