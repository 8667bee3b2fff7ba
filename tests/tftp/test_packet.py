"""The codec, with tftpy's own as the oracle for what both understand."""

from __future__ import annotations

import logging
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tftpy.TftpPacketFactory import TftpPacketFactory
from tftpy.TftpPacketTypes import (
    TftpPacketACK,
    TftpPacketDAT,
    TftpPacketERR,
    TftpPacketOACK,
    TftpPacketRRQ,
    TftpPacketWRQ,
)

from bootserve.tftp.blocks import HEADER, Layout
from bootserve.tftp.packet import (
    MAX_REQUEST,
    Ack,
    Error,
    ErrorCode,
    MalformedPacket,
    OutOfPlace,
    Request,
    encode_error,
    encode_oack,
    parse,
)

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
option_names = words.map(str.lower)


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"\0\1f\0octet\0", Request(False, "f", "octet")),
        (b"\0\2f\0octet\0", Request(True, "f", "octet")),
        (b"\0\1f\0OcTeT\0", Request(False, "f", "octet")),
        (b"\0\1f\0octet", Request(False, "f", "octet")),
        (b"\0\1f\0mail\0", Request(False, "f", "mail")),
        (b"\0\1\0octet\0", Request(False, "", "octet")),
        (b"\0\1/a//b\\c\0octet\0", Request(False, "/a//b\\c", "octet")),
        ("\0\1größe\0octet\0".encode(), Request(False, "größe", "octet")),
        (b"\0\1gr\xf6\xdfe\0octet\0", Request(False, "gr\ufffd\ufffde", "octet")),
    ],
)
def test_requests(datagram: bytes, expected: Request) -> None:
    assert parse(datagram) == expected


@pytest.mark.parametrize(
    ("tail", "options"),
    [
        (b"blksize\x001432\0tsize\x000\0", (("blksize", "1432"), ("tsize", "0"))),
        (b"BlkSize\x001432\0", (("BlkSize", "1432"),)),
        (b"blksize\x001432\0BLKSIZE\x0016\0", (("blksize", "1432"),)),
        (b"blksize\x001432", (("blksize", "1432"),)),
        (b"blksize\0\0tsize\x000\0", (("blksize", ""), ("tsize", "0"))),
        (b"blksize", ()),
        (b"blksize\0", (("blksize", ""),)),
        (bytes(40), ()),
        (b"tsize\x000\0" + bytes(41), (("tsize", "0"),)),
        (b"blk\xffsize\x001\0tsize\x000\0", (("tsize", "0"),)),
        (b"blksize\0\xff\0tsize\x000\0", (("tsize", "0"),)),
        (b"\xde\xad\xbe\xef", ()),
    ],
)
def test_options_as_real_firmware_sends_them(
    tail: bytes, options: tuple[tuple[str, str], ...]
) -> None:
    assert parse(b"\0\1f\0octet\0" + tail) == Request(False, "f", "octet", options)


@pytest.mark.parametrize(
    ("datagram", "opcode"),
    [
        (b"", None),
        (b"\0", None),
        (b"\0\1", 1),
        (b"\0\4\0", 4),
        (b"\0\1file", 1),
        (b"\0\1file\0", 1),
        (b"\0\1file\0\0", 1),
        (b"\0\1file\0oct\xe9t\0", 1),
        (b"\0\1" + b"f" * MAX_REQUEST + b"\0octet\0", 1),
        (b"\0\0file\0octet\0", 0),
        (b"\0\7file\0octet\0", 7),
        (b"\xff\xff\xff\xff", 0xFFFF),
    ],
)
def test_malformed(datagram: bytes, opcode: int | None) -> None:
    with pytest.raises(MalformedPacket) as caught:
        parse(datagram)
    assert caught.value.opcode == opcode


@given(st.binary(max_size=600))
@example(b"\0\5\0\0")
@example(b"\0\5\0\0no last NUL")
def test_any_datagram_is_a_packet_or_malformed(datagram: bytes) -> None:
    try:
        packet = parse(datagram)
    except MalformedPacket:
        return
    assert isinstance(packet, Request | Ack | Error | OutOfPlace)


