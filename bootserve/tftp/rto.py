"""How long to wait for an answer before sending again: RFC 6298's estimate. Pure."""

from __future__ import annotations

import math

INITIAL = 1.0
"""Seconds until a round trip has been measured (RFC 6298, section 2.1)."""

FLOOR = 0.25
"""Seconds. RFC 6298 says 1 s for the sake of congested networks; a lost block in lockstep would
then cost a boot a second, and firmware rarely takes longer than this for a block."""

CEILING = 8.0
"""Seconds. The doubling ends here, so that a machine that was frozen for minutes goes on within
seconds of its return."""

_GRANULARITY = 0.01  # seconds, of hosts and their timers
_MOST_GUESSES = 5  # between two measurements
_SHORTEST_GAP, _LONGEST_GAP = 0.002, 0.05  # seconds
_LIVELY, _LIVELY_CEILING = 10.0, 2.0  # seconds
_MOST_UNMEASURED = 5  # exchanges in a row
_LATE = 0.1  # seconds; no client's own timer is shorter


class RetransmissionTimer:
    """The interval after which an unanswered flight is sent again, in seconds.

    Args:
        timeout: the client's option of RFC 2349 in seconds, or ``None``; it is where the estimate
            starts and what it never falls below.
    """

    __slots__ = (
        "_ceiling",
        "_estimate",
        "_floor",
        "_guesses",
        "_smoothed",
        "_unmeasured",
        "_variation",
        "interval",
    )

    def __init__(self, timeout: int | None = None) -> None:
        self._floor = FLOOR if timeout is None else float(timeout)
        self._ceiling = max(CEILING, self._floor)
        self._smoothed: float | None = None
        self._variation = 0.0
        self._estimate = INITIAL if timeout is None else float(timeout)
        self._guesses = 0
        self._unmeasured = 0  # exchanges since the last that was
        self.interval = self._estimate

    @property
    def gap(self) -> float:
        """Seconds for a client to take in what it was sent: about a round trip."""
        return min(max(self._smoothed or 0.0, _SHORTEST_GAP), _LONGEST_GAP)

    @property
    def late(self) -> float:
        """Seconds after which an answer is not one to what arrived, but comes of waiting."""
        return max(2 * ((self._smoothed or 0.0) + 4 * self._variation), _LATE)

    def measured(self, round_trip: float) -> None:
        """Learn from an answer that can only be to one transmission (Karn's rule)."""
        # Written out, for every ACK comes by here.
        smoothed = self._smoothed
        if smoothed is None:
            smoothed = round_trip
            self._variation = round_trip / 2
        else:
            error = round_trip - smoothed
            self._variation += ((error if error > 0 else -error) - self._variation) / 4
            smoothed += error / 8
        self._smoothed = smoothed
        estimate = smoothed + 4 * self._variation
        if estimate < self._floor:
            estimate = self._floor
        elif estimate > self._ceiling:
            estimate = self._ceiling
        self._estimate = self.interval = estimate
        self._guesses = self._unmeasured = 0

    def guessed(self, round_trip: float) -> None:
        """Learn from an answer that may be to any transmission, ``round_trip`` after the last.

        Karn's rule keeps the interval backed off until an answer is unambiguous; where two
        exchanges in a row rarely go well, that is at the ceiling for good. So an answer that took
        as long as usual ends the backing off, but not for ever: a path that has just become so
        slow that its answers look like that must be measured all the same.
        """
        self._unmeasured += 1
        if self._smoothed is None or self._guesses == _MOST_GUESSES:
            return
        if self._smoothed / 2 <= round_trip <= 2 * self._smoothed + _GRANULARITY:
            self._guesses += 1
            self.interval = self._estimate

    def expired(self, silence: float = math.inf) -> None:
        """Back off: nothing came within the interval.

        Args:
            silence: seconds since anything was heard. Who was heard a moment ago has not gone: then
                it is the network that loses packets, and to wait for long only adds to that.
        """
        ceiling = self._ceiling
        # Not for ever: a path that has become slower than that must be measured all the same.
        if silence < _LIVELY and self._unmeasured < _MOST_UNMEASURED:
            ceiling = max(_LIVELY_CEILING, self._floor)
        if self.interval < ceiling:
            self.interval = min(self.interval * 2, ceiling)

    def answered(self) -> None:
        """End the backing off: an answer came within the interval, though it measures nothing."""
        self._unmeasured = 0
        self.interval = self._estimate
