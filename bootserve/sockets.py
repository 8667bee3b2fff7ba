"""An endpoint becomes bound sockets, or one clear sentence."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from bootserve.endpoint import Endpoint

OpenSocket = Callable[[socket.AddressFamily, str, int], socket.socket]
"""Makes one bound socket for a family, host and port; raises OSError."""


class ListenError(Exception):
    """An address cannot be listened on; ``str()`` says why and what to do."""


def open_endpoint(
    endpoint: Endpoint, open_socket: OpenSocket, *, door: str, flag: str
) -> list[socket.socket]:
    """Bind the sockets of one endpoint; the caller owns them.

    Every address means a socket for IPv4 and, where the host has it, one for IPv6 on the same
    port, each for its own family only, so that clients appear under their plain addresses.

    Args:
        door, flag: what the operator calls the door and its option, for the error.

    Raises:
        ListenError: the address or port is not to be had.
    """

    def bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        try:
            return open_socket(family, host, port)
        except OSError as error:
            raise ListenError(_explain(error, door, flag, endpoint)) from error

    if endpoint.host is not None:
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        return [bind(family, endpoint.host, endpoint.port)]
    sockets = [bind(socket.AF_INET, "0.0.0.0", endpoint.port)]  # noqa: S104
    if _has_ipv6():
        try:
            sockets.append(bind(socket.AF_INET6, "::", sockets[0].getsockname()[1]))
        except ListenError:
            sockets[0].close()
            raise
    return sockets


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _explain(error: OSError, door: str, flag: str, endpoint: Endpoint) -> str:
    if error.errno == errno.EADDRINUSE:
        remedy = f"another program listens there; stop it or choose another port with {flag}"
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = (
            "ports below 1024 need a permission; grant it with systemd's"
            " AmbientCapabilities=CAP_NET_BIND_SERVICE or"
            f" `sysctl -w net.ipv4.ip_unprivileged_port_start={min(endpoint.port, 69)}` as root,"
            f" or choose a higher port with {flag}"
        )
    elif error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        remedy = f"this host has no such address; see `ip address`, and choose one with {flag}"
    else:
        remedy = f"{os.strerror(error.errno or 0)}; choose another address with {flag}"
    return f"{door} cannot listen on {endpoint}: {remedy}"
