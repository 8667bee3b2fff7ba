"""The TFTP benchmark's client, against a server that does exactly what the test says."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.tftp.client import ACK, DATA, ERROR, OACK, fetch
from bench.tftp.order import Order, Outcome

BLKSIZE = 64
WINDOW = 4
FILE = random.Random(1).randbytes(BLKSIZE * 200 + 7)
BLOCKS = len(FILE) // BLKSIZE + 1

Serve = Callable[[socket.socket], None]


@contextmanager
def serving(serve: Serve) -> Iterator[int]:
    """Call `serve` with a socket of its own, connected to who asks, for the first who does so."""

    def answer() -> None:
        _, client = listener.recvfrom(1500)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as transfer:
            transfer.settimeout(10)
            transfer.bind(("127.0.0.1", 0))
            transfer.connect(client)
            serve(transfer)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def agree(transfer: socket.socket) -> None:
    terms = f"blksize\0{BLKSIZE}\0windowsize\0{WINDOW}\0".encode()
    transfer.send(struct.pack("!H", OACK) + terms)
    assert acknowledged(transfer) == 0


def acknowledged(transfer: socket.socket) -> int:
    kind, number = struct.unpack("!HH", transfer.recv(4))
    assert kind == ACK
    return int(number)


def send(transfer: socket.socket, *numbers: int) -> None:
    for number in numbers:
        start = (number - 1) * BLKSIZE
        block = FILE[start : start + BLKSIZE]
        transfer.send(struct.pack("!HH", DATA, number) + block)


def send_rest(transfer: socket.socket, after: int) -> None:
    while after < BLOCKS:
        last = min(after + WINDOW, BLOCKS)
        send(transfer, *range(after + 1, last + 1))
        after = acknowledged(transfer)
        assert after == last


def get(port: int, size: int = len(FILE)) -> Outcome:
    order = Order(
        *("127.0.0.1", port, "file", size),
        blksize=BLKSIZE,
        windowsize=WINDOW,
        digest=True,
        limit=10,
    )
    return fetch(order)


def test_acknowledges_each_window_and_the_end() -> None:
    def serve(transfer: socket.socket) -> None:
        agree(transfer)
        send_rest(transfer, 0)

    with serving(serve) as port:
        outcome = get(port)
    assert (outcome.completed, outcome.failures) == (1, {})
    assert outcome.bytes == len(FILE)
    assert outcome.digest == hashlib.sha256(FILE).hexdigest()
    assert (outcome.blksize, outcome.windowsize) == (BLKSIZE, WINDOW)


def test_asks_once_for_what_is_missing() -> None:
    def serve(transfer: socket.socket) -> None:
        agree(transfer)
        send(transfer, 1, 3, 4)
        assert acknowledged(transfer) == 1
        send_rest(transfer, 1)

    with serving(serve) as port:
        outcome = get(port)
    assert (outcome.completed, outcome.gaps) == (1, 1)
    assert outcome.digest == hashlib.sha256(FILE).hexdigest()


def test_counts_blocks_that_come_twice() -> None:
    def serve(transfer: socket.socket) -> None:
        agree(transfer)
        send(transfer, 1, 2, 3, 4)
        assert acknowledged(transfer) == 4
        send(transfer, 4)
        assert acknowledged(transfer) == 4
        send_rest(transfer, 4)

    with serving(serve) as port:
        outcome = get(port)
    assert (outcome.completed, outcome.duplicates) == (1, 1)
    assert outcome.digest == hashlib.sha256(FILE).hexdigest()


def test_a_refusal_is_a_failure() -> None:
    def serve(transfer: socket.socket) -> None:
        transfer.send(struct.pack("!HH", ERROR, 1) + b"File not found\0")

    with serving(serve) as port:
        outcome = get(port)
    assert outcome.failures == {"ERROR 1: File not found": 1}
    assert outcome.completed == 0


def test_a_file_of_another_length_is_a_failure() -> None:
    def serve(transfer: socket.socket) -> None:
        agree(transfer)
        send_rest(transfer, 0)

    with serving(serve) as port:
        outcome = get(port, size=len(FILE) + 1)
    assert outcome.failures == {"another length": 1}
