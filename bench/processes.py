"""The processes of an engine bench: execution client, builders, and the appliance between them and the driver."""

import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from bench import blocks
from bench.appliance_process import DEADLINE_MS, ApplianceProcess
from bench.caller import Caller
from bench.children import Child


@dataclass(frozen=True)
class Processes:
    """All started; ``direct`` is a connection to the execution client, ``through`` one to the appliance."""

    el: Child
    builders: tuple[Child, ...]
    appliance: ApplianceProcess
    direct: Caller
    through: Caller
    folder: pathlib.Path

    def resize(self, size: int) -> None:
        """How many bytes every getPayload answer has from now on."""
        for upstream in (self.el, *self.builders):
            upstream.ask("size", bytes=size)


@contextmanager
def started(builders: int, *, subscribers: int = 0, builder_deadline_ms: int = DEADLINE_MS) -> Iterator[Processes]:
    """Start them, in a temporary folder, and end them; ChildError when one does not start."""
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        el = stack.enter_context(Child("bench.upstreams", blocks.EL))
        rivals = tuple(stack.enter_context(Child("bench.upstreams", blocks.BUILDER)) for _ in range(builders))
        ports = [builder.ready["port"] for builder in rivals]
        appliance = stack.enter_context(
            ApplianceProcess(
                folder,
                el.ready["port"],
                ports,
                subscribers=subscribers + 1,
                builder_deadline_ms=builder_deadline_ms,
            )
        )
        direct = stack.enter_context(closing(Caller(el.ready["port"], appliance.secret)))
        through = stack.enter_context(closing(Caller(appliance.engine_port, appliance.secret)))
        yield Processes(el, rivals, appliance, direct, through, folder)
