"""Command lines of the TFTP clients that people have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests import needs

Download = Callable[[str, int, str, Path], list[str]]
"""Host, port, name on the server, where to store: the command that does it."""


def curl(*options: str) -> Download:
    def command(host: str, port: int, name: str, got: Path) -> list[str]:
        address = f"[{host}]" if ":" in host else host
        url = f"tftp://{address}:{port}/{name}"
        program = needs.program("curl", "curl")
        return [program, "-sS", "--globoff", *options, "-o", str(got), url]

    return command


def tftp_hpa(mode: str = "binary") -> Download:
    """It asks for no option."""

    def command(host: str, port: int, name: str, got: Path) -> list[str]:
        program = needs.program("tftp", "tftp-hpa")
        return [program, "-m", mode, host, str(port), "-c", "get", name, str(got)]

    return command


def atftp(*words_before: str, **options: int) -> Download:
    def command(host: str, port: int, name: str, got: Path) -> list[str]:
        words = [needs.program("atftp", "atftp"), *words_before]
        for option, value in options.items():
            words += ["--option", f"{option} {value}"]
        return [*words, "--get", "-r", name, "-l", str(got), host, str(port)]

    return command


def busybox(blksize: int | None = None) -> Download:
    def command(host: str, port: int, name: str, got: Path) -> list[str]:
        words = [needs.program("busybox", "busybox-static"), "tftp", "-g", "-r", name]
        words += ["-b", str(blksize)] if blksize else []
        return [*words, "-l", str(got), host, str(port)]

    return command
