"""``http.response.zerocopysend`` and ``.pathsend``, for any application and on any transport.

The applications here are not bootserve's. What arrives is read by Python's own HTTP client, by
curl, and from the socket itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bootserve.catalog.assets import Assets
from bootserve.http.extensions import PATH, ZERO_COPY
from bootserve.http.protocol import BootProtocol
from tests.http.conftest import DEADLINE, Door, eventually, read_response, read_to_end
from tests.http.peers import Address, Calls, reset, sendfiles, serving
from tests.needs import program

__all__ = ["sendfiles"]

BIG = os.urandom(1 << 20) * 3 + b"its end"
HUGE = 1 << 40


@dataclass(frozen=True)
class Way:
    """How the bytes go out, by name, and how an application is served so."""

    name: str
    certificate: Path | None = None
    key: Path | None = None

    def serve(self, app: ASGIApp) -> contextlib.AbstractAsyncContextManager[Address]:
        return serving(app, self.certificate, self.key)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    found, key = folder / "certificate.pem", folder / "key.pem"
    words = (
        "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [program("openssl", "openssl"), *words.split(), "-keyout", key, "-out", found],
        check=True,
        capture_output=True,
    )
    return found, key


@pytest.fixture
def without_sendfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that lets nobody watch its sockets, as uvloop's."""
    monkeypatch.setattr("bootserve.http.connection.can_pump", lambda loop: False)


@pytest.fixture(params=["plain", "TLS", "no sendfile"])
def way(request: pytest.FixtureRequest) -> Way:
    if request.param == "TLS":
        return Way("TLS", *request.getfixturevalue("certificate"))
    if request.param == "no sendfile":
        request.getfixturevalue("without_sendfile")
    return Way(request.param)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    return path


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """Larger than any buffer on the way, and nothing on the disk."""
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, HUGE)
    return path


@pytest.fixture(autouse=True)
def _gives_every_descriptor_back() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


@dataclass
class Script:
    """An application that sends these messages, and notes how it ended.

    An exception is what ``send()`` has told the application, so it is not passed on.
    """

    messages: list[Message]
    length: int | None = None
    outcomes: list[BaseException | None] = field(default_factory=list)
    extensions: dict[str, Any] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.extensions = scope["extensions"]
        try:
            await send(start(self.length))
            for message in self.messages:
                await send(message)
        except Exception as error:
            self.outcomes.append(error)
            raise
        self.outcomes.append(None)

    async def outcome(self) -> BaseException | None:
        await eventually(lambda: bool(self.outcomes))
        return self.outcomes[0]


def start(length: int | None = None) -> Message:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(data: bytes = b"", more_body: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more_body}


def piece(file: Any, **options: Any) -> Message:
    return {"type": ZERO_COPY, "file": file, **options}


async def test_both_extensions_are_advertised(way: Way) -> None:
    script = Script([body(more_body=False)], 0)
    async with way.serve(script) as there:
        await there.ask()
    assert {ZERO_COPY, PATH} <= script.extensions.keys()
    assert script.extensions[ZERO_COPY] == script.extensions[PATH] == {}


PARTS = [(0, len(BIG)), (0, 1), (len(BIG) - 1, 1), (4095, 2), (12345, (2 << 20) + 1), (7, 0)]


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_part_of_a_file_arrives_exact(way: Way, big: Path, is_chunked: bool) -> None:
    script = Script([])
    with big.open("rb") as file:
        async with way.serve(script) as there:
            for offset, count in PARTS:
                script.messages = [piece(file, offset=offset, count=count)]
                script.length = None if is_chunked else count
                answer = await there.ask()
                assert answer.body == BIG[offset : offset + count]
                assert ("transfer-encoding" in answer.headers) == is_chunked
    assert script.outcomes == [None] * len(PARTS)


async def test_only_plain_tcp_with_a_length_uses_sendfile(
    way: Way, big: Path, sendfiles: Calls
) -> None:
    """So that the tests above and below prove what their names say."""
    with big.open("rb") as file:
        async with way.serve(Script([piece(file, offset=0)], len(BIG))) as there:
            assert (await there.ask()).body == BIG
        assert sendfiles.moved == (len(BIG) if way.name == "plain" else 0)


