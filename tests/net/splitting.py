"""Bytes cut into pieces, as a network may deliver them."""

from hypothesis import strategies as st


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at ``places`` (any integers; taken modulo its length)."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def cuts() -> st.SearchStrategy[list[int]]:
    """Where to cut: from not at all to many places."""
    return st.lists(st.integers(0, 1 << 20), max_size=40)
