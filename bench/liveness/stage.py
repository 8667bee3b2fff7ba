"""Plays scenarios: starts the client, brings its trouble upon it, and compares how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from bench.liveness.scenarios import End
from bench.liveness.server import PORT
from bench.liveness.watcher import LOST
from bench.peers import REPOSITORY
from bench.process import BenchError, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from bench.liveness.network import Client, Network
    from bench.liveness.scenarios import Scenario, Trouble
    from bench.liveness.server import Server
    from bench.liveness.watcher import Watcher

_EARLY: Final = 1.0
"""Seconds that the sampling may be wrong by."""
_SITUATION: Final = 30.0
"""Seconds in which what a trouble waits for must come."""
_LOG: Final = 10.0
"""Seconds between a client's end and the server's line about it."""


@dataclass(frozen=True)
class Result:
    """How a scenario ended."""

    scenario: Scenario
    problem: str
    """A sentence if it did not end as it must."""
    seconds: float
    is_exact: bool | None = None
    """Whether the bytes are those of the file; ``None`` for a client that does not get it."""
    silence: float | None = None
    """Seconds from the last sign of life to the return of the server's descriptor."""
    verdict: str = ""
    """The end of the server's line about the transfer."""


class _Failed(Exception):
    pass


class _Process:
    """The client's process; it is ended with the `with` block, or after its time."""

    def __init__(self, client: Client, server: Server, scenario: Scenario, seconds: float) -> None:
        words = (sys.executable, "-m", "bench.liveness.peer", server.address[0], str(PORT))
        self._popen = subprocess.Popen(
            client.command(*words, *scenario.steps, "--buffer", str(scenario.buffer)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self._alarm = threading.Timer(seconds, self._popen.kill)
        self._alarm.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._alarm.cancel()
        self._popen.kill()
        self._popen.communicate()

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            yield json.loads(line)

    def go_on(self) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write("\n")
            self._popen.stdin.flush()


def _keep_quiet(_: Result) -> None:
    """Tell nobody."""


class Stage:
    """Where scenarios are played: one server, watched, and a new client for each."""

    def __init__(self, network: Network, server: Server, watcher: Watcher) -> None:
        self._network = network
        self._server = server
        self._watcher = watcher

    def play_all(
        self, scenarios: Sequence[Scenario], tell: Callable[[Result], None] = _keep_quiet
    ) -> list[Result]:
        """Play them all at the same time; ``tell`` gets each result as soon as it is there."""

        def play(scenario: Scenario) -> Result:
            result = self.play(scenario)
            tell(result)
            return result

        with ThreadPoolExecutor(len(scenarios)) as threads:
            return list(threads.map(play, scenarios))

    def play(self, scenario: Scenario) -> Result:
        """Play one; what goes wrong is told in its result."""
        began = time.monotonic()
        try:
            if scenario.size is not None:
                self._server.add(scenario.file, scenario.size)
            client = self._network.client(scenario.rate)
            ending = self._finish if scenario.ends is End.FINISHES else self._reap
            return ending(scenario, client, began)
        except (_Failed, BenchError) as error:
            return Result(scenario, str(error), time.monotonic() - began)

    # --- who must live -----------------------------------------------------------------------

    def _finish(self, scenario: Scenario, client: Client, began: float) -> Result:
        last: dict[str, Any] = {}
        troubles = iter(scenario.troubles)
        with _Process(client, self._server, scenario, 2 * scenario.seconds + 120) as process:
            for event in process.events():
                last = event
                if event["event"] in ("mark", "tell"):
                    self._befall(next(troubles), client)
                    process.go_on()
        seconds = time.monotonic() - began
        data = (self._server.root / scenario.file).read_bytes()
        is_exact = last.get("sha256") == hashlib.sha256(data).hexdigest()
        verdict = self._verdict(client)
        problem = self._unseen(scenario, client)
        if last.get("event") != "end":
            problem = f"it did not end within {seconds:.0f} s"
        elif not is_exact:
            problem = f"{last['bytes']} of {last['length']} bytes: {last['error']}"
        elif self._server.kind == "bootserve" and verdict != End.FINISHES.log:
            problem = problem or f"the server says: {verdict or 'nothing'}"
        return Result(scenario, problem, seconds, is_exact, verdict=verdict)

    # --- who must be found -------------------------------------------------------------------

    def _reap(self, scenario: Scenario, client: Client, began: float) -> Result:
        limit = self._limit(scenario.ends)
        slack = 20 + limit / 10
        silence = None
        with _Process(client, self._server, scenario, limit + slack + 120) as process:
            for event in process.events():
                if event["event"] in ("mark", "tell"):
                    break
            else:
                raise _Failed("the client ended before its trouble began")
            (trouble,) = scenario.troubles
            at = self._befall(trouble, client)
            with contextlib.suppress(BenchError):
                wait_until(
                    lambda: self._watcher.history(client.address).released is not None,
                    max(at + limit + slack + 10 - time.monotonic(), 1),
                    "the descriptor",
                )
            history = self._watcher.history(client.address)
            if history.released is not None:
                # Where nothing is owed, our limit is not one of unacknowledged bytes.
                since = history.heard if scenario.ends in (End.SILENT, End.TAIL) else at
                silence = history.released - since
        verdict = self._verdict(client) if silence is not None and scenario.ends.log else ""
        problem = self._unseen(scenario, client)
        if silence is None:
            problem = f"not found within {time.monotonic() - at:.0f} s"
        elif not verdict.startswith(scenario.ends.log):
            problem = f"the server says: {verdict or 'nothing'}"
        elif silence > limit + slack:
            problem = f"found after {silence:.1f} s only"
        elif silence < limit - _EARLY and scenario.ends in (End.SILENT, End.TAIL):
            problem = f"given up after {silence:.1f} s already"
        return Result(scenario, problem, time.monotonic() - began, None, silence, verdict)

    def _limit(self, end: End) -> float:
        settings = self._server.settings
        limits = {End.IDLE: settings.keep_alive, End.HEAD: settings.head_timeout}
        return limits.get(end, settings.silence_limit)

    # --- both --------------------------------------------------------------------------------

    def _befall(self, trouble: Trouble, client: Client) -> float:
        """Let it happen from its beginning to its end, if it has one; when it began."""
        at = self._begin(trouble, client)
        if trouble.mend is not None:
            time.sleep(max(0.0, at + trouble.seconds - time.monotonic()))
            trouble.mend(client)
        return at

    def _begin(self, trouble: Trouble, client: Client) -> float:
        """Let it happen, in the situation that it is to happen in; when that was."""
        if trouble.waits_for:

            def is_there() -> bool:
                now = self._watcher.history(client.address).now
                return now is not None and trouble.waits_for in now.sights()

            wait_until(is_there, _SITUATION, f"the kernel shows: {trouble.waits_for}")
        trouble.begin(client)
        return time.monotonic()

    def _unseen(self, scenario: Scenario, client: Client) -> str:
        missing = set(scenario.must_show) - self._watcher.history(client.address).sights
        if LOST in missing and client.lost() > 0:
            missing.remove(LOST)
        return f"the kernel never showed: {', '.join(sorted(missing))}" if missing else ""

    def _verdict(self, client: Client) -> str:
        if self._server.kind != "bootserve":
            return ""
        with contextlib.suppress(BenchError):
            wait_until(lambda: bool(self._watcher.verdicts(client.address)), _LOG, "a line")
        return next(iter(self._watcher.verdicts(client.address)), "")
