"""A host that nobody talks to says so: nothing waits there, and still its subscribers see nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance.domain.health import HealthFact
from appliance.replication.settings import Peer
from tests.replication.hosts import Host, committed, make_hosts, running
from tests.support.eventually import eventually
from tests.support.proxy import proxied

BEGINS, ENDS = "too few voters are followed", "enough voters are followed again"


def told(host: Host) -> str:
    """The fact about peers; empty while all is well."""
    facts = [fact for fact in host.replication.facts() if fact.name == "peers"]
    assert all(not fact.healthy for fact in facts)
    return facts[0].reason if facts else ""


async def settled(*hosts: Host) -> None:
    """Until each follows all its peers, and everybody has a vote: then links have no reason to end."""

    def is_so(host: Host) -> bool:
        links = [following.reached() for following in host.replication._followings]
        return all(link.votes for link in links) and not host.replication.statistics()["recovering"]

    await eventually(lambda: all(map(is_so, hosts)))
    await eventually(lambda: all(told(host) == "" for host in hosts))


async def test_a_voter_whose_links_are_cut_says_so_until_one_is_back(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc", reach_grace_s=0.3).values()
    async with proxied(("127.0.0.1", a.port), ("127.0.0.1", b.port)) as links:
        peers = tuple(Peer(name, link.url) for name, link in zip("ab", links, strict=True))
        c.settings = replace(c.settings, peers=peers)
        async with running(a, b, c):
            await a.append(1, 2)
            await committed(a, b, c, entries=2)
            await settled(a, b, c)
            with capture_logs() as lines:
                for link in links:
                    link.cut()
                await eventually(lambda: told(c) != "")
                await a.append(2, 2)
                await committed(a, b, entries=4)
                assert c.log.head == 2
                assert told(c).startswith("1 of 3 voters with this host, 2 needed (a: ")
                assert "; b: " in told(c)
                assert told(c).endswith("): subscribers see nothing new")
                links[0].heal()
                await committed(c, entries=4)
                await eventually(lambda: told(c) == "")
                await eventually(lambda: any(line["event"] == ENDS for line in lines))
            said = [(line["event"], line["log_level"]) for line in lines if line["event"] in (BEGINS, ENDS)]
            assert said == [(BEGINS, "error"), (ENDS, "info")]
            assert told(a) == told(b) == ""  # each has the other


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"secret": b"\x02" * 32}, "HTTP 401: the token was signed with another secret"),
        ({"host_id": "a", "follow_only": True}, "refused: host_id a is this host's own"),
    ],
)
async def test_a_learner_that_everybody_refuses_says_why(tmp_path: Path, change: dict[str, object], why: str) -> None:
    a, b, edge = make_hosts(tmp_path, "ab", learners=("edge",), reach_grace_s=0.3).values()
    edge.settings = replace(edge.settings, **change)  # type: ignore[arg-type]
    async with running(a, b, edge):
        await eventually(lambda: why in told(edge))
        assert told(edge).startswith("0 of 2 voters reached, 1 needed (a: ")
        assert edge.replication.facts() == [HealthFact("peers", healthy=False, reason=told(edge))]


async def test_a_second_host_of_one_name_says_that_it_is_refused(tmp_path: Path) -> None:
    a, b, c = make_hosts(tmp_path, "abc", reach_grace_s=0.3).values()
    twin = make_hosts(tmp_path / "twin", "abc", reach_grace_s=0.3)["b"]
    twin.settings = replace(twin.settings, secret=a.settings.secret, peers=b.settings.peers)
    async with running(a, b, c):
        await a.append(1, 1)
        await committed(a, b, c, entries=1)
        await settled(a, b, c)
        async with running(twin):
            await eventually(lambda: "are there two of that name?" in told(twin))
            assert told(a) == told(b) == told(c) == ""