async def test_pieces_of_files_and_bodies_keep_their_order(way: Way, big: Path) -> None:
    expected = b"head" + BIG[5:1000005] + b"between" + BIG[:3] + b"one" + BIG[-2000000:] + b"tail"
    with big.open("rb") as file, big.open("rb", buffering=0) as other:
        messages = [
            body(b"head"),
            piece(file, offset=5, count=1000000, more_body=True),
            body(b"between"),
            piece(other, offset=0, count=3, more_body=True),
            body(b"one"),
            piece(file, offset=len(BIG) - 2000000, more_body=True),
            body(b"tail", more_body=False),
        ]
        for length in (len(expected), None):
            script = Script(messages, length)
            async with way.serve(script) as there:
                assert (await there.ask(times=3)).body == expected
            assert script.outcomes == [None] * 3


async def test_without_an_offset_the_files_position_is_used_and_moves(way: Way, big: Path) -> None:
    with big.open("rb", buffering=0) as file:
        file.seek(100)
        messages = [
            piece(file, count=50, more_body=True),
            piece(file, offset=0, count=10, more_body=True),
            piece(file, count=2000000, more_body=True),
            piece(file),
        ]
        expected = BIG[100:150] + BIG[:10] + BIG[150:]
        script = Script(messages, len(expected))
        async with way.serve(script) as there:
            assert (await there.ask()).body == expected
        assert file.tell() == len(BIG)


async def test_an_offset_leaves_the_files_position_alone(way: Way, big: Path) -> None:
    with big.open("rb", buffering=0) as file:
        file.seek(77)
        script = Script([piece(file, offset=1, count=1000000)], 1000000)
        async with way.serve(script) as there:
            assert (await there.ask()).body == BIG[1:1000001]
        assert file.tell() == 77


@pytest.mark.parametrize("length", [len(BIG), None])
async def test_a_head_request_gets_no_byte_of_the_file(
    way: Way, big: Path, length: int | None, sendfiles: Calls
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(length))
        with big.open("rb") as file:
            await send(piece(file, offset=0))

    async with way.serve(app) as there:
        answer = await there.ask("HEAD", times=3)
        assert answer.body == b""
        assert answer.headers.get("content-length") == (None if length is None else str(length))
        assert sendfiles.made == []


async def test_nothing_follows_the_head_on_the_wire(big: Path, sendfiles: Calls) -> None:
    async with serving(FileResponse(big)) as there:
        client = await there.connect()
        with client:
            client.setblocking(False)
            await read_response(client)
            request = b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(client, request)
            data = await read_to_end(client)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.endswith(b"\r\n\r\n")
    assert data.count(b"\r\n\r\n") == 1


async def test_pathsend_sends_the_whole_file(way: Way, big: Path) -> None:
    for length in (len(BIG), None):
        script = Script([{"type": PATH, "path": str(big)}], length)
        async with way.serve(script) as there:
            assert (await there.ask(times=2)).body == BIG


@dataclass
class Recorder:
    """An application whose messages are noted on their way."""

    app: ASGIApp
    kinds: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            self.kinds.append(message["type"])
            await send(message)

        await self.app(scope, receive, note)


async def test_starlettes_file_response_goes_by_pathsend(way: Way, big: Path) -> None:
    app = Recorder(FileResponse(big))
    async with way.serve(app) as there:
        whole = await there.ask(times=2)
        assert app.kinds == ["http.response.start", PATH] * 2
        head = await there.ask("HEAD")
        part = await there.ask(headers={"Range": "bytes=1000-2000999"})
        parts = await there.ask(headers={"Range": "bytes=0-9,2000000-2000009"})
    assert whole.body == BIG
    assert head.headers["content-length"] == str(len(BIG))
    assert (head.status, head.body) == (200, b"")
    assert (part.status, part.body) == (206, BIG[1000:2001000])
    assert parts.status == 206
    assert BIG[:10] in parts.body
    assert BIG[2000000:2000010] in parts.body


@pytest.mark.parametrize("options", [[], ["--http1.0"]])
async def test_curl_agrees(way: Way, big: Path, options: list[str]) -> None:
    async with way.serve(FileResponse(big)) as there:
        scheme = "http" if way.certificate is None else "https"
        if way.certificate is not None:
            options = [*options, "--cacert", str(way.certificate)]
        url = f"{scheme}://127.0.0.1:{there.port}/"
        done = await anyio.run_process(
            [program("curl", "curl"), "-q", "-sSf", "--noproxy", "*", *options, url, url]
        )
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(BIG * 2).digest()


