"""HTTP on one connection, for handlers that mostly need no task: a request that meets nothing unusual is two calls.

The connection's task is parked while it waits for a request, and stays so while a `QuickHandler` works on it: the
request's bytes are parsed where the kernel tells of them (`Readiness`), and the answer goes out where it
is ready. Whatever else happens wakes the task, which goes on as every `Session` does: half a request, several at once,
one that the handler does not take or cannot end by itself, an answer that does not go out whole, the end.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import outcome
import trio

from appliance.net import socket_io
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_parser import ParseError
from appliance.net.http_session import (
    HANDLING,
    INTERNAL_ERROR,
    RECEIVE_BYTES,
    RECEIVING,
    WAITING,
    HandOver,
    Session,
    Upgrade,
)
from appliance.net.message_parser import START
from appliance.telemetry.logging import get_logger

log = get_logger("net")

GoOn = Callable[[], Awaitable[HttpResponse | Upgrade | HandOver]]
"""What is left of a request's handling, for a task."""

_NONE: Final[tuple[HttpRequest, ...]] = ()


class Turn(Protocol):
    """A request that is being handled without a task.

    One of `reply` and `hand_over` is called, once; also at once. `fail` is for callbacks: what the handler itself
    raises is known.
    """

    on_cancel: Callable[[], None] | None
    """Set by the handler before it returns: called when nobody needs the answer any more, and then it is silent."""

    def reply(self, response: HttpResponse) -> None:
        """The answer."""

    def hand_over(self, go_on: GoOn) -> None:
        """Here it goes no further without waiting: the connection's task calls ``go_on`` and sends what that gives."""

    def fail(self) -> None:
        """A callback raised, and has logged it: the client is answered 500, as when the handler raises.

        Nothing when the task has the request already, or the client is gone; behind an answer the connection ends.
        """


QuickHandler = Callable[[HttpRequest, Turn], bool]
"""Begins to answer without waiting; false, and nothing done, for requests that the server's handler is to have."""


