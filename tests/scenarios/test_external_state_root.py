"""A chain whose flashblocks carry a zero state root: subscribers get them, and op-node a whole block."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from appliance.devnet.execution import Block
from appliance.devnet.network import Devnet, DevnetSettings
from tests.support.hosts import HostFiles, started, subscribe, take
from tests.support.in_process import hosted


def without_root(block: Block) -> Block:
    """As a builder shows it that leaves the state root to others."""
    return replace(block, header=replace(block.header, state_root=bytes(32)))


async def test_blocks_without_a_state_root_are_completed_by_the_el(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, DevnetSettings(builders=("alpha",), block_time_s=0.4, flashblock_interval_s=0.1))
    devnet.builders[0].api.alter = without_root
    sections: dict[str, dict[str, Any]] = {
        "engine": {"external_state_root": True},
        "flashblocks": {"validation": "structural"},
    }
    files = HostFiles(tmp_path, devnet, sections)
    async with started(nursery, devnet), hosted(files.write()) as appliance:
        node = await devnet.start_node(f"http://{appliance.listening['engine']}", files.secret)
        await node.wait_slots(2)
        async with subscribe(appliance.listening["fanout"]) as inbox:
            shown = await take(inbox, 4)
        reports = await node.wait_slots(6)
        blocks = [devnet.el.blocks[str(report.block_hash)] for report in reports]
        planes = appliance.statistics()["planes"]
        assert isinstance(planes, dict)
        by_context = planes["engine"]["blocks"]["by_context"]
    assert all(b'"state_root":"0x' + b"0" * 64 in body for body in shown)
    assert [report.error for report in reports] == [None] * 6
    assert [block.header.state_root for block in blocks if not any(block.header.state_root)] == []
    # What the builder adds and the EL's own pool would not: the builder's own transaction, in its block.
    assert by_context["builder"] >= 6
    # A block that was asked for right after its first flashblock has no more than that.
    assert any(len(block.transactions) > 1 for block in blocks)
