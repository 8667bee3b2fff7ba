"""What is fuzzed: functions of bytes that raise if the server's code breaks a promise."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from bootserve.tftp.options import Terms, negotiate
from bootserve.tftp.packet import (
    Ack,
    Error,
    MalformedPacket,
    OutOfPlace,
    Packet,
    Request,
    encode_oack,
    parse,
)

from . import conversation
from .seeds import SEEDS
from .theatre import Broken, Theatre

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVERS: Final[dict[str, dict[str, Any]]] = {
    "conversation": {"is_direct": True},
    "conversation-asyncio": {},
    "conversation-single-port": {"is_direct": True, "single_port": True},
}
"""The stateful targets, and how the server is set in each."""
NAMES: Final = ("packet", *SERVERS)
PLANTED: Final = "planted"
LONGEST: Final = {"packet": 1600, **dict.fromkeys(SERVERS, 1024), PLANTED: 8}
"""Bytes of the longest input."""
_SIZES = (0, 511, 512, 2**32, 2**63)


def packet(data: bytes) -> None:
    """Parse a datagram, and agree on what it asks for."""
    try:
        found = parse(data)
    except MalformedPacket as error:
        str(error)
        return
    _check_packet(found)
    if isinstance(found, Request):
        for tsize in (None, _SIZES[len(data) % len(_SIZES)]):
            _check_terms(negotiate(found.options, tsize=tsize), found, tsize)


def _check_packet(found: Packet) -> None:
    match found:
        case Ack(number):
            _must(0 <= number <= 0xFFFF, "the number of a block")
        case Error(code, message):
            _must(0 <= code <= 0xFFFF, "the code of an error")
            message.encode()
        case OutOfPlace():
            pass
        case Request(name=name, mode=mode, options=options):
            name.encode()
            _must("\0" not in name, "a NUL in a name")
            _must(mode == mode.lower() != "", "the mode")
            names = [option.lower() for option, _ in options]
            _must(len(names) == len(set(names)) and all(names), "an option given twice")


def _check_terms(terms: Terms, request: Request, tsize: int | None) -> None:
    _must(8 <= terms.blksize <= 65464, "blksize")
    _must(1 <= terms.windowsize <= 65535, "windowsize")
    _must(terms.timeout is None or 1 <= terms.timeout <= 255, "timeout")
    asked = dict(request.options)
    for name, value in terms.accepted:
        # RFC 2347: the server answers what was asked, and nothing else.
        _must(name in asked and value.isdigit(), "an option that was not asked for")
        match name.lower():
            case "blksize":
                _must(int(value) == terms.blksize <= int(asked[name]), "blksize in the OACK")
            case "windowsize":
                _must(int(value) == terms.windowsize <= int(asked[name]), "windowsize in the OACK")
            case "timeout":
                _must(int(value) == terms.timeout == int(asked[name]), "timeout in the OACK")
            case "tsize":
                _must(int(value) == tsize, "tsize in the OACK")
    if terms.accepted:
        encode_oack(terms.accepted)


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(f"{what} is out of its range")


def planted(data: bytes) -> None:
    """Raise at one of the seeds: by this a run proves that it tells."""
    if data[:4] == SEEDS["ACK 1"]:
        raise Broken("block 1 was acknowledged")


@contextlib.contextmanager
def opened(name: str) -> Iterator[Callable[[bytes], None]]:
    """The target of this name, ready to be called."""
    if name in SERVERS:
        with Theatre(**SERVERS[name]) as theatre:
            yield theatre.play
    else:
        yield packet if name == "packet" else planted


def seeds(name: str) -> dict[str, bytes]:
    """What to begin with, each by a name."""
    return conversation.seeds() if name in SERVERS else SEEDS
