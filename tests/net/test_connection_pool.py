from hypothesis import given
from hypothesis import strategies as st

from appliance.net.connection_pool import ConnectionPool


def always(_: str) -> bool:
    return True


def test_an_empty_pool_says_open_one() -> None:
    pool: ConnectionPool[str] = ConnectionPool(idle_timeout_s=60)

    assert pool.take(0, always) == (None, [])


def test_the_connection_used_last_is_taken_first() -> None:
    pool: ConnectionPool[str] = ConnectionPool(idle_timeout_s=60)
    pool.put("a", now=0)
    pool.put("b", now=1)

    assert pool.take(2, always) == ("b", [])
    assert pool.take(2, always) == ("a", [])
    assert len(pool) == 0


def test_connections_idle_for_too_long_are_handed_out_to_be_closed() -> None:
    pool: ConnectionPool[str] = ConnectionPool(idle_timeout_s=60)
    pool.put("old", now=0)
    pool.put("older than it looks", now=9.9)
    pool.put("fresh", now=30)

    assert pool.take(70, always) == ("fresh", ["old", "older than it looks"])
    assert len(pool) == 0


def test_an_unusable_connection_is_closed_and_the_next_one_taken() -> None:
    pool: ConnectionPool[str] = ConnectionPool(idle_timeout_s=60)
    pool.put("good", now=0)
    pool.put("closed by the peer", now=1)

    taken = pool.take(2, lambda connection: connection == "good")

    assert taken == ("good", ["closed by the peer"])


def test_clearing_gives_back_all_idle_ones() -> None:
    pool: ConnectionPool[str] = ConnectionPool(idle_timeout_s=60)
    pool.put("a", now=0)
    pool.put("b", now=0)

    assert pool.clear() == ["a", "b"]
    assert len(pool) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 40)), max_size=60))
def test_every_connection_is_somewhere_exactly_once(steps: list[tuple[bool, float]]) -> None:
    pool: ConnectionPool[int] = ConnectionPool(idle_timeout_s=60)
    now = 0.0
    made = 0
    busy: list[int] = []
    closed: list[int] = []
    for put_back, passed_s in steps:
        now += passed_s
        if put_back and busy:
            pool.put(busy.pop(), now)
            continue
        connection, discarded = pool.take(now, lambda number: number % 5 != 0)
        closed += discarded
        if connection is None:
            connection, made = made, made + 1
        busy.append(connection)

    assert sorted(busy + closed + pool.clear()) == list(range(made))
