from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.domain.errors import LogError
from appliance.flashlog.reader import Reader
from appliance.flashlog.readers import READERS, Readers
from appliance.flashlog.store import Store
from appliance.flashlog.threads import OwnThreads, run_inline
from tests.flashlog.support import flashblock, store_append


async def test_connections_are_bounded_and_used_again(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a.db")) as store:
        store_append(store, flashblock(1, 0))
        readers = Readers(store.path, OwnThreads(READERS))
        used: set[int] = set()

        def query(reader: Reader) -> int:
            used.add(id(reader))
            return reader.head()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(readers.query, query)
        assert await readers.query(query) == 1
        assert 1 <= len(used) <= READERS
        assert repr(readers) == f"<Readers 0 busy, {len(used)} idle>"
        readers.close()


async def test_an_error_of_a_query_is_the_callers_and_the_connection_goes_on(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a.db")) as store:
        readers = Readers(store.path, run_inline)

        def broken(_reader: Reader) -> None:
            raise LogError("no")

        with pytest.raises(LogError, match="no"):
            await readers.query(broken)
        assert await readers.query(lambda reader: reader.head()) == 0
        readers.close()


async def test_after_closing_there_are_no_queries_and_late_connections_are_closed(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a.db")) as store:
        gate = trio.Event()

        async def slow(sync_fn: object, *args: object) -> object:
            await gate.wait()
            assert callable(sync_fn)
            return sync_fn(*args)

        readers = Readers(store.path, slow)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readers.query, Reader.head)
            await trio.testing.wait_all_tasks_blocked()
            readers.close()
            gate.set()
        assert repr(readers) == "<Readers 0 busy, 0 idle>"
        with pytest.raises(LogError, match="the flashblock log is closed"):
            await readers.query(Reader.head)


async def test_a_query_that_waits_for_its_turn_can_be_cancelled(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a.db")) as store:
        gate = trio.Event()

        async def slow(sync_fn: object, *args: object) -> object:
            await gate.wait()
            assert callable(sync_fn)
            return sync_fn(*args)

        readers = Readers(store.path, slow)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(readers.query, Reader.head)
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await readers.query(Reader.head)
            assert scope.cancelled_caught
            gate.set()
        assert repr(readers) == f"<Readers 0 busy, {READERS} idle>"
        readers.close()
