from pathlib import Path

import msgspec
import pytest

from appliance.devnet.capture import read_capture
from appliance.devnet.chain import header_of
from appliance.devnet.messages import ExecutionPayload, decode_as, hex_data
from appliance.domain.errors import ConfigError
from tests.devnet.setting import DATA, load

UNICHAIN = DATA / "flashblocks/unichain-sepolia-35535698.jsonl"
BASE_SEPOLIA = DATA / "flashblocks/base-sepolia-33439826.jsonl"


def test_unichain_capture_is_the_recorded_block() -> None:
    (captured,) = read_capture(UNICHAIN)
    request = load("engine/unichain-sepolia-35535698-newPayloadV4.json")
    expected = decode_as(ExecutionPayload, request["params"][0])
    assert captured.payload() == expected
    assert captured.version == 4
    assert captured.envelope()["parentBeaconBlockRoot"] == request["params"][2]
    assert hex_data(header_of(captured.payload(), request["params"][2]).hash) == expected.block_hash


def test_unichain_attributes_are_the_vectors_and_give_the_recorded_id() -> None:
    (captured,) = read_capture(UNICHAIN)
    vector = load("engine/payload-id-vectors.json")[2]
    attributes = msgspec.to_builtins(captured.attributes())
    assert attributes == vector["attributes"]
    assert captured.base.parent_hash == vector["parentHash"]
    assert captured.payload_id == vector["payloadId"]
    assert captured.id_is_computable()


def test_messages_are_the_files_lines() -> None:
    (captured,) = read_capture(UNICHAIN)
    assert b"\n".join(captured.messages) == UNICHAIN.read_bytes().strip()


def test_base_sepolia_capture_has_eleven_flashblocks_that_do_not_add_up() -> None:
    (captured,) = read_capture(BASE_SEPOLIA)
    assert [each.index for each in captured.flashblocks] == list(range(11))
    assert hex_data(header_of(captured.payload(), captured.base.parent_beacon_block_root).hash) != (
        captured.payload().block_hash
    )


def test_end_message_belongs_to_its_payload(tmp_path: Path) -> None:
    path = tmp_path / "with-end.jsonl"
    lines = [*UNICHAIN.read_bytes().splitlines(), b"", b'{"payload_id":"0x03c446f063e3735a"}']
    path.write_bytes(b"\n".join(lines))
    (captured,) = read_capture(path)
    assert len(captured.messages) == 6
    assert len(captured.flashblocks) == 5


def test_several_payloads_keep_the_order_of_their_first_messages(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_bytes(UNICHAIN.read_bytes() + BASE_SEPOLIA.read_bytes())
    assert [each.payload_id for each in read_capture(path)] == ["0x03c446f063e3735a", "0x03c33cc62b81edb6"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no flashblock in it"),
        ("{}", "line 1:"),
        ("not json", "line 1:"),
        ('{"payload_id":"0x03c446f063e3735a"}', "does not begin with a flashblock 0"),
    ],
)
def test_what_cannot_be_replayed_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_capture(path)
    assert "\n" not in str(caught.value)
    assert "bad.jsonl" in str(caught.value)


def test_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_capture(tmp_path / "nowhere.jsonl")


def test_capture_that_begins_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "tail.jsonl"
    path.write_bytes(b"\n".join(UNICHAIN.read_bytes().splitlines()[1:]))
    with pytest.raises(ConfigError, match="does not begin with a flashblock 0 that has a base"):
        read_capture(path)
