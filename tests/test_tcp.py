"""What the kernel is asked for, and what it says, on real sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootserve import tcp
from bootserve.http.door import DoorState, Manners
from bootserve.http.listener import missing_options, open_listener
from bootserve.http.server import HttpServer, http_config
from bootserve.settings import load
from bootserve.tcp import (
    NOTHING_KNOWN,
    TCP_RTO_MAX_MS,
    bytes_waiting,
    facts_of_connection,
    leave_to_kernel,
    watch_over,
)
from bootserve.watch.liveness import UNANSWERED

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's end and a client's."""
    with open_listener(socket.AF_INET, "127.0.0.1", 0) as listener:
        DoorState(manners=Manners(silence_limit=600)).prepare(listener)
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                yield server, client


def _rto_max(sock: socket.socket) -> int:
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS)
    except OSError:
        pytest.skip("this kernel has no TCP_RTO_MAX_MS (Linux 6.15)")


def _user_timeout(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_accepted_connections_are_watched_over(pair: tuple[socket.socket, socket.socket]) -> None:
    server, _ = pair
    assert _user_timeout(server) > 2 * DAY_MS
    assert missing_options(server, DoorState().options) == []
    assert _rto_max(server) == 10_000


def test_a_connection_is_left_to_the_kernel_and_taken_back(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    leave_to_kernel(server)
    assert _user_timeout(server) == _user_timeout(client) == 0
    assert watch_over(server, 3.0) is (_rto_max(server) == 3000)
    assert _user_timeout(server) > 2 * DAY_MS


def test_a_kernel_that_cannot_bound_its_questions_is_given_more_time() -> None:
    state = DoorState()

    class Sock:
        """A socket of an older kernel."""

        def setsockopt(self, _: int, option: int, value: int) -> None:
            if option == TCP_RTO_MAX_MS:
                raise OSError(92, "Protocol not available")

    state.prepare(Sock())  # type: ignore[arg-type]
    assert state.limits.unanswered < UNANSWERED
    assert state.limits.silence == 600


def test_what_is_acknowledged_and_what_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    before = facts_of_connection(server)
    assert not before.is_dead
    server.sendall(b"x" * 1000)
    assert len(client.recv(1000, socket.MSG_WAITALL)) == 1000
    after = facts_of_connection(server)
    assert after.bytes_acked - before.bytes_acked == 1000
    assert after.last_ack_ms < 10_000
    assert after.window > 0
    assert not after.took_window_back
    assert bytes_waiting(server) == 0
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(bytes(1 << 16))
    assert bytes_waiting(server) > 0


def test_an_end_is_known(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    assert facts_of_connection(server).is_dead
    server.close()
    assert facts_of_connection(server) == NOTHING_KNOWN
    assert bytes_waiting(server) == 0


@pytest.mark.parametrize(("retries", "is_enough"), [(15, True), (12, False), (8, False)])
async def test_a_limit_that_the_kernel_would_not_wait_for_is_told_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    retries: int,
    is_enough: bool,
) -> None:
    (tmp_path / "tcp_retries2").write_text(f"{retries}\n")
    monkeypatch.setattr(tcp, "_RETRIES", tmp_path / "tcp_retries2")
    server = HttpServer(http_config(load(None, {}), _app), lambda: None)
    server._check_probes()
    assert ("net.ipv4.tcp_retries2=13" in caplog.text) is not is_enough


async def _app(*_: object) -> None: ...