async def test_an_empty_file_is_an_answer(way: Way, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for length in (0, None):
        script = Script([{"type": PATH, "path": str(tmp_path / "empty")}], length)
        async with way.serve(script) as there:
            assert (await there.ask(times=2)).body == b""


async def test_a_large_file_is_not_read_further_than_its_client_does(way: Way, huge: Path) -> None:
    """An eighth of a gigabyte here would be a file of a terabyte in memory there."""
    with huge.open("rb", buffering=0) as file:
        script = Script([piece(file)], HUGE)
        async with way.serve(script) as there:
            with await there.connect(4096):
                await eventually(lambda: file.tell() == HUGE)
                before = _resident()
                await anyio.sleep(0.2)
                assert _resident() - before < 16 << 20
                assert script.outcomes == []


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# --- what an application is told -------------------------------------------------------------


@pytest.mark.parametrize("kind", [ZERO_COPY, PATH])
async def test_more_than_content_length_is_refused(way: Way, big: Path, kind: str) -> None:
    with big.open("rb") as file:
        message: Message = {"type": kind, "path": str(big), "file": file, "offset": 0}
        del message["file" if kind == PATH else "path"]
        script = Script([message], len(BIG) - 1)
        async with way.serve(script) as there:
            await _refused(there)
            assert isinstance(await script.outcome(), RuntimeError)


async def _refused(there: Address) -> None:
    """However it fails for the client: it must not look like an answer that was meant so."""
    with contextlib.suppress(http.client.HTTPException, OSError):
        assert (await there.ask()).body != BIG


async def test_content_length_counts_all_pieces_together(way: Way, big: Path) -> None:
    with big.open("rb") as file:
        first = piece(file, offset=0, count=1000000, more_body=True)
        script = Script([first, body(b"x" * 10), piece(file, offset=0, count=91)], 1000100)
        async with way.serve(script) as there:
            await _refused(there)
            assert isinstance(await script.outcome(), RuntimeError)


async def test_less_than_content_length_is_refused(way: Way, big: Path) -> None:
    with big.open("rb") as file:
        script = Script([piece(file, offset=0, count=1000000)], 1000001)
        async with way.serve(script) as there:
            await _refused(there)
            assert isinstance(await script.outcome(), RuntimeError)


@pytest.mark.parametrize("kind", [ZERO_COPY, PATH])
@pytest.mark.parametrize("when", ["before the head", "after the end"])
async def test_a_file_out_of_order_is_refused(big: Path, kind: str, when: str) -> None:
    outcomes: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if when == "after the end":
            await send(start(2))
            await send(body(b"ok", more_body=False))
        with big.open("rb") as file:
            message = piece(file) if kind == ZERO_COPY else {"type": PATH, "path": str(big)}
            with pytest.raises(RuntimeError):
                await send(message)
        outcomes.append("refused")
        if when == "before the head":
            await send(start(2))
            await send(body(b"ok", more_body=False))

    async with serving(app) as there:
        assert (await there.ask(times=2)).body == b"ok"
    assert outcomes == ["refused"] * 2


async def test_a_second_head_is_refused_and_the_first_one_is_sent(way: Way) -> None:
    """uvicorn refuses the message and leaves the answer as it was."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(2))
        with pytest.raises(RuntimeError):
            await send(start(5))
        await send(body(b"ok", more_body=False))

    async with way.serve(app) as there:
        assert (await there.ask()).body == b"ok"


async def test_a_head_behind_a_finished_answer_disturbs_nothing(way: Way) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(2))
        await send(body(b"ok", more_body=False))
        with pytest.raises(RuntimeError):
            await send(start(5))

    async with way.serve(app) as there:
        assert (await there.ask(times=3)).body == b"ok"


@pytest.mark.parametrize("kind", [ZERO_COPY, PATH])
async def test_a_file_that_is_shorter_than_promised_fails(
    way: Way, big: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``pathsend`` it is the server that has asked for the size."""
    with big.open("rb") as file:
        message: Message = piece(file, offset=0, count=len(BIG) + 1)
        if kind == PATH:
            message = {"type": PATH, "path": str(big)}
        script = Script([message], len(BIG) + 1)
        async with way.serve(script) as there:
            await _refused(there)
            outcome = await script.outcome()
    assert isinstance(outcome, OSError if kind == ZERO_COPY else RuntimeError)


async def test_a_file_that_shrinks_meanwhile_fails(way: Way, huge: Path) -> None:
    with huge.open("rb") as file:
        script = Script([piece(file, offset=0, count=HUGE)], HUGE)
        async with way.serve(script) as there:
            with await there.connect(4096) as client:
                await asyncio.to_thread(client.recv, 1)
                os.truncate(huge, 100)

                def read_all() -> None:
                    with contextlib.suppress(ConnectionError):
                        while client.recv(1 << 20):
                            pass

                await asyncio.to_thread(read_all)
                assert isinstance(await script.outcome(), OSError)


@pytest.mark.parametrize(("name", "kind"), [("none", FileNotFoundError), (".", IsADirectoryError)])
async def test_a_path_that_cannot_be_opened_fails(
    way: Way, tmp_path: Path, name: str, kind: type[OSError]
) -> None:
    script = Script([{"type": PATH, "path": str(tmp_path / name)}], 10)
    async with way.serve(script) as there:
        await _refused(there)
        assert type(await script.outcome()) is kind


async def test_an_application_may_go_on_without_the_file_that_failed(way: Way) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(11))
        with pytest.raises(FileNotFoundError):
            await send({"type": PATH, "path": "/nonexistent"})
        await send(body(b"not to be had"[:11], more_body=False))

    async with way.serve(app) as there:
        assert (await there.ask(times=2)).body == b"not to be h"


