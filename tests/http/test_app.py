"""The routes, as any ASGI server would drive them."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount

from bootserve.http import lines
from bootserve.http.app import create_app
from bootserve.settings import load
from bootserve.watch.quiet import QuietLog

KERNEL = b"kernel " * 1000


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "i386").mkdir()
    (tmp_path / "i386" / "vmlinuz").write_bytes(KERNEL)
    os.utime(tmp_path / "i386" / "vmlinuz", (784111777, 784111777))
    (tmp_path / "i386" / "empty").touch()
    (tmp_path / "loader.efi").write_bytes(b"MZ")
    (tmp_path / "out").symlink_to("/etc/passwd")
    app = create_app(load(None, {"assets": {"roots": [tmp_path]}}))
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://boot.example:8080") as http:
        yield http


async def test_a_file_with_its_headers(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot/i386/vmlinuz")
    assert got.status_code == 200
    assert got.content == KERNEL
    assert got.headers["content-length"] == str(len(KERNEL))
    assert got.headers["last-modified"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert got.headers["accept-ranges"] == "bytes"
    assert "transfer-encoding" not in got.headers
    assert "content-encoding" not in got.headers


async def test_compression_is_never_chosen(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot/i386/vmlinuz", headers={"accept-encoding": "gzip, br"})
    assert "content-encoding" not in got.headers
    assert got.headers["content-length"] == str(len(KERNEL))


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot/i386/vmlinuz")
    head = await client.head("/boot/i386/vmlinuz")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers == got.headers


@pytest.mark.parametrize(
    "path",
    ["//boot/i386/vmlinuz", "/boot//i386/vmlinuz", "/boot/i386///vmlinuz", "///boot//i386/vmlinuz"],
)
async def test_doubled_slashes_are_served_without_a_redirect(
    client: httpx.AsyncClient, path: str
) -> None:
    got = await client.get(f"http://boot.example:8080{path}")
    assert got.status_code == 200
    assert got.content == KERNEL


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/boot",
        "/boot/",
        "/boot/i386",
        "/boot/i386/",
        "/boot/i386/vmlinuz/x",
        "/boot/%2e%2e/%2e%2e/etc/passwd",
        "/boot/..%2f..%2fetc/passwd",
        "/boot/%2fetc/passwd",
        "/boot/i386/vmlinuz%00",
        "/boot/%ff%fe",
        "/boot/" + "x" * 5000,
        "/i386/vmlinuz",
    ],
)
async def test_what_is_no_asset_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    got = await client.get(path)
    assert got.status_code == 404
    assert b"root:" not in got.content
    assert "content-length" in got.headers


async def test_a_link_out_of_the_root_is_forbidden(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot/out")
    assert got.status_code == 403
    assert b"root:" not in got.content


async def test_an_empty_file(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot/i386/empty")
    assert (got.status_code, got.content, got.headers["content-length"]) == (200, b"", "0")


async def test_a_flood_of_names_that_are_not_there_hides_no_refusal(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_not_found", QuietLog(lines.logger, most=3, clock=lambda: 0.0))
    with caplog.at_level(logging.INFO, "bootserve.http"):
        for _ in range(5):
            assert (await client.get("/boot/other")).status_code == 404
        assert (await client.get("/boot/out")).status_code == 403
        lines._not_found.tell()
    assert caplog.messages[:3] == ["HTTP 192.0.2.7 other: not found"] * 3
    assert caplog.messages[3].startswith("HTTP 192.0.2.7 out: refused, ")
    assert caplog.messages[4:] == ["left out 2 lines like those before"]


async def test_a_profile_that_is_not_there_is_not_logged_as_given(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = QuietLog(lines.logger, most=3, clock=lambda: 0.0)
    monkeypatch.setattr(lines, "_not_found", quiet)
    with caplog.at_level(logging.INFO, "bootserve.http"):
        assert (await client.get("/profile/i386/vmlinuz")).status_code == 200
        for _ in range(5):
            assert (await client.get("/profile/other")).status_code == 404
        quiet.tell()
    assert caplog.messages == [
        "HTTP 192.0.2.7 gets the script of profile i386/vmlinuz",
        # Like all that a stranger can cause without end.
        *["HTTP 192.0.2.7 profile other: not found"] * 3,
        "left out 2 lines like those before",
    ]


async def test_uploads_are_refused_by_method(client: httpx.AsyncClient) -> None:
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        got = await client.request(method, "/boot/i386/vmlinuz", content=b"x")
        assert got.status_code == 405
        assert {"GET", "HEAD"} <= set(got.headers["allow"].replace(" ", "").split(","))


async def test_ranges(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot/i386/vmlinuz", headers={"range": "bytes=7-13"})
    assert got.status_code == 206
    assert got.content == KERNEL[7:14]
    assert got.headers["content-range"] == f"bytes 7-13/{len(KERNEL)}"
    assert got.headers["content-length"] == "7"
    beyond = await client.get("/boot/i386/vmlinuz", headers={"range": f"bytes={len(KERNEL)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(KERNEL)}"


async def test_a_cache_can_revalidate(client: httpx.AsyncClient) -> None:
    first = await client.get("/boot/i386/vmlinuz")
    again = await client.get("/boot/i386/vmlinuz", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    since = await client.get(
        "/boot/i386/vmlinuz", headers={"if-modified-since": formatdate(usegmt=True)}
    )
    assert since.status_code == 304


async def test_efi_binaries_have_the_type_that_uefi_http_boot_wants(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/boot/loader.efi")).headers["content-type"] == "application/efi"


async def test_scripts_name_the_server_as_the_client_does(client: httpx.AsyncClient) -> None:
    got = await client.get("/boot.ipxe")
    assert got.status_code == 200
    assert got.text.startswith("#!ipxe\n")
    assert "http://boot.example:8080/machine.ipxe?mac=${mac:hexhyp}" in got.text
    assert got.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    "host", ["evil || reboot", "x${mac}", 'a"b', "u:p@h", "", "a b", "h/../x#"]
)
async def test_a_hostile_host_header_does_not_reach_a_script(
    client: httpx.AsyncClient, host: str
) -> None:
    got = await client.get("/boot.ipxe", headers={"host": host})
    assert got.status_code == 200
    harmless = await client.get("/boot.ipxe", headers={"host": "harmless"})
    assert len(got.text.splitlines()) == len(harmless.text.splitlines())
    for word in ("evil", "x${mac}", '"b', "u:p@", "a b", "#"):
        assert word not in got.text.replace("#!ipxe", "").replace("\n# ", "\n")


async def test_a_machine_is_logged_by_what_it_says_of_itself(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await client.get("/machine.ipxe?mac=52-54-00-AB-cd-01&hostname=a%0Ab%1B[2J&serial=x")
    await client.get("/boot/i386/vmlinuz")
    lines = [record.getMessage() for record in caplog.records if "192.0.2.7" in record.getMessage()]
    assert all("52:54:00:ab:cd:01" in line for line in lines)
    assert len(lines) == 2
    assert not any("\n" in line or "\x1b" in line for line in lines)


@pytest.mark.parametrize("path", ["/autoexec.ipxe", "/boot/autoexec.ipxe", "/boot/x/autoexec.ipxe"])
async def test_autoexec_is_the_entry_script(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).text == (await client.get("/boot.ipxe")).text


async def test_the_menu_leads_to_what_lies_in_the_root(client: httpx.AsyncClient) -> None:
    menu = (await client.get("/machine.ipxe?mac=52:54:00:00:00:01")).text
    [link] = {word for word in menu.split() if "/profile/" in word}
    script = (await client.get(link)).text
    assert "http://boot.example:8080/boot/i386/vmlinuz" in script
    assert (await client.get("/profile/nothing")).status_code == 404


async def test_what_a_machine_says_cannot_forge_a_line_or_another_machine(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    forged = "S1) x86_64/initramfs 5 of 5 bytes in 0.1 s: complete ("
    await client.get("/machine.ipxe", params={"serial": forged, "platform": "pcbios) x: prod"})
    await client.get("/machine.ipxe?mac=52-54-00-00-00-01&serial=x&mac=52-54-00-00-00-99")
    await client.get("/machine.ipxe?serial-hex=" + b"CZ+34&01".hex())
    first, second, third = [m for m in caplog.messages if "192.0.2.7" in m]
    assert f'("{forged}"' in first
    assert '"pcbios) x: prod"' in first
    assert "52:54:00:00:00:01" in second
    assert "CZ+34&01" in third


async def test_bytes_that_an_old_ipxe_prints_with_their_sign(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "h\u00fc").write_bytes(b"found")
    assert (await client.get("/boot/h%FFFFFFC3%FFFFFFBC")).content == b"found"


async def test_it_works_below_another_application(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(KERNEL)
    app = create_app(load(None, {"assets": {"roots": [tmp_path]}}))
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/pxe", app)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://boot.example") as http:
        assert (await http.get("/pxe/boot/vmlinuz")).content == KERNEL
        assert (await http.get("/pxe/boot.ipxe")).text.startswith("#!ipxe")
        assert (await http.get("/boot/vmlinuz")).status_code == 404
