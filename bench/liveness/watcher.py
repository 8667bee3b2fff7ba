"""What the server's kernel says of every connection, by ss(8), and what the server itself says.

The kernel's word is the proof's oracle: whether a client's window is really closed, whether packets
are really lost, and whether the server still holds the descriptor of a client that has vanished.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from bench.liveness.server import PORT
from bench.peers import program

if TYPE_CHECKING:
    from types import TracebackType

    from bench.liveness.network import Network
    from bench.liveness.server import Server

_PERIOD: Final = 0.25
"""Seconds between two samples."""
_HEALTH_PERIOD: Final = 2.0

WINDOW_CLOSED: Final = "window closed"
WINDOW_SHRUNK: Final = "window closed over what is in flight"
IN_FLIGHT: Final = "in flight"
RETRANSMITS: Final = "retransmits"
HALF_CLOSED: Final = "half-closed"
IDLE: Final = "idle"
LOST: Final = "packets lost"
"""Told by nft, where the packets are dropped; not a sight of the server's."""

_VERDICT: Final = r"HTTP (\S+) \S+ (\d+) of (\d+) bytes in [\d.]+ s[^:\n]*: ([^\n]*)"


@dataclass(frozen=True)
class Facts:
    """One connection now, by its line of `ss -tinopaHO`."""

    at: float
    state: str
    peer: str
    queued: int
    """Bytes that the server has written and the client has not acknowledged (Send-Q)."""
    timer: str
    """``on``: waits for an ACK; ``persist``: probes a closed window; ``keepalive``, or nothing."""
    window: int
    """What the client has room for, as it said last (snd_wnd)."""
    retransmitted: int
    last_ack: float
    """Seconds since anything was acknowledged."""
    is_owned: bool
    """Whether a process holds a descriptor of it."""

    @classmethod
    def parse(cls, line: str, at: float) -> Facts:
        state, _, queued, _, peer = line.split()[:5]

        def find(pattern: str, default: str) -> str:
            found = re.search(pattern, line)
            return found[1] if found else default

        return cls(
            at=at,
            state=state,
            # An IPv4 client of an IPv6 socket is [::ffff:10.78.0.2]:1234.
            peer=peer.rpartition(":")[0].strip("[]").removeprefix("::ffff:"),
            queued=int(queued),
            timer=find(r"timer:\((\w+)", ""),
            window=int(find(r"snd_wnd:(\d+)", "0")),
            retransmitted=int(find(r"retrans:\d+/(\d+)", "0")),
            last_ack=int(find(r"lastack:(\d+)", "0")) / 1000,
            is_owned="users:((" in line,
        )

    def sights(self) -> set[str]:
        """What a person would call it."""
        seen = set()
        if self.queued and self.timer == "persist":
            seen.add(WINDOW_CLOSED)
        if self.queued and self.timer == "on":
            seen.add(IN_FLIGHT if self.window else WINDOW_SHRUNK)
        if self.retransmitted:
            seen.add(RETRANSMITS)
        if self.state == "CLOSE-WAIT":
            seen.add(HALF_CLOSED)
        if self.state == "ESTAB" and not self.queued:
            seen.add(IDLE)
        return seen


@dataclass
class History:
    """One client's connections since they were first seen."""

    now: Facts | None = None
    sights: set[str] = field(default_factory=set)
    released: float | None = None
    """When the server had no descriptor of it any more (monotonic seconds)."""
    heard: float = 0.0
    """When the kernel last had an ACK."""


class Watcher:
    """Samples until the `with` block ends. Times are monotonic seconds."""

    def __init__(self, network: Network, server: Server, *, asks_health: bool = False) -> None:
        self._network = network
        self._server = server
        self._ss = program("ss", "iproute2")
        self._asks_health = asks_health
        self._lock = threading.Lock()
        self._histories: dict[str, History] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.health: list[dict[str, Any]] = []
        """What /healthz has said, as long as it is there."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def history(self, client: str) -> History:
        """Of the client with this address; empty if it has not been seen."""
        with self._lock:
            return self._histories.get(client, History())

    def verdicts(self, client: str) -> list[str]:
        """The ends of this client's transfers, from the server's log."""
        found = re.findall(_VERDICT, self._server.text())
        return [end for who, _, _, end in found if who == client]

    def _run(self) -> None:
        self._network.enter()
        next_health = 0.0
        while not self._over.wait(_PERIOD):
            self._sample()
            if self._asks_health and time.monotonic() >= next_health:
                self._ask()
                next_health = time.monotonic() + _HEALTH_PERIOD

    def _sample(self) -> None:
        command = [self._ss, "-tinopaHO", "sport", "=", f":{PORT}"]
        at = time.monotonic()
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        facts = [Facts.parse(line, at) for line in lines if not line.startswith("LISTEN")]
        with self._lock:
            for fact in facts:
                history = self._histories.setdefault(fact.peer, History())
                history.now = fact
                history.sights |= fact.sights()
                if fact.is_owned:
                    history.heard = at - fact.last_ack
            owned = {fact.peer for fact in facts if fact.is_owned}
            there = {fact.peer for fact in facts}
            for peer, history in self._histories.items():
                if peer not in there:
                    history.now = None
                if peer in owned:
                    history.released = None
                elif history.released is None and history.heard:
                    history.released = at

    def _ask(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
            try:
                connection.request("GET", "/healthz", headers={"Connection": "close"})
                answer = json.loads(connection.getresponse().read())
            finally:
                connection.close()
            if isinstance(answer, dict):
                self.health.append(answer)
