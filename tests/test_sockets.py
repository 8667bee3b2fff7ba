from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bootserve.endpoint import Endpoint
from bootserve.http.listener import missing_options, open_listener
from bootserve.sockets import ListenError, open_endpoint

from .conftest import Unprivileged


@contextmanager
def _opened(text: str) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        sockets = open_endpoint(Endpoint.parse(text), open_listener, door="HTTP", flag="--http")
        for sock in sockets:
            stack.enter_context(sock)
        yield sockets


def _refusal(text: str) -> str:
    with pytest.raises(ListenError) as caught, _opened(text):
        pass
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"HTTP cannot listen on {text}: ")
    assert "--http" in sentence
    return sentence


@contextmanager
def _accepted(listener: socket.socket, address: str) -> Iterator[socket.socket]:
    with socket.create_connection((address, listener.getsockname()[1])) as client:
        assert client.getpeername()[1] == listener.getsockname()[1]
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            yield connection


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize("taken_on", ["127.0.0.1", "0.0.0.0"])
def test_a_busy_port_is_told_as_such(taken_on: str) -> None:
    with socket.create_server((taken_on, 0)) as other:
        sentence = _refusal(f"127.0.0.1:{other.getsockname()[1]}")
    assert "another program listens there" in sentence


@pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6 on its loopback")
def test_a_port_that_is_busy_for_one_family_only_leaves_no_half_open_door() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=False) as other:
        port = other.getsockname()[1]
        assert "another program listens there" in _refusal(f"*:{port}")
        with socket.create_server(("0.0.0.0", port)) as ours:
            assert ours.getsockname()[1] == port


@pytest.mark.parametrize("text", ["192.0.2.1:8080", "[2001:db8::1]:8080"])
def test_an_address_that_the_host_has_not(text: str) -> None:
    assert "no such address" in _refusal(text)


def test_an_interface_that_the_host_has_not() -> None:
    sentence = _refusal("[fe80::1%no-such-link]:8080")
    assert "Unknown error" not in sentence


def test_a_port_that_takes_a_permission(unprivileged: Unprivileged) -> None:
    done = unprivileged(
        """
first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
if first_free < 2:
    print("no port of this host takes a permission")
    sys.exit(3)
try:
    open_endpoint(Endpoint("127.0.0.1", first_free - 1), open_listener, door="HTTP", flag="--http")
except ListenError as error:
    print(error)
"""
    )
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP cannot listen on 127.0.0.1:")
    assert len(done.stdout.splitlines()) == 1
    for remedy in ("AmbientCapabilities=CAP_NET_BIND_SERVICE", "sysctl", "--http"):
        assert remedy in done.stdout


@pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6 on its loopback")
def test_every_address_means_both_families_on_one_port() -> None:
    with _opened("*:0") as sockets:
        assert {sock.family for sock in sockets} == {socket.AF_INET, socket.AF_INET6}
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        for sock in sockets:
            address = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
            with _accepted(sock, address) as connection:
                # Not ::ffff:127.0.0.1, under which no log and no configuration would know it.
                assert connection.getpeername()[0] == address


def test_one_address_means_one_socket() -> None:
    with _opened("127.0.0.1:0") as sockets:
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1"]


def test_a_port_can_be_taken_again_right_after_a_connection_on_it() -> None:
    with _opened("127.0.0.1:0") as (listener,):
        port = listener.getsockname()[1]
        with _accepted(listener, "127.0.0.1") as connection:
            # Whoever closes first is left in TIME_WAIT, which bars a port without SO_REUSEADDR.
            connection.shutdown(socket.SHUT_WR)
    with _opened(f"127.0.0.1:{port}") as (again,):
        assert again.getsockname()[1] == port


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_options_hold_on_an_accepted_connection(address: str) -> None:
    if ":" in address and not _has_ipv6():
        pytest.skip("this host has no IPv6 on its loopback")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with open_listener(family, address, 0) as listener, _accepted(listener, address) as connection:
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        # A progress timer in disguise: it would end transfers to slow readers.
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert missing_options(connection) == []


def test_an_option_that_does_not_hold_is_named() -> None:
    with (
        open_listener(socket.AF_INET, "127.0.0.1", 0) as listener,
        _accepted(listener, "127.0.0.1") as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        assert missing_options(connection) == ["TCP_KEEPIDLE", "TCP_NODELAY"]
