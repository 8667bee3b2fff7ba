"""Several clients and a server on loopback: what they say is made from a fuzzer's bytes.

A conversation is a string of steps. The first byte of each says what is done, by whom, and whether
the server may react before the next one:

    bits 0-3  the step, see `Step`; its operands follow
    bits 4-5  which of four clients
    bit 6     set: the next step comes in the same burst

Every string of bytes is a conversation, so that no mutation is in vain.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .seeds import PACKETS, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 4
MOST_STEPS = 64
_NAMES = ("kernel", "empty", "block", "missing", "forbidden", "busy", "broken", "slow", "liar")
_OPTIONS = ("blksize", "windowsize", "timeout", "tsize", "BlkSize", "rollover")
_VALUES = (
    "0",
    "1",
    "7",
    "8",
    "512",
    "1428",
    "65464",
    "65465",
    "64",
    "255",
    "-1",
    "x",
    "",
    "9" * 30,
)
PATIENCE = 60.0
"""Seconds for which the server waits for a silent client."""
_WAITS = (0.01, 0.5, 1.0, 5.0, 20.0, PATIENCE - 1, PATIENCE + 1)
_REQUESTS = tuple(REQUESTS.values())


class Step(enum.IntEnum):
    """What a client does, and its operands (a byte each but for ``RAW`` and ``INTO``)."""

    RAW = 0
    """length, bytes: any datagram to the listening port"""
    CAPTURED = 1
    """number: a real client's request"""
    ASK = 2
    """name, count of options, then name and value of each"""
    AGAIN = 3
    """the client's last request once more"""
    ACK = 4
    """acknowledge what came in order"""
    ACK_NUMBER = 5
    """two bytes: the number"""
    INTO = 6
    """length, bytes: any datagram to the port of the transfer"""
    ERROR = 7
    """code"""
    WAIT = 8
    """index of a number of seconds"""
    STRANGE = 9
    """another client sends this one's ACK to the port of this one's transfer"""
    LEAVE = 10
    """the client closes its port"""
    FETCH = 11
    """count: acknowledge as many windows in order"""


@dataclass(frozen=True)
class Move:
    """One step, read."""

    step: Step
    client: int
    is_in_burst: bool
    datagram: bytes = b""
    number: int = 0
    seconds: float = 0.0


def encoded(step: Step, *operands: int, client: int = 0, is_in_burst: bool = False) -> bytes:
    return bytes([step | client << 4 | is_in_burst << 6, *operands])


def raw(datagram: bytes, step: Step = Step.RAW, client: int = 0) -> bytes:
    """The step that sends a datagram, cut to what fits."""
    return encoded(step, min(len(datagram), 255), client=client) + datagram[:255]


def moves(data: bytes) -> Iterator[Move]:
    """Read a fuzzer's bytes; at most `MOST_STEPS`."""
    rest = iter(data)

    def byte() -> int:
        return next(rest, 0)

    for first in itertools.islice(rest, MOST_STEPS):
        step = Step((first & 15) % len(Step))
        client = first >> 4 & 3
        is_in_burst = bool(first & 64)
        match step:
            case Step.RAW | Step.INTO:
                length = byte()
                datagram = bytes(itertools.islice(rest, length))
                yield Move(step, client, is_in_burst, datagram)
            case Step.CAPTURED:
                datagram = _REQUESTS[byte() % len(_REQUESTS)]
                yield Move(step, client, is_in_burst, datagram)
            case Step.ASK:
                words = [_NAMES[byte() % len(_NAMES)], "octet"]
                for _ in range(byte() % 5):
                    words += [_OPTIONS[byte() % len(_OPTIONS)], _VALUES[byte() % len(_VALUES)]]
                datagram = b"\0\1" + b"".join(word.encode() + b"\0" for word in words)
                yield Move(step, client, is_in_burst, datagram)
            case Step.ACK_NUMBER:
                yield Move(step, client, is_in_burst, number=byte() << 8 | byte())
            case Step.ERROR | Step.FETCH:
                yield Move(step, client, is_in_burst, number=byte())
            case Step.WAIT:
                yield Move(step, client, is_in_burst, seconds=_WAITS[byte() % len(_WAITS)])
            case Step.AGAIN | Step.ACK | Step.STRANGE | Step.LEAVE:
                yield Move(step, client, is_in_burst)


def seeds() -> dict[str, bytes]:
    """Conversations to begin with, by name."""
    found = {
        name: raw(request)
        + encoded(Step.FETCH, 3)
        + encoded(Step.WAIT, 2)
        + encoded(Step.FETCH, 255)
        for name, request in REQUESTS.items()
    }
    for name, packet in PACKETS.items():
        found[name] = (
            raw(packet)
            + encoded(Step.ASK, 0, 1, 1, 8)
            + encoded(Step.FETCH, 2)
            + raw(packet, Step.INTO)
            + encoded(Step.WAIT, 2)
            + raw(packet, Step.INTO)
            + encoded(Step.FETCH, 200)
        )
    for number, name in enumerate(_NAMES):
        found[f"ask for {name}"] = encoded(Step.ASK, number, 0) + encoded(Step.FETCH, 99)
    found["four at once"] = b"".join(
        encoded(Step.ASK, 0, 2, 0, client, 1, 4 + client, client=client, is_in_burst=True)
        for client in range(CLIENTS)
    ) + b"".join(encoded(Step.FETCH, 40, client=client) for client in range(CLIENTS))
    found["a request again and again"] = encoded(Step.ASK, 0, 0) + 9 * (
        encoded(Step.AGAIN) + encoded(Step.WAIT, 3)
    )
    found["another instead"] = 3 * (encoded(Step.ASK, 0, 0) + encoded(Step.ASK, 1, 1, 0, 4))
    found["a stranger"] = encoded(Step.ASK, 0, 0) + 3 * encoded(Step.STRANGE)
    found["left"] = encoded(Step.ASK, 0, 0) + encoded(Step.LEAVE) + 4 * encoded(Step.WAIT, 3)
    found["silent to the end"] = encoded(Step.ASK, 0, 0) + encoded(Step.WAIT, 6)
    found["silent in the middle"] = (
        encoded(Step.ASK, 0, 1, 1, 8) + encoded(Step.FETCH, 2) + 2 * encoded(Step.WAIT, 5)
    )
    return found
