"""What /api/v1/payloads shows."""

import json

from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadId
from appliance.engine.decisions import BlockFacts, Candidate, Decision
from appliance.engine.events import BlockCameLate
from appliance.engine.payload_history import MAX_DECISIONS, PayloadHistory

FACTS = BlockFacts("0xb1", 7, 100_000, 3, 2**200)


def candidate(source: str, facts: BlockFacts | None = FACTS, payload_id: str | None = None) -> Candidate:
    return Candidate(
        source=source,
        builder=None if source == "l2" else source,
        payload_id=PayloadId(payload_id) if payload_id else None,
        standing="valid" if facts else "pending",
        facts=facts,
        arrived_s=0.0125 if facts else None,
        verdict="VALID" if facts else None,
        validation_s=0.002 if facts else None,
        preserves=None,
        why="because",
    )


def decision(number: int = 1, mode: ExecutionMode = ExecutionMode.ENABLED, returned: str = "alpha") -> Decision:
    return Decision(
        build_id=BuildId(number),
        payload_id=PayloadId(f"0x{number:016x}"),
        mode=mode,
        parent_hash="0xaa",
        timestamp=1_700_000_000,
        returned=returned,
        preferred="alpha",
        seconds=0.25,
        promised=0,
        candidates=(candidate("alpha", payload_id="0xa1"), candidate("l2", None)),
    )


def history(*decisions: Decision) -> PayloadHistory:
    made = PayloadHistory(wall_clock=lambda: 1_700_000_000.0)
    for each in decisions:
        made.add(each)
    return made


def test_an_entry_is_json_with_every_number() -> None:
    (entry,) = json.loads(json.dumps(history(decision()).recent()))
    alpha = entry.pop("candidates")[0]
    assert entry == {
        "payload_id": "0x0000000000000001",
        "block_hash": "0xb1",
        "block_number": 7,
        "parent_hash": "0xaa",
        "timestamp": 1_700_000_000,
        "decided_at": "2023-11-14T22:13:20.000+00:00",
        "milliseconds": 250.0,
        "execution_mode": "enabled",
        "returned": "alpha",
        "would_have_returned": None,
        "promised_transactions": 0,
    }
    assert alpha == {
        "source": "alpha",
        "builder": "alpha",
        "payload_id": "0xa1",
        "result": "returned",
        "why": "because",
        "block_hash": "0xb1",
        "block_number": 7,
        "gas_used": 100_000,
        "transactions": 3,
        "value_wei": str(2**200),
        "arrived_ms": 12.5,
        "validation": "VALID",
        "validation_ms": 2.0,
        "keeps_promise": None,
    }


def test_a_dry_run_says_what_would_have_been_returned() -> None:
    (entry,) = history(decision(mode=ExecutionMode.DRY_RUN, returned="l2")).recent()
    assert (entry["returned"], entry["would_have_returned"]) == ("l2", "alpha")
    candidates = entry["candidates"]
    assert isinstance(candidates, list)
    assert [each["result"] for each in candidates] == ["would have been returned", "returned"]


def test_it_is_bounded_and_newest_first() -> None:
    kept = history(*(decision(number) for number in range(1, MAX_DECISIONS + 11)))
    assert len(kept) == MAX_DECISIONS
    assert [entry["payload_id"] for entry in kept.recent(2)] == [f"0x{n:016x}" for n in (266, 265)]
    assert kept.find("0x000000000000000a") is None, "forgotten"
    assert len(kept.recent(10_000)) == MAX_DECISIONS
    assert kept.recent(0) == []


def test_it_is_found_by_any_payload_id_and_by_block_hash() -> None:
    kept = history(decision(1), decision(2))
    for name in ("0x0000000000000002", "0xA1", "0xb1"):
        entry = kept.find(name)
        assert entry is not None
        assert entry["payload_id"] == "0x0000000000000002", "the newest"
    assert kept.find("0xff") is None


def test_a_block_that_came_late_gets_its_numbers() -> None:
    kept = history(decision(1), decision(2))
    kept.complete(BlockCameLate(BuildId(1), "l2", BlockFacts("0xe1", 7, 5, 1, None), 0.5))
    kept.complete(BlockCameLate(BuildId(99), "l2", FACTS, 0.5))
    older = kept.find("0x0000000000000001")
    assert older is not None
    candidates = older["candidates"]
    assert isinstance(candidates, list)
    assert (candidates[1]["gas_used"], candidates[1]["arrived_ms"], candidates[1]["result"]) == (5, 500.0, "pending")
    assert kept.find("0xe1") == older
