"""Scripts that are remembered are right for everybody, and cost no more than they may."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message

from bootserve.http import lines
from bootserve.http.app import create_app
from bootserve.settings import load
from bootserve.watch.quiet import QuietLog
from tests.http.conftest import Door, read_response

_SCRIPT = "#!ipxe\necho raw\nexit\n"
_TREE: dict[str, Any] = {
    "assets": {"roots": ["/nonexistent"]},
    "profiles": {
        "debian": {"kernel": "x86_64/vmlinuz", "cmdline": "quiet", "title": "Debian 100%s"},
        "raw": {"script": _SCRIPT},
    },
    "machines": [
        {"name": "n%s%d", "mac": "525400000001", "profile": "debian", "cmdline": "a=1"},
        {"name": "back", "mac": "525400000002", "profile": "debian", "cmdline": "a=2"},
        {"name": "odd", "serial": "S%s", "profile": "raw"},
    ],
}
_MIB = 1 << 20


def _app(**tree: Any) -> ASGIApp:
    return create_app(load(flags={**_TREE, **tree}))


def _scope(
    path: str, query: bytes = b"", host: str = "boot.example", method: str = "GET"
) -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", host.encode("latin-1"))],
        "client": ("192.0.2.7", 4711),
        "server": ("192.0.2.1", 8080),
    }


async def _call(
    app: ASGIApp, scope: MutableMapping[str, Any], said: Sequence[Message] = ()
) -> list[Message]:
    """Everything that the application sends, to a client that says this and no more."""
    sent: list[Message] = []
    left = list(said)

    async def receive() -> Message:
        return left.pop(0) if left else await asyncio.Future()

    async def send(message: Message) -> None:
        # A server may do with a message what it likes.
        sent.append(dict(message))

    await app(scope, receive, send)
    return sent


async def _ask(
    app: ASGIApp, path: str, query: bytes = b"", host: str = "boot.example", method: str = "GET"
) -> tuple[int, dict[bytes, bytes], str]:
    start, *bodies = await _call(app, _scope(path, query, host, method))
    text = b"".join(message.get("body", b"") for message in bodies).decode()
    return start["status"], dict(start["headers"]), text


async def test_every_client_is_sent_to_where_it_came_from() -> None:
    app = _app()
    for _ in range(3):
        for host in ("one.example", "two.example:8080", "[2001:db8::1]", "192.0.2.1"):
            for path, link in (
                ("/boot.ipxe", "/machine.ipxe?"),
                ("/machine.ipxe", "/profile/debian"),
                ("/profile/debian", "/boot/x86_64/vmlinuz"),
                ("/autoexec.ipxe", "/machine.ipxe?"),
            ):
                status, headers, text = await _ask(app, path, host=host)
                assert status == 200
                assert f"http://{host}{link}" in text
                assert headers[b"content-length"] == str(len(text.encode())).encode()
                others = {"one.example", "two.example", "2001:db8::1", "192.0.2.1"}
                for other in others - {host.strip("[]").removesuffix(":8080")}:
                    assert f"//{other}" not in text


async def test_every_machine_gets_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app = _app()
    for _ in range(3):
        for query, own, label in (
            (b"mac=52-54-00-00-00-01", "a=1", "52:54:00:00:00:01"),
            (b"mac=52-54-00-00-00-02", "a=2", "52:54:00:00:00:02"),
            (b"serial-hex=" + b"S%s".hex().encode(), "echo raw", "S%s"),
            (b"mac=52-54-00-00-00-09", "/profile/debian", "52:54:00:00:00:09"),
        ):
            caplog.clear()
            status, _, text = await _ask(app, "/machine.ipxe", query)
            assert status == 200
            assert own in text
            [line] = caplog.messages
            assert label in line
            for other in {"a=1", "a=2", "echo raw"} - {own}:
                assert other not in text


@pytest.mark.parametrize("size", [0, 100, 1023, 1024, 1025, 60_000])
@pytest.mark.parametrize("word", [b"%s", b"%25s", b"%", b"%%", b"%zz", b"%C3%BC", b"%ff", b"%00"])
async def test_no_query_breaks_an_answer_or_its_line(
    caplog: pytest.LogCaptureFixture, word: bytes, size: int
) -> None:
    caplog.set_level("INFO")
    app = _app()
    query = b"mac=52-54-00-00-00-01&buildarch=" + word + b"&platform=" + word + b"&hostname=" + word
    query += b"&x=" + b"y" * size
    for _ in range(2):
        caplog.clear()
        status, _, text = await _ask(app, "/machine.ipxe", query)
        assert (status, "a=1" in text) == (200, True)
        [line] = caplog.messages
        assert line.startswith("HTTP 192.0.2.7 (52:54:00:00:00:01, ")
        assert "gets the script of: debian" in line
        assert line.isprintable()
        assert len(line) < 1500


@pytest.mark.parametrize("name", ["%s", "%d%s%n", "a%sb c", "\u202e", "x" * 5000])
async def test_no_profile_name_breaks_an_answer_or_its_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(lines, "_not_found", QuietLog(lines.logger))
    status, _, text = await _ask(_app(), f"/profile/{name}")
    assert status == 404
    [line] = caplog.messages
    assert line.startswith("HTTP 192.0.2.7 profile ")
    assert line.endswith(": not found")
    assert line.isprintable()
    assert text.rstrip("\n").isprintable()
    if name.isascii() and len(name) < 100:
        assert name in line


@settings(max_examples=50, deadline=None)
@given(
    asks=st.lists(
        st.tuples(
            st.sampled_from(["/boot.ipxe", "/machine.ipxe", "/profile/debian", "/profile/raw"]),
            st.binary(max_size=30) | st.sampled_from([b"mac=525400000001", b"mac=525400000002"]),
            st.sampled_from(["a.example", "b.example", "a b", "", "x:y:z", "\xff"]),
        ),
        min_size=1,
        max_size=15,
    )
)
@example(asks=[("/boot.ipxe", b"", "a b"), ("/boot.ipxe", b"", "a.example")] * 2)
def test_who_asked_before_changes_no_answer(asks: list[tuple[str, bytes, str]]) -> None:
    async def run() -> None:
        app = _app()
        for path, query, host in asks:
            assert await _ask(app, path, query, host) == await _ask(_app(), path, query, host)

    asyncio.run(run())


async def _kept_after(app: ASGIApp, asks: list[tuple[str, bytes, str]]) -> int:
    """Bytes that the application keeps of these requests."""
    # What the first request of a kind costs once is not meant.
    for path, query, host in asks[:2]:
        await _ask(app, path, query, host)
    tracemalloc.start()
    try:
        for path, query, host in asks:
            # A copy, as a server makes one: what is kept of it counts.
            status, _, text = await _ask(app, path, bytes(bytearray(query)), host)
            assert (status, text[:6]) == (200, "#!ipxe")
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.fixture
def _quiet() -> Any:
    """Without the lines, which pytest would keep."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_quiet")
