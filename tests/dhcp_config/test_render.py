"""What a person sees of the texts before any server does."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Final

import pytest

from bootserve.dhcp_config import BootFiles, DhcpServer, render

FILES: Final = BootFiles("undionly.kpxe", "snponly.efi", "i386/snponly.efi", "arm64/snponly.efi")
URL: Final = "http://192.168.1.10:8080"

every_server = pytest.mark.parametrize("kind", DhcpServer)


def text(kind: DhcpServer, **changes: Any) -> str:
    given: dict[str, Any] = {"server": "192.168.1.10", "http_url": URL, "files": FILES}
    return render(kind, **(given | changes))


def with_file(field: str, name: str) -> BootFiles:
    changes: dict[str, Any] = {field: name}
    return replace(FILES, **changes)


@every_server
def test_begins_by_saying_where_to_paste_it(kind: DhcpServer) -> None:
    first, second, *_ = text(kind).splitlines()
    comment = "//" if kind is DhcpServer.KEA else "#"
    assert first.startswith(f"{comment} bootserve: ")
    assert second.startswith(comment)
    assert "conf" in first + second


@every_server
def test_an_address_may_be_given_as_an_object(kind: DhcpServer) -> None:
    assert text(kind, server=IPv4Address("192.168.1.10")) == text(kind)


@every_server
def test_says_that_firmware_cannot_reach_another_tftp_port(kind: DhcpServer) -> None:
    top = "\n".join(text(kind, tftp_port=6969).splitlines()[:5])
    assert "WARNING" in top
    assert "6969" in top
    assert "can only reach UDP port 69" in top
    assert "WARNING" not in text(kind, tftp_port=69)


@every_server
@pytest.mark.parametrize(
    ("fewer", "trace"),
    [(replace(FILES, efi_i386=None), "i386"), (replace(FILES, efi_arm64=None), "arm64")],
)
def test_a_file_that_is_not_there_leaves_no_line(
    kind: DhcpServer, fewer: BootFiles, trace: str
) -> None:
    assert trace in text(kind)
    shorter = text(kind, files=fewer)
    assert trace not in shorter
    assert "None" not in shorter


@pytest.mark.parametrize("files", [FILES, BootFiles("b", "e", None, None)])
def test_the_text_for_kea_is_a_json_member_without_comments(files: BootFiles) -> None:
    lines = text(DhcpServer.KEA, files=files, tftp_port=6969).splitlines()
    member = "\n".join(line for line in lines if not line.lstrip().startswith("//"))
    classes = json.loads(f"{{{member}}}")["client-classes"]
    names = [one["name"] for one in classes]
    assert len(names) == len(set(names))


@every_server
@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.168.1.10:8080",
        "ftp://192.168.1.10",
        "http://",
        "http:///boot",
        "http://192.168.1.10:8080/",
        "http://192.168.1.10:0",
        "http://192.168.1.10:65536",
        "http://192.168.1.10:8080 ",
        "http://192.168.1.10:8080\n",
        "http://192.168.1.10\ndhcp-script=/bin/sh",
        'http://a"; } execute("x',
        "http://a'b",
        "http://a,b",
        "http://a;b",
        "http://a/#b",
        "http://a/b?c=d",
        "http://a/${mac}",
        "http://a/{b}",
        "http://a\\b",
        "http://user:word@a",
        "http://a//b",
        "http://[::1",
        "http://[:::::]",
        "http://b\u00fcro",
        "http://\u0661\u0662",
        "http://a\0b",
        "http://" + "a" * 120,
    ],
)
def test_a_url_that_could_mean_something_else_is_refused(kind: DhcpServer, url: str) -> None:
    with pytest.raises(ValueError, match=r"http_url|port|characters long"):
        text(kind, http_url=url)


@every_server
@pytest.mark.parametrize("field", ["bios", "efi_x86_64", "efi_i386", "efi_arm64"])
@pytest.mark.parametrize(
    "name",
    [
        "",
        "two words.efi",
        "line\nbreak.efi",
        "end.efi\n",
        'quo"te.efi',
        "quo'te.efi",
        "com,ma.efi",
        "back\\slash.efi",
        "/absolute.efi",
        "dir/",
        "dir//file.efi",
        "../outside.efi",
        "dir/../outside.efi",
        ".hidden",
        "-option",
        "#comment",
        "a;b",
        "{{ 7 * 7 }}",
        "nul\0.efi",
        "\u00fcber.efi",
        "a" * 128,
    ],
)
def test_a_file_name_that_could_mean_something_else_is_refused(
    kind: DhcpServer, field: str, name: str
) -> None:
    with pytest.raises(ValueError, match=r"boot file ['\"]|characters long"):
        text(kind, files=with_file(field, name))


@every_server
@pytest.mark.parametrize(
    "server",
    [
        "",
        "bootserver",
        "192.168.1",
        "192.168.1.10\n",
        "::1",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_a_server_that_clients_cannot_reach_is_refused(kind: DhcpServer, server: str) -> None:
    with pytest.raises(ValueError, match="server"):
        text(kind, server=server)


@every_server
@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_does_not_exist_is_refused(kind: DhcpServer, port: int) -> None:
    with pytest.raises(ValueError, match=f"port {port} is not between 1 and 65535"):
        text(kind, tftp_port=port)


def test_the_longest_names_that_fit_into_a_packet_are_accepted() -> None:
    room = 127 - len(f"{URL}/boot/")
    longest = BootFiles("b" * 127, "e" * room, None, None)
    assert longest.bios in text(DhcpServer.ISC, files=longest)
    with pytest.raises(ValueError, match="characters long"):
        text(DhcpServer.ISC, files=replace(longest, efi_x86_64="e" * (room + 1)))
