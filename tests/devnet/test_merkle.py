import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st
from trie.hexary import HexaryTrie

from appliance.devnet.merkle import EMPTY_LIST_ROOT, Rlp, keccak, list_root, rlp_encode, rlp_integer

ITEMS = st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=5), max_leaves=12)


def oracle_root(items: list[bytes]) -> bytes:
    trie = HexaryTrie({})
    for index, item in enumerate(items):
        trie[rlp.encode(index)] = item
    return bytes(trie.root_hash)


@given(ITEMS)
def test_rlp_is_what_the_library_says(item: Rlp) -> None:
    assert rlp_encode(item) == rlp.encode(item)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 255, 256, 65536])
def test_rlp_lengths_at_their_borders(size: int) -> None:
    assert rlp_encode(b"\x80" * size) == rlp.encode(b"\x80" * size)


@given(st.integers(min_value=0, max_value=2**256 - 1))
def test_rlp_integer_has_no_leading_zeros(value: int) -> None:
    assert rlp_encode(rlp_integer(value)) == rlp.encode(value)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=24))
def test_list_root_is_the_general_tries_root(items: list[bytes]) -> None:
    assert list_root(items) == oracle_root(items)


@pytest.mark.parametrize("count", [1, 2, 16, 17, 127, 128, 129, 256, 257])
def test_list_root_where_the_keys_change_their_length(count: int) -> None:
    items = [bytes((index % 251,)) * (1 + index % 40) for index in range(count)]
    assert list_root(items) == oracle_root(items)


def test_root_of_nothing_is_the_empty_tries() -> None:
    assert list_root([]).hex() == "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
    assert list_root([]) == EMPTY_LIST_ROOT


def test_keccak_is_not_sha3() -> None:
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
