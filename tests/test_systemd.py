"""Sockets that a service manager hands over, with a real one's convention."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootserve.sockets import ListenError
from bootserve.systemd import inherited_sockets
from tests.family import DEADLINE, Family, family

# As systemd does it between fork() and execve().
_LAUNCHER = """
import fcntl, os, sys
sources = [int(number) for number in sys.argv[1].split(",")]
copies = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 100) for source in sources]
os.closerange(3, 100)
for place, copy in enumerate(copies, 3):
    os.dup2(copy, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(copies)))
os.environ["LISTEN_FDNAMES"] = ":".join(["bootserve.socket"] * len(copies))
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def _activated(
    folder: Path, config: str, *descriptors: int, is_ready: bool = True
) -> Iterator[Family]:
    (folder / "x86_64").mkdir()
    (folder / "x86_64" / "vmlinuz").write_bytes(b"kernel")
    # In the family's own folder; what a test names of its own goes first.
    config += f'\n[assets]\nroots = ["{folder}"]\n[service]\nruntime_dir = "run"\n'
    numbers = ",".join(map(str, descriptors))
    with family(
        folder,
        config,
        launcher=(sys.executable, "-c", _LAUNCHER, numbers),
        pass_fds=descriptors,
        is_ready=is_ready,
    ) as found:
        yield found


def _tcp(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    return socket.create_server((host, port))


def _udp(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


def _fetch(host: str, port: int) -> bytes:
    url = f"http://{host}:{port}/boot/x86_64/vmlinuz"
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        data: bytes = answer.read()
    return data


def _fetch_by_tftp(host: str, port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.sendto(b"\0\1x86_64/vmlinuz\0octet\0", (host, port))
        data, _ = client.recvfrom(2048)
    assert data[:4] == b"\0\3\0\1"
    return data[4:]


def test_sockets_for_configured_addresses_are_taken_for_them(tmp_path: Path) -> None:
    with _tcp() as tcp, _udp() as udp:
        http, tftp = tcp.getsockname()[1], udp.getsockname()[1]
        # One that is not optional would fail if it were bound once more.
        config = f'[http]\nlisten = ["127.0.0.1:0", "127.0.0.1:{http}"]\n'
        config += f'[tftp]\nlisten = ["127.0.0.1:{tftp}"]\n'
        with _activated(tmp_path, config, udp.fileno(), tcp.fileno()) as server:
            first, _ = server.ports()
            assert first != http
            assert _fetch("127.0.0.1", first) == b"kernel"
            assert _fetch("127.0.0.1", http) == b"kernel"
            assert _fetch_by_tftp("127.0.0.1", tftp) == b"kernel"
            # It is our socket, too, so that its options can be read here.
            assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_sockets_that_the_configuration_does_not_name_are_served_after_upgrades_too(
    tmp_path: Path,
) -> None:
    with _tcp() as tcp, _udp() as udp:
        config = '[http]\nlisten = ["127.0.0.1:0"]\n[tftp]\nlisten = "off"\n'
        with _activated(tmp_path, config, tcp.fileno(), udp.fileno()) as server:
            for _ in range(2):
                assert _fetch("127.0.0.1", tcp.getsockname()[1]) == b"kernel"
                assert _fetch_by_tftp("127.0.0.1", udp.getsockname()[1]) == b"kernel"
                server.replace()
            assert f"127.0.0.1:{tcp.getsockname()[1]}" in server.banner()


def test_one_socket_for_both_families_is_every_address(tmp_path: Path) -> None:
    tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with tcp, udp:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(("::", 0))
        http, tftp = tcp.getsockname()[1], udp.getsockname()[1]
        config = f'[http]\nlisten = ["*:{http}"]\n[tftp]\nlisten = ["*:{tftp}"]\n'
        with _activated(tmp_path, config, tcp.fileno(), udp.fileno()) as server:
            assert _fetch("127.0.0.1", http) == b"kernel"
            assert _fetch("[::1]", http) == b"kernel"
            assert _fetch_by_tftp("127.0.0.1", tftp) == b"kernel"
            assert "not served" not in server.banner()


@pytest.mark.parametrize("what", ["a pipe", "a Unix socket", "a TCP socket that does not listen"])
def test_anything_else_is_refused_with_one_sentence(what: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if what == "a pipe":
            reading, writing = os.pipe()
            stack.callback(os.close, writing)
            stack.callback(os.close, reading)
        else:
            kind = socket.AF_UNIX if "Unix" in what else socket.AF_INET
            reading = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM)).fileno()
        with _activated(tmp_path, "", reading, is_ready=False) as server:
            assert server.leave() == 1
            [line] = server.log().splitlines()
    assert line.startswith("bootserve: descriptor 3, which LISTEN_FDS announces, is ")


def test_sockets_for_another_process_are_left_alone_and_the_variables_removed() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert inherited_sockets(environ) == []
    assert environ == {"HOME": "/"}


def test_no_variables_no_sockets() -> None:
    assert inherited_sockets({}) == []


@pytest.mark.parametrize("count", ["", "-1", "x", "9" * 5000, "\u0663"])
def test_what_is_no_number_of_descriptors_is_told_in_a_sentence(count: str) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    with pytest.raises(ListenError, match="no number of descriptors") as caught:
        inherited_sockets(environ)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert environ == {}
