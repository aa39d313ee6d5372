"""Which nodes there are: those that the configuration names, and those that were added while the process ran.

    named by the configuration   declarative: there as long as it names them (`declare`), and nothing else removes them
    added (admin API, /nodes)    kept in state.db: there until they are removed, also after a restart

A node is one URL, whatever its number of workers. When the configuration comes to name one that was added, it
is the configuration's from then on.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from appliance.domain.errors import ApplianceError, LogError
from appliance.domain.lb_nodes import AddedNode
from appliance.domain.node_uri import MAX_WORKERS, NodeUri, NodeUriError, parse_node_uri
from appliance.lb.attestation import AttestationUnavailable, Verifiers, verifier_for
from appliance.lb.checks import Checker
from appliance.lb.dispatch import Dispatcher
from appliance.lb.node import Node, NodeSettings
from appliance.lb.refused_nodes import RefusedNode
from appliance.lb.relay import Relay, Waiting
from appliance.net.readiness import Readiness
from appliance.telemetry.logging import get_logger

log = get_logger("lb")

MAX_NODES: Final = 256
"""Each dispatch looks at every node, and each node is checked."""


_CONFIGURATION: Final = "configuration"
_READ_AGAIN_S: Final = 5.0
"""Kept nodes that could not be read are asked for so often: another program may have held the file."""


class NodeStore(Protocol):
    """Where added nodes are kept; its calls block, so they are made in a thread. All raise LogError."""

    def lb_nodes(self) -> list[AddedNode]:
        """Those that are kept."""

    def keep_lb_node(self, node: AddedNode) -> None:
        """Keep one, or the one with its URL anew."""

    def forget_lb_node(self, url: str) -> None:
        """Keep it no longer."""


class NodeRefused(ApplianceError):
    """What was asked of the node set cannot be done; the text is for who asked."""


@dataclass(frozen=True, slots=True)
class DeclaredNode:
    """A node that the configuration names; ``workers`` None is what its URL says, or the default."""

    url: str
    workers: int | None = None


class NodeSet:
    """The nodes of one run of the load balancer. Changes happen one after the other."""

    def __init__(
        self,
        dispatcher: Dispatcher[Waiting, Node],
        relay: Relay,
        checker: Checker,
        settings: NodeSettings,
        *,
        store: NodeStore | None,
        verifiers: Verifiers,
        wall_clock: Callable[[], float] = time.time,
        readiness: Readiness | None = None,
    ) -> None:
        self.unread: str | None = None
        """Why the kept nodes could not be read; they are not used meanwhile."""
        self._gone: set[str] = set()  # what was removed meanwhile: each was added by an operator, or named by a file
        self._unwritten: str | None = None  # what came of the last change
        self._dispatcher = dispatcher
        self._relay = relay
        self._checker = checker
        self._settings = settings
        self._store = store
        self._verifiers = verifiers
        self._wall_clock = wall_clock
        self._readiness = readiness
        self._nodes: dict[str, Node] = {}
        self._refused: dict[str, RefusedNode] = {}
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None

    @property
    def nodes(self) -> list[Node]:
        """All of them, the configuration's first."""
        return list(self._nodes.values())

    @property
    def problem(self) -> str | None:
        """Why a restart, or this run, has other nodes than it should."""
        unkept = (node.unkept for node in self._nodes.values())
        return self.unread or self._unwritten or next((each for each in unkept if each is not None), None)

    def uris(self) -> list[str]:
        """As they are shown, with the number of workers where it is not the default."""
        default = self._settings.default_workers
        return [
            node.name if node.health.workers == default else f"{node.name}?_workers={node.health.workers}"
            for node in self._nodes.values()
        ]

    def explain(self) -> list[dict[str, object]]:
        """Each node with its state and why."""
        now = trio.current_time()
        refused = [each.explain() for each in self._refused.values()]
        return [node.explain(now) for node in self._nodes.values()] + refused

    async def run(
        self,
        declared: Callable[[], Iterable[DeclaredNode]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take up the nodes and check them until cancelled. Raises `NodeUriError` for a declared URL that is none.

        ``declared`` are those of the configuration when it is asked: what `declare` brought before the start counts.
        """
        try:
            async with trio.open_nursery() as nursery:
                async with self._changing:
                    self._nursery = nursery
                    for node in declared():
                        self._start(self._make(parse_node_uri(node.url), "file", node.workers))
                    await self._load()
                task_status.started()
                await self._load_again()
                await trio.sleep_forever()  # open for those who come
        finally:
            self._nursery = None

    async def declare(self, declared: Iterable[DeclaredNode]) -> None:
        """The configuration names these nodes now, and no others; what does not differ is left alone.

        As at the start a new one gets requests at once, and its checks say whether it stays. Nothing when the set does
        not run. Raises what `run` does, and then nothing has changed.
        """
        async with self._changing:
            if self._nursery is None:
                return
            wanted = {uri.url: (uri, node.workers) for node in declared for uri in [parse_node_uri(node.url)]}
            new = [self._make(uri, "file", workers) for uri, workers in wanted.values() if uri.url not in self._nodes]
            for node in new:  # before others go, so that nobody is told that there is none
                self._start(node)
                log.info("node added", node_uri=node.name, workers=node.health.workers, who=_CONFIGURATION)
            for uri, workers in wanted.values():
                await self._adopt(self._nodes[uri.url], workers or uri.workers or self._settings.default_workers)
            for node in [each for url, each in self._nodes.items() if each.source == "file" and url not in wanted]:
                self._take_out(node, _CONFIGURATION)
                await self._forget(node.uri.url)  # it may have been added once, and the disk full when it was adopted
            self._nodes = {url: self._nodes[url] for url in wanted} | self._nodes  # the configuration's first

    async def _adopt(self, node: Node, workers: int) -> None:
        """It is the configuration's, with its number of workers, whoever brought it."""
        if workers != node.health.workers:
            log.info("node resized", node_uri=node.name, workers=workers, who=_CONFIGURATION)
            self._resize(node, workers)
        if node.source != "file":
            node.source, node.unkept = "file", None
            await self._forget(node.uri.url)

    async def add(self, text: str, workers: int | None, who: str) -> Node:
        """Check a node and add it, then keep it; of one that is there already the workers may change.

        Raises `NodeUriError` for its form, `NodeRefused` when it fails its check, there are too many, or the
        configuration has another number of workers for it.
        """
        uri = parse_node_uri(text)
        verifier_for(uri, self._verifiers)
        workers = workers or uri.workers
        if workers is not None and not 1 <= workers <= MAX_WORKERS:
            raise NodeUriError(f"a whole number from 1 to {MAX_WORKERS}", "workers")
        async with self._changing:
            node = self._nodes.get(uri.url)
            if node is None:
                node = await self._add_new(uri, workers)
            elif not self._resized(node, workers) and node.unkept is None:
                return node
            else:
                workers = node.health.workers
            log.info("node added", node_uri=node.name, workers=node.health.workers, who=who)
            self._refused.pop(uri.url, None)
            node.unkept = await self._keep(AddedNode(uri.url, workers, self._wall_clock(), who))
            return node

    async def remove(self, text: str, who: str) -> str | None:
        """Take a node out, given as it was added or as it is shown; its running requests finish.

        Why a restart may bring it back; None when it does not. Raises `NodeRefused` when there is none such, or the
        configuration names it.
        """
        async with self._changing:
            refused = self._find_refused(text)
            if refused is not None:
                return await self._remove_refused(refused, who)
            node = self._find(text)
            if node.source == "file":
                raise NodeRefused(f"{node.name} is named by the configuration: remove it there, and reload")
            self._take_out(node, who)
            return await self._forget(node.uri.url)

    def _take_out(self, node: Node, who: str) -> None:
        del self._nodes[node.uri.url]
        self._dispatcher.remove(node)
        node.retire()
        self._relay.settle_all(trio.current_time())
        log.info("node removed", node_uri=node.name, who=who, running=node.in_flight)

    def _find_refused(self, text: str) -> RefusedNode | None:
        shown = _shown_in(text)
        return next((each for each in self._refused.values() if each.is_named(text, shown)), None)

    async def _remove_refused(self, node: RefusedNode, who: str) -> str | None:
        del self._refused[node.kept.url]
        log.info("node removed", node_uri=node.shown, who=who, running=0)
        return await self._forget(node.kept.url)

    def _find(self, text: str) -> Node:
        shown = _shown_in(text)
        for node in self._nodes.values():
            if node.name == shown:
                return node
        try:
            found = self._nodes.get(parse_node_uri(text).url)
        except NodeUriError:
            found = None
        if found is None:
            raise NodeRefused("node not found" if self.unread is None else f"node not found; {self.unread}")
        return found

    async def _add_new(self, uri: NodeUri, workers: int | None) -> Node:
        if len(self._nodes) >= MAX_NODES:
            raise NodeRefused(f"there are {MAX_NODES} nodes already")
        node = self._make(uri, "added", workers)
        problem = await self._checker.check_once(node)
        if problem is not None:
            raise NodeRefused(f"health check of {node.name} failed: {problem}")
        self._start(node)
        return node

    def _resized(self, node: Node, workers: int | None) -> bool:
        """Whether that changed anything. Raises `NodeRefused`: the configuration's number is the configuration's."""
        if workers is None or workers == node.health.workers:
            return False
        if node.source == "file":
            number = f"{node.name} is named by the configuration, with {node.health.workers} workers"
            raise NodeRefused(f"{number}: change it there, and reload")
        self._resize(node, workers)
        return True

    def _resize(self, node: Node, workers: int) -> None:
        node.health.workers = workers
        self._relay.settle(node, trio.current_time())

    def _make(self, uri: NodeUri, source: str, workers: int | None) -> Node:
        verifier = verifier_for(uri, self._verifiers)
        now, readiness = trio.current_time(), self._readiness
        return Node(uri, source, self._settings, now, verifier=verifier, workers=workers, readiness=readiness)

    def _start(self, node: Node) -> None:
        if self._nursery is None:
            raise AssertionError("nodes are added while the set runs")
        self._nodes[node.uri.url] = node
        self._dispatcher.add(node)
        self._nursery.start_soon(self._checker.watch, node, self._relay.settle)
        self._relay.wake_ready(trio.current_time())

    async def _load(self) -> None:
        if self._store is None:
            return
        try:
            kept = await trio.to_thread.run_sync(self._store.lb_nodes)
        except LogError as error:
            if self.unread is None:
                log.error("added nodes not readable: only those of the configuration are used", reason=str(error))
            self.unread = f"kept nodes could not be read: {error}"
            return
        if self.unread is not None:
            log.info("added nodes are readable again", nodes=len(kept))
        self.unread = None
        gone, self._gone = self._gone, set()
        for added in kept:
            there = self._nodes.get(added.url)
            if there is None and added.url in gone:
                await self._forget(added.url)
            elif there is None:
                self._take_up(added)
            elif there.source == "file":
                await self._forget(added.url)

    async def _load_again(self) -> None:
        while self.unread is not None:
            await trio.sleep(_READ_AGAIN_S)
            async with self._changing:
                await self._load()

    def _take_up(self, added: AddedNode) -> None:
        """It was well once; whether it still is, its checks say."""
        try:
            self._start(self._make(parse_node_uri(added.url), "added", added.workers))
        except (NodeUriError, AttestationUnavailable) as error:
            refused = self._refused[added.url] = RefusedNode.of(added, str(error))
            log.error("a kept node is not used", node_uri=refused.shown, reason=str(error))

    async def _keep(self, node: AddedNode) -> str | None:
        self._gone.discard(node.url)
        if self._store is None:
            return None
        return await self._write(self._store.keep_lb_node, node, "a restart forgets it")

    async def _forget(self, url: str) -> str | None:
        if self._store is None:
            return None
        if self.unread is not None:
            self._gone.add(url)
        return await self._write(self._store.forget_lb_node, url, "a restart may bring it back")

    async def _write(self, write: Callable[..., None], what: object, else_: str) -> str | None:
        """The node set is what counts now; a disk that refuses is said, and makes nothing undone."""
        with trio.CancelScope(shield=True):  # who hangs up does not take the change back
            try:
                await trio.to_thread.run_sync(write, what)
            except LogError as error:
                self._unwritten = f"not kept, {else_}: {error}"
                log.error("change of nodes not kept", then=else_, reason=str(error))
            else:
                self._unwritten = None
        return self._unwritten


def _shown_in(text: str) -> str:
    """The name of a node in what lists show of it."""
    return text.partition("?_workers=")[0].rstrip("/")
