"""The book of builds: found by number and by the EL's payload id, bounded."""

from appliance.domain.payloads import BuildId, PayloadId
from appliance.engine.builds import MAX_BUILDS, BuildBook, BuildRecord, Phase
from appliance.wire.engine import Attributes, ForkchoiceUpdated
from tests.engine import messages as m

ATTRIBUTES = Attributes(m.TIMESTAMP, False, m.ROOT, (b'"0x7e"',))


def start(book: BuildBook, params: bytes = b"[]") -> BuildRecord:
    return book.start(ForkchoiceUpdated(m.PARENT, ATTRIBUTES, params), ATTRIBUTES, ("alpha",))


def test_an_empty_book_knows_nothing() -> None:
    book = BuildBook()
    assert book.newest() is None
    assert book.by_id(BuildId(1)) is None
    assert book.by_payload_id(PayloadId("0x01")) is None
    assert book.number_of("0x") is None


def test_a_build_is_found_by_number_and_by_payload_id() -> None:
    book = BuildBook()
    record = start(book)
    book.name(record, PayloadId("0x01"))
    book.name(record, PayloadId("0x02"))
    assert book.newest() is book.by_id(record.build_id) is record
    assert book.by_payload_id(PayloadId("0x01")) is book.by_payload_id(PayloadId("0x02")) is record
    assert (record.order.parent_hash, record.order.transactions) == (m.PARENT, (b'"0x7e"',))


def test_of_two_builds_of_one_payload_id_the_newer_counts() -> None:
    book = BuildBook()
    for _ in range(2):
        book.name(start(book), PayloadId("0x01"))
    assert book.by_payload_id(PayloadId("0x01")) is book.newest()


def test_the_oldest_is_forgotten_with_all_its_names_but_not_those_that_a_newer_one_took() -> None:
    book = BuildBook()
    oldest = start(book)
    for name in ("0x01", "0x02"):
        book.name(oldest, PayloadId(name))
    book.name(start(book), PayloadId("0x02"))
    for _ in range(MAX_BUILDS - 1):
        start(book)
    assert len(book) == MAX_BUILDS
    assert book.by_id(oldest.build_id) is None
    assert book.by_payload_id(PayloadId("0x01")) is None
    assert book.by_payload_id(PayloadId("0x02")) is not None


def test_a_forgotten_build_gets_no_name() -> None:
    book = BuildBook()
    oldest = start(book)
    for _ in range(MAX_BUILDS):
        start(book)
    book.name(oldest, PayloadId("0x01"))
    assert book.by_payload_id(PayloadId("0x01")) is None


def test_numbers_of_blocks_are_bounded() -> None:
    book = BuildBook()
    for number in range(MAX_BUILDS + 1):
        book.remember_block(m.block_hash(str(number)), number)
    assert book.number_of(m.block_hash("0")) is None
    assert book.number_of(m.block_hash(str(MAX_BUILDS))) == MAX_BUILDS


def test_a_build_whose_block_is_being_chosen_is_not_forgotten() -> None:
    """Its deadline is told by number: op-node would wait for the slowest builder's timeout."""
    book = BuildBook()
    choosing, idle = start(book), start(book)
    choosing.phase = Phase.CHOOSING
    for _ in range(MAX_BUILDS - 1):
        start(book)
    assert len(book) == MAX_BUILDS
    assert book.by_id(choosing.build_id) is choosing
    assert book.by_id(idle.build_id) is None


def test_when_all_are_being_chosen_the_oldest_goes() -> None:
    book = BuildBook()
    oldest = start(book)
    for record in (oldest, *(start(book) for _ in range(MAX_BUILDS - 1))):
        record.phase = Phase.SEALING
    start(book)
    assert len(book) == MAX_BUILDS
    assert book.by_id(oldest.build_id) is None
