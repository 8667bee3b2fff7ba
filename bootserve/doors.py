"""The sockets of a process that is about to serve: handed over to it, or bound by itself."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bootserve.endpoint import Endpoint, as_configured
from bootserve.http import listener
from bootserve.settings import Settings
from bootserve.sockets import ListenError, OpenSocket, open_endpoint
from bootserve.systemd import OWN, Inherited
from bootserve.tftp import sockets as tftp_sockets


@dataclass
class Doors:
    """The sockets of a process that is about to serve. Whoever opened them closes them."""

    http: list[socket.socket] = field(default_factory=list)
    tftp: list[socket.socket] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """A sentence for each address that is not served although somebody may think so."""

    names: dict[socket.socket, str] = field(default_factory=dict)
    """What a service manager called the sockets that are its own."""

    def close(self) -> None:
        for sock in (*self.http, *self.tftp):
            sock.close()

    def to_hand_over(self) -> list[Inherited]:
        """Every socket, as a successor will inherit it."""
        return [
            Inherited(sock, self.names.get(sock, OWN))
            for sock in (*self.http, *self.tftp)
            if sock.fileno() != -1
        ]

    def http_endpoints(self) -> list[Endpoint]:
        return [endpoint for sock in self.http for endpoint in _endpoints(sock)]

    def tftp_endpoints(self) -> list[Endpoint]:
        return [endpoint for sock in self.tftp for endpoint in _endpoints(sock)]

    @property
    def http_port(self) -> int:
        return int(self.http[0].getsockname()[1])

    @property
    def tftp_port(self) -> int | None:
        """The port of the TFTP door, 69 if that is one of them; ``None`` if it is closed."""
        ports = [int(sock.getsockname()[1]) for sock in self.tftp]
        return None if not ports else 69 if 69 in ports else ports[0]


def open_doors(settings: Settings, inherited: Sequence[Inherited] = ()) -> Doors:
    """Take or bind a socket for every address of the settings.

    Of the inherited sockets, one that has such an address is taken for it. A service manager's
    are served even if the settings do not name them: its socket units are configuration, too. What
    a predecessor has opened and the settings no longer name is closed.

    Args:
        inherited: they are this function's from now on.

    Raises:
        ListenError: an address that is not optional is not to be had, or none is.
    """
    doors = Doors(names={item.sock: item.name for item in inherited if item.is_managed})
    http, tftp = _Offer(inherited, socket.SOCK_STREAM), _Offer(inherited, socket.SOCK_DGRAM)
    try:
        doors.http = _Door("HTTP", "--http", listener.open_listener, listener.prepare, http).open(
            settings.http.listen, doors.notes
        )
        doors.tftp = _Door(
            "TFTP", "--tftp", tftp_sockets.open_socket, tftp_sockets.prepare, tftp
        ).open(settings.tftp.listen, doors.notes)
        if not doors.http:
            raise ListenError("; ".join(doors.notes))
    except BaseException:
        doors.close()
        for item in inherited:
            item.sock.close()
        raise
    return doors


class _Offer:
    """The inherited sockets of one type, until somebody takes them."""

    def __init__(self, inherited: Iterable[Inherited], kind: socket.SocketKind) -> None:
        self._free = [item for item in inherited if item.sock.type == kind]
        self._taken: list[socket.socket] = []

    def take(
        self, family: socket.AddressFamily, host: str, port: int, *, managed_only: bool = False
    ) -> socket.socket | None:
        """Return the socket for an address; port 0 is any. One for both families is for either."""
        try:
            wanted = _key(family, host, port)
        except OSError:
            return None  # there is no such interface, which whoever binds it will be told
        for item in self._free:
            if managed_only and not item.is_managed:
                continue
            key = _key_of(item.sock)
            if key == wanted or (port == 0 and key[:2] == wanted[:2]):
                self._free.remove(item)
                self._taken.append(item.sock)
                return item.sock
        for sock in (*self._taken, *(item.sock for item in self._free)):
            if (
                sock.fileno() != -1
                and _is_dual(sock)
                and host in _EVERYWHERE
                and port == sock.getsockname()[1]
            ):
                self._free = [item for item in self._free if item.sock is not sock]
                self._taken.append(sock)
                return sock
        return None

    def in_the_way_of(self, port: int) -> Inherited | None:
        """The socket that nobody has taken and that keeps another one from this port."""
        return next((item for item in self._free if item.sock.getsockname()[1] == port), None)

    def unnamed(self) -> list[Inherited]:
        """Those of a service manager's that nobody has taken."""
        return [item for item in self._free if item.is_managed]

    def rest(self) -> list[Inherited]:
        """What nobody has taken."""
        free, self._free = self._free, []
        return free


