"""systemd's journal, by its native protocol: records with fields, one datagram each.

The protocol is systemd's document "Native Journal Protocol"; the names of fields are those of
systemd.journal-fields(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")

STREAM_VARIABLE: Final = "JOURNAL_STREAM"
"""Names the stream that systemd has made standard error: ``<device>:<inode>`` (systemd.exec(5))."""

_NAME: Final = re.compile("[A-Z0-9][A-Z0-9_]{0,63}")
"""What journald takes as the name of a field from others than itself; it drops others silently."""

_TOO_LONG: Final = frozenset((errno.EMSGSIZE, errno.ENOBUFS))

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
"""Without all of them journald would have to trust the file not to change, and does not take it."""


def is_stream(descriptor: int, said: str) -> bool:
    """Return whether a descriptor is the stream that ``JOURNAL_STREAM`` says leads to journald.

    Who redirects standard error leaves the variable as it was.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return said == f"{found.st_dev}:{found.st_ino}"


def encode(fields: Mapping[str, str]) -> bytes:
    """Return a record as journald takes it; what UTF-8 cannot express is escaped.

    Raises:
        ValueError: a field has a name that journald does not take.
    """
    plain = "".join(
        f"{_checked(name)}={value}\n" for name, value in fields.items() if "\n" not in value
    )
    return plain.encode(errors="backslashreplace") + b"".join(
        _with_length(_checked(name), value) for name, value in fields.items() if "\n" in value
    )


def _with_length(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)


@cache
def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a journal's field")
    return name


class Journal:
    """The way to journald. Sending waits while journald stands still.

    Args:
        path: of its socket.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        with _new_socket() as probe:
            probe.connect(self._path)
        # Not connected: it finds a socket that is made anew, too.
        self._socket = _new_socket()

    def send(self, record: bytes) -> None:
        """Hand a record of `encode` over.

        Raises:
            OSError: it is lost.
        """
        try:
            self._socket.sendto(record, self._path)
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            self._send_as_file(record)

    def close(self) -> None:
        self._socket.close()

    def _send_as_file(self, record: bytes) -> None:
        descriptor = os.memfd_create("bootserve-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb") as file:
            file.write(record)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self._socket.sendmsg([], [rights], 0, self._path)


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
