"""The sockets that the planes are served on, opened once for the life of the process."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from socket import socket
from typing import Final

import trio

from appliance.config.model import Config
from appliance.domain.errors import ConfigError
from appliance.net.http_server import open_listener

RunOnListener = Callable[..., Awaitable[None]]

_WITH_ONE_LISTENER: Final = ("replication", "fanout", "lb", "admin")


class Listeners:
    """All ports, opened before anything else starts: one that is in use is the first thing that is said.

    A plane runs on a duplicate of its listener: while it restarts, clients wait in the backlog.
    """

    def __init__(self, config: Config, stack: ExitStack) -> None:
        """Raises ConfigError, with the key, for an address that cannot be had. ``stack`` closes the sockets."""
        self._sockets = {name: stack.enter_context(_open(key, address)) for name, key, address in _addresses(config)}
        self.addresses = {name: _address(listener) for name, listener in self._sockets.items()}

    def close(self, plane: str) -> None:
        """Take no more connections for a plane that stops.

        With our own socket open the kernel would go on taking them, and clients would hang instead of going elsewhere.
        """
        for listener in self._of(plane).values():
            listener.close()

    def one(self, plane: str, run: RunOnListener) -> RunOnListener:
        """``run(listener, stopping=...)`` for a plane that has one."""
        return partial(self._run_on_one, plane, run)

    def several(self, plane: str, run: RunOnListener) -> RunOnListener:
        """``run({name: listener}, stopping=...)`` for a plane that has one for each of its groups."""
        return partial(self._run_on_several, plane, run)

    async def _run_on_one(
        self, plane: str, run: RunOnListener, *, stopping: trio.Event, task_status: trio.TaskStatus[None]
    ) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(run, self._sockets[plane].dup(), stopping=stopping))
            task_status.started()

    async def _run_on_several(
        self, plane: str, run: RunOnListener, *, stopping: trio.Event, task_status: trio.TaskStatus[None]
    ) -> None:
        with ExitStack() as stack:
            own = {name: stack.enter_context(listener.dup()) for name, listener in self._of(plane).items()}
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(run, own, stopping=stopping))
                task_status.started()

    def _of(self, plane: str) -> dict[str, socket]:
        """By what follows the point: a group's name, or nothing."""
        named = {tuple(name.split(".", 1)): listener for name, listener in self._sockets.items()}
        return {"".join(name[1:]): listener for name, listener in named.items() if name[0] == plane}


def _open(key: str, address: str) -> socket:
    try:
        return open_listener(address)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _addresses(config: Config) -> Iterator[tuple[str, str, str]]:
    """Where the planes listen: (plane, key, address); a provider group's name is behind the plane's and a point."""
    engine = config.engine
    if engine is not None and engine.l2 is not None:
        yield "engine", "engine.listen", engine.listen
        yield "debug", "engine.debug_listen", engine.debug_listen
    if engine is not None and engine.builder_listen is not None:
        yield "builder_listen", "engine.builder_listen.listen", engine.builder_listen.listen
    for plane in _WITH_ONE_LISTENER:
        section = getattr(config, plane)
        if section is not None:
            yield plane, f"{plane}.listen", section.listen
    for index, group in enumerate(config.providers):
        yield f"providers.{group.name}", f"providers[{index}].listen", group.listen


def _address(listener: socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
