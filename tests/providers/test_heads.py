"""The promise: a subscriber sees each block of the canonical chain once, in order, whatever endpoints show."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.providers.heads import Extended, Fetch, HeadChain, Header, Known, Step, TooFar
from tests.providers.chain import Block, Chain, encoded

BOUND = 12


def header(block: Block) -> Header:
    return Header.decode(encoded(block.header()))


class Subscriber:
    """Follows a chain through a `HeadChain`, and checks what it is shown."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.heads = HeadChain(BOUND)
        self.heads.restart(header(chain.head))
        self.seen = [chain.head.hash]
        self.base = chain.head.number

    def offer(self, block: Block) -> Step:
        branch = [header(block)]
        while isinstance(step := self.heads.attach(branch), Fetch):
            branch.insert(0, header(self.chain.known[step.hash]))
        if isinstance(step, Extended):
            self._show(step)
        elif isinstance(step, TooFar):
            self.heads.restart(branch[-1])
            self.seen = [branch[-1].hash]
            self.base = branch[-1].number
        return step

    def _show(self, step: Extended) -> None:
        for removed in step.removed:
            assert self.seen.pop() == removed.hash
        for added in step.added:
            assert added.hash not in self.seen
            assert not self.seen or added.parent == self.seen[-1]
            self.seen.append(added.hash)


def start(blocks: int = 3) -> tuple[Chain, Subscriber]:
    chain = Chain()
    chain.mine_many(blocks)
    return chain, Subscriber(chain)


def test_a_child_of_the_tip_is_shown() -> None:
    chain, subscriber = start()
    block = chain.mine()
    assert subscriber.offer(block) == Extended((header(block),))


def test_the_same_head_twice_is_shown_once() -> None:
    chain, subscriber = start()
    subscriber.offer(chain.mine())
    assert subscriber.offer(chain.head) == Known()


def test_missing_blocks_are_asked_for_by_hash() -> None:
    chain, subscriber = start()
    blocks = chain.mine_many(3)
    assert subscriber.heads.attach([header(blocks[-1])]) == Fetch(blocks[-2].hash)
    assert subscriber.offer(blocks[-1]) == Extended(tuple(map(header, blocks)))


def test_the_head_of_an_endpoint_that_lags_is_nothing_new() -> None:
    chain, subscriber = start()
    subscriber.offer(chain.mine_many(2)[-1])
    for number in range(len(chain.canonical)):
        assert subscriber.offer(chain.canonical[number]) == Known()


def test_a_reorg_takes_back_and_shows_the_new_branch() -> None:
    chain, subscriber = start()
    old = chain.mine_many(3)
    for block in old:
        subscriber.offer(block)
    new = chain.reorg(2, 3)
    step = subscriber.offer(new[-1])
    assert step == Extended(tuple(map(header, new)), (header(old[2]), header(old[1])))


def test_a_reorg_below_the_first_known_block_replaces_all() -> None:
    chain, subscriber = start()
    subscriber.offer(chain.mine())
    new = chain.reorg(3, 4)
    step = subscriber.offer(new[-1])
    assert isinstance(step, Extended)
    assert [each.number for each in step.added] == [3, 4, 5]
    assert len(step.removed) == 2


def test_a_gap_over_the_bound_is_told() -> None:
    chain, subscriber = start()
    assert subscriber.offer(chain.mine_many(BOUND + 1)[-1]) == TooFar(BOUND)
    assert isinstance(subscriber.offer(chain.mine()), Extended)


def test_a_reorg_deeper_than_the_bound_is_told() -> None:
    chain, subscriber = start(1)
    for _ in range(2 * BOUND):
        subscriber.offer(chain.mine())
    assert isinstance(subscriber.offer(chain.reorg(BOUND + 3, BOUND + 3)[-1]), TooFar)


def test_a_block_is_cut_down_to_its_header() -> None:
    block = Chain().mine()
    cut = Header.decode(encoded(block.block()), of_block=True)
    assert msgspec.json.decode(cut.raw) == block.header()
    assert (cut.number, cut.hash) == (1, block.hash)


@pytest.mark.parametrize("raw", [b"null", b"{}", b"[", b'{"hash":"a","parentHash":"b","number":"x","timestamp":"0x1"}'])
def test_what_is_no_header_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError, match="not a block header"):
        Header.decode(raw)


# What the chain does, and which endpoint shows its head next: one in time, one that lags, one with an old branch.
MOVES = st.one_of(
    st.tuples(st.just("mine"), st.integers(1, 4)),
    st.tuples(st.just("reorg"), st.integers(1, 3)),
    st.tuples(st.just("show"), st.just(0)),
    st.tuples(st.just("lagging"), st.integers(0, 6)),
    st.tuples(st.just("stranger"), st.integers(0, 100)),
)


@settings(max_examples=200)
@given(st.lists(MOVES, max_size=40))
def test_each_canonical_block_once_in_order_across_failovers(moves: list[tuple[str, int]]) -> None:
    chain, subscriber = start(5)
    for move, amount in moves:
        match move:
            case "mine":
                chain.mine_many(amount)
            case "reorg":
                depth = min(amount, len(chain.canonical) - 1)
                chain.reorg(depth, depth + 1)
            case "show":
                subscriber.offer(chain.head)
                assert subscriber.seen[-1] == chain.head.hash
            case "lagging":
                subscriber.offer(chain.canonical[max(0, len(chain.canonical) - 1 - amount)])
            case "stranger":
                subscriber.offer(list(chain.known.values())[amount % len(chain.known)])
    subscriber.offer(chain.mine())
    canonical = [block.hash for block in chain.canonical]
    assert subscriber.seen == canonical[len(canonical) - len(subscriber.seen) :]
