"""The hosts of `appliance dev --hosts N`: real processes, so that each can be killed and comes back, as by systemd."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import trio

from appliance.cli.dev_files import LocalHost
from appliance.domain.errors import ApplianceError, ConfigError, UnavailableError
from appliance.domain.health import Health
from appliance.net.http_client import HttpClient
from appliance.net.listening import open_listener

START_S: Final = 30.0
STOP_S: Final = 20.0
AWAY_S: Final = 5.0
"""A host that ended is started again after this time: long enough to see what the others do without it."""
LOOK_S: Final = 1.0
BAD_USAGE: Final = 2
"""The exit code of a host that cannot have its address or files: it would not be better the next time."""

Say = Callable[[str], None]


class HostProcess:
    """One host: started, started again when it ends, until it is told to stop."""

    def __init__(self, host: LocalHost, say: Say, away_s: float = AWAY_S) -> None:
        self.host = host
        self.report: dict[str, Any] = {}
        self._say = say
        self._away_s = away_s
        self._process: trio.Process | None = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<HostProcess {self.host.name} {'up' if self.pid else 'away'}>"

    @property
    def pid(self) -> int | None:
        """None while it is away."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`; ``started`` once it answers. Raises ApplianceError when it does not come up the first time."""
        try:
            process = await self._begin()
            await self._wait_ready()
            task_status.started()
            while await self._ended(process):
                await trio.sleep(self._away_s)
                process = await self._begin()
                self._say(f"{self.host.name} is started again, process {self.pid}")
        finally:
            await self._kill()

    async def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    def stop(self) -> None:
        """Let it end in order."""
        self._stopping = True
        if self.pid and self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    async def _begin(self) -> trio.Process:
        command = [sys.executable, "-m", "appliance", "run", "--config", str(self.host.config), "--stop-at-eof"]
        with self.host.log_file.open("a") as lines:
            # A session of its own: Ctrl-C in this terminal is for `appliance dev`, which stops them in order. The
            # pipe ends with us, whatever ends us: a host that we leave behind would hold its addresses for ever.
            process = self._process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=lines, stderr=lines, start_new_session=True
            )
        return process

    async def _ended(self, process: trio.Process) -> bool:
        """Wait for its end; whether it is to be started again. Raises ApplianceError where that would be in vain."""
        code = await process.wait()
        if process.stdin is not None:
            await process.stdin.aclose()
        self.report = {}
        if self._stopping:
            return False
        if code == BAD_USAGE:
            raise self._failure()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self._say(f"{self.host.name} {how}; it is started again in {self._away_s:g} s")
        return True

    async def _wait_ready(self) -> None:
        with trio.move_on_after(START_S):
            while self.pid and not await self.look():  # noqa: ASYNC110 a process
                await trio.sleep(0.05)
        if not self.report:
            raise self._failure()

    def _failure(self) -> ApplianceError:
        lines = self.host.log_file.read_text(errors="replace").splitlines() or ["it says nothing"]
        reason = lines[-1].removeprefix("appliance: ")
        return ApplianceError(f"{self.host.name} does not start: {reason} (all it said: {self.host.log_file})")

    async def look(self) -> bool:
        """Take its status; False when it has none to give."""
        try:
            async with HttpClient(self.host.admin_url) as client:
                answer = await client.request("GET", "/api/v1/status", timeout_s=LOOK_S)
            self.report = msgspec.json.decode(answer.body, type=dict[str, Any])
        except (UnavailableError, msgspec.DecodeError):
            self.report = {}
        return bool(self.report)

    def line(self) -> str:
        """In words, for the screen."""
        if not self.pid or not self.report:
            return f"{self.host.name}  {f'process {self.pid}, no answer' if self.pid else 'away'}"
        replication = self.report["planes"]["replication"]
        followed = sum(bool(peer["following"]) for peer in replication["peers"].values())
        return (
            f"{self.host.name}  process {self.pid}, {self.report['flashlog']['head']} flashblocks shown, "
            f"{replication['held']} held, follows {followed}, {self.report['planes']['fanout']['admitted']} subscribers"
        )


class LocalHosts:
    """All of them, in the place of the one appliance that `appliance dev` has otherwise."""

    def __init__(self, hosts: Sequence[LocalHost], say: Say, away_s: float = AWAY_S) -> None:
        self.processes = tuple(HostProcess(host, say, away_s) for host in hosts)
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[dict[str, str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`; ``started`` gets the addresses of the first host once all are up."""
        try:
            self._check_addresses()
            async with trio.open_nursery() as nursery:
                await self._start_all(nursery)
                task_status.started(self._listening())
                nursery.start_soon(self._look_for_ever)
                await self._stop.wait()
                await self._end_all()
                nursery.cancel_scope.cancel()
        finally:
            self._stopped.set()

    def _check_addresses(self) -> None:
        """Before anything starts: else another session's hosts would be taken for ours."""
        for process in self.processes:
            for address in process.host.addresses:
                try:
                    open_listener(address).close()
                except ConfigError as error:
                    hint = "is there another `appliance dev`, or one that was killed a moment ago?"
                    raise ConfigError(f"{error}; {hint}") from error

    async def _start_all(self, nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as starting:
            for process in self.processes:
                starting.start_soon(nursery.start, process.run)

    async def _end_all(self) -> None:
        for process in self.processes:
            process.stop()
        with trio.move_on_after(STOP_S):
            while any(process.pid for process in self.processes):  # noqa: ASYNC110 processes
                await trio.sleep(0.05)

    async def _look_for_ever(self) -> None:
        while True:
            for process in self.processes:
                await process.look()
            await trio.sleep(LOOK_S)

    def _listening(self) -> dict[str, str]:
        first = self.processes[0].host
        return {name: f"{first.address}:{getattr(first, name)}" for name in ("engine", "fanout", "admin")}

    def stop(self) -> None:
        """Begin the orderly end of `run`."""
        self._stop.set()

    async def wait_stopped(self) -> None:
        """Return when all have ended."""
        await self._stopped.wait()

    @property
    def subscribers(self) -> int:
        """Of all hosts."""
        reports = [process.report for process in self.processes if process.report]
        return sum(report["planes"]["fanout"]["admitted"] for report in reports)

    @property
    def shown(self) -> int:
        """The most flashblocks that a host shows."""
        return max((process.report["flashlog"]["head"] for process in self.processes if process.report), default=0)

    @property
    def health(self) -> int | None:
        """The first host's, as an HTTP status; None while it does not say."""
        report = self.processes[0].report
        return Health[report["health"]["status"].upper()].value if report else None
