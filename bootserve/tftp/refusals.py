"""What is not answered with a file: TFTP's own errors, and a bounded number of log lines."""

from __future__ import annotations

import logging

from bootserve.events import with_fields
from bootserve.text import as_word, printable
from bootserve.tftp import sockets
from bootserve.tftp.answer import Refusal
from bootserve.tftp.packet import ErrorCode, MalformedPacket, Opcode, Request, encode_error
from bootserve.tftp.sockets import Peer
from bootserve.tftp.wire import ListeningPort
from bootserve.watch.fields import of_refusal
from bootserve.watch.quiet import QuietLog
from bootserve.watch.ration import Ration

logger = logging.getLogger("bootserve.tftp")

_ANSWERS = frozenset({Opcode.DATA, Opcode.ACK, Opcode.ERROR, Opcode.OACK})
_REQUESTS = frozenset({Opcode.RRQ, Opcode.WRQ})


class Refusals:
    """Refuses from the listening ports, for which no descriptor is needed."""

    def __init__(self) -> None:
        self.for_want = 0
        """Requests that were refused for want of something of ours, see `Refusal`."""
        # One each, so that a flood of one kind does not hide the others.
        self._refused = QuietLog(logger)
        self._malformed = QuietLog(logger)
        self._explained = Ration()

    def refuse(self, port: ListeningPort, request: Request, peer: Peer, refusal: Refusal) -> None:
        """Answer a request with the ERROR that it gets."""
        self.for_want += refusal.is_for_want
        self._refused.log(
            logging.INFO,
            "TFTP %s %s refused: %s",
            printable(peer.client_host),
            as_word(request.name),
            printable(refusal.reason),
            extra=with_fields(of_refusal, "TFTP", peer.client_host, request.name, refusal.reason),
        )
        sockets.reply(port.sock, encode_error(refusal.code, refusal.message), peer)

    def explain(self, port: ListeningPort, peer: Peer, error: MalformedPacket) -> None:
        """Answer a packet without a meaning with ERROR 4, but never an answer.

        One that is not even a broken request gets it only while few of them come: some services
        answer whatever comes, and with two of that kind it would never end.
        """
        self._malformed.log(
            logging.INFO,
            "TFTP %s malformed packet: %s",
            printable(peer.client_host),
            error,
            extra=with_fields(of_refusal, "TFTP", peer.client_host, "", str(error)),
        )
        if error.opcode is None or error.opcode in _ANSWERS:
            return
        if error.opcode in _REQUESTS or self._explained.admits():
            message = encode_error(ErrorCode.ILLEGAL_OPERATION, "malformed packet")
            sockets.reply(port.sock, message, peer)

    def ignore(self, peer: Peer, why: str) -> None:
        """Say that a packet is not answered at all."""
        self._malformed.log(logging.INFO, "TFTP %s %s, ignored", printable(peer.client_host), why)
