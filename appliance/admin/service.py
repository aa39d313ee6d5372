"""The admin plane: the application of `app.py` on Hypercorn, on a listener that is already open."""

import logging
import socket

import hypercorn
import hypercorn.trio
import trio

from appliance.admin.app import AdminSources, create_app

_MAX_BODY_BYTES = 64 * 1024
_DRAIN_S = 2.0


async def run(
    sources: AdminSources,
    listener: socket.socket,
    *,
    token: str | None,
    stopping: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stopping``; then requests in flight have two seconds. Takes ownership of ``listener``."""
    app = create_app(sources, token)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
    async with trio.open_nursery() as nursery:
        await nursery.start(_serve, app, listener, stopping)
        task_status.started()


async def _serve(
    app: object,
    listener: socket.socket,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    config = hypercorn.Config()
    # Hypercorn closes the descriptor that it is given.
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = _DRAIN_S
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")  # not a handler of its own
    config.loglevel = "WARNING"
    config.include_server_header = False
    # A browser tab that is left open must not hold the shutdown.
    config.keep_alive_timeout = 5
    await hypercorn.trio.serve(
        app,  # type: ignore[arg-type]  # Quart's class is an ASGI app; its annotations are not Hypercorn's
        config,
        shutdown_trigger=stopping.wait,
        task_status=task_status,
    )
