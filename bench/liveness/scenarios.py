"""Who does what, and how it must end: the clients that must live, and those that must be found.

Every number of seconds is the caller's, so that the same scenario is played in minutes as it is in
life, and in seconds by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from bench.liveness.network import Client
from bench.liveness.server import BIG, SMALL, TAIL
from bench.liveness.watcher import (
    HALF_CLOSED,
    IDLE,
    IN_FLIGHT,
    LOST,
    RETRANSMITS,
    WINDOW_CLOSED,
    WINDOW_SHRUNK,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_BUFFER: Final = 4096
"""SO_RCVBUF of a client that is to stop its server soon: the kernel's least (tcp(7), tcp_rmem)."""
COMMON_BUFFER: Final = 16 << 10
"""SO_RCVBUF of a client whose window is small, as firmware's is, and yet room for some segments."""
SLOW_LINK: Final = "8mbit"
"""A client that reads at once what comes over such a link has something under way all the time."""
FIN: Final = "sends FIN after its request, "


class End(Enum):
    """How a scenario must end, and by which limit."""

    FINISHES = "has the whole file"
    SILENT = "found dead"
    TAIL = "found dead, after all was handed over"
    IDLE = "closed as idle"
    HEAD = "closed for want of a request"

    @property
    def log(self) -> str:
        """How the server's line about the transfer begins; empty where there is no transfer."""
        return {
            End.FINISHES: "complete",
            End.SILENT: "client fell silent",
            End.TAIL: "sent in full, its end not acknowledged",
        }.get(self, "")


@dataclass(frozen=True)
class Trouble:
    """What befalls a client's cable when it has marked the moment."""

    begin: Callable[[Client], None]
    mend: Callable[[Client], None] | None = None
    seconds: float = 0.0
    """How long it lasts, if it is mended."""
    waits_for: str = ""
    """What the server's kernel must show before it begins."""


@dataclass(frozen=True)
class Scenario:
    name: str
    story: str
    steps: tuple[str, ...]
    """What the client does, in the words of `bench.liveness.peer`."""
    ends: End
    seconds: float = 0.0
    """How long the client takes by its own will."""
    file: str = BIG
    size: int | None = None
    """Of a file that is made for this scenario."""
    buffer: int = LEAST_BUFFER
    rate: str = ""
    troubles: tuple[Trouble, ...] = ()
    """One for each time that the client marks the moment."""
    must_show: tuple[str, ...] = field(default=())
    """What the server's kernel must have shown, or the scenario was not what its story says."""


# --- who must live ----------------------------------------------------------------------------


def reader(rate: int, seconds: float) -> Scenario:
    """Slow for a time, with more before it than all buffers hold, and then fast."""
    return Scenario(
        name=f"reads {rate:,} B/s",
        story=f"reads 4 MB at {rate:,} B/s for {seconds:g} s, then as fast as it can",
        steps=(f"get {BIG}", f"trickle {rate} {seconds}", "read"),
        ends=End.FINISHES,
        seconds=seconds,
        must_show=(WINDOW_CLOSED,),
    )


def reader_to_the_end(rate: int, size: int) -> Scenario:
    """Slow from the first byte to the last, all of which the server's kernel has long taken."""
    name = f"slow-{rate}"
    return Scenario(
        name=f"reads {rate:,} B/s to the end",
        story=f"reads all {size:,} bytes at {rate:,} B/s",
        steps=(f"get {name}", f"trickle {rate}"),
        ends=End.FINISHES,
        seconds=size / rate,
        file=name,
        size=size,
        must_show=(WINDOW_CLOSED,),
    )


def paused(seconds: float, *, half_closed: bool = False) -> Scenario:
    """A program that is busy; its kernel goes on answering probes."""
    name = "half-closed, pauses" if half_closed else "pauses"
    return Scenario(
        name=f"{name} {seconds:g} s",
        story=f"{FIN if half_closed else ''}reads 100 kB, nothing for {seconds:g} s, then the rest",
        steps=(
            *(f"get {BIG}", *(["fin"] if half_closed else [])),
            *("read 100000", f"pause {seconds}", "read"),
        ),
        ends=End.FINISHES,
        seconds=seconds,
        must_show=(WINDOW_CLOSED, *([HALF_CLOSED] if half_closed else [])),
    )


def lossy(percent: int, size: int) -> Scenario:
    """Loss at random, of data and of ACKs alike."""
    name = f"lossy-{percent}"
    return Scenario(
        name=f"loses {percent} %",
        story=f"{percent} % of the packets to it and {percent} % of those from it are lost,"
        f" {size:,} bytes",
        steps=(f"get {name}", "mark", "read"),
        ends=End.FINISHES,
        # A generous guess: at 30 %, half of all round trips fail.
        seconds=size / 500,
        file=name,
        size=size,
        buffer=COMMON_BUFFER,
        troubles=(Trouble(lambda client: client.lose(percent)),),
        must_show=(LOST,),
    )


def unplugged(seconds: float) -> Scenario:
    """A cable that is put back in time."""
    return Scenario(
        name=f"link down for {seconds:g} s",
        story=f"the link goes down for {seconds:g} s in the middle of the download",
        steps=(f"get {BIG}", "read 200000", "tell", "read"),
        ends=End.FINISHES,
        seconds=seconds,
        buffer=0,
        rate=SLOW_LINK,
        troubles=(Trouble(Client.unplug, Client.plug, seconds, IN_FLIGHT),),
        must_show=(IN_FLIGHT, RETRANSMITS),
    )


