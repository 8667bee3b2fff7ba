"""Many datagrams with one system call: recvmmsg(2), which Python does not have.

Each datagram is still received as one: no UDP_GRO, which firmware does not have either. What is
saved is Python's time, so that the client is not what is measured.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Final

HEADER: Final = 4
"""Bytes of opcode and block number, which are put apart from the payload."""
MOST: Final = 64
"""Datagrams of one call: the largest window that is measured."""

_MSG_WAITFORONE: Final = 0x10000  # linux/socket.h
_NOTHING: Final = (errno.EAGAIN, errno.EINTR)


class _Slice(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Head(ctypes.Structure):
    """struct msghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("slices", ctypes.POINTER(_Slice)),
        ("slice_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = (("head", _Head), ("length", ctypes.c_uint))


class Inbox:
    """Room for datagrams, used again for each call and by all sockets.

    Args:
        payload: most bytes of a datagram after its header; the rest is cut off.
    """

    def __init__(self, payload: int) -> None:
        self.headers: Final = bytearray(HEADER * MOST)
        """One after another."""
        self.payloads: Final = bytearray(payload * MOST)
        """One after another: full ones in order are a piece of the file."""
        heads = ctypes.addressof(ctypes.c_char.from_buffer(self.headers))
        bodies = ctypes.addressof(ctypes.c_char.from_buffer(self.payloads))
        self._slices = (_Slice * (2 * MOST))()
        self._messages = (_Message * MOST)()
        for place, message in enumerate(self._messages):
            head, body = self._slices[2 * place], self._slices[2 * place + 1]
            head.base, head.size = heads + HEADER * place, HEADER
            body.base, body.size = bodies + payload * place, payload
            message.head.slices = ctypes.pointer(head)
            message.head.slice_count = 2
        # The words of the structures that hold the length of each datagram.
        words = memoryview(self._messages).cast("B").cast("I")
        stride = ctypes.sizeof(_Message) // 4
        self._lengths = words[_Message.length.offset // 4 :: stride]
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = (
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p),
        )
        self._address = ctypes.addressof(self._messages)

    def receive(self, descriptor: int, *, is_waiting: bool) -> int:
        """Return how many have come; 0 if there is none.

        Args:
            is_waiting: wait for the first of them, as long as the socket's SO_RCVTIMEO says.

        Raises:
            OSError: what the socket has to report, such as that nobody listens there.
        """
        flags = _MSG_WAITFORONE if is_waiting else socket.MSG_DONTWAIT
        count: int = self._recvmmsg(descriptor, self._address, MOST, flags, None)
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number in _NOTHING:
            return 0
        raise OSError(number, os.strerror(number))

    def lengths(self, count: int) -> list[int]:
        """Of the first `count` datagrams, with their headers."""
        return self._lengths[:count].tolist()
