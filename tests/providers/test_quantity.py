"""Numbers as endpoints write them, and as they should not."""

import msgspec
import pytest

from appliance.domain.errors import DecodeError
from appliance.providers.quantity import decode_number, decode_quantity


@pytest.mark.parametrize(("text", "number"), [("0x0", 0), ("0xfF", 255), ("0x00ff", 255), ("0x" + "f" * 16, 2**64 - 1)])
def test_hex_of_up_to_64_bits_is_a_number(text: str, number: int) -> None:
    assert decode_quantity(text) == number


@pytest.mark.parametrize("text", ["", "0x", "5", "-0x5", "0x-5", "0x1_0", " 0x1", "0x1\n", "latest", "0x" + "f" * 17])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(DecodeError, match="at most 64 bits"):
        decode_quantity(text)


def test_a_whole_result_is_named_by_its_method() -> None:
    assert decode_number("eth_chainId", msgspec.Raw(b'"0x2105"')) == 8453
    for bad in (b"1", b"null", b'"x"', b"{}"):
        with pytest.raises(DecodeError, match="eth_chainId: "):
            decode_number("eth_chainId", msgspec.Raw(bad))
