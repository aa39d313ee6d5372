from hypothesis import given
from hypothesis import strategies as st

from appliance.net.body_buffer import BodyBuffer


@given(body=st.binary(max_size=200), first=st.integers(0, 200), step=st.integers(1, 50))
def test_however_it_is_filled_the_body_is_what_came(body: bytes, first: int, step: int) -> None:
    come = body[:first]
    parts: list[bytes | bytearray] = [come[:3], bytearray(come[3:])]
    buffer = BodyBuffer(len(body), parts)
    done = min(first, len(body))
    while room := buffer.room:
        assert bytes(buffer.so_far()) == body[:done]
        count = min(step, len(room))
        room[:count] = body[done : done + count]
        buffer.advance(count)
        done += count
    assert bytes(buffer.so_far()) == body
    assert buffer.take() == body


def test_the_body_is_given_away_without_a_copy() -> None:
    """Whoever still looks at what had come looks at the very same memory."""
    buffer = BodyBuffer(5)
    buffer.room[:5] = b"hello"
    buffer.advance(5)
    seen = buffer.so_far()
    assert buffer.take() == b"hello"
    assert seen.obj is not None
    assert bytes(seen) == b"hello"
