"""How many blocks of a window a client is sent at once. Pure.

Some firmware has room for a few packets and asks for windows of many: of each burst it drops what
is too much. A window that is simply cut short does not help it, because it acknowledges nothing
before it has counted a whole window, or waited for seconds. So the window stays what was agreed
upon, but goes out in bursts with a pause in between: they are halved when one is lost, and grow
again when all arrives.

* Lost is a window of which the client said nothing until a timer ended, ours or its own.
* A window that was torn, of which the client has promptly acknowledged a part, is more often the
  fault of a network that loses packets now and then; only three of them in a row count.
* After two windows that arrived whole a burst doubles. If that was too much, it takes twice as many
  the next time: who cannot take more is not tried again and again.
"""

from __future__ import annotations

_TORN = 3  # in a row that count as one that is lost
_PROOF = 2  # windows in a row that arrived
_MOST_PROOF = 256


class Bursts:
    """``size`` blocks go out at once, from 1 to ``windowsize``."""

    __slots__ = (
        "_arrived",
        "_before",
        "_has_grown",
        "_proof",
        "_torn",
        "_windowsize",
        "halvings",
        "size",
    )

    def __init__(self, windowsize: int) -> None:
        self._windowsize = windowsize
        self._arrived = 0
        self._torn = 0
        self._proof = _PROOF
        self._has_grown = False
        self.size = windowsize
        self.halvings = 0
        """How often a burst was too much."""
        self._before = self.size, self._proof, self.halvings

    def arrived(self) -> None:
        """The client has acknowledged a whole window."""
        self._torn = 0
        if self.size == self._windowsize:
            self._proof = _PROOF
            return
        self._arrived += 1
        if self._arrived >= self._proof:
            self._arrived = 0
            self._has_grown = True
            self.size = min(2 * self.size, self._windowsize)

    def torn(self) -> None:
        """The client has acknowledged a part of a window at once: something in it was lost."""
        self._torn += 1
        self._arrived = 0
        if self._torn == _TORN:
            self.lost()

    def forgive(self) -> None:
        """All of it had arrived, as turns out: take the last `lost` back."""
        self.size, self._proof, self.halvings = self._before

    def lost(self) -> None:
        """The client has waited in vain, or we have."""
        self._before = self.size, self._proof, self.halvings
        self._torn = self._arrived = 0
        if self.size == 1:
            return
        if self._has_grown:
            self._has_grown = False
            self._proof = min(2 * self._proof, _MOST_PROOF)
        self.size //= 2
        self.halvings += 1
