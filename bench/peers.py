"""How each server is started: one process on one core, without access logs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.load import fetch
from bench.process import PATIENCE, BenchError, Tree, wait_until
from bench.site import HOST, MAC, ROOT, SCRIPT, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY: Final = Path(__file__).parent.parent
BACKLOG: Final = 4096
"""Connections that wait to be accepted, for each server: none is to lose for a short queue."""


@dataclass(frozen=True)
class Peer:
    """One of the servers."""

    name: str
    what: str
    """How it is set up, in a few words."""
    needs: str
    """The program or the Python package that it is."""
    command: Callable[[Site, Path, int], list[str]]
    """From the site, a directory for its own files, and its port."""
    script: str = f"/{SCRIPT}"
    is_program: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def missing(self) -> str | None:
        """A sentence if it is not installed."""
        if self.is_program:
            if find_program(self.needs) is None:
                return f"{self.name} is left out: the program {self.needs} is not installed"
        elif importlib.util.find_spec(self.needs) is None:
            return f"{self.name} is left out: the Python package {self.needs} is not installed"
        return None


@dataclass(frozen=True)
class Server:
    """One that runs and answers."""

    peer: Peer
    port: int
    tree: Tree

    def fetch(self, path: str, *fields: str) -> bytes:
        """A whole body; an error if the answer is none."""
        status, body = fetch(self.port, path, *fields)
        if status != (206 if fields else 200):
            raise BenchError(f"{self.peer.name} answered {status} for {path}")
        return body


@contextlib.contextmanager
def running(
    peer: Peer,
    site: Site,
    directory: Path,
    core: int,
    entering: Callable[[int], None] | None = None,
) -> Iterator[Server]:
    """Run a server while the block runs. Its configuration and log lie in `directory`."""
    home = directory / peer.name
    home.mkdir(exist_ok=True)
    port = _free_port()
    variables = {**environment(home), ROOT: str(site.root), **dict(peer.environment)}
    command = peer.command(site, home, port)
    with Tree(
        command, log=home / "log", core=core, environment=variables, entering=entering
    ) as tree:

        def answers() -> bool:
            tree.must_run()
            with contextlib.suppress(OSError):
                return fetch(port, peer.script)[0] == 200
            return False

        wait_until(answers, PATIENCE, f"an answer of {peer.name}")
        yield Server(peer, port, tree)


def environment(home: Path) -> dict[str, str]:
    """What a server gets of this program's environment; `home` is the server's."""
    return {
        # A BOOTSERVE_* variable of whoever runs this is no part of the benchmark.
        **{key: value for key, value in os.environ.items() if not key.startswith("BOOTSERVE_")},
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_DATA_HOME": str(home),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def find_program(name: str, *further: str) -> str | None:
    """The path of a program, or `None`; `further` directories come last."""
    # Debian keeps /usr/sbin out of a normal user's PATH.
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *further]
    return shutil.which(name, path=os.pathsep.join(places))


def program(name: str, package: str) -> str:
    """The path of a program; an error that names the Debian package if it is not there."""
    path = find_program(name)
    if path is None:
        raise BenchError(f"the program {name} is missing: install Debian's package {package}")
    return path


_NGINX: Final = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections {descriptors}; }}
http {{
    access_log off;
    sendfile on;
    # As bootserve does: one descriptor for a file, however many read it.
    open_file_cache max=1000;
    keepalive_requests 1000000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen {host}:{port} backlog={backlog};
        root {root};
    }}
}}
"""

_CADDY: Final = """\
{{
    admin off
    auto_https off
}}
http://{host}:{port} {{
    bind {host}
    root * {root}
    file_server
}}
"""

_BOOTSERVE: Final = """\
[http]
listen = ["{host}:{port}"]
[tftp]
listen = "off"
[assets]
roots = [{files}]
[profiles.bench]
kernel = "x86_64/vmlinuz"
initrds = ["x86_64/initramfs"]
cmdline = "console=ttyS0 ip=${{ip}} host=${{bootserve-machine}}"
[[machines]]
name = "bench"
mac = "{mac}"
profile = "bench"
"""


def _nginx(site: Site, home: Path, port: int) -> list[str]:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    text = _NGINX.format(
        home=home, host=HOST, port=port, root=site.root, backlog=BACKLOG, descriptors=descriptors
    )
    (home / "nginx.conf").write_text(text)
    # -e: where it complains before it has read its configuration.
    return [
        *(program("nginx", "nginx"), "-p", str(home), "-e", str(home / "error.log")),
        *("-c", str(home / "nginx.conf")),
    ]


def _caddy(site: Site, home: Path, port: int) -> list[str]:
    (home / "Caddyfile").write_text(_CADDY.format(host=HOST, port=port, root=site.root))
    words = ("run", "--adapter", "caddyfile", "--config", str(home / "Caddyfile"))
    return [program("caddy", "caddy"), *words]


def _aiohttp(_: Site, __: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "bench.apps", str(port)]


def _granian(_: Site, __: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "granian", "bench.apps:pathsend", "--factory"),
        *("--host", HOST, "--port", str(port), "--interface", "asgi", "--http", "1", "--no-ws"),
        *("--workers", "1", "--runtime-threads", "1", "--loop", "asyncio"),
        # Its limit of requests at once follows from its backlog.
        *("--backlog", str(BACKLOG), "--no-access-log"),
    ]


def _uvicorn(_: Site, __: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "bench.apps:stock", "--factory"),
        *("--host", HOST, "--port", str(port), "--http", "httptools", "--loop", "asyncio"),
        *("--backlog", str(BACKLOG), "--no-access-log"),
    ]


def _bootserve(site: Site, home: Path, port: int) -> list[str]:
    files = json.dumps(str(site.files))
    text = _BOOTSERVE.format(host=HOST, port=port, files=files, mac=MAC)
    (home / "bootserve.toml").write_text(text)
    return [sys.executable, "-m", "bootserve", "serve", "--config", str(home / "bootserve.toml")]


NGINX: Final = Peer("nginx", "sendfile, 1 worker process", "nginx", _nginx, is_program=True)
BOOTSERVE: Final = Peer(
    "bootserve",
    "with its normal log",
    "bootserve",
    _bootserve,
    script=f"/machine.ipxe?mac={MAC}&uuid=4c4c4544-0044-4d10-8054-b7c04f4e3332"
    "&buildarch=x86_64&platform=efi",
)
UVICORN: Final = Peer(
    "uvicorn", "stock: Starlette's FileResponse, httptools, asyncio", "uvicorn", _uvicorn
)
PEERS: Final = (
    NGINX,
    BOOTSERVE,
    Peer(
        *("caddy", "file_server, GOMAXPROCS=1", "caddy", _caddy),
        is_program=True,
        environment=(("GOMAXPROCS", "1"),),
    ),
    Peer("granian", "ASGI pathsend, 1 worker, 1 runtime thread", "granian", _granian),
    Peer("aiohttp", "FileResponse, asyncio", "aiohttp", _aiohttp),
    UVICORN,
)
"""nginx first: it is what the others are compared with."""
