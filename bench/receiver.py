"""Subscribers that only read and take the time: raw sockets in one epoll loop (`python -m bench.receiver`).

Requests: ``connect`` (group, host, port, path, indices, encodings, count, stuck: how many read nothing),
``drop`` (groups): every connection breaks, ``reconnect`` (groups): all at once, each after its last message,
``progress`` (group, last): how many have had this message, ``finish`` (group, first, last, file). A group is the
subscribers of one server, ``indices`` the flashblocks of one payload in its stream. ``connect`` is answered when all
are connected, ``reconnect`` when each has had a message, too. ``finish`` writes two arrays to the file, one entry a
message received: numbers (unsigned 64 bit), then times (64-bit float, seconds of the monotonic clock, which all
processes of a machine share).
"""

import errno
import gc
import itertools
import json
import os
import pathlib
import select
import socket
import sys
from collections import deque
from typing import Any, Final

from bench.children import say
from bench.machine import raise_file_limit
from bench.subscriber import ANCILLARY_BYTES, Group, Subscriber, clock_offset, kernel_time

WINDOW = 64  # handshakes under way at once when there is no hurry: fewer than any listen backlog
BUFFER_BYTES = 1 << 18
EVENTS = 256  # then requests get their turn


class Receiver:
    """The loop: sockets and requests on one epoll."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._subscribers: dict[int, Subscriber] = {}
        self._to_dial: deque[Subscriber] = deque()
        self._reconnecting = False
        self._dialled: list[Subscriber] = []
        self._waiting = 0  # of those dialled: for an answer, or after a reconnect for the first message
        self._answered_at = 0.0  # the last of them
        self._poll = select.epoll()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._requests = b""
        self._offset = clock_offset()

    def run(self) -> None:
        """Until stdin ends."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        say(ready=True)
        while True:
            for descriptor, events in self._poll.poll(maxevents=EVENTS):
                subscriber = self._subscribers.get(descriptor)
                if subscriber is not None:
                    self._serve(subscriber, events)
                elif descriptor == sys.stdin.fileno() and not self._read_requests():
                    return

    def _serve(self, subscriber: Subscriber, events: int) -> None:
        if events & select.EPOLLOUT:
            self._ask(subscriber)
        elif events:
            self._read(subscriber)

    def _ask(self, subscriber: Subscriber) -> None:
        problem = subscriber.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self._refuse(subscriber, errno.errorcode.get(problem, str(problem)))
            return
        subscriber.socket.send(subscriber.request())
        self._poll.modify(subscriber.socket.fileno(), select.EPOLLIN)

    def _read(self, subscriber: Subscriber) -> None:
        try:
            count, ancillary, _, _ = subscriber.socket.recvmsg_into([self._buffer], ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            count, ancillary = 0, []
        if not count:
            self._ended(subscriber)
        elif subscriber.streaming:
            self._count(subscriber, self._buffer[:count], kernel_time(ancillary, self._offset))
        else:
            self._read_answer(subscriber, self._buffer[:count], kernel_time(ancillary, self._offset))

    def _count(self, subscriber: Subscriber, data: memoryview, arrived: float) -> None:
        if subscriber.feed(data, arrived) and subscriber.behind:
            subscriber.behind = False
            self._settled()

    def _read_answer(self, subscriber: Subscriber, data: memoryview, arrived: float) -> None:
        found = subscriber.answer(data)
        if isinstance(found, str):
            self._refuse(subscriber, found)
        elif found is not None:
            self._answered_at = max(self._answered_at, arrived)
            self._answered(subscriber, found, arrived)

    def _answered(self, subscriber: Subscriber, rest: memoryview, arrived: float) -> None:
        if subscriber.stuck:
            self._forget(subscriber)
        subscriber.behind = self._reconnecting and not subscriber.stuck
        if not subscriber.behind:
            self._settled()
        if rest and not subscriber.stuck:
            self._count(subscriber, rest, arrived)
        self._dial_next()

    def _refuse(self, subscriber: Subscriber, why: str) -> None:
        subscriber.group.refused.append(why)
        subscriber.closed = True
        self._forget(subscriber)
        subscriber.socket.close()
        self._settled()
        self._dial_next()

    def _ended(self, subscriber: Subscriber) -> None:
        if not subscriber.streaming:
            self._refuse(subscriber, "hung up")
            return
        subscriber.closed = True
        self._forget(subscriber)
        subscriber.socket.close()
        if subscriber.behind:
            subscriber.behind = False
            self._settled()

    def _forget(self, subscriber: Subscriber) -> None:
        self._poll.unregister(subscriber.socket.fileno())
        del self._subscribers[subscriber.socket.fileno()]

    def _settled(self) -> None:
        """One less to wait for."""
        self._waiting -= 1
        if not self._waiting:
            gc.freeze()  # the sockets live to the end: no collection need look at them
            connected = sum(one.streaming and not one.closed for one in self._dialled)
            refused = [why for group in self._groups.values() for why in group.refused]
            say(connected=connected, refused=refused[:3], answered_at=self._answered_at)

    def _dial_next(self) -> None:
        if self._to_dial:
            self._dial(self._to_dial.popleft())

    def _dial(self, subscriber: Subscriber) -> None:
        subscriber.dial()
        self._subscribers[subscriber.socket.fileno()] = subscriber
        self._poll.register(subscriber.socket.fileno(), select.EPOLLOUT)

    def _read_requests(self) -> bool:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        self._requests += data
        while b"\n" in self._requests:
            line, _, self._requests = self._requests.partition(b"\n")
            self._obey(json.loads(line))
        return bool(data)

    def _obey(self, request: dict[str, Any]) -> None:
        if request["do"] == "connect":
            self._connect(request)
        elif request["do"] == "drop":
            self._drop(self._readers(request["groups"]))
        elif request["do"] == "reconnect":
            self._begin(self._readers(request["groups"]), hurry=True)
        elif request["do"] == "progress":
            group = self._groups[request["group"]]
            say(through=sum(one.has_had(request["last"]) for one in group.subscribers))
        elif request["do"] == "finish":
            group = self._groups[request["group"]]
            say(**group.finish(request["first"], request["last"], pathlib.Path(request["file"])))

    def _readers(self, groups: list[str]) -> list[Subscriber]:
        return [one for group in groups for one in self._groups[group].subscribers if not one.stuck]

    def _connect(self, request: dict[str, Any]) -> None:
        group = Group(request["host"], request["port"], request["path"], request["indices"])
        self._groups[request["group"]] = group
        encodings = itertools.cycle(request["encodings"])
        reading = [Subscriber(group, next(encodings)) for _ in range(request["count"] - request["stuck"])]
        stuck = [Subscriber(group, next(encodings), stuck=True) for _ in range(request["stuck"])]
        group.subscribers = reading + stuck
        self._begin(group.subscribers, hurry=False)

    def _begin(self, subscribers: list[Subscriber], *, hurry: bool) -> None:
        self._offset = clock_offset()
        self._reconnecting = hurry
        self._dialled, self._waiting, self._answered_at = subscribers, len(subscribers), 0.0
        if not subscribers:
            say(connected=0, refused=[], answered_at=0.0)
        self._to_dial.extend(subscribers)
        for _ in range(len(subscribers) if hurry else WINDOW):
            self._dial_next()

    def _drop(self, subscribers: list[Subscriber]) -> None:
        for subscriber in subscribers:
            if not subscriber.closed:
                self._forget(subscriber)
                subscriber.hang_up()
        say(dropped=True)


LOWEST_PRIORITY: Final = 19

if __name__ == "__main__":
    # They stand for thousands of machines, which would not take cores from the server that is measured.
    os.nice(LOWEST_PRIORITY)
    raise_file_limit()
    Receiver().run()
