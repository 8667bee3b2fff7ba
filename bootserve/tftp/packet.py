"""TFTP's packets (RFC 1350, RFC 2347) between bytes and small values of ours.

Rules of this module:

* `parse` raises `MalformedPacket` and nothing else, whatever the network sends.
* ERROR and OACK go through tftpy's packet classes. Requests are split here: tftpy refuses names
  that are not ASCII, empty option values, padding and a missing last NUL, all of which real
  firmware sends, and of an option named twice it takes the last. ACK is split here because there
  is one for every block or window.
* Of a request only the file name and the mode must be readable; an option that is not is left
  out, as if it had not been asked for.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass, field
from enum import IntEnum

from tftpy.TftpPacketFactory import TftpPacketFactory
from tftpy.TftpPacketTypes import TftpPacketERR, TftpPacketOACK

# tftpy writes every ERROR that a client sends to the log, unescaped and at level ERROR.
logging.getLogger("tftpy").setLevel(logging.CRITICAL + 1)

MAX_REQUEST = 1500
"""Bytes of the longest request that is read. RFC 2347 allows 512; some firmware pads its requests,
none sends them in fragments."""

_LONGEST_MESSAGE = 200


class Opcode(IntEnum):
    """RFC 1350, section 5; RFC 2347."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """RFC 1350, appendix; RFC 2347."""

    NOT_DEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TRANSFER_ID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTIONS_REFUSED = 8


class MalformedPacket(ValueError):
    """A datagram that is no TFTP packet. ``opcode`` is its first two bytes, if it has them."""

    def __init__(self, reason: str, opcode: int | None = None) -> None:
        super().__init__(reason)
        self.opcode = opcode


@dataclass(frozen=True, slots=True)
class Request:
    """RRQ or WRQ. ``mode`` is in lower case; ``options`` as sent, but each name only once.

    A file name is read as UTF-8; what is not UTF-8 in it becomes U+FFFD, so that it names no file
    but can be shown and encoded everywhere.
    """

    is_write: bool
    name: str
    mode: str
    options: tuple[tuple[str, str], ...] = ()
    mode_as_sent: str = field(default="octet", compare=False)


@dataclass(frozen=True, slots=True)
class Ack:
    """``number`` is the block number modulo 65536."""

    number: int


@dataclass(frozen=True, slots=True)
class Error:
    """``code`` is usually, but not always, an `ErrorCode`; ``message`` is untrusted."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class OutOfPlace:
    """DATA or OACK: valid in TFTP, but nothing that a client of a read-only server sends."""

    opcode: int


Packet = Request | Ack | Error | OutOfPlace

_HEADER = struct.Struct("!HH")
_factory = TftpPacketFactory()


def parse(datagram: bytes) -> Packet:
    """Read one datagram.

    Raises:
        MalformedPacket: it is no TFTP packet.
    """
    if len(datagram) < 4:
        opcode = int.from_bytes(datagram[:2]) if len(datagram) >= 2 else None
        raise MalformedPacket(f"{len(datagram)} bytes are too few", opcode)
    opcode, number = _HEADER.unpack_from(datagram)
    if opcode == Opcode.ACK:
        return Ack(number)
    if opcode in (Opcode.RRQ, Opcode.WRQ):
        return _request(opcode, datagram)
    if opcode == Opcode.ERROR:
        return _error(datagram)
    if opcode in (Opcode.DATA, Opcode.OACK):
        return OutOfPlace(opcode)
    raise MalformedPacket(f"there is no opcode {opcode}", opcode)


def encode_error(code: int, message: str) -> bytes:
    """Return an ERROR; of ``message`` the printable ASCII characters remain, at most 200."""
    packet = TftpPacketERR()
    packet.errorcode = code
    text = "".join(char if " " <= char <= "~" else "?" for char in message[:_LONGEST_MESSAGE])
    # tftpy encodes no message but those of this table.
    packet.errmsgs = {code: text.encode("ascii")}
    return bytes(packet.encode().buffer)


def encode_oack(options: tuple[tuple[str, str], ...]) -> bytes:
    """Return an OACK. Names and values are ASCII without NUL."""
    packet = TftpPacketOACK()
    packet.options = dict(options)
    return bytes(packet.encode().buffer)


def _request(opcode: int, datagram: bytes) -> Request:
    if len(datagram) > MAX_REQUEST:
        raise MalformedPacket("the request is too long", opcode)
    name, *more = datagram[2:].split(b"\0")
    if not more or not more[0]:
        raise MalformedPacket("the request has no mode", opcode)
    if not more[0].isascii():
        raise MalformedPacket("the request's mode is not text", opcode)
    mode = more[0].decode("ascii")
    return Request(
        is_write=opcode == Opcode.WRQ,
        name=name.decode("utf-8", "replace"),
        mode=mode.lower(),
        options=_options(more[1:]),
        mode_as_sent=mode,
    )


def _options(strings: list[bytes]) -> tuple[tuple[str, str], ...]:
    found: dict[str, tuple[str, str]] = {}
    for name, value in zip(strings[::2], strings[1::2], strict=False):
        if not name:
            break  # padding: what follows is not aligned to pairs any more
        if name.isascii() and value.isascii():
            option = (name.decode("ascii"), value.decode("ascii"))
            found.setdefault(option[0].lower(), option)
    return tuple(found.values())


def _error(datagram: bytes) -> Error:
    try:
        # tftpy takes the last byte for the NUL, also where there is none.
        packet = _factory.parse(datagram[: _LONGEST_MESSAGE + 4] + b"\0")
    except Exception as error:
        raise MalformedPacket("the ERROR is unreadable", Opcode.ERROR) from error
    message, *_ = bytes(packet.errmsg or b"").split(b"\0")
    return Error(int(packet.errorcode), message.decode("utf-8", "replace"))
