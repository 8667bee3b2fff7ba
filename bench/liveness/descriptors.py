"""Whether the server gives back what its clients have cost it, as the kernel counts it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from bench.liveness.server import BIG, PORT
from bench.peers import REPOSITORY
from bench.process import BenchError, wait_until

if TYPE_CHECKING:
    from bench.liveness.network import Client, Network
    from bench.liveness.server import Server

_SLACK: Final = 30.0


def at_rest(network: Network, server: Server) -> int:
    """How many descriptors the server holds when it has served somebody, and nobody is there."""
    client = network.client()
    words = (sys.executable, "-m", "bench.liveness.peer", server.address[0], str(PORT))
    command = client.command(*words, f"get {BIG}", "read", "mark")
    with _start(command) as peer:
        assert peer.stdout is not None
        event = json.loads(peer.stdout.readline())
        if event["event"] != "mark":
            raise BenchError(f"the server does not serve: {event}; its log:\n{server.text()}")
        with_client = server.descriptors()
        peer.communicate("go on\n")
    wait_until(lambda: server.descriptors() < with_client, _SLACK, "the end of a connection")
    return server.descriptors()


def aborted(network: Network, server: Server, count: int) -> str:
    """Play so many downloads that are aborted; a sentence if something of them stays."""
    before = server.descriptors()
    with _start(_crowd(network.client(), server, "abort", count)) as crowd:
        problem = _end(crowd)
    return problem or _returned(server, before, _SLACK)


def half_open(network: Network, server: Server, count: int) -> str:
    """Play so many connections without a whole request; a sentence if something of them stays."""
    before = server.descriptors()
    with _start(_crowd(network.client(), server, "half-open", count)) as crowd:
        try:
            assert crowd.stdout is not None
            if not crowd.stdout.readline():
                return _end(crowd)
            # They are all there at once, or this would prove little.
            wait_until(
                lambda: server.descriptors() >= before + count * 9 // 10,
                server.settings.head_timeout,
                f"{count} connections at the server",
            )
            # While the clients are there still.
            return _returned(server, before, server.settings.head_timeout + _SLACK)
        except BenchError as error:
            return str(error)
        finally:
            crowd.kill()


def _crowd(client: Client, server: Server, what: str, count: int) -> list[str]:
    words = (sys.executable, "-m", "bench.liveness.crowd", server.address[0], str(PORT))
    # One descriptor for each client.
    limit = ("prlimit", f"--nofile={count + 100}:{count + 100}")
    return client.command(*limit, *words, what, str(count))


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def _end(crowd: subprocess.Popen[str]) -> str:
    _, errors = crowd.communicate()
    return f"the clients failed: {errors.strip()[-300:]}" if crowd.returncode else ""


def _returned(server: Server, before: int, seconds: float) -> str:
    try:
        wait_until(lambda: server.descriptors() <= before, seconds, "every descriptor")
    except BenchError:
        return f"{server.descriptors()} descriptors, {before} before"
    return ""
