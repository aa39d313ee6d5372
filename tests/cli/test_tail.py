import pytest

from appliance.cli.tail import Place, Streams, _Outages, line
from appliance.domain.errors import ConfigError, UnavailableError
from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.wire.flashblock import decode
from tests.support.blocks import unichain_messages

STREAM = "ws://h:1112/ws"


def flashblock(index: int = 0) -> Flashblock:
    decoded = decode(unichain_messages()[index], Encoding.TEXT)
    assert isinstance(decoded, Flashblock)
    return decoded


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, STREAM),
        ("35535698", f"{STREAM}?block_number=35535698"),
        ("35535698:1", f"{STREAM}?block_number=35535698&flashblock_index=1"),
        ("0:0", f"{STREAM}?block_number=0&flashblock_index=0"),
    ],
)
def test_a_place_is_a_resume_position_in_the_streams_url(text: str | None, url: str) -> None:
    assert Place.parse(text).url(STREAM) == url


def test_a_query_that_is_there_already_is_kept() -> None:
    assert Place(7, 1).url(f"{STREAM}?encoding=brotli") == f"{STREAM}?encoding=brotli&block_number=7&flashblock_index=1"


@pytest.mark.parametrize("text", ["", "x", "1:", ":1", "1:2:3", "-1", "1.3", " 1"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match="expected BLOCK or BLOCK:INDEX"):
        Place.parse(text)


def test_what_was_shown_is_where_the_next_connection_goes_on() -> None:
    place = Place.parse(None)
    place.passed(flashblock(2))
    payload_id = flashblock().payload_id
    assert place.url(STREAM) == f"{STREAM}?payload_id={payload_id}&block_number=35535698&flashblock_index=2"


def test_where_its_payload_is_not_held_a_place_is_the_block_number() -> None:
    place = Place.parse(None)
    place.passed(flashblock(2))
    assert place.give_up_payload()
    assert place.url(STREAM) == f"{STREAM}?block_number=35535698&flashblock_index=2"
    assert not place.give_up_payload()


def test_a_payload_without_a_number_is_not_the_block_before() -> None:
    place = Place.parse("7:1")
    bare = Flashblock(flashblock().payload_id, 0, None, None, None, b"{}", Encoding.TEXT)
    place.passed(bare)
    assert not place.give_up_payload()


def test_when_a_host_fails_the_next_has_its_turn_and_the_first_after_the_last() -> None:
    streams = Streams(["ws://a/ws", "ws://b/ws"])
    assert (streams.url, streams.go_on(), streams.url, streams.go_on(), streams.url) == (
        "ws://a/ws",
        False,
        "ws://b/ws",
        True,
        "ws://a/ws",
    )


def test_nobody_there_at_the_start_is_an_error_only_after_the_last_host(capsys: pytest.CaptureFixture[str]) -> None:
    outages = _Outages()
    outages.begin(UnavailableError("a is away"), is_last=False)
    with pytest.raises(UnavailableError, match="b is away"):
        outages.begin(UnavailableError("b is away"), is_last=True)
    outages.over("ws://a/ws")
    outages.begin(UnavailableError("a is away"), is_last=True)
    outages.over("ws://b/ws")
    assert capsys.readouterr().err.splitlines() == [
        "appliance: a is away; trying again",
        "appliance: connected to ws://a/ws",
        "appliance: a is away; trying again",
        "appliance: connected to ws://b/ws",
    ]


def test_a_line_has_what_people_look_for() -> None:
    text = line(flashblock(4), now=1_700_000_000.25, since_last_s=0.2).plain
    assert text.split() == [
        text.split()[0],  # the local time of day
        "35535698",
        "#4",
        "1",
        "tx",
        "205,112",
        "gas",
        "0xc463a312…1196",
        "1.3",
        "kB",
        "+200",
        "ms",
    ]
    assert text.split()[0].endswith(".250")


def test_a_flashblock_without_diff_or_number_still_has_a_line() -> None:
    bare = Flashblock(flashblock().payload_id, 3, None, None, None, b"{}", Encoding.TEXT)
    assert line(bare, now=0.0, since_last_s=None).plain.split()[1:] == ["?", "#3", "0.0", "kB"]
