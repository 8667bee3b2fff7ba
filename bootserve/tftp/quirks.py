"""What real firmware does beside or against the RFCs, by name, and how often it was met.

Each of these is served as its owner expects; what is counted is for people who wonder what their
machines do, and for us, who would otherwise forget whom a line of code is for.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from bootserve.tftp.options import DEFAULT_BLKSIZE
from bootserve.tftp.packet import Request


class Quirk(StrEnum):
    """Names as they stand in health reports."""

    OACK_REFUSED = "oack-refused"
    """It asks for ``tsize`` only to learn it, answers the OACK with an ERROR, and asks again: OVMF
    and other EDK II firmware, PXELINUX."""

    TSIZE_ALONE = "tsize-alone"
    """It asks for ``tsize`` without ``blksize``, and so wants blocks of 512 bytes: UEFI's
    GetFileSize, old PXE ROMs."""

    SMALL_BLOCKS = "blksize-512"
    """It takes blocks of 512 bytes and no others, whether it says so (shim, UEFI's ReadFile with
    its default) or names no option at all."""

    LARGE_BLOCKS = "blksize-over-mtu"
    """It asks for blocks that do not go through to it in one piece, and gets the largest that do
    (`tftp.fragment`)."""

    ODD_MODE = "mode-in-odd-case"
    """``OCTET``, ``Octet``: old ROMs. Any case is right by RFC 1350, but not for every server."""

    ROLLOVER_ONE = "rollover-to-1"
    """Its block numbers go from 65535 to 1, as it says in an option of tftpd-hpa's."""

    REQUEST_REPEATED = "request-repeated"
    """It sends its request again before the answer has reached it: boot ROMs with short timers."""

    RESTARTED = "restarted-on-same-port"
    """It begins anew from the port that its transfer still has: a ROM that was reset."""

    BURST_LOST = "burst-lost"
    """It drops what comes at once, although it has asked for windows; see `bursts`."""

    LAST_ACK_LOST = "last-ack-lost"
    """Its last ACK does not come: it has started what it has loaded."""


_MODES: Final = ("octet", "netascii")


class Quirks(Counter[str]):
    """How often each was met since the process began. The catalog adds names of its own."""

    def met(self, quirk: str) -> None:
        self[quirk] += 1

    def see(self, request: Request) -> None:
        """Count what a request shows."""
        asked = {name.lower(): value for name, value in request.options}
        if request.mode_as_sent not in _MODES:
            self.met(Quirk.ODD_MODE)
        if asked.get("blksize", str(DEFAULT_BLKSIZE)) == str(DEFAULT_BLKSIZE):
            self.met(Quirk.TSIZE_ALONE if set(asked) == {"tsize"} else Quirk.SMALL_BLOCKS)
        if asked.get("rollover") == "1":
            self.met(Quirk.ROLLOVER_ONE)
