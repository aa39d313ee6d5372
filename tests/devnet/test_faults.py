import pytest
import trio

from appliance.devnet.faults import FAULTS, Fault, FaultChoice, FaultSwitch, Role, help_lines, parse_fault
from appliance.domain.errors import ConfigError

BUILDERS = ("builder-1", "builder-2")


def test_every_fault_is_offered_to_someone_and_described() -> None:
    assert {info.fault for info in FAULTS.values()} == set(Fault)
    assert all(info.name == name and info.description for name, info in FAULTS.items())


def test_help_has_one_line_for_each() -> None:
    lines = help_lines()
    assert len(lines) == len(FAULTS)
    assert lines[0].startswith("builder-down ")


def test_fault_for_all_or_for_one_builder() -> None:
    assert parse_fault("builder-gaps", BUILDERS) == FaultChoice(FAULTS["builder-gaps"])
    assert parse_fault("builder-gaps:builder-2", BUILDERS) == FaultChoice(FAULTS["builder-gaps"], "builder-2")
    assert parse_fault("el-down", BUILDERS).info.role is Role.EL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("explodes", "no fault is called 'explodes'; there are builder-down"),
        ("el-gaps", "no fault is called 'el-gaps'"),
        ("builder-down:builder-9", "no builder is called 'builder-9'; there are builder-1, builder-2"),
        ("el-down:builder-1", "el-down takes no builder"),
        ("", "no fault is called ''"),
    ],
)
def test_wrong_fault_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_fault(text, BUILDERS)
    assert "\n" not in str(caught.value)


async def test_switch_wakes_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    switch = FaultSwitch([Fault.SLOW])
    seen: list[str] = []

    async def watch() -> None:
        await switch.wait(Fault.DOWN, on=True)
        seen.append("down")
        await switch.wait(Fault.DOWN, on=False)
        seen.append("up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for on in (False, True, True, False):
            await trio.testing.wait_all_tasks_blocked()
            switch.set(Fault.DOWN, on=on)
    assert seen == ["down", "up"]
    assert switch.active == {Fault.SLOW}
    assert Fault.SLOW in switch
    await switch.wait(Fault.SLOW, on=True)
