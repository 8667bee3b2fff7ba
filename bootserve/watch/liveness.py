"""Whether a peer is fast, slow, paused, silent or gone: the kernel's facts in, a verdict out. Pure.

Rules of this module:

* Only *gone* ends anything. How fast a peer reads says nothing of whether it lives: one that reads
  nothing for a day, and whose kernel answers the probes of its closed window, is *paused*.
* A peer is gone when two things hold: no ACK has come for the limit, **and** so many probes or
  retransmissions since have stayed without an answer. The first alone misfires: probes of a closed
  window may be two minutes apart, so that silence means nothing. The second alone misfires: at 30 %
  loss a live peer misses six in a row every other minute.
* Any ACK is life, also one that acknowledges nothing new, and so are data.
* What the kernel was not asked to do it cannot have failed at: while nothing is unacknowledged and
  no probe is out, silence is normal, however long.

The kernel counts unanswered probes itself (``tcpi_probes``, zeroed by any ACK:
``tcp_ack()`` in ``net/ipv4/tcp_input.c``). Retransmissions it counts since the last ACK that
acknowledged something (``tcpi_retransmits``, timeouts only), and in the connection's life
(``tcpi_total_retrans``, those only that went out, which without a route none do). So both are
looked at: the greater of the first, and of what the second has grown by since the last ACK. The
first may be too high only where ACKs have come since, and then there was no silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

UNANSWERED: Final = 6
UNANSWERED_WITHOUT_RTO_MAX: Final = 3
"""Probes or retransmissions without an answer that *gone* takes. Kernels that cannot bound the
interval between them (before Linux 6.15) have two minutes between two."""

PRESSURE_LIMIT: Final = 90.0
"""Seconds of silence that are enough where descriptors are short."""

SLOW_RATE: Final = 128 * 1024
"""Bytes per second below which a peer is called slow. It is a word for people, nothing follows."""

SILENT_AFTER: Final = 10.0
_PAUSED_AFTER: Final = 10.0
"""Seconds without an ACK, or with ACKs but without progress, until the word for it changes."""

_SAME_ACK: Final = 0.05
"""Seconds by which two readings of the time of the same ACK may differ: a kernel's ticks."""


class Verdict(StrEnum):
    """What a peer is doing, in a word for an operator."""

    IDLE = "idle"
    """Nothing is owed to it."""
    MOVING = "moving"
    SLOW = "slow"
    PAUSED = "paused"
    """It takes nothing, and its kernel says that it lives: its window is closed."""
    STARVED = "starved"
    """It has all that we sent, and waits for our disk."""
    SILENT = "silent"
    """It does not answer. A machine that is frozen, or a cable that is out, may come back."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a silent peer is gone: seconds without an ACK, and unanswered probes."""

    silence: float
    unanswered: int = UNANSWERED

    @property
    def under_pressure(self) -> Limits:
        return Limits(min(self.silence, PRESSURE_LIMIT), self.unanswered)

    @property
    def enough_probes(self) -> int:
        """Unanswered window probes after which a verdict needs no more of them for long.

        The kernel has only so many (``net.ipv4.tcp_retries2``), and then gives up by itself,
        whatever the user timeout (``tcp_probe_timer()`` in ``net/ipv4/tcp_timer.c``).
        """
        return self.unanswered + 2

    @property
    def sweep_interval(self) -> float:
        """Seconds between two looks at a peer."""
        return min(max(self.silence / 20, 0.25), 5.0)

    @property
    def probe_interval(self) -> float:
        """The most seconds between two probes for a verdict to be sure when the limit is over."""
        return min(max(self.silence / 10, 1.0), 10.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a connection at one moment.

    Attributes:
        now: monotonic seconds.
        heard: seconds since an ACK or data came.
        probes: probes, or timeouts of what is in flight, without an answer since.
        total_retrans: segments sent again in the connection's life.
        acked: bytes acknowledged in the connection's life.
        waiting: bytes that the kernel holds for the peer, in flight or not.
        is_owed: whether an answer is on its way, so that more will come.
    """

    now: float
    heard: float
    probes: int
    total_retrans: int
    acked: int
    waiting: int
    is_owed: bool


_Whose = TypeVar("_Whose")


def first_to_go(peers: Iterable[tuple[Peer, _Whose]], limits: Limits, count: int) -> list[_Whose]:
    """Return whose peers go, where ``count`` descriptors are short: those silent for longest.

    Never one that still answers, or that has been silent for less than `PRESSURE_LIMIT`.
    """
    silent = [(peer.silence, whose) for peer, whose in peers if peer.is_gone(limits.under_pressure)]
    silent.sort(key=lambda pair: -pair[0])
    return [whose for _, whose in silent[: max(count, 0)]]


class Peer:
    """The other end of one connection, as `look` after `look` has shown it."""

    __slots__ = (
        "_acked",
        "_heard_at",
        "_progress_at",
        "_rate",
        "_retrans_base",
        "silence",
        "unanswered",
        "verdict",
    )

    def __init__(self, first: Sample) -> None:
        self._acked = first.acked
        self._heard_at = first.now - first.heard
        self._progress_at = first.now
        self._rate = float(SLOW_RATE)
        self._retrans_base = first.total_retrans
        self.silence = first.heard
        """Seconds without an ACK."""
        self.unanswered = first.probes
        """Probes and retransmissions since the last ACK."""
        self.verdict = Verdict.MOVING if first.is_owed else Verdict.IDLE

    def stalled(self, now: float) -> float:
        """Seconds for which it has acknowledged nothing new."""
        return now - self._progress_at

    def look(self, sample: Sample, limits: Limits) -> Verdict:
        """Take one more look; return and keep the verdict."""
        heard_at = sample.now - sample.heard
        if heard_at > self._heard_at + _SAME_ACK:
            self._heard_at = heard_at
            self._retrans_base = sample.total_retrans
        self.silence = sample.heard
        self.unanswered = max(sample.probes, sample.total_retrans - self._retrans_base)
        self.verdict = self._judge(sample, limits)
        return self.verdict

    def is_gone(self, limits: Limits) -> bool:
        """Whether these limits would have it gone, as it was at the last look."""
        return self.silence >= limits.silence and self.unanswered >= limits.unanswered

    def _judge(self, sample: Sample, limits: Limits) -> Verdict:
        has_progress = self._measure(sample)
        if self.is_gone(limits):
            return Verdict.GONE
        if self.unanswered and self.silence >= min(SILENT_AFTER, limits.silence / 3):
            return Verdict.SILENT
        if not sample.waiting and not sample.is_owed:
            return Verdict.IDLE
        if self.stalled(sample.now) >= _PAUSED_AFTER:
            return Verdict.PAUSED if sample.waiting else Verdict.STARVED
        if not sample.waiting and not has_progress:
            return Verdict.STARVED
        return Verdict.SLOW if self._rate < SLOW_RATE else Verdict.MOVING

    def _measure(self, sample: Sample) -> bool:
        gained = sample.acked - self._acked
        self._acked = sample.acked
        if gained > 0 or not (sample.is_owed or sample.waiting):
            # Rates are those between two times at which something came, so that a peer whose
            # window opens in steps is slow, and not fast and paused by turns.
            seconds = max(sample.now - self._progress_at, 0.001)
            if gained > 0:
                self._rate = gained / seconds
            self._progress_at = sample.now
        return gained > 0
