"""One group: calls over its endpoints, and what is learnt of their health on the way."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from appliance.domain.errors import UnavailableError
from appliance.providers.chain_guard import ChainGuard
from appliance.providers.endpoint_health import EndpointHealth, State
from appliance.providers.heads import Header
from appliance.providers.links import Attempt, Link
from appliance.providers.mempool_watch import MempoolWatch
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.resent import Heard, hash_of, hear, is_transaction, success
from appliance.providers.retry import SEND_RAW_TRANSACTION, Course, Judged, Verdict, is_read, judge
from appliance.providers.selection import Selection, Switch
from appliance.providers.settings import GroupSettings
from appliance.providers.websocket_rpc import NotSent
from appliance.telemetry.logging import get_logger
from appliance.wire.jsonrpc import MALFORMED, Response

log = get_logger("providers")

_HASH: Final = re.compile(r"0x[0-9A-Fa-f]{1,64}")

NO_ENDPOINT: Final = -32002
"""EIP-1474: resource unavailable."""


class NobodyAnswered(UnavailableError):
    """No endpoint of the group answered a call; the text names each and why."""


class Group:
    """Calls go to the best endpoint, and to the next one where that is safe. Many tasks may call at once."""

    def __init__(
        self,
        settings: GroupSettings,
        links: Sequence[Link],
        metrics: ProviderMetrics,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self._endpoints = {endpoint.name: endpoint for endpoint in settings.endpoints}
        self.links: dict[str, Link] = {link.name: link for link in links}
        self.chain = ChainGuard([link.name for link in links], settings.chain_id)
        self.watch = MempoolWatch()
        self.accepted = trio.Event()
        """Set, and replaced by another one, when a transaction is to be watched."""
        self.on_head: Callable[[Header], None] = lambda _header: None
        self.on_switch: Callable[[], None] = lambda: None
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._heads: dict[str, Header] = {}
        self._early: dict[str, Header] = {}
        self._unknown = {link.name: trio.Event() for link in links}
        self._attempts: dict[str, set[tuple[Attempt, trio.CancelScope]]] = {link.name: set() for link in links}
        now = trio.current_time()
        self._healths = {link.name: EndpointHealth(settings.thresholds, now) for link in links}
        self._selection = Selection(self._healths, settings.thresholds)
        self._show()

    def __repr__(self) -> str:
        return f"<Group {self.name}: {self._selection!r}>"

    @property
    def active(self) -> str | None:
        """The endpoint that reads go to first; None when there is nobody."""
        return self._selection.active

    def why_nobody(self) -> str:
        """Each endpoint, and why it is not asked."""
        return f"all providers of {self.name} unhealthy: {self._selection.why_nobody(trio.current_time())}"

    def candidates(self) -> list[str]:
        """Whom reads go to, the best first."""
        return self._selection.candidates(trio.current_time(), reading=True)

    async def call(self, method: str, params: bytes) -> Response:
        """An endpoint's answer: a result, or an error that is about the call. Raises NobodyAnswered."""
        self._metrics.requests.labels(self.name).inc()
        course = Course(method)
        deadline = trio.current_time() + self.settings.deadline_s
        while (name := self._choose(course, method)) is not None:
            left_s = deadline - trio.current_time()
            if left_s <= 0:
                break
            await self._try(course, name, Attempt(method, params, course.repeatable), left_s)
        response = course.last_word()
        if response is None:
            self._metrics.failed.labels(self.name).inc()
            raise NobodyAnswered(self._why_nobody(course))
        self._blame(course)
        if course.sent_before and method == SEND_RAW_TRANSACTION:
            return await self._own_transaction(course.speaker, params, response)
        return response

    async def ask(self, method: str, params: bytes) -> msgspec.Raw:
        """The result of a call of our own; raises UnavailableError also for an error answer and for null."""
        response = await self.call(method, params)
        if bytes(response.result) in {b"", b"null"}:
            raise UnavailableError(f"{method}: no result")
        return response.result

    async def ask_one(self, name: str, method: str, params: bytes) -> tuple[Judged, Response | None]:
        """A call of our own at one endpoint, well or not. Raises UnavailableError. Says nothing of its health."""
        status, response = await self.links[name].call(Attempt(method, params, True), self.settings.timeout_s)
        return judge(status, response), response

    def _choose(self, course: Course, method: str) -> str | None:
        name = course.choose(self._selection.candidates(trio.current_time(), reading=is_read(method)))
        if name is not None and course.tries > 1:
            self._metrics.retries.labels(self.name).inc()
        return name

    async def _try(self, course: Course, name: str, attempt: Attempt, left_s: float) -> None:
        timeout_s = min(self.settings.timeout_s, left_s)
        began = trio.current_time()
        scope = trio.CancelScope()
        entry = (attempt, scope)
        self._attempts[name].add(entry)
        try:
            with scope:
                status, response = await self.links[name].call(attempt, timeout_s)
                self._metrics.seconds.labels(self.name, name).observe(trio.current_time() - began)
                self._responded(course, name, attempt, judge(status, response), response)
        except NotSent as error:
            self.failed(name, str(error))
            course.not_sent(name, str(error))
        except UnavailableError as error:
            self.failed(name, str(error))
            course.lost(name, str(error))
        finally:
            self._attempts[name].discard(entry)
        if scope.cancelled_caught:
            self._abandoned(course, name, attempt)

    def _abandoned(self, course: Course, name: str, attempt: Attempt) -> None:
        why = self._healths[name].explain(trio.current_time())
        if attempt.sent:
            course.lost(name, why)
        else:
            course.not_sent(name, why)

    def _responded(
        self, course: Course, name: str, attempt: Attempt, judged: Judged, response: Response | None
    ) -> None:
        course.responded(name, judged, response, resent=attempt.resent)
        match judged.verdict:
            case Verdict.ANSWER:
                self.succeeded(name)
                if attempt.method == SEND_RAW_TRANSACTION and response is not None:
                    self._watch(name, response)
            case Verdict.TRANSIENT:
                self.failed(name, judged.why)
            case Verdict.REFUSED:
                self.refused(name, judged.why)

    async def _own_transaction(self, name: str, params: bytes, response: Response) -> Response:
        """``name`` got it as the second: what it heard of the first time is the sender's success (`resent`)."""
        heard = hear(response)
        found = None if heard is Heard.NOTHING else hash_of(params)
        if found is None or (heard is Heard.NONCE_TOO_LOW and not await self._has_transaction(name, found)):
            return response
        answer = success(found)
        self._watch(name, answer)
        return answer

    async def _has_transaction(self, name: str, wanted: str) -> bool:
        try:
            _, response = await self.ask_one(name, "eth_getTransactionByHash", msgspec.json.encode([wanted]))
        except UnavailableError:
            return False
        return is_transaction(response, wanted)

    def _watch(self, name: str, response: Response) -> None:
        try:
            transaction_hash = msgspec.json.decode(response.result, type=str)
        except MALFORMED:
            return
        if not _HASH.fullmatch(transaction_hash):
            return  # nothing that could be looked after, and an endpoint must not fill the watch with megabytes
        self.watch.accepted(name, transaction_hash, trio.current_time())
        accepted, self.accepted = self.accepted, trio.Event()
        accepted.set()

    def _blame(self, course: Course) -> None:
        for name in course.blamed:
            self.failed(name, course.failures[name])

    def _why_nobody(self, course: Course) -> str:
        now = trio.current_time()
        asked = {name: self._hide(name, why) for name, why in course.failures.items()}
        reasons = [f"{name} ({asked.get(name) or health.explain(now)})" for name, health in self._healths.items()]
        if asked and not course.repeatable and course.may_have_acted:
            names = ", ".join(f"{name} ({why})" for name, why in asked.items())
            return f"no answer, and the call may have been carried out, so it was not sent again: {names}"
        return f"all providers of {self.name} unhealthy: {', '.join(reasons)}"

    def _hide(self, name: str, text: str) -> str:
        return self._endpoints[name].hide(text)

    # What is learnt of an endpoint, by calls and by who watches them.

    def succeeded(self, name: str) -> None:
        """It answered a call."""
        self._healths[name].succeeded(trio.current_time())
        self._settle(name)

    def failed(self, name: str, why: str) -> None:
        """It did not, in a way that may pass."""
        why = self._hide(name, why)
        self._healths[name].failed(trio.current_time(), why)
        self._erred(name, why)

    def refused(self, name: str, why: str) -> None:
        """It does not take us."""
        why = self._hide(name, why)
        self._healths[name].refused(trio.current_time(), why)
        self._away(name)
        self._erred(name, why)

    def said_chain(self, name: str, chain_id: int) -> None:
        """It said which chain it is on, before its first head and after it was away."""
        self.chain.said(name, chain_id)
        self._judge_chains()

    def probed(self, name: str, header: Header) -> None:
        """It answered a probe."""
        self._saw_head(name, header)
        self._healths[name].probe_succeeded(trio.current_time())
        self._settle(name)

    def probe_failed(self, name: str, why: str) -> None:
        """It did not answer a probe."""
        why = self._hide(name, why)
        self._healths[name].probe_failed(trio.current_time(), why)
        self._away(name)
        self._erred(name, why)

    def dropped_from_mempool(self, name: str, transaction_hash: str) -> None:
        """It lost a transaction."""
        self._healths[name].dropped_from_mempool(trio.current_time())
        self._metrics.mempool_drops.labels(name).inc()
        log.warning("mempool drop", group=self.name, provider=name, hash=transaction_hash)
        self._settle(name)

    def pushed_head(self, name: str, header: Header) -> None:
        """`LinkEvents`."""
        self._saw_head(name, header)
        self._settle(name)

    def polled_head(self, name: str, header: Header) -> None:
        """It answered our question for its head, as it answers a client's."""
        self._saw_head(name, header)
        self.succeeded(name)

    def connection_lost(self, name: str, why: str) -> None:
        """`LinkEvents`: it counts until the next good probe, since there may be no requests to be answered."""
        self.probe_failed(name, why)

    def connection_refused(self, name: str, why: str) -> None:
        """`LinkEvents`: a connection that does not come back is one that is lost for good."""
        self.refused(name, why)

    async def wait_unknown(self, name: str) -> None:
        """Return when it shows heads and has not said its chain: a probe asks, and brings the head too."""
        await self._unknown[name].wait()

    def _put_aside(self, name: str, header: Header) -> None:
        """Until the endpoint has said its chain, or the group has one: the last head of each."""
        if self.chain.wrong(name):
            return
        self._early[name] = header
        if self.chain.chain_of(name) is None:
            unknown, self._unknown[name] = self._unknown[name], trio.Event()
            unknown.set()

    def _away(self, name: str) -> None:
        self.chain.away(name)
        self._early.pop(name, None)
        self._judge_chains()

    def _judge_chains(self) -> None:
        for name, wrong in self.chain.verdicts().items():
            before = self._healths[name].wrong_chain
            self._healths[name].saw_chain(trio.current_time(), wrong)
            if wrong:
                self._early.pop(name, None)
            if wrong and not before:
                log.error("provider on another chain", group=self.name, provider=name, why=wrong)
                self._erred(name, wrong)
        for name in [name for name in self._early if self.chain.confirmed(name)]:
            self._saw_head(name, self._early.pop(name))

    def _saw_head(self, name: str, header: Header) -> None:
        if not self.chain.confirmed(name):
            self._put_aside(name, header)
            return
        age_s = max(self._wall_clock() - header.timestamp, 0.0)
        self._selection.saw_head(name, trio.current_time(), header.number, age_s)
        self._metrics.head.labels(self.name, name).set(header.number)
        self._heads[name] = header
        if name == self.active:
            self.on_head(header)

    def _erred(self, name: str, why: str) -> None:
        self._metrics.network_errors.labels(name).inc()
        log.debug("provider error", group=self.name, provider=name, error=why)
        self._settle(name)

    def _settle(self, name: str) -> None:
        """Draw the consequences: who is asked from now on, and who still waits for one that is not."""
        switch = self._selection.settle(trio.current_time())
        self._free_waiting(name)
        self._show()
        if switch is not None:
            self._switched(switch)

    def _free_waiting(self, name: str) -> None:
        """Calls that wait for an endpoint which has fallen silent go elsewhere, if there is an elsewhere."""
        now = trio.current_time()
        if not self._healths[name].is_silent(now) or not self._selection.candidates(now, reading=True):
            return
        for attempt, scope in self._attempts[name]:
            if attempt.repeatable or not attempt.sent:
                scope.cancel()

    def _switched(self, switch: Switch) -> None:
        self._metrics.switches.labels(self.name).inc()
        say = log.error if switch.after is None else log.warning
        say("provider switched", group=self.name, before=switch.before, after=switch.after, why=switch.why)
        self.on_switch()
        if switch.after in self._heads:
            self.on_head(self._heads[switch.after])

    def _show(self) -> None:
        for name, health in self._healths.items():
            self._metrics.healthy.labels(self.name, name).set(health.state is State.WELL)
            self._metrics.active.labels(self.name, name).set(name == self.active)

    def statistics(self) -> dict[str, object]:
        """For status: who is active, and each endpoint with its state and why."""
        return {
            "active": self.active,
            "chain_id": self.chain.expected,
            "switches": self._selection.switches,
            "endpoints": [self._endpoint(name) for name in self.links],
            "transactions": self.watch.statistics(),
        }

    def _endpoint(self, name: str) -> dict[str, object]:
        health = self._healths[name]
        return {
            "name": name,
            "origin": self.links[name].origin,
            "state": health.state.value,
            "explain": health.explain(trio.current_time()),
            "chain_id": self.chain.chain_of(name),
            "head": health.head,
            "errors": health.errors,
            "mempool_drops": health.drops,
            "relapses": health.relapses,
            "last_error": health.last_error or None,
        }
