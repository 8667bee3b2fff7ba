"""The three DHCP servers, each as a person might already be running it.

Every configuration has a boot file of its own already, at the place where people put it, and
some have names for the options that ours uses too: a pasted text must get along with both.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from bootserve.dhcp_config import DhcpServer
from tests.cable import LINK, NETWORK, Host
from tests.needs import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


OLD_FILE: Final = b"old/pxelinux.0"
OLD_SERVER: Final = "10.77.0.99"
FIRST, LAST = "10.77.0.100", "10.77.0.250"

DNSMASQ: Final = f"""\
port=0
user=root
interface={LINK}
bind-interfaces
no-ping
leasefile-ro
dhcp-range={FIRST},{LAST},255.255.255.0,5m
dhcp-boot={OLD_FILE.decode()},,{OLD_SERVER}
"""

ISC: Final = f"""\
option arch code 93 = unsigned integer 16;
option space ipxe;
option ipxe-encap-opts code 175 = encapsulate ipxe;
option ipxe.no-pxedhcp code 176 = unsigned integer 8;
ping-check false;
subnet {NETWORK} netmask 255.255.255.0 {{
  range {FIRST} {LAST};
  next-server {OLD_SERVER};
  filename "{OLD_FILE.decode()}";
}}
"""

KEA: Final = f"""\
"interfaces-config": {{ "interfaces": ["{LINK}"], "dhcp-socket-type": "udp" }},
"lease-database": {{ "type": "memfile", "persist": false }},
"subnet4": [ {{
  "id": 1,
  "subnet": "{NETWORK}/24",
  "pools": [ {{ "pool": "{FIRST} - {LAST}" }} ],
  "next-server": "{OLD_SERVER}",
  "boot-file-name": "{OLD_FILE.decode()}"
}} ],
"""


@dataclass(frozen=True)
class Program:
    """How to run one server on a file that has the pasted text in it."""

    check: list[str]
    serve: list[str]
    environment: Mapping[str, str]


def prepare(kind: DhcpServer, pasted: str, directory: Path) -> Program:
    """Write the server's files; skips where the server is not installed."""
    config = directory / f"{kind.value}.conf"
    conf = str(config)
    match kind:
        case DhcpServer.DNSMASQ:
            path = program("dnsmasq", "dnsmasq-base")
            config.write_text(DNSMASQ + pasted)
            base = [path, f"--conf-file={conf}"]
            serve = [*base, "--keep-in-foreground", "--log-facility=-", "--pid-file="]
            return Program([*base, "--test"], serve, {})
        case DhcpServer.ISC:
            path = program("dhcpd", "isc-dhcp-server")
            config.write_text(ISC + pasted)
            leases = directory / "dhcpd.leases"
            leases.touch()
            base = [path, "-4", "-cf", conf, "-lf", str(leases)]
            return Program([*base, "-t"], [*base, "-f", "-d", "--no-pid", LINK], {})
        case DhcpServer.KEA:
            path = program("kea-dhcp4", "kea-dhcp4-server")
            config.write_text(f'{{ "Dhcp4": {{\n{KEA}{pasted}}} }}\n')
            run = str(directory)
            places = {"KEA_PIDFILE_DIR": run, "KEA_LOCKFILE_DIR": run}
            return Program([path, "-t", conf], [path, "-c", conf], places)


def check_syntax(host: Host, server: Program) -> str:
    """Let the server judge its configuration; what it has to say about it."""
    done = subprocess.run(
        host.command(*server.check),
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{server.check[0]} refuses the configuration:\n{done.stdout}"
    return done.stdout


@contextmanager
def running(host: Host, server: Program, log: Path) -> Iterator[Callable[[], None]]:
    """The server, until the block ends; gives a function that fails when it has died."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            host.command(*server.serve),
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def check() -> None:
        if process.poll() is not None:
            pytest.fail(f"{server.serve[0]} ended:\n{log.read_text(errors='replace')}")

    try:
        yield check
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
