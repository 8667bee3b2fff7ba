"""How each TFTP server is started: on one core, with its own defaults where they permit it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.accounting import CpuAccount
from bench.peers import environment, find_program
from bench.process import PATIENCE, BenchError, Tree, wait_until
from bench.tftp import packages
from bench.tftp.load import Where, run
from bench.tftp.order import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT: Final = 6969
STANDARD_PORT: Final = 69
READY: Final = "ready"
"""A small file that every root has."""
READY_SIZE: Final = 1000
CLIENTS: Final = 250
"""Transfers at once that each server is told to permit."""


@dataclass(frozen=True)
class Place:
    """What a server is told."""

    host: str
    port: int
    root: Path
    home: Path
    """For its own files."""


@dataclass(frozen=True)
class Peer:
    """One of the servers."""

    name: str
    what: str
    """How it is set up, in a few words."""
    needs: str
    """The program or the Python package that it is."""
    command: Callable[[Place], list[str]]
    package: str = ""
    """The Debian package of a program."""
    port: int = PORT

    @property
    def missing(self) -> str | None:
        """A sentence if it is not there."""
        if self.package:
            if find(self.needs) is None:
                return (
                    f"{self.name} is left out: the program {self.needs} is not there; install"
                    f" Debian's {self.package}, or only unpack it with"
                    f" `python -m bench.tftp.packages`"
                )
        elif importlib.util.find_spec(self.needs) is None:
            return f"{self.name} is left out: the Python package {self.needs} is not installed"
        return None


@dataclass(frozen=True)
class Server:
    """One that runs and answers."""

    peer: Peer
    port: int
    tree: Tree
    account: CpuAccount


@contextlib.contextmanager
def running(peer: Peer, root: Path, directory: Path, core: int, where: Where) -> Iterator[Server]:
    """Run a server while the block runs. Its configuration and log lie in `directory`."""
    home = directory / peer.name
    home.mkdir(exist_ok=True)
    place = Place(where.host, peer.port, root, home)
    with (
        CpuAccount() as account,
        Tree(
            [*where.server, *peer.command(place)],
            log=home / "log",
            core=core,
            environment=environment(home),
            entering=account.enter,
        ) as tree,
    ):
        ready = Order(
            *(where.host, peer.port, READY, READY_SIZE),
            repeat_after=0.02,
            limit=0.5,
        )

        def answers() -> bool:
            tree.must_run()
            return run(where, ready).completed == 1

        wait_until(answers, PATIENCE, f"an answer of {peer.name}")
        yield Server(peer, peer.port, tree, account)


def find(name: str) -> str | None:
    """The path of a program: an installed one, or one that was only unpacked."""
    return find_program(name, str(packages.PROGRAMS))


def _program(name: str) -> str:
    path = find(name)
    if path is None:
        raise BenchError(f"the program {name} is not there")
    return path


def _tftpd_hpa(place: Place) -> list[str]:
    # Not the host's address: where there is only a loopback, it does not take one for IPv4.
    return [
        *(_program("in.tftpd"), "--foreground", "--ipv4", "--address", f":{place.port}"),
        *("--secure", str(place.root)),
    ]


def _atftpd(place: Place) -> list[str]:
    return [
        *(_program("atftpd"), "--daemon", "--no-fork", "--no-multicast", "--logfile", "-"),
        *("--bind-address", place.host, "--port", str(place.port)),
        *("--maxthread", str(CLIENTS), str(place.root)),
    ]


def _dnsmasq(place: Place) -> list[str]:
    return [
        *(_program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="),
        *("--log-facility=-", "--quiet-tftp", "--user=nobody", "--port=0", "--bind-interfaces"),
        *(f"--listen-address={place.host}", "--enable-tftp", f"--tftp-root={place.root}"),
        f"--tftp-max={CLIENTS}",
    ]


def _app(name: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        words = (name, place.host, str(place.port), str(place.root))
        return [sys.executable, "-m", "bench.tftp.apps", *words]

    return command


_BOOTSERVE: Final = """\
[http]
listen = ["{host}:8080"]
[tftp]
listen = ["{host}:{port}"]
[assets]
roots = [{files}]
"""


def _bootserve(place: Place) -> list[str]:
    files = json.dumps(str(place.root))
    text = _BOOTSERVE.format(host=place.host, port=place.port, files=files)
    (place.home / "bootserve.toml").write_text(text)
    words = ("serve", "--config", str(place.home / "bootserve.toml"))
    return [sys.executable, "-m", "bootserve", *words]


HPA: Final = Peer(
    *("tftpd-hpa", "standalone, a process for each transfer", "in.tftpd", _tftpd_hpa, "tftpd-hpa")
)
ATFTPD: Final = Peer("atftpd", "a thread for each transfer", "atftpd", _atftpd, "atftpd")
DNSMASQ: Final = Peer(
    *("dnsmasq", "one process, one loop", "dnsmasq", _dnsmasq, "dnsmasq-base"), port=STANDARD_PORT
)
BOOTSERVE: Final = Peer("bootserve", "with its normal log", "bootserve", _bootserve)
PEERS: Final = (
    HPA,
    ATFTPD,
    DNSMASQ,
    BOOTSERVE,
    Peer("tftpy", "TftpServer, as its documentation has it", "tftpy", _app("tftpy")),
    Peer("fbtftp", "a process for each transfer", "fbtftp", _app("fbtftp")),
)
IN_C: Final = (HPA, ATFTPD, DNSMASQ)
