"""What is left in the kernel of clients that vanish, and of servers that lose their network.

The server's limits are seconds here; the kernel's own of the namespace are shortened with sysctl.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import needs
from tests.cable import LINK, Cable
from tests.real.process import Process, wait_until

DEADLINE = 60
PORT = 8080
ORPHAN_RETRIES = 2

CLIENT = f"""
import socket, sys
client = socket.create_connection(("10.77.0.1", {PORT}))
client.sendall(b"GET /boot/%s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % sys.argv[1].encode())
client.recv(1)
print("begun", flush=True)
for line in sys.stdin:
    client.recv(1 << 20)
"""


@dataclass
class Scene:
    cable: Cable
    server: Process
    client: subprocess.Popen[str]

    def connections(self) -> str:
        """What the server's kernel has of the connection, its orphans among it."""
        ss = needs.program("ss", "iproute2")
        command = self.cable.server.command(ss, "-Htna", "dst", self.cable.client.address)
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def _begin(cable: Cable, tmp_path: Path, name: str) -> Iterator[Scene]:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "small").write_bytes(b"x")
    (tmp_path / "root" / "big").write_bytes(bytes(64 << 20))
    config = tmp_path / "bootserve.toml"
    config.write_text(
        f'[http]\nlisten = ["*:{PORT}"]\nsilence_limit = 5\n'
        '[tftp]\nlisten = "off"\n[assets]\nroots = ["root"]\n'
    )
    sysctl = needs.program("sysctl", "procps")
    retries = f"net.ipv4.tcp_orphan_retries={ORPHAN_RETRIES}"
    subprocess.run(cable.server.command(sysctl, "-qw", retries), check=True)
    command = [sys.executable, "-m", "bootserve", "serve", "--config", str(config)]
    with Process("bootserve", cable.server.command(*command), tmp_path) as server:
        server.wait_for("is ready", DEADLINE)
        client = subprocess.Popen(
            cable.client.command(sys.executable, "-c", CLIENT, name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
            yield Scene(cable, server, client)
        finally:
            client.kill()
            client.communicate()


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with Cable() as cable:
        yield from _begin(cable, tmp_path, request.param)


@pytest.mark.parametrize("scene", ["small"], indirect=True)
def test_an_idle_client_that_vanished_leaves_no_orphan(scene: Scene) -> None:
    """Its FIN is repeated as often as the host's settings say, and then all of it is gone."""
    nft = needs.program("nft", "nftables")
    rules = (
        "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }"
    )
    subprocess.run(scene.cable.client.command(nft, rules), check=True)
    scene.server.stop()
    assert "FIN-WAIT" in scene.connections()
    wait_until(lambda: scene.connections() == "", DEADLINE, "the end of the orphan")


@pytest.mark.parametrize("scene", ["big"], indirect=True)
def test_a_client_is_given_up_where_the_server_has_lost_its_route(scene: Scene) -> None:
    """Nothing can be sent, so nothing is sent again; the attempts count all the same."""
    ip = needs.program("ip", "iproute2")
    # The client is the fast kind: what is on its way is in flight, not behind a closed window.
    assert scene.client.stdin is not None
    wait_until(lambda: "ESTAB" in scene.connections(), DEADLINE, "a connection")
    subprocess.run(scene.cable.server.command(ip, "link", "delete", LINK), check=True)
    with scene.server.shown_on_failure():
        wait_until(
            lambda: "client fell silent (nothing acknowledged for" in scene.server.log(),
            DEADLINE,
            "the end of the transfer",
        )
