"""Places for subscribers, and whose place it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import ConfigError
from appliance.fanout.limits import (
    UNCLAIMED_TIMEOUT_S,
    Admission,
    AppPlaces,
    ClientAddress,
    Full,
    Ticket,
    TooManyFromAddress,
    TooManyOfApp,
)


def admitted(admission: Admission, address: str, now: float = 0) -> Ticket:
    ticket = admission.admit(address, now)
    assert isinstance(ticket, Ticket)
    return ticket


def test_an_address_has_its_own_limit() -> None:
    admission = Admission(max_subscribers=10, max_per_address=2)
    first = admitted(admission, "10.0.0.1")
    admitted(admission, "10.0.0.1")
    assert admission.admit("10.0.0.1", 0) == TooManyFromAddress()
    admitted(admission, "10.0.0.2")
    first.release()
    admitted(admission, "10.0.0.1")


def test_the_instance_is_full_for_everybody() -> None:
    admission = Admission(max_subscribers=2, max_per_address=2)
    first = admitted(admission, "10.0.0.1")
    admitted(admission, "10.0.0.2")
    assert admission.admit("10.0.0.3", 0) == Full()
    assert admission.addresses == 2
    first.release()
    admitted(admission, "10.0.0.3")


def test_a_place_can_be_counted_for_another_app() -> None:
    admission = Admission(max_subscribers=10, max_per_address=10)
    tickets = [admission.admit("10.0.0.1", 0, AppPlaces("a", 2)) for _ in range(2)]
    for ticket in tickets:
        assert isinstance(ticket, Ticket)
        ticket.move_to("b")
    assert (admission.places_of("a"), admission.places_of("b"), admission.taken) == (0, 2, 2)
    assert admission.admit("10.0.0.1", 0, AppPlaces("b", 2)) == TooManyOfApp()
    for ticket in tickets:
        assert isinstance(ticket, Ticket)
        ticket.release()
        ticket.move_to("a")  # too late
    assert (admission.places_of("a"), admission.places_of("b"), admission.taken) == (0, 0, 0)


def test_an_app_has_its_own_limit_whatever_addresses_it_comes_from() -> None:
    admission = Admission(max_subscribers=10, max_per_address=10)
    app = AppPlaces("a", 2)
    first = admission.admit("10.0.0.1", 0, app)
    assert isinstance(first, Ticket)
    admission.admit("10.0.0.2", 0, app)
    assert admission.admit("10.0.0.3", 0, app) == TooManyOfApp()
    assert admission.places_of("a") == 2
    admitted(admission, "10.0.0.3")
    assert isinstance(admission.admit("10.0.0.3", 0, AppPlaces("b", 1)), Ticket)
    first.release()
    assert isinstance(admission.admit("10.0.0.3", 0, app), Ticket)
    assert admission.admit("10.0.0.3", 0, AppPlaces("gone", 0)) == TooManyOfApp()


def test_a_refusal_takes_no_place_anywhere() -> None:
    admission = Admission(max_subscribers=1, max_per_address=1)
    admitted(admission, "a")
    assert admission.admit("b", 0, AppPlaces("x", 5)) == Full()
    assert (admission.taken, admission.addresses, admission.places_of("x")) == (1, 1, 0)


def test_limits_can_change_and_whoever_has_a_place_keeps_it() -> None:
    admission = Admission(max_subscribers=3, max_per_address=3)
    tickets = [admitted(admission, "a") for _ in range(3)]
    admission.change(max_subscribers=2, max_per_address=5)
    assert admission.admit("a", 0) == Full()
    tickets[0].release()
    assert admission.admit("a", 0) == Full()
    tickets[1].release()
    admitted(admission, "a")
    admission.change(max_subscribers=10, max_per_address=2)
    assert admission.admit("a", 0) == TooManyFromAddress()


def test_a_place_is_given_back_once() -> None:
    admission = Admission(max_subscribers=2, max_per_address=2)
    ticket = admitted(admission, "a")
    admitted(admission, "a")
    ticket.release()
    ticket.release()
    assert admission.taken == 1


def test_addresses_are_forgotten_with_their_last_place() -> None:
    admission = Admission(max_subscribers=5, max_per_address=5)
    for ticket in [admitted(admission, f"10.0.0.{n}") for n in range(5)]:
        ticket.release()
    assert (admission.taken, admission.addresses) == (0, 0)


def test_a_place_that_nobody_claims_comes_back() -> None:
    admission = Admission(max_subscribers=2, max_per_address=2)
    late = admitted(admission, "a", now=0)
    late.offer(now=0)
    claimed = admitted(admission, "a", now=0)
    claimed.offer(now=0)
    assert claimed.claim()
    assert admission.admit("a", UNCLAIMED_TIMEOUT_S - 1) == TooManyFromAddress()
    admitted(admission, "a", now=UNCLAIMED_TIMEOUT_S)
    assert admission.admit("a", UNCLAIMED_TIMEOUT_S) == TooManyFromAddress()
    claimed.release()
    assert admission.taken == 1
    assert not late.claim()
    late.release()
    assert admission.taken == 1


def test_a_place_does_not_expire_before_its_answer_is_sent() -> None:
    admission = Admission(max_subscribers=1, max_per_address=1)
    waiting = admitted(admission, "a", now=0)
    assert admission.admit("b", 10 * UNCLAIMED_TIMEOUT_S) == Full()
    waiting.offer(now=10 * UNCLAIMED_TIMEOUT_S)
    assert admission.admit("b", 11 * UNCLAIMED_TIMEOUT_S - 1) == Full()
    assert waiting.claim()
    assert admission.admit("b", 100 * UNCLAIMED_TIMEOUT_S) == Full()


def test_a_place_that_is_given_back_is_not_remembered() -> None:
    admission = Admission(max_subscribers=1, max_per_address=1)
    for _ in range(100):
        ticket = admitted(admission, "a")
        ticket.offer(now=0)
        ticket.release()
    assert not admission._unclaimed


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 30)), max_size=60))
def test_limits_hold_whatever_comes_and_goes(steps: list[tuple[str, bool, int]]) -> None:
    admission, held, now = Admission(max_subscribers=4, max_per_address=2), list[tuple[str, Ticket]](), 0.0
    for address, arrives, elapsed in steps:
        now += elapsed
        if arrives:
            ticket = admission.admit(address, now)
            if isinstance(ticket, Ticket):
                ticket.claim()
                held.append((address, ticket))
        elif held:
            held.pop()[1].release()
        assert admission.taken == len(held) <= 4
        assert all([owner for owner, _ in held].count(name) <= 2 for name in "abc")
        assert admission.addresses == len({owner for owner, _ in held})


class TestClientAddress:
    proxied = ClientAddress(["10.0.0.1", "192.168.0.0/16", "fd00::/8"], "X-Forwarded-For")

    def test_the_peer_counts_when_it_is_no_proxy(self) -> None:
        assert self.proxied.of("8.8.8.8", "1.2.3.4") == "8.8.8.8"
        assert ClientAddress([], "X-Forwarded-For").of("127.0.0.1", "1.2.3.4") == "127.0.0.1"

    def test_a_proxy_says_whose_request_it_is(self) -> None:
        assert self.proxied.of("10.0.0.1", "1.2.3.4") == "1.2.3.4"
        assert self.proxied.of("192.168.7.7", "2001:db8::1") == "2001:db8::/64"
        assert self.proxied.of("fd00::1", "1.2.3.4") == "1.2.3.4"

    def test_only_the_last_entry_is_the_proxys_own_word(self) -> None:
        assert self.proxied.of("10.0.0.1", "6.6.6.6, 7.7.7.7 , 1.2.3.4") == "1.2.3.4"

    @pytest.mark.parametrize("header", [None, "", ",", "unknown", "1.2.3.4,", "1.2.3.4, evil", "999.1.1.1"])
    def test_without_a_usable_entry_it_counts_as_the_proxys(self, header: str | None) -> None:
        assert self.proxied.of("10.0.0.1", header) == "10.0.0.1"

    @pytest.mark.parametrize(
        ("written", "address"),
        [
            ("1.2.3.4:5678", "1.2.3.4"),
            ("[2001:db8::1]:443", "2001:db8::/64"),
            ("2001:DB8:0::1", "2001:db8::/64"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ],
    )
    def test_one_client_has_one_address_however_it_is_written(self, written: str, address: str) -> None:
        assert self.proxied.of("10.0.0.1", written) == address

    def test_all_addresses_of_an_ipv6_client_are_one(self) -> None:
        first, second, other = (
            self.proxied.of(peer, None) for peer in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1")
        )
        assert first == second == "2001:db8:0:1::/64"
        assert other == "2001:db8:0:2::/64"

    def test_a_mapped_peer_is_the_proxy_too(self) -> None:
        assert self.proxied.of("::ffff:10.0.0.1", "1.2.3.4") == "1.2.3.4"

    def test_a_peer_without_an_address_keeps_its_name(self) -> None:
        assert self.proxied.of("unix", "1.2.3.4") == "unix"

    def test_the_header_is_looked_up_in_lower_case(self) -> None:
        assert self.proxied.header == "x-forwarded-for"

    def test_a_proxy_that_is_no_address_is_a_mistake_of_the_operator(self) -> None:
        with pytest.raises(ConfigError, match=r"fanout\.proxies: .*nonsense"):
            ClientAddress(["nonsense"], "X-Forwarded-For")
