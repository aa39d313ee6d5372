"""Numbers as endpoints write them, and as they should not."""

import pytest

from appliance.domain.errors import DecodeError
from appliance.providers.quantity import decode_quantity


@pytest.mark.parametrize(("text", "number"), [("0x0", 0), ("0xfF", 255), ("0x00ff", 255), ("0x" + "f" * 16, 2**64 - 1)])
def test_hex_of_up_to_64_bits_is_a_number(text: str, number: int) -> None:
    assert decode_quantity(text) == number


@pytest.mark.parametrize("text", ["", "0x", "5", "-0x5", "0x-5", "0x1_0", " 0x1", "0x1\n", "latest", "0x" + "f" * 17])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(DecodeError, match="at most 64 bits"):
        decode_quantity(text)
