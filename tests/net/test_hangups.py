import socket

import trio

from appliance.net.hangups import Hangups


async def test_each_hangup_is_told_once_and_only_of_the_watched() -> None:
    hangups = Hangups()
    gone: list[int] = []
    told = trio.Event()
    pairs = [socket.socketpair() for _ in range(4)]
    for number, (ours, _) in enumerate(pairs):

        def hung_up(number: int = number) -> None:
            gone.append(number)
            told.set()

        hangups.watch(ours.fileno(), hung_up)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hangups.run)
        pairs[0][1].send(b"bytes are no hangup")
        hangups.forget(pairs[1][0].fileno())
        hangups.forget(12345)
        pairs[1][1].close()
        await trio.testing.wait_all_tasks_blocked()
        assert gone == []

        pairs[2][1].shutdown(socket.SHUT_WR)
        await told.wait()
        pairs[2][1].close()
        pairs[3][1].close()
        await trio.testing.wait_all_tasks_blocked(0.01)

        assert gone[0] == 2
        assert sorted(set(gone)) == [2, 3]
        nursery.cancel_scope.cancel()
    for pair in pairs:
        for end in pair:
            end.close()
