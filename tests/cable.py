"""Two hosts on one machine: network namespaces with a cable between them."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import pytest

from tests import needs

NETWORK: Final = "10.77.0.0"
LINK: Final = "cable0"
CLONE_NEWNET: Final = 0x40000000  # linux/sched.h


@dataclass(frozen=True)
class Host:
    """One end of the cable."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs on this host."""
        return [needs.program("ip", "iproute2"), "netns", "exec", self.namespace, *words]

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """An IPv4 socket of this host."""
        made: list[socket.socket] = []
        errors: list[OSError] = []

        def make() -> None:
            try:
                _enter_namespace(self.namespace)
                made.append(socket.socket(socket.AF_INET, kind))
            except OSError as error:
                errors.append(error)

        # A namespace belongs to a thread; this one takes it along when it ends.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return made[0]


class Cable:
    """Makes two hosts, and takes them away again. Skips the test where that is not permitted."""

    def __init__(self) -> None:
        needs.root()
        self._ip = needs.program("ip", "iproute2")
        name = f"bootserve-{uuid.uuid4().hex[:12]}"
        self.server = Host(f"{name}-s", "10.77.0.1")
        self.client = Host(f"{name}-c", "10.77.0.2")

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _build(self) -> None:
        hosts = (self.server, self.client)
        for host in hosts:
            self._run("netns", "add", host.namespace)
        self._run(
            *("-n", self.server.namespace, "link", "add", LINK, "type", "veth"),
            *("peer", "name", LINK, "netns", self.client.namespace),
        )
        for host in hosts:
            self._run("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", LINK)
            self._run("-n", host.namespace, "link", "set", "lo", "up")
            self._run("-n", host.namespace, "link", "set", LINK, "up")

    def _remove(self) -> None:
        for host in (self.server, self.client):
            subprocess.run([self._ip, "netns", "delete", host.namespace], capture_output=True)

    def _run(self, *words: str) -> None:
        done = subprocess.run([self._ip, *words], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no network namespace here: ip {' '.join(words)}: {done.stderr.strip()}")


def _enter_namespace(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}", "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), name)
