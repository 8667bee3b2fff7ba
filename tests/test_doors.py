"""Which sockets a process serves: those it inherits, and those it binds."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from bootserve.doors import Doors, open_doors
from bootserve.http import listener
from bootserve.http.listener import open_listener
from bootserve.settings import Settings
from bootserve.sockets import ListenError, _has_ipv6
from bootserve.systemd import OWN, Inherited
from bootserve.tftp.sockets import open_socket


def _settings(http: str, tftp: str = "off") -> Settings:
    return Settings.model_validate({"http": {"listen": http}, "tftp": {"listen": tftp}})


@contextlib.contextmanager
def _opened(settings: Settings, *inherited: Inherited) -> Iterator[Doors]:
    doors = open_doors(settings, inherited)
    try:
        yield doors
    finally:
        doors.close()


def _tcp(host: str = "127.0.0.1", name: str = OWN) -> Inherited:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Inherited(open_listener(family, host, 0), name)


def _udp() -> Inherited:
    return Inherited(open_socket(socket.AF_INET, "127.0.0.1", 0))


def _port(item: Inherited) -> int:
    return int(item.sock.getsockname()[1])


def test_an_inherited_socket_serves_its_address() -> None:
    tcp, udp = _tcp(), _udp()
    settings = _settings(f"127.0.0.1:{_port(tcp)}", f"127.0.0.1:{_port(udp)}")
    with _opened(settings, udp, tcp) as doors:
        assert doors.http == [tcp.sock]
        assert doors.tftp == [udp.sock]
        assert doors.notes == []


def test_an_address_without_an_inherited_socket_is_bound() -> None:
    tcp = _tcp()
    with _opened(_settings(f"127.0.0.1:0,127.0.0.1:{_port(tcp)}"), tcp) as doors:
        new, old = doors.http
        assert old is tcp.sock
        assert new.getsockname()[1] not in (0, old.getsockname()[1])


def test_any_port_takes_what_is_there_once_and_only_on_its_own_address() -> None:
    one, two, elsewhere = _tcp(), _tcp(), _tcp("0.0.0.0")
    with _opened(_settings(f"127.0.0.1:0,127.0.0.1:{_port(one)}"), one, two, elsewhere) as doors:
        assert doors.http == [two.sock, one.sock]
        assert elsewhere.sock.fileno() == -1


def test_a_socket_of_the_other_type_is_not_taken() -> None:
    udp = _udp()
    with _opened(_settings("127.0.0.1:0"), udp) as doors:
        assert udp.sock not in doors.http
        assert doors.tftp == []


def test_what_a_predecessor_served_and_the_configuration_no_longer_names_is_closed() -> None:
    tcp, port = (item := _tcp()), _port(item)
    with _opened(_settings("127.0.0.2:0"), tcp) as doors:
        assert tcp.sock.fileno() == -1
        [note] = doors.notes
        assert f"127.0.0.1:{port}" in note
        assert "no longer in the configuration" in note


def test_what_a_service_manager_opened_is_served_all_the_same_and_keeps_its_name() -> None:
    tcp = _tcp(name="bootserve.socket")
    with _opened(_settings("127.0.0.2:0"), tcp) as doors:
        assert doors.http[1:] == [tcp.sock]
        assert doors.notes == []
        names = {item.sock: item.name for item in doors.to_hand_over()}
        assert names == {doors.http[0]: OWN, tcp.sock: "bootserve.socket"}


@pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6")
def test_of_every_address_a_service_manager_may_have_a_part_only() -> None:
    tcp = _tcp("0.0.0.0", name="bootserve.socket")
    with _opened(_settings(f"*:{_port(tcp)}"), tcp) as doors:
        assert doors.http[0] is tcp.sock
        assert [sock.family for sock in doors.http] == [socket.AF_INET, socket.AF_INET6]
    tcp = _tcp("0.0.0.0", name="bootserve.socket")
    with (
        socket.create_server(("::", _port(tcp)), family=socket.AF_INET6, dualstack_ipv6=False),
        _opened(_settings(f"*:{_port(tcp)}"), tcp) as doors,
    ):
        assert doors.http == [tcp.sock]
        assert "Address already in use" in doors.notes[0]


def test_a_socket_in_the_way_is_told_as_the_running_servers_own() -> None:
    tcp = _tcp("0.0.0.0")
    with tcp.sock.dup():
        with pytest.raises(ListenError) as caught:
            open_doors(_settings(f"127.0.0.1:{_port(tcp)}"), [tcp])
        assert "handed over" in str(caught.value)
        assert "0.0.0.0" in str(caught.value)
        assert tcp.sock.fileno() == -1


def test_a_service_managers_socket_in_the_way_is_told_as_the_units() -> None:
    sock = socket.socket(socket.AF_INET6 if _has_ipv6() else socket.AF_INET)
    with sock:
        if _has_ipv6():
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::" if _has_ipv6() else "0.0.0.0", 0))
        sock.listen()
        managed = Inherited(sock, "bootserve.socket")
        port = _port(managed)
        with pytest.raises(ListenError) as caught:
            open_doors(_settings(f"127.0.0.1:{port}"), [managed])
    assert f"the socket for 0.0.0.0:{port} that the service manager has" in str(caught.value)
    assert "the socket unit" in str(caught.value)
    assert "stop the server" not in str(caught.value)


def test_a_port_that_only_a_service_manager_may_open_is_told_as_the_units_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tcp = _tcp(name="bootserve.socket")

    def denied(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(listener, "open_listener", denied)
    address = f"127.0.0.1:{_port(tcp)}"
    with pytest.raises(ListenError, match=rf"has handed over {address} instead; let the config"):
        open_doors(_settings("127.0.0.1:80"), [tcp])


def test_a_failure_closes_what_was_inherited_and_what_was_bound() -> None:
    tcp, extra = _tcp(), _tcp(name="bootserve.socket")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        ports = (_port(tcp), busy.getsockname()[1])
        listen = ",".join(f"127.0.0.1:{port}" for port in ports)
        with pytest.raises(ListenError, match="another program listens there"):
            open_doors(_settings(listen), [tcp, extra])
    assert tcp.sock.fileno() == extra.sock.fileno() == -1


@pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6")
def test_a_part_that_is_busy_is_told_of_as_anybodys() -> None:
    tcp = _tcp("0.0.0.0")
    port = _port(tcp)
    with (
        tcp.sock.dup(),
        socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=False),
        pytest.raises(ListenError, match="another program listens there"),
    ):
        open_doors(_settings(f"*:{port}"), [tcp])
    assert tcp.sock.fileno() == -1


def test_an_interface_that_the_host_has_not() -> None:
    tcp = _tcp()
    with pytest.raises(ListenError, match="no such address"):
        open_doors(_settings("[fe80::1%no-such-link]:8080"), [tcp])


def test_an_optional_address_that_is_busy_is_noted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"127.0.0.1:{busy.getsockname()[1]}?"
        with _opened(_settings(f"127.0.0.1:0,{listen}")) as doors:
            assert len(doors.http) == 1
            assert "another program" in doors.notes[0]
