"""A playbook for the builder listener's machine: there is no EL, and the builders' orders carry their kind."""

from appliance.engine.arbiter import Arbiter
from appliance.engine.policies import policy_named
from tests.engine import messages as m
from tests.engine.playbook import Playbook

IDS = {"alpha": "0x0a", "beta": "0x0b", "gamma": "0x0c"}


class PoolPlaybook(Playbook):
    """Drives an `Arbiter`."""

    def __init__(
        self, builders: tuple[str, ...] = ("alpha", "beta"), policy: str = "builder", deadline_s: float = 1.0
    ) -> None:
        super().__init__(builders, policy, deadline_s)
        self.machine = Arbiter(builders, policy_named(policy), deadline_s)  # type: ignore[assignment]
        self.builders = builders

    def join(self, *builders: str, payload_id: str | None = None) -> None:
        """These answer the order to build, each with an id of its own unless one is given."""
        for builder in builders:
            self.answer(builder, m.forkchoice_answer(payload_id or IDS[builder]))

    def built(self, *joining: str) -> None:
        """An order to build, and who takes it."""
        self.ask(m.build())
        self.join(*joining or self.builders)
