import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.flashlog.jsonl import ExportedEntry, from_line, to_line
from tests.flashlog.support import flashblock, payload_id


def exported(body: bytes, encoding: Encoding = Encoding.TEXT) -> ExportedEntry:
    return ExportedEntry(1, payload_id(7), 0, 1007, encoding, "a", 1.5, body)


def test_a_line_is_readable() -> None:
    body = flashblock(7, 0, text="é").body
    assert json.loads(to_line(exported(body))) == {
        "position": 1,
        "payload_id": payload_id(7),
        "index": 0,
        "block_number": 1007,
        "encoding": "text",
        "builder": "a",
        "received_at": 1.5,
        "body": body.decode(),
    }


def test_brotli_is_base64() -> None:
    line = to_line(exported(b"\x00\xff", Encoding.BROTLI))
    assert json.loads(line)["body"] == "AP8="
    assert from_line(line).body == b"\x00\xff"


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", "\u2028\U0001f4a5".encode(), b"\xed\xa0\x80", b'a\x00\n\r"\\b', b"\xc3"]
)
@pytest.mark.parametrize("encoding", Encoding)
def test_bytes_come_back_as_they_were(body: bytes, encoding: Encoding) -> None:
    line = to_line(exported(body, encoding))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert from_line(line).body == body


@given(
    st.builds(
        ExportedEntry,
        position=st.integers(1, 2**63 - 1),
        payload_id=st.text().map(PayloadId),
        index=st.integers(0, 2**31),
        block_number=st.integers(0, 2**63 - 1),
        encoding=st.sampled_from(Encoding),
        builder=st.text(),
        received_at=st.floats(allow_nan=False, allow_infinity=False),
        body=st.binary() | st.text().map(str.encode),
    )
)
def test_every_entry_comes_back_as_it_was_and_so_does_its_line(entry: ExportedEntry) -> None:
    line = to_line(entry)
    assert from_line(line) == entry
    assert to_line(from_line(line)) == line


WHOLE = json.loads(to_line(exported(b"x")))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1]", "Expected `object`, got `array`"),
        (b"\xff", "can't decode byte"),
        (b"[" * 100_000, "recursion"),
        (json.dumps({**WHOLE, "position": "1"}).encode(), r"Expected `int`, got `str` - at `\$.position`"),
        (json.dumps({**WHOLE, "encoding": "gzip"}).encode(), "Invalid enum value 'gzip'"),
        (json.dumps({**WHOLE, "encoding": "brotli", "body": "x"}).encode(), "body is not base64"),
        (json.dumps({**WHOLE, "encoding": "brotli", "body": "é"}).encode(), "body is not base64"),
        (json.dumps({**WHOLE, "body": "\ud800"}).encode(), "surrogates not allowed"),
        (json.dumps({n: v for n, v in WHOLE.items() if n != "body"}).encode(), "missing required field `body`"),
    ],
)
def test_a_line_that_is_not_an_entry_says_why(line: bytes, why: str) -> None:
    with pytest.raises(LogError, match=f"^not an exported entry: .*{why}"):
        from_line(line)


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_line_is_an_entry_or_a_log_error(line: bytes) -> None:
    with pytest.raises(LogError, match="not an exported entry"):
        from_line(line)