async def test_a_flood_of_queries_costs_little() -> None:
    app = _app(boot={"default": "raw"})
    asks = [("/machine.ipxe", b"serial=%d&x=" % n + b"y" * 900, "x") for n in range(5000)]
    assert await _kept_after(app, asks) < 16 * _MIB
    assert "a=1" in (await _ask(app, "/machine.ipxe", b"mac=52-54-00-00-00-01"))[2]


@pytest.mark.usefixtures("_quiet")
async def test_a_flood_of_long_queries_costs_nothing() -> None:
    app = _app(boot={"default": "raw"})
    asks = [("/machine.ipxe", b"serial=%d&x=" % n + b"y" * 20_000, "x") for n in range(1000)]
    assert await _kept_after(app, asks) < _MIB


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("length", [200, 4000])
@pytest.mark.parametrize("path", ["/boot.ipxe", "/profile/debian", "/machine.ipxe"])
async def test_a_flood_of_hosts_costs_what_scripts_may_cost(path: str, length: int) -> None:
    app = _app()
    # A script has its host in it several times.
    asks = [(path, b"", f"h{n}.{'x' * length}.example") for n in range(2000)]
    assert await _kept_after(app, asks) < 40 * _MIB
    assert "//right.example/" in (await _ask(app, path, host="right.example"))[2]


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("length", [200, 20_000])
@pytest.mark.parametrize("path", ["/profile/raw", "/machine.ipxe"])
async def test_a_flood_of_hosts_costs_no_more_where_the_script_is_the_operators(
    path: str, length: int
) -> None:
    """It is the same for all of them, and far smaller than what clients call us."""
    app = _app(boot={"default": "raw"})
    asks = [(path, b"", f"h{n}.{'x' * length}.example") for n in range(5000)]
    assert await _kept_after(app, asks) < 20 * _MIB