@given(st.sampled_from([1, 2, 5]), st.binary(max_size=200))
def test_any_body_behind_a_valid_opcode(opcode: int, body: bytes) -> None:
    try:
        packet = parse(struct.pack("!H", opcode) + body)
    except MalformedPacket:
        return
    if isinstance(packet, Request):
        packet.name.encode()  # no lone surrogates, which would be an error in a log or a page
        names = [name.lower() for name, _ in packet.options]
        assert len(names) == len(set(names))
        assert packet.mode
        assert "\0" not in packet.name


@given(st.binary(max_size=100).map(lambda body: b"\0\1" + body))
def test_reads_every_request_that_tftpy_reads(datagram: bytes) -> None:
    try:
        theirs = TftpPacketFactory().parse(datagram)
    except Exception:
        return
    if not theirs.mode:
        return  # tftpy takes a request without a mode
    ours = parse(datagram)
    assert isinstance(ours, Request)
    assert (ours.name, ours.mode) == (theirs.filename, theirs.mode)
    assert set(ours.options) <= set(theirs.options.items()) or len(
        {name.lower() for name in theirs.options}
    ) < len(theirs.options)


@given(words, st.booleans(), st.dictionaries(option_names, words, max_size=5))
def test_reads_what_tftpy_encodes(name: str, is_write: bool, options: dict[str, str]) -> None:
    packet = TftpPacketWRQ() if is_write else TftpPacketRRQ()
    packet.filename, packet.mode, packet.options = name, "octet", options
    expected = Request(is_write, name, "octet", tuple(options.items()))
    assert parse(packet.encode().buffer) == expected


@given(st.integers(0, 0xFFFF))
def test_ack(number: int) -> None:
    packet = TftpPacketACK()
    packet.blocknumber = number
    assert parse(packet.encode().buffer) == Ack(number)
    assert parse(packet.encode().buffer + b"padding") == Ack(number)


@pytest.mark.parametrize("code", range(1, 9))
def test_error_from_tftpy(code: int) -> None:
    packet = TftpPacketERR()
    packet.errorcode = code
    assert parse(packet.encode().buffer) == Error(code, packet.errmsgs[code].decode())


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"\0\5\0\0", Error(0, "")),
        (b"\0\5\0\x08no tsize\0", Error(8, "no tsize")),
        (b"\0\5\0\x08no tsize", Error(8, "no tsize")),
        (b"\0\5\0\0text\0\0\0\0", Error(0, "text")),
        (b"\0\5\xab\xcd\xff\0", Error(0xABCD, "\ufffd")),
    ],
)
def test_errors_of_odd_firmware(datagram: bytes, expected: Error) -> None:
    assert parse(datagram) == expected


def test_an_error_packet_writes_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        parse(b"\0\5\0\0\x1b[31mforged line\0")
    assert not caplog.records


def test_data_and_oack_are_out_of_place() -> None:
    data = TftpPacketDAT()
    data.blocknumber, data.data = 7, b"upload"
    assert parse(data.encode().buffer) == OutOfPlace(3)
    assert parse(b"\0\6blksize\x008\0") == OutOfPlace(6)


@given(st.integers(1, 200_000), st.binary(max_size=20))
def test_data_is_what_tftpy_reads(block: int, body: bytes) -> None:
    packet = Layout((block - 1) * 21 + len(body), 21, 1).framed(block)
    packet[HEADER:] = body
    theirs = TftpPacketFactory().parse(bytes(packet))
    assert (theirs.blocknumber, theirs.data) == (block % 65536, body)


@given(st.sampled_from(list(ErrorCode)), st.text(max_size=300))
def test_our_errors_are_what_tftpy_reads(code: ErrorCode, message: str) -> None:
    datagram = encode_error(code, message)
    theirs = TftpPacketFactory().parse(datagram)
    assert theirs.errorcode == code
    assert theirs.errmsg.decode("ascii").isprintable()
    assert len(theirs.errmsg) == min(len(message), 200)
    assert parse(datagram) == Error(code, theirs.errmsg.decode("ascii"))


def test_our_errors_carry_our_text() -> None:
    assert encode_error(0, "server busy") == b"\0\5\0\0server busy\0"


@given(st.dictionaries(option_names, words, min_size=1, max_size=5))
def test_our_oack_is_what_tftpy_reads(options: dict[str, str]) -> None:
    theirs = TftpPacketFactory().parse(encode_oack(tuple(options.items())))
    assert isinstance(theirs, TftpPacketOACK)
    assert theirs.options == options