class QuickSession(Session):
    """A `Session` whose requests go to a quick handler first. Its `on_event` is for a `Readiness`."""

    def __init__(self, quick: QuickHandler, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_cancel: Callable[[], None] | None = None
        self._quick = quick
        self._usual_handler, self._handler = self._handler, self._handle_or_go_on
        self._go_on: GoOn | None = None
        self._task: trio.lowlevel.Task | None = None  # while it is parked
        self._request: HttpRequest | None = None  # while the quick handler has it
        self._unread = False  # something may have come that nobody will be told of again
        self._unsent: Sequence[bytes | memoryview] = ()
        self._sending: HttpResponse | None = None  # whose rest that is

    # For the readiness

    def on_event(self, gone: bool) -> None:
        """Bytes came, or the end."""
        if gone:
            self.client_gone()
        if self._task is None:
            return  # it reads for itself, and looks before it parks
        if self._phase is not WAITING:
            self._unread = True
            return
        data = self._read_now()
        if data is not None:
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            requests = self._parser.feed(data) if data else None
        except ParseError as error:
            self._wake(outcome.Error(error))
            return
        except Exception:
            log.exception("parsing failed", server=self._name)
            self._wake(outcome.Error(ParseError(500, "internal error")))
            return
        if requests:
            self._mark_handling()
        elif data and self._parser.stage is not START:
            # Now, and not when the task runs: what has been read is a request, and a stop or a deadline finds it begun.
            self._begin_stage(self._parser.stage)
        if not requests or len(requests) != 1 or not self._begin(requests[0]):
            self._wake(outcome.Value(requests))

    def _begin(self, request: HttpRequest) -> bool:
        """Whether the quick handler has it now, or had it and has given it to the task."""
        plain = request.keep_alive and self._limits.keep_alive and not request.upgrade and request.method != "HEAD"
        if not plain or self._client_gone or not self._parser.is_between():
            return False
        self._early.reset(usable=False, close=False)  # that is for handlers in tasks
        self._request = request
        try:
            taken = self._quick(request, self)
        except Exception:  # the connection's boundary, as in `Session`
            log.exception("handler failed", server=self._name, method=request.method)
            self.fail()
            return True
        if not taken:
            self._request = None
        return taken

    # For the handler

    def reply(self, response: HttpResponse) -> None:
        """See `Turn`."""
        if self._stopping.is_set():
            self.hand_over(partial(_ready, response))  # which says `Connection: close`
            return
        try:
            head, body = self._encode(response, close=False)
            self._unsent = socket_io.send_message_now(self._connection, head, body)
        except OSError as error:
            self._forget_request()
            response.sent()
            self._wake(outcome.Error(error))
            return
        except BaseException:
            response.sent()
            raise
        self._counters.requests += 1
        self._forget_request()
        if self._unsent:
            self._sending = response
        else:
            response.sent()
        if self._unsent or self._unread:
            self._wake(outcome.Value(_NONE))
        else:
            self._begin_stage(START)

    def hand_over(self, go_on: GoOn) -> None:
        """See `Turn`."""
        request, self._request = self._request, None
        self.on_cancel = None
        self._go_on = go_on
        self._wake(outcome.Value((request,)))

    def fail(self) -> None:
        """See `Turn`."""
        self._counters.handler_failures += 1
        if self._task is None or self._phase is not HANDLING:
            return
        if self._request is None:
            self._wake(outcome.Value(None))  # its answer is out, as far as can be known
        else:
            self.hand_over(partial(_ready, INTERNAL_ERROR))

    def _forget_request(self) -> None:
        request, self._request = self._request, None
        self.on_cancel = None
        if request is not None:
            self._parser.release_body(request)

    # The task

    async def _next_requests(self) -> Sequence[HttpRequest] | None:
        if self._parser.stage is not START:
            return await super()._next_requests()
        if self._timed_stage is not START:
            self._begin_stage(START)
        self._unread = False
        data = self._read_now()
        if data is None:
            return None if self._stopping.is_set() else await self._park()
        if data:
            self._phase = RECEIVING  # what has been read is a request begun: a stop leaves it alone
        await trio.lowlevel.checkpoint()
        requests = self._parser.feed(data) if data else None
        if not requests and self._parser.stage is START:
            self._phase = WAITING  # blank lines, which do not move its deadline
        return requests

    async def _park(self) -> Sequence[HttpRequest] | None:
        """Until there is something for the task: requests to handle, none of them, or None for the end."""
        self._task = trio.lowlevel.current_task()
        requests: Sequence[HttpRequest] | None = await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._unsent:
            await self._send_unsent()
        return requests

    async def _send_unsent(self) -> None:
        rest, self._unsent = self._unsent, ()
        response, self._sending = self._sending, None
        try:
            await self._send_rest(rest)
        finally:
            if response is not None:
                response.sent()

    def release(self) -> None:
        """Also what refers to itself."""
        self._handler = self._usual_handler
        super().release()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        on_cancel = self.on_cancel
        self._forget_request()
        if on_cancel is not None:
            try:
                on_cancel()
            except Exception:  # of the handler: trio ends the process for what an abort function raises
                self._counters.handler_failures += 1
                log.exception("handler failed when it was cancelled", server=self._name)
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self, result: outcome.Outcome[Sequence[HttpRequest | None] | None]) -> None:
        task, self._task = self._task, None
        if task is None:
            raise AssertionError("who replies or hands over has been told of no cancellation")
        trio.lowlevel.reschedule(task, result)

    async def _handle_or_go_on(self, request: HttpRequest) -> HttpResponse | Upgrade | HandOver:
        go_on, self._go_on = self._go_on, None
        return await (self._usual_handler(request) if go_on is None else go_on())

    def _read_now(self) -> bytes | None:
        """What has come, nothing at the end or after a reset, None when there is nothing."""
        try:
            data = self._connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        self._unread = len(data) == RECEIVE_BYTES
        return data


async def _ready(response: HttpResponse) -> HttpResponse:
    return response
