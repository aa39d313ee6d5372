"""The size of a run of the fan-out bench."""

import msgspec

from bench.messages import ENCODINGS

STEADY, STORM = PARTS = ("steady", "storm")


class Settings(msgspec.Struct, frozen=True):
    """``stuck`` of the subscribers read nothing; ``movers`` of them reconnect while the others stay."""

    parts: tuple[str, ...] = PARTS
    subscribers: int = 9000
    stuck: int = 90
    size: int = 8192
    rate: float = 5.0
    encodings: tuple[str, ...] = ENCODINGS
    seconds: float = 8.0
    rounds: int = 3
    receivers: int = 3
    movers: int = 2000
    storms: int = 3
    quiet_slots: int = 50

    @property
    def messages(self) -> int:
        """A round's."""
        return max(1, round(self.seconds * self.rate))


QUICK = Settings(subscribers=500, stuck=5, seconds=2.0, rounds=2, receivers=1, movers=100, storms=1, quiet_slots=10)