# --- clients that leave ----------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["reset", "close"])
async def test_sends_to_a_client_that_leaves_end_quietly(way: Way, huge: Path, leave: str) -> None:
    with huge.open("rb") as file:
        messages: list[Message] = [piece(file, offset=0, more_body=True)] * 2
        messages += [body(b"x"), {"type": PATH, "path": str(huge)}]
        script = Script(messages, HUGE * 3 + 1)
        async with way.serve(script) as there:
            client = await there.connect(4096)
            await asyncio.to_thread(client.recv, 1)
            reset(client) if leave == "reset" else client.close()
            assert await script.outcome() is None


@pytest.mark.parametrize("kind", [ZERO_COPY, PATH])
async def test_sends_to_a_client_that_left_before_the_head_end_quietly(
    way: Way, big: Path, kind: str
) -> None:
    """As uvicorn's own do: a machine that was switched off is no fault of the application's."""
    outcomes: list[BaseException | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await send(start(len(BIG)))
            with big.open("rb") as file:
                message = piece(file) if kind == ZERO_COPY else {"type": PATH, "path": str(big)}
                await send(message)
        except Exception as error:
            outcomes.append(error)
        else:
            outcomes.append(None)

    async with way.serve(app) as there:
        reset(await there.connect())
        await eventually(lambda: bool(outcomes))
    assert outcomes == [None]


async def test_an_application_hears_of_a_client_that_leaves_while_a_file_is_sent(
    way: Way, huge: Path
) -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                pass
            heard.append(message["type"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await send(start(HUGE))
            with huge.open("rb") as file:
                await send(piece(file, offset=0))
        heard.append("end")

    async with way.serve(app) as there:
        client = await there.connect(4096)
        await asyncio.to_thread(client.recv, 1)
        reset(client)
        await eventually(lambda: "end" in heard)
    assert heard == ["http.disconnect", "end"]


async def test_an_application_that_gives_up_closes_the_connection(way: Way, huge: Path) -> None:
    """Its file is closed then: nothing may read from a descriptor that somebody else has got."""
    gave_up = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(HUGE))
        with huge.open("rb") as file:
            sending = asyncio.ensure_future(send(piece(file, offset=0)))
            await gave_up.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    async with way.serve(app) as there:
        with await there.connect(4096) as client:
            await asyncio.to_thread(client.recv, 1)
            gave_up.set()

            def count() -> int:
                total = 0
                while data := client.recv(1 << 20):
                    total += len(data)
                return total

            with anyio.fail_after(DEADLINE):
                assert await asyncio.to_thread(count) < HUGE


# --- bootserve's own door, on a loop without sendfile ----------------------------------------


GET = "GET /boot/initramfs HTTP/1.1\nHost: x\n\n"
BODY = os.urandom(1 << 20) * 24


@pytest.fixture
async def copying(door: Door, without_sendfile: None, sendfiles: Calls) -> AsyncIterator[Door]:
    (door.root / "initramfs").write_bytes(BODY)
    yield door
    assert sendfiles.made == []


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines that the ledger has written so far."""
    caplog.set_level("INFO", "bootserve.transfer")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "bootserve.transfer"
    ]


def has(lines: Callable[[], list[str]], text: str) -> Callable[[], bool | Awaitable[bool]]:
    return lambda: any(text in line for line in lines())


async def test_a_copied_download_is_exact_and_leaves_one_line(
    copying: Door, lines: Callable[[], list[str]]
) -> None:
    with await copying.request(GET) as client:
        assert (await read_response(client))[1] == BODY
        await eventually(has(lines, "initramfs"))
    [line] = lines()
    assert f"initramfs {len(BODY)} of {len(BODY)} bytes" in line
    assert line.endswith("complete")


async def test_copied_ranges_are_exact(copying: Door) -> None:
    for first, last in [(0, 0), (1, 99999), (65535, 70000), (5, len(BODY) - 1)]:
        request = GET.replace("\n\n", f"\nRange: bytes={first}-{last}\n\n")
        with await copying.request(request) as client:
            assert (await read_response(client))[1] == BODY[first : last + 1]


async def test_a_client_that_half_closes_gets_all_of_a_copied_answer(
    copying: Door, lines: Callable[[], list[str]]
) -> None:
    with await copying.request(GET, half_close=True) as client:
        assert (await read_to_end(client)).endswith(BODY)
    await eventually(has(lines, "complete"))


async def test_a_slow_client_of_copies_costs_bounded_memory(
    copying: Door, lines: Callable[[], list[str]]
) -> None:
    with await copying.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: bool(copying.ledger.live))
        [connection] = copying.server.server_state.connections
        assert isinstance(connection, BootProtocol)
        transport = connection.connection
        most = 0

        async def has_stalled() -> bool:
            nonlocal most
            before = transport.waiting()
            await anyio.sleep(0.05)
            most = max(most, transport.get_write_buffer_size())
            return 0 < before == transport.waiting()

        await eventually(has_stalled)
        assert most < 1 << 20
        [transfer] = copying.ledger.live
        assert transfer.progress < len(BODY) // 2
        assert lines() == []
        assert (await read_response(client))[1] == BODY


async def test_a_copied_file_that_shrinks_is_reported(
    copying: Door, lines: Callable[[], list[str]]
) -> None:
    with await copying.request(GET, receive_buffer=4096) as client:
        await asyncio.get_running_loop().sock_recv(client, 1)
        os.truncate(copying.root / "initramfs", 100)
        with pytest.raises(ConnectionResetError):
            await read_to_end(client)
    await eventually(has(lines, "file could not be read to its end"))


async def test_a_copied_file_that_is_rewritten_in_place_is_not_sent_as_two_halves(
    copying: Door, lines: Callable[[], list[str]]
) -> None:
    with await copying.request(GET, receive_buffer=4096) as client:
        await asyncio.get_running_loop().sock_recv(client, 1)
        with (copying.root / "initramfs").open("r+b") as file:
            file.write(bytes(len(BODY)))
        with pytest.raises((AssertionError, ConnectionResetError)):
            await read_response(client)
    await eventually(has(lines, "written to while it was sent"))


@pytest.mark.parametrize("without", [False, True])
async def test_a_client_that_leaves_before_its_answer_begins_is_no_error(
    door: Door,
    without: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thread looks a cold folder up; meanwhile the client may be switched off."""
    if without:
        request.getfixturevalue("without_sendfile")
    (door.root / "initramfs").write_bytes(BODY)
    go_on = asyncio.Event()
    real = Assets.open

    async def slow_open(self: Any, *args: Any, **options: Any) -> Any:
        await go_on.wait()
        return await real(self, *args, **options)

    monkeypatch.setattr(Assets, "open", slow_open)
    client = await door.request(GET)
    await eventually(lambda: bool(door.server.server_state.tasks))
    reset(client)
    await eventually(lambda: not door.server.server_state.connections)
    go_on.set()
    await eventually(lambda: not door.server.server_state.tasks)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
