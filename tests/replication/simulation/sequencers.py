"""Who originates flashblocks: one sequencer at a time, as op-conductor has it, or two at once."""

from typing import TYPE_CHECKING

from appliance.domain.payloads import PayloadId
from tests.replication.simulation.host import SimHost

if TYPE_CHECKING:
    from tests.replication.simulation.world import World

TAKE_OVER_S = 1.0
"""op-conductor needs a heartbeat timeout before another sequencer leads."""


class Sequencer:
    """One op-node with its builder, beside a host."""

    def __init__(self, world: "World", host: SimHost, number: int, flavour: str, variant: int) -> None:
        self._world = world
        self.host = host
        self.number = number
        self._flavour = flavour
        self._variant = variant
        self._index = 0
        self._length = world.clock.random.randint(1, 5)
        self._incarnation = host.incarnation

    def produce(self) -> None:
        """The next flashblock, if the host runs; one that restarted lets its builder begin the payload again."""
        if not self.host.is_up or self.host.is_still:
            return
        if self.host.incarnation != self._incarnation:
            self._incarnation = self.host.incarnation
            self._index = 0
            if self._world.clock.random.random() < 0.5:
                self._flavour += "'"
        if self._index >= self._length:
            self.number += 1
            self._index, self._length = 0, self._world.clock.random.randint(1, 5)
        payload_id = PayloadId(f"0x{self.number:08x}{self._variant:08x}")
        body = f"{payload_id}/{self._index}/{self._flavour}".encode()
        self.host.originate(payload_id, self._index, self.number, self.host.name, body)
        self._index += 1


class Sequencers:
    """All of them."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._active: list[Sequencer] = []
        self._is_stopped = False

    def start(self) -> None:
        scenario, random = self._world.scenario, self._world.clock.random
        hosts = random.sample(self._world.voters, 2)
        self._active.append(Sequencer(self._world, hosts[0], 1, hosts[0].name, 0))
        if scenario.duel != "no":
            flavour = hosts[random.choice((0, 1, 1, 1))].name
            variant = 0 if scenario.duel == "same" else 1
            self._active.append(Sequencer(self._world, hosts[1], 1, flavour, variant))
        for sequencer in self._active:
            self._produce_later(sequencer)
        if scenario.duel == "no":
            self._elect_later()

    def stop(self) -> None:
        self._is_stopped = True

    def _produce_later(self, sequencer: Sequencer) -> None:
        self._world.clock.at(self._world.scenario.interval, lambda: self._produce(sequencer))

    def _produce(self, sequencer: Sequencer) -> None:
        if not self._is_stopped and sequencer in self._active:
            sequencer.produce()
            self._produce_later(sequencer)

    def _elect_later(self) -> None:
        self._world.clock.at(self._world.clock.random.uniform(0.5, 2.0), self._depose)

    def _depose(self) -> None:
        """The leader leads no more; after a while another one does, with what it knows of the chain."""
        if self._is_stopped:
            return
        (old,) = self._active
        self._active.clear()
        self._world.clock.note("%s leads no more", old.host.name)
        self._world.clock.at(TAKE_OVER_S, lambda: self._elect(old))

    def _elect(self, old: Sequencer) -> None:
        random = self._world.clock.random
        host = random.choice(self._world.voters)
        # The next block, or the same one again from the start, by its own builder.
        number = old.number + random.choice((0, 1))
        self._world.clock.note("%s leads", host.name)
        self._active.append(Sequencer(self._world, host, number, host.name, 0))
        self._produce_later(self._active[0])
        self._elect_later()
