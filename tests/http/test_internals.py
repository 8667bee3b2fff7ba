"""What we rely on of uvicorn and asyncio that neither promises.

Each of these fails with a sentence that says what an upgrade has changed. What follows from a
change is found by the other tests of bootserve.http.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from bootserve.http import protocol
from bootserve.http.extensions import FileSends
from bootserve.http.flag import Flag, Flow
from bootserve.http.protocol import BootProtocol
from bootserve.watch.health import Health
from bootserve.watch.quiet import QuietLog
from tests.http.conftest import Door, eventually, read_response

CHANGED = f"uvicorn {uvicorn.__version__} has changed"

METHODS = {
    "__init__": ["config", "server_state", "app_state", "_loop"],
    "connection_made": ["transport"],
    "connection_lost": ["exc"],
    "data_received": ["data"],
    "eof_received": [],
    "on_message_begin": [],
    "on_headers_complete": [],
    "on_response_complete": [],
    "_start_asgi_task": ["cycle", "app"],
    "send_400_response": ["msg"],
    "timeout_keep_alive_handler": [],
    "_unset_keepalive_if_required": [],
    "_unsupported_upgrade_warning": [],
    "shutdown": [],
    "pause_writing": [],
    "resume_writing": [],
}

ATTRIBUTES = [
    *("client", "cycle", "flow", "loop", "pipeline", "scope", "server_state", "transport"),
    *("timeout_keep_alive", "timeout_keep_alive_task"),
]

CYCLE_ATTRIBUTES = [
    *("chunked_encoding", "disconnected", "expected_content_length", "flow", "keep_alive"),
    *("message_event", "response_complete", "response_started", "scope"),
]


def parameters(function: Callable[..., object]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.fixture
def uvicorns_own() -> HttpToolsProtocol:
    config = uvicorn.Config(_app, http=HttpToolsProtocol, ws="none", log_config=None)
    loop = asyncio.get_event_loop_policy().new_event_loop()
    loop.close()
    return HttpToolsProtocol(config, ServerState(), {}, loop)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    pass


@pytest.fixture
def cycle() -> RequestResponseCycle:
    arguments: dict[str, Any] = dict.fromkeys(parameters(RequestResponseCycle))
    return RequestResponseCycle(**arguments)


# --- uvicorn ---------------------------------------------------------------------------------


def test_the_installed_uvicorn_is_one_that_these_tests_have_seen() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    [bound] = [one for one in project["project"]["dependencies"] if one.startswith("uvicorn")]
    found = importlib.metadata.version("uvicorn")
    limits = re.fullmatch(r"uvicorn>=([\d.]+),<([\d.]+)", bound)
    assert limits, f"{bound!r} has no upper bound: our protocol class hooks into its internals"
    low, high, here = (tuple(map(int, version.split("."))) for version in (*limits.groups(), found))
    assert low <= here < high, f"uvicorn {found} is installed, and pyproject.toml wants {bound}"


@pytest.mark.parametrize("name", METHODS)
def test_uvicorns_protocol_has_the_methods_that_we_override_or_call(name: str) -> None:
    method = getattr(HttpToolsProtocol, name, None)
    assert method is not None, f"{CHANGED}: HttpToolsProtocol.{name} is gone"
    assert parameters(method) == METHODS[name], f"{CHANGED}: the parameters of {name}"
    assert not inspect.iscoroutinefunction(method), f"{CHANGED}: {name} is a coroutine"


def test_every_method_of_uvicorns_that_we_override_is_pinned_here() -> None:
    overridden = {
        name
        for name in vars(BootProtocol)
        if hasattr(HttpToolsProtocol, name) and inspect.isfunction(vars(BootProtocol)[name])
    }
    assert overridden <= METHODS.keys()


def test_every_name_that_we_rely_on_is_pinned_here() -> None:
    """The docstring of bootserve.http.protocol is where a reader looks for them."""
    text = protocol.__doc__ or ""
    ours, cycles = text.split("of a request's cycle:")
    _, ours = ours.split("that it relies on:")
    assert set(re.findall(r"``(\w+)``", ours)) <= {*METHODS, *ATTRIBUTES}
    assert set(re.findall(r"``(\w+)``", cycles)) <= set(CYCLE_ATTRIBUTES)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_uvicorns_protocol_has_the_attributes_that_we_use(
    uvicorns_own: HttpToolsProtocol, name: str
) -> None:
    assert name in vars(uvicorns_own), f"{CHANGED}: HttpToolsProtocol.{name} is gone"


def test_uvicorns_pipeline_is_used_as_we_have_rebuilt_it() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    used = set(re.findall(r"self\.pipeline\.(\w+)", source))
    assert used == {"appendleft", "pop"}, f"{CHANGED}: it calls {used} of its pipeline"


@pytest.mark.parametrize("name", CYCLE_ATTRIBUTES)
def test_uvicorns_cycle_has_the_attributes_that_we_use(
    cycle: RequestResponseCycle, name: str
) -> None:
    assert hasattr(cycle, name), f"{CHANGED}: RequestResponseCycle.{name} is gone"


def test_uvicorns_cycle_sends_as_we_call_it() -> None:
    assert parameters(RequestResponseCycle.send) == ["message"], f"{CHANGED}: send()"
    assert inspect.iscoroutinefunction(RequestResponseCycle.send), f"{CHANGED}: send()"
    assert parameters(RequestResponseCycle.run_asgi) == ["app"], f"{CHANGED}: run_asgi()"
    source = inspect.getsource(RequestResponseCycle.run_asgi)
    assert re.search(r"await app\([^)]*self\.scope, self\.receive, self\.send\s*\)", source), (
        f"{CHANGED}: how run_asgi() calls the application, in whose place is"
        f" {FileSends.run.__qualname__}"
    )


def test_uvicorns_cycle_waits_for_its_event_in_ways_that_ours_knows() -> None:
    source = inspect.getsource(httptools_impl)
    used = set(re.findall(r"message_event\.(\w+)", source))
    ours = {name for name in vars(Flag) if not name.startswith("_")}
    assert used <= ours, f"{CHANGED}: it calls {used - ours} of a request's event"


def test_uvicorns_flow_control_has_the_attributes_that_ours_sets() -> None:
    transport: Any = object()
    theirs = vars(flow_control.FlowControl(transport))
    ours = vars(Flow(transport))
    assert ours.keys() == theirs.keys(), f"{CHANGED}: the attributes of FlowControl"
    for name in ("read_paused", "write_paused"):
        assert ours[name] == theirs[name], f"{CHANGED}: FlowControl.{name} at the start"
    assert ours["_is_writable_event"].is_set() == theirs["_is_writable_event"].is_set()
    used = set(re.findall(r"_is_writable_event\.(\w+)", inspect.getsource(flow_control)))
    assert used <= set(dir(Flag)), f"{CHANGED}: it calls {used} of the event"


def test_uvicorns_log_line_of_a_malformed_request_is_the_one_that_we_replace() -> None:
    source = inspect.getsource(HttpToolsProtocol.data_received)
    assert '"Invalid HTTP request received."' in source, f"{CHANGED}: what it logs"


def test_uvicorns_log_line_of_a_defect_is_the_one_that_we_bound() -> None:
    source = inspect.getsource(RequestResponseCycle.run_asgi)
    assert r'"Exception in ASGI application\n"' in source, CHANGED


async def test_a_defect_that_is_met_again_and_again_fills_no_log(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(_: Health, *, is_ready: bool) -> tuple[int, dict[str, Any]]:
        raise RuntimeError(f"defect {is_ready}")

    quiet = QuietLog(protocol.logger, most=2, clock=lambda: 0.0)
    monkeypatch.setattr(protocol, "_defects", quiet)
    monkeypatch.setattr(Health, "report", report)
    for _ in range(5):
        with await door.request("GET /healthz HTTP/1.1\nHost: x\n\n") as client:
            head, _ = await read_response(client)
            assert head.startswith("HTTP/1.1 500 ")
    quiet.tell()
    *defects, left_out = caplog.records
    assert [str(record.exc_info and record.exc_info[1]) for record in defects] == [
        "defect False"
    ] * 2
    assert left_out.getMessage() == "left out 3 lines like those before"


def test_uvicorns_server_works_with_a_state_of_ours() -> None:
    assert {"connections", "tasks", "total_requests"} <= vars(ServerState()).keys(), (
        f"{CHANGED}: ServerState"
    )
    assert parameters(Server.shutdown) == ["sockets"], f"{CHANGED}: Server.shutdown()"
    assert parameters(Server.startup) == ["sockets"], f"{CHANGED}: Server.startup()"
    assert parameters(Server.serve) == ["sockets"], f"{CHANGED}: Server.serve()"


# --- CPython ---------------------------------------------------------------------------------


_SHARED_KEYS_MAX = 30
"""Attributes of an instance whose dictionary shares its keys with those of its class
(CPython's Include/internal/pycore_dict.h, SHARED_KEYS_MAX_SIZE)."""


async def test_a_connections_attributes_fit_into_a_shared_dictionary(door: Door) -> None:
    (door.root / "file").write_bytes(b"x")
    with await door.request("GET /boot/file HTTP/1.1\nHost: x\n\n") as client:
        await read_response(client)
        [connection] = door.server.server_state.connections
        found = vars(connection)
        assert len(found) <= _SHARED_KEYS_MAX, f"{CHANGED}: its protocol has {len(found)}"
        alone = dict(found.items())
        assert sys.getsizeof(found) < sys.getsizeof(alone), "the dictionary is no longer shared"


async def test_asyncios_transport_refers_to_itself_as_we_undo_it(door: Door) -> None:
    """If not, nothing breaks: connections are then freed by the garbage collector again."""
    with await door.request("") as client:
        await eventually(lambda: bool(door.server.server_state.connections))
        [connection] = door.server.server_state.connections
        assert isinstance(connection, BootProtocol)
        transport = connection.connection._transport
        assert "_read_ready_cb" in vars(transport), (
            f"Python {sys.version.split()[0]} has changed: transports have no _read_ready_cb"
        )
        client.close()


# --- memory ----------------------------------------------------------------------------------


STALLED = 200

CLIENTS = f"""
import socket, sys
clients = []
for _ in range({STALLED}):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(sys.argv[1])))
    client.sendall(b"GET /boot/initramfs HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    clients.append(client)
sys.stdin.read()
"""


@pytest.fixture
def stalled_clients(door: Door) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Clients that read nothing, in a process of their own, so that the memory is ours alone."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", CLIENTS, str(door.port)]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_a_transfer_whose_client_stalls_costs_little_memory(
    door: Door, stalled_clients: Callable[[], subprocess.Popen[bytes]]
) -> None:
    (door.root / "initramfs").write_bytes(bytes(24 << 20))
    with await door.request("GET /boot/initramfs HTTP/1.1\nHost: x\n\n") as client:
        await read_response(client)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        process = stalled_clients()
        waiting = 0

        async def have_stalled() -> bool:
            nonlocal waiting
            last, waiting = waiting, _waiting(door)
            await anyio.sleep(0.05)
            return len(door.ledger.live) == STALLED and last == waiting

        await eventually(have_stalled)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    process.kill()
    await eventually(lambda: not door.ledger.live)
    assert (after - before) / STALLED < 16 * 1024


def _waiting(door: Door) -> int:
    connections = door.server.server_state.connections
    return sum(one.connection.waiting() for one in connections if isinstance(one, BootProtocol))