@dataclass(frozen=True)
class _Door:
    name: str
    flag: str
    bind: OpenSocket
    prepare: Callable[[socket.socket], None]
    offer: _Offer

    def open(self, listen: Iterable[Endpoint], notes: list[str]) -> list[socket.socket]:
        endpoints = list(dict.fromkeys(listen))
        found: dict[Endpoint, list[socket.socket]] = {}
        rest: list[socket.socket] = []
        try:
            # "Any port" takes what the others leave.
            for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.port == 0):
                found[endpoint] = self._open(endpoint, notes)
            for item in self.offer.rest():
                if item.is_managed:
                    self._adopt(item.sock)
                    rest.append(item.sock)
                else:
                    notes.append(
                        f"{self.name} on {_endpoints(item.sock)[0]}, which is no longer in the"
                        " configuration"
                    )
                    item.sock.close()
        except BaseException:
            for sock in (*(sock for opened in found.values() for sock in opened), *rest):
                sock.close()
            raise
        opened = [sock for endpoint in endpoints for sock in found[endpoint]]
        # A socket for both families was taken for each of them.
        return list(dict.fromkeys((*opened, *rest)))

    def _open(self, endpoint: Endpoint, notes: list[str]) -> list[socket.socket]:
        if managed := self._open_managed(endpoint, notes):
            return managed
        try:
            return open_endpoint(endpoint, self._take_or_bind, door=self.name, flag=self.flag)
        except ListenError as error:
            sentence = self._better(error, endpoint)
            if not endpoint.is_optional:
                raise ListenError(sentence) from error
            notes.append(sentence)
            return []

    def _open_managed(self, endpoint: Endpoint, notes: list[str]) -> list[socket.socket]:
        """What a service manager has for an address. It is served even if a part is missing."""
        families = _FAMILIES if endpoint.host is None else [_family(endpoint.host)]
        found: dict[socket.AddressFamily, socket.socket] = {}
        for family, host in families:
            port = endpoint.port or next((s.getsockname()[1] for s in found.values()), 0)
            if sock := self.offer.take(family, host, port, managed_only=True):
                self._adopt(sock)
                found[family] = sock
        for family, host in families if found else []:
            port = next(sock.getsockname()[1] for sock in found.values())
            if family in found:
                continue
            try:
                found[family] = self._take_or_bind(family, host, port)
            except OSError as error:
                notes.append(
                    f"{self.name} on {Endpoint(host, port)}, for which the service manager has"
                    f" handed over no socket: {error.strerror}"
                )
        return list(found.values())

    def _adopt(self, sock: socket.socket) -> None:
        try:
            self.prepare(sock)
        except OSError as error:
            raise ListenError(
                f"{self.name}: the socket for {_endpoints(sock)[0]} that was handed over cannot be"
                f" used: {error.strerror}"
            ) from error

    def _take_or_bind(self, family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        sock = self.offer.take(family, host, port)
        if sock is None:
            return self.bind(family, host, port)
        self.prepare(sock)
        return sock

    def _better(self, error: ListenError, endpoint: Endpoint) -> str:
        why = getattr(error.__cause__, "errno", None)
        if why in (errno.EACCES, errno.EPERM) and (managed := self.offer.unnamed()):
            places = ", ".join(
                as_configured(place for item in managed for place in _endpoints(item.sock))
            )
            return (
                f"{self.name} cannot listen on {endpoint}: the service manager has handed over"
                f" {places} instead; {_NAME_THE_SAME}"
            )
        other = self.offer.in_the_way_of(endpoint.port)
        if other is None or why != errno.EADDRINUSE:
            return str(error)
        covering = f"{self.name} cannot listen on {endpoint}: the socket for"
        where = _endpoints(other.sock)[0]
        if other.is_managed:
            return (
                f"{covering} {where} that the service manager has handed over has this port;"
                f" {_NAME_THE_SAME}"
            )
        return (
            f"{covering} {where} that was handed over has this port; let the configuration name"
            " that address, or stop the server and start it again"
        )


_NAME_THE_SAME = (
    "let the configuration name that address, or the socket unit this one (ListenStream=,"
    " ListenDatagram=)"
)

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (what "*" stands for)
_FAMILIES = [(socket.AF_INET, _EVERYWHERE[0]), (socket.AF_INET6, _EVERYWHERE[1])]

_Key = tuple[int, tuple[bytes, int], int]


def _family(host: str) -> tuple[socket.AddressFamily, str]:
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), host


def _key(family: socket.AddressFamily, host: str, port: int) -> _Key:
    """What two sockets that are the same to a client have in common; raises OSError."""
    scope = 0
    if "%" in host:
        numeric = socket.AI_NUMERICHOST
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, numeric)[0][4]
        host, scope = str(address[0]).partition("%")[0], int(address[3])  # type: ignore[misc]
    return family, (socket.inet_pton(family, host), scope), port


def _key_of(sock: socket.socket) -> _Key:
    address = sock.getsockname()
    scope = int(address[3]) if sock.family == socket.AF_INET6 else 0
    packed = socket.inet_pton(sock.family, address[0].partition("%")[0])
    return sock.family, (packed, scope), int(address[1])


def _is_dual(sock: socket.socket) -> bool:
    """Whether it is for IPv4 clients as well, as systemd's ``ListenStream=80`` is."""
    return (
        sock.family == socket.AF_INET6
        and sock.getsockname()[0] == "::"
        and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    )


def _endpoints(sock: socket.socket) -> list[Endpoint]:
    host, port = sock.getsockname()[:2]
    return [Endpoint(each, port) for each in (_EVERYWHERE if _is_dual(sock) else (host,))]
