"""The running program: what it prints, and how it leaves."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DEADLINE = 60
BIG = os.urandom(1 << 20) * 24


@dataclass
class Program:
    process: subprocess.Popen[str]
    banner: str
    http_port: int
    tftp_port: int

    def log(self) -> str:
        """Everything on stderr, once the program has ended."""
        _, log = self.process.communicate(timeout=DEADLINE)
        return log


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "i386").mkdir()
    (tmp_path / "i386" / "initramfs").write_bytes(BIG)
    (tmp_path / "i386" / "vmlinuz").write_bytes(b"kernel")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bootserve", "serve", "--root", str(tmp_path)),
            *("--http", "127.0.0.1:0", "--tftp", "127.0.0.1:0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        banner = _read_until(process, "is ready")
        [http_port] = re.findall(r"^HTTP .*http://127\.0\.0\.1:(\d+)", banner, re.MULTILINE)
        [tftp_port] = re.findall(r"^TFTP .*tftp://127\.0\.0\.1:(\d+)", banner, re.MULTILINE)
        yield Program(process, banner, int(http_port), int(tftp_port))
    finally:
        process.kill()
        process.communicate()


def _read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    text = ""
    deadline = time.monotonic() + DEADLINE
    while words not in text:
        assert time.monotonic() < deadline, text
        assert select.select([process.stdout], [], [], DEADLINE)[0], text
        more = os.read(process.stdout.fileno(), 65536).decode()
        assert more, f"it ended: {text}"
        text += more
    return text


def _start_download(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /boot/i386/initramfs HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.recv(10) == b"HTTP/1.1 2"
    return client


def _rest(client: socket.socket) -> bytes:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    data = bytearray()
    while more := client.recv(1 << 20):
        data += more
    return bytes(data)


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait(condition: object) -> None:
    deadline = time.monotonic() + DEADLINE
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_says_what_it_serves_and_how_to_point_dhcp_at_it(
    program: Program, tmp_path: Path
) -> None:
    assert str(tmp_path) in program.banner
    assert "a menu of i386/vmlinuz" in program.banner
    for server in ("dnsmasq", "isc", "kea"):
        assert server in program.banner


def test_names_of_any_bytes_reach_neither_the_terminal_nor_the_monitor_as_they_are(
    tmp_path: Path,
) -> None:
    root = tmp_path / os.fsdecode(b"root \xff\x1b[31m")
    kernel = root / "i386" / "\x1b[2Jlinux" / "vmlinuz"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"kernel")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bootserve", "serve", "--root", str(root)),
            *("--http", "127.0.0.1:0", "--tftp", "off"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # As under most locales that are not C.
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    try:
        banner = _read_until(process, "is ready")
        assert r"root \udcff\x1b[31m" in banner
        assert r"i386/\x1b[2Jlinux/vmlinuz" in banner
        assert "\x1b" not in banner
        [port] = re.findall(r"^HTTP .*http://127\.0\.0\.1:(\d+)", banner, re.MULTILINE)
        root.rename(tmp_path / "elsewhere")
        reasons: list[str] = []

        def is_red() -> bool:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
            except urllib.error.HTTPError as answer:
                if answer.code != 503:
                    raise
                reasons.extend(json.load(answer)["reasons"])
            return bool(reasons)

        _wait(is_red)
        assert r"root \udcff\x1b[31m does not exist" in reasons[0]
    finally:
        process.kill()
        process.communicate()


def test_both_doors_serve(program: Program) -> None:
    with _start_download(program.http_port) as client:
        client.shutdown(socket.SHUT_WR)
        assert _rest(client).endswith(BIG)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.sendto(b"\0\1i386/vmlinuz\0octet\0", ("127.0.0.1", program.tftp_port))
        data, _ = client.recvfrom(2048)
        assert data == b"\0\3\0\1kernel"


def test_names_as_firmware_writes_them_are_understood_and_counted(program: Program) -> None:
    for name in (rb"\i386\vmlinuz", b"/i386//vmlinuz"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.sendto(b"\0\1" + name + b"\0octet\0", ("127.0.0.1", program.tftp_port))
            data, peer = client.recvfrom(2048)
            assert data == b"\0\3\0\1kernel"
            client.sendto(b"\0\4\0\1", peer)
    with urllib.request.urlopen(f"http://127.0.0.1:{program.http_port}/healthz") as answer:
        quirks = json.load(answer)["tftp"]["quirks"]
    assert quirks == {
        "blksize-512": 2,
        "backslashes": 1,
        "leading-slash": 2,
        "doubled-slashes": 1,
    }


def test_a_signal_lets_slow_downloads_finish_and_refuses_new_ones(program: Program) -> None:
    with _start_download(program.http_port) as client:
        program.process.send_signal(signal.SIGTERM)
        _wait(lambda: _refuses(program.http_port))
        assert program.process.poll() is None
        assert _rest(client).endswith(BIG[-1000000:])
    log = program.log()
    assert program.process.returncode == 0
    assert f"{len(BIG)} of {len(BIG)} bytes" in log
    assert "complete" in log
    assert "nothing was cut off" in log.splitlines()[-1]


def test_a_signal_lets_a_tftp_transfer_finish(program: Program) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        request = b"\0\1i386/initramfs\0octet\0blksize\0" + b"65464\0"
        client.sendto(request, ("127.0.0.1", program.tftp_port))
        packet, session = client.recvfrom(70000)
        assert packet[:2] == b"\0\6"
        client.sendto(b"\0\4\0\0", session)
        packet, _ = client.recvfrom(70000)
        program.process.send_signal(signal.SIGTERM)
        _wait(lambda: _refuses(program.http_port))
        data = {1: packet[4:]}
        while True:
            number = len(data)
            client.sendto(b"\0\4" + number.to_bytes(2, "big"), session)
            if len(data[number]) < 65464:
                break
            packet, _ = client.recvfrom(70000)
            data.setdefault(int.from_bytes(packet[2:4], "big"), packet[4:])
        assert b"".join(data[i] for i in sorted(data)) == BIG
    assert "complete" in program.log()
    assert program.process.returncode == 0


def test_a_second_signal_cuts_off(program: Program) -> None:
    with _start_download(program.http_port):
        program.process.send_signal(signal.SIGTERM)
        _wait(lambda: _refuses(program.http_port))
        program.process.send_signal(signal.SIGINT)
        log = program.log()
    assert "server was stopped" in log
    assert "Traceback" not in log
    assert program.process.returncode != 0


def test_an_idle_kept_connection_does_not_hold_the_exit_up(program: Program) -> None:
    with socket.create_connection(("127.0.0.1", program.http_port), DEADLINE) as client:
        client.sendall(b"HEAD /boot/i386/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        program.process.send_signal(signal.SIGTERM)
        assert client.recv(4096) == b""
    program.log()
    assert program.process.returncode == 0
