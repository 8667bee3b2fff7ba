"""Sockets that were opened for us: the LISTEN_FDS convention of sd_listen_fds(3).

systemd's socket units hand sockets over in this way, and so does the process that we replace (see
`bootserve.handover`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

from bootserve.sockets import ListenError
from bootserve.text import as_word

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START."""

OWN: Final = "bootserve-own"
"""The name (LISTEN_FDNAMES) of a socket that a predecessor of ours has opened by itself. Every
other one is a service manager's, which may have any name."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening TCP socket or a bound UDP socket that somebody else has opened.

    ``name`` is the one of LISTEN_FDNAMES, or empty.
    """

    sock: socket.socket
    name: str = OWN

    @property
    def is_managed(self) -> bool:
        """Whether a service manager opened it, which wants it served whatever we are told else."""
        return self.name != OWN


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> list[Inherited]:
    """Adopt the sockets that are meant for this process; the caller owns them.

    The variables are removed, so that no child takes them for its own.

    Raises:
        ListenError: something else was handed over.
    """
    pid, count, names = (
        environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()):
        return []
    # int() takes no more than some thousand digits.
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise ListenError(f"LISTEN_FDS is {as_word(count)}, which is no number of descriptors")
    found: list[Inherited] = []
    words = names.split(":")
    try:
        for index in range(int(count)):
            name = words[index] if index < len(words) else ""
            found.append(Inherited(_adopt(FIRST_DESCRIPTOR + index), name))
    except ListenError:
        for item in found:
            item.sock.close()
        raise
    return found


def _adopt(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        # Family, type and protocol are then what the kernel says (SO_DOMAIN, SO_TYPE, SO_PROTOCOL).
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(
            f"descriptor {descriptor}, which LISTEN_FDS announces, is no socket: {error.strerror}"
        ) from error
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        if sock.type == socket.SOCK_DGRAM and sock.proto == socket.IPPROTO_UDP:
            return sock
        if sock.proto == socket.IPPROTO_TCP and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return sock
    sock.close()
    raise ListenError(
        f"descriptor {descriptor}, which LISTEN_FDS announces, is neither a listening TCP socket"
        " nor a UDP socket; in a socket unit, ListenStream= and ListenDatagram= with a port make"
        " such sockets"
    )