async def test_a_host_that_is_longer_than_a_name_can_be_is_answered_by_address() -> None:
    for host in (f"{'x' * 60}.{'y' * 5000}", "x" * 300):
        _, _, text = await _ask(_app(), "/boot.ipxe", host=host)
        assert "http://192.0.2.1:8080/machine.ipxe?" in text
    longest = ".".join(["x" * 63, "y" * 63, "z" * 63, "a" * 61])
    _, _, text = await _ask(_app(), "/boot.ipxe", host=f"{longest}:65535")
    assert f"http://{longest}:65535/machine.ipxe?" in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"])
@pytest.mark.parametrize(
    "path",
    [
        *("/boot.ipxe", "/machine.ipxe", "/profile/debian", "/autoexec.ipxe", "/boot/x"),
        *("/", "/nothing", "/profile/", "//boot.ipxe", "*"),
    ],
)
async def test_only_get_and_head(path: str, method: str) -> None:
    status, headers, _ = await _ask(_app(), path, method=method)
    assert status == 405
    assert {word.strip() for word in headers[b"allow"].split(b",")} == {b"GET", b"HEAD"}


@pytest.mark.parametrize(
    "path", ["/machine.ipxe/", "/machine.ipxe/x", "/boot.ipxe/", "/profile", "/xautoexec.ipxe", ""]
)
async def test_what_is_no_script(path: str) -> None:
    status, headers, text = await _ask(_app(), path)
    assert status == 404
    assert headers[b"content-length"] == str(len(text)).encode()


async def test_head_of_a_script_is_get_without_the_body(door: Door) -> None:
    (door.root / "x86_64").mkdir()
    (door.root / "x86_64/vmlinuz").write_bytes(b"kernel")
    for path in ("/boot.ipxe", "/machine.ipxe?mac=525400000001", "/profile/x86_64/vmlinuz"):
        with await door.request(f"GET {path} HTTP/1.1\nHost: x\n\n") as client:
            got, body = await read_response(client)
        assert body.startswith(b"#!ipxe\n")
        # What comes after the head is the second answer, or the body that must not be.
        twice = f"HEAD {path} HTTP/1.1\nHost: x\n\nPUT / HTTP/1.1\nHost: x\nConnection: close\n\n"
        with await door.request(twice) as client:
            data = b""
            while more := await asyncio.get_running_loop().sock_recv(client, 65536):
                data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        assert head.decode() == got
        assert rest.startswith(b"HTTP/1.1 405 ")


async def test_a_server_that_tells_of_its_life_is_heard() -> None:
    sent = await _call(
        _app(),
        {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}},
        [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}],
    )
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.parametrize("path", ["/", "/boot.ipxe", "/boot/x"])
async def test_a_websocket_is_refused(path: str) -> None:
    scope = {**_scope(path), "type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    sent = await _call(_app(), scope, [{"type": "websocket.connect"}])
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(
    "raw", [b"/boot/h%FFFFFFC3%FFFFFFBC", b"/boot/h%FFFFFFC3\xbc", b"/boot/%FFFFFF%FFFFFFZZ"]
)
async def test_bytes_with_their_sign_are_mended_or_name_nothing(tmp_path: Path, raw: bytes) -> None:
    app = _app(assets={"roots": [tmp_path]})
    scope = {**_scope(raw.decode("latin-1")), "raw_path": raw}
    start, *_ = await _call(app, scope)
    assert start["status"] == 404


async def test_a_path_of_raw_bytes_breaks_nothing(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (b"/boot/h\xc3\xbc", b"/boot/%FFFFFFC3\xbc", b"/profile/\xff"):
        with await door.request("") as client:
            request = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(client, request)
            data = b""
            while more := await asyncio.get_running_loop().sock_recv(client, 65536):
                data += more
        assert data.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), path
    assert not [record for record in caplog.records if record.exc_info]


async def test_answers_that_are_shared_may_be_sent_at_the_same_time() -> None:
    app = _app()
    answers = await asyncio.gather(*(_ask(app, "/boot.ipxe") for _ in range(50)))
    assert len({repr(answer) for answer in answers}) == 1
