"""The server that is put to the proof, as a user starts it, and nginx as the control."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench.liveness.network import SERVER
from bench.peers import REPOSITORY, program
from bench.process import PATIENCE, wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from bench.liveness.network import Network

PORT: Final = 8080

BIG: Final = "big"
"""More than the buffers of both ends hold, whatever they grow to here."""
SMALL: Final = "small"
TAIL: Final = "tail"
"""More than a client with the least buffer takes unread, less than the server's kernel does."""
_SIZES: Final = {BIG: 4 << 20, SMALL: 1000, TAIL: 30_000}


@dataclass(frozen=True)
class Settings:
    """What decides when a server gives a client up, in seconds; the defaults are bootserve's."""

    silence_limit: float = 600.0
    head_timeout: float = 30.0
    keep_alive: float = 75.0

    def toml(self) -> str:
        """Only what differs, so that the defaults are proven as they are."""
        lines = [
            f"{key} = {value}"
            for key, value in vars(self).items()
            if value != getattr(Settings, key)
        ]
        return "\n".join(lines)


_BOOTSERVE: Final = """\
[http]
listen = ["*:{port}"]
{settings}
[tftp]
listen = "off"
[assets]
roots = ["{root}"]
"""

# Its own patience between two successful writes is 60 s (send_timeout); here it is to have no
# opinion of its own, so that it shows what the clients do.
_NGINX: Final = """\
daemon off;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    send_timeout 1d;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen {port} backlog=1024;
        location /boot/ {{ alias {root}/; }}
    }}
}}
"""


class Server:
    """A running server in a network, ended with the `with` block.

    Args:
        directory: for its files; a path without quotes in it.
    """

    def __init__(
        self, network: Network, directory: Path, settings: Settings, *, kind: str = "bootserve"
    ) -> None:
        self.settings = settings
        self.kind = kind
        self.root = directory / "assets"
        self.log = directory / "log"
        self.root.mkdir()
        # nginx gives its rights up, and still has to pass.
        directory.chmod(0o755)
        for name, size in _SIZES.items():
            self.add(name, size)
        command = self._bootserve(directory) if kind == "bootserve" else self._nginx(directory)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BOOTSERVE_")}
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                network.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def _bootserve(self, directory: Path) -> list[str]:
        config = directory / "bootserve.toml"
        text = _BOOTSERVE.format(port=PORT, settings=self.settings.toml(), root=self.root)
        config.write_text(text)
        return [sys.executable, "-m", "bootserve", "serve", "--config", str(config)]

    def _nginx(self, directory: Path) -> list[str]:
        config = directory / "nginx.conf"
        config.write_text(_NGINX.format(port=PORT, home=directory, root=self.root))
        return [program("nginx", "nginx"), "-e", str(directory / "error.log"), "-c", str(config)]

    def __enter__(self) -> Self:
        try:
            wait_until(self._listens, PATIENCE, f"{self.kind} listens; its log:\n{self.text()}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        # At once and with its children: it would wait for its clients.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def _listens(self) -> bool:
        if self._popen.poll() is not None:
            return False
        # The columns of /proc/net/tcp: local address, remote address, state (0A is LISTEN).
        listening = rf":{PORT:04X} 0+:0000 0A"
        table = Path(f"/proc/{self.pid}/net/tcp").read_text()
        return bool(re.search(listening, table)) and (
            self.kind != "bootserve" or "is ready" in self.text()
        )

    def add(self, name: str, size: int) -> None:
        """One more file to serve; its bytes follow from its name."""
        (self.root / name).write_bytes(random.Random(name).randbytes(size))  # noqa: S311

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")

    def descriptors(self) -> int:
        """How many it holds, as the kernel counts them."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    @property
    def address(self) -> tuple[str, int]:
        return SERVER, PORT