def frozen(seconds: float) -> Scenario:
    """A host that is stopped, or firmware that is busy: it sends nothing, not even an ACK."""
    return Scenario(
        name=f"frozen for {seconds:g} s",
        story=f"sends and hears nothing for {seconds:g} s in the middle of the download",
        steps=(f"get {BIG}", "read 200000", "tell", "read"),
        ends=End.FINISHES,
        seconds=seconds,
        buffer=0,
        rate=SLOW_LINK,
        troubles=(Trouble(Client.cut, Client.mend, seconds, IN_FLIGHT),),
        must_show=(IN_FLIGHT, RETRANSMITS),
    )


def frozen_behind_a_closed_window(seconds: float) -> Scenario:
    return Scenario(
        name=f"frozen for {seconds:g} s, window closed",
        story=f"stops reading; then sends and hears nothing for {seconds:g} s; then reads the rest",
        steps=(f"get {BIG}", "read 100000", "tell", f"pause {seconds + 2}", "read"),
        ends=End.FINISHES,
        seconds=seconds,
        troubles=(Trouble(Client.cut, Client.mend, seconds, WINDOW_CLOSED),),
        must_show=(WINDOW_CLOSED,),
    )


def frozen_after_shrinking(seconds: float) -> Scenario:
    """A receiver that is short of memory takes its window back: TCP allows it, and Linux does it.

    The kernel then has patience of its own with its silence: twice its longest interval between
    two retransmissions (tcp_rtx_probe0_timed_out in net/ipv4/tcp_timer.c).
    """
    return Scenario(
        name=f"frozen for {seconds:g} s, window shrunk",
        story="closes its window over data that is under way;"
        f" then sends and hears nothing for {seconds:g} s; then reads the rest",
        steps=(f"get {BIG}", "read 200000", "mark", "shrink", "mark", "grow", "read"),
        ends=End.FINISHES,
        seconds=seconds,
        buffer=0,
        rate=SLOW_LINK,
        troubles=(
            Trouble(Client.drop_data, waits_for=IN_FLIGHT),
            Trouble(Client.cut, Client.mend, seconds, WINDOW_SHRUNK),
        ),
        must_show=(WINDOW_SHRUNK, RETRANSMITS),
    )


# --- who must be found ------------------------------------------------------------------------


def vanished_in_flight(*, link: bool = False) -> Scenario:
    how = "its link goes down" if link else "it vanishes"
    return Scenario(
        name=f"vanishes in flight{', link down' if link else ''}",
        story=f"{how} in the middle of the download, for good",
        steps=(f"get {BIG}", "read 200000", "tell", "read"),
        ends=End.SILENT,
        buffer=0,
        rate=SLOW_LINK,
        troubles=(Trouble(Client.unplug if link else Client.cut, waits_for=IN_FLIGHT),),
        must_show=(IN_FLIGHT, RETRANSMITS),
    )


def vanished_behind_a_closed_window(*, half_closed: bool = False) -> Scenario:
    return Scenario(
        name=f"vanishes behind a closed window{', half-closed' if half_closed else ''}",
        story=f"{FIN if half_closed else ''}stops reading, then vanishes",
        steps=(f"get {BIG}", *(["fin"] if half_closed else []), "read 100000", "mark", "hold"),
        ends=End.SILENT,
        troubles=(Trouble(Client.cut, waits_for=WINDOW_CLOSED),),
        must_show=(WINDOW_CLOSED, *([HALF_CLOSED] if half_closed else [])),
    )


def vanished_with_an_unread_tail() -> Scenario:
    return Scenario(
        name="vanishes with an unread tail",
        story="everything is in the server's kernel; it has read 1 kB of it, and vanishes",
        steps=(f"get {TAIL}", "read 1000", "mark", "hold"),
        ends=End.TAIL,
        file=TAIL,
        troubles=(Trouble(Client.cut, waits_for=WINDOW_CLOSED),),
        must_show=(WINDOW_CLOSED,),
    )


def vanished_idle() -> Scenario:
    return Scenario(
        name="vanishes idle",
        story="has got a small file over a connection that stays open, and vanishes",
        steps=(f"get {SMALL}", "read", "mark", "hold"),
        ends=End.IDLE,
        file=SMALL,
        troubles=(Trouble(Client.cut, waits_for=IDLE),),
        must_show=(IDLE,),
    )


def vanished_before_its_request(*, half: bool = False) -> Scenario:
    return Scenario(
        name=f"vanishes {'in' if half else 'before'} its request",
        story=f"connects, sends {'half a request' if half else 'nothing'}, and vanishes",
        steps=(*(["begin"] if half else []), "mark", "hold"),
        ends=End.HEAD,
        troubles=(Trouble(Client.cut, waits_for=IDLE),),
        must_show=(IDLE,),
    )


def too_long_frozen(seconds: float) -> Scenario:
    """Longer than the limit: nobody can tell it from a dead one, and it is given up."""
    return Scenario(
        name=f"frozen for {seconds:g} s, longer than the limit",
        story=f"sends and hears nothing for {seconds:g} s in the middle of the download",
        steps=(f"get {BIG}", "read 200000", "tell", "read"),
        ends=End.SILENT,
        buffer=0,
        rate=SLOW_LINK,
        troubles=(Trouble(Client.cut, Client.mend, seconds, IN_FLIGHT),),
        must_show=(IN_FLIGHT, RETRANSMITS),
    )
