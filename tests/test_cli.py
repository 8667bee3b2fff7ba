"""The commands, as somebody at a terminal meets them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Unprivileged

_ROOT = Path(__file__).parent.parent


def _run(
    *args: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    # Ours for tests only; the program would rightly warn of it.
    return subprocess.run(
        [sys.executable, "-m", "bootserve", *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command that failed says: sentences and nothing else."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("bootserve: ") for line in lines), done.stderr
    return [line.removeprefix("bootserve: ") for line in lines]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with nothing wrong in it."""
    folder = tmp_path / "boot-assets/x86_64"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(b"kernel")
    (folder / "initrd.img").write_bytes(b"initrd")
    path = tmp_path / "bootserve.toml"
    path.write_text(
        """
        [assets]
        roots = ["boot-assets"]
        [http]
        listen = ["127.0.0.1:0"]
        [tftp]
        listen = ["127.0.0.1:0"]
        [profiles.debian]
        kernel = "x86_64/vmlinuz"
        initrds = ["x86_64/initrd.img"]
        [[machines]]
        mac = "52:54:00:12:34:56"
        profile = "debian"
        """
    )
    return path


def test_version() -> None:
    done = _run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"bootserve \d+\.\d+\S*\n", done.stdout)
    assert done.stderr == ""


def test_check_of_a_good_configuration(config: Path, tmp_path: Path) -> None:
    done = _run("check", "--config", config, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert str(config) in done.stdout
    assert "1 profile" in done.stdout
    assert "1 machine" in done.stdout


def test_check_names_every_asset_that_is_missing(config: Path, tmp_path: Path) -> None:
    (tmp_path / "boot-assets/x86_64/vmlinuz").unlink()
    (tmp_path / "boot-assets/x86_64/initrd.img").write_bytes(b"")
    kernel, initrd = _sentences(_run("check", "--config", config))
    assert kernel.startswith(f"{config}: profiles.debian.kernel")
    assert "x86_64/vmlinuz is missing" in kernel
    assert initrd.startswith(f"{config}: profiles.debian.initrds[0]")
    assert "x86_64/initrd.img is empty" in initrd


def test_check_names_the_file_that_the_environment_named(config: Path, tmp_path: Path) -> None:
    (tmp_path / "boot-assets/x86_64/vmlinuz").unlink()
    (line,) = _sentences(_run("check", BOOTSERVE_CONFIG=str(config)))
    assert line.startswith(f"{config}: profiles.debian.kernel")


def test_check_finds_what_serve_would_refuse(config: Path) -> None:
    (line,) = _sentences(_run("check", "--config", config, BOOTSERVE_HTTP_LISTEN="off"))
    assert "http" in line.lower()


def test_check_tells_of_a_misspelt_variable(config: Path) -> None:
    done = _run("check", "--config", config, BOOTSERVE_HTP_LISTEN="*:80")
    assert done.returncode == 0
    assert "BOOTSERVE_HTP_LISTEN" in done.stderr


def test_check_of_a_root_that_this_user_cannot_reach(
    public_dir: Path, unprivileged: Unprivileged
) -> None:
    root = public_dir / "closed/boot-assets"
    root.mkdir(parents=True)
    root.parent.chmod(0)
    try:
        done = unprivileged(
            'sys.argv[0] = "bootserve"\nbootserve.cli.main()',
            *("check", "--root", root),
            cwd=public_dir,
        )
    finally:
        root.parent.chmod(0o700)
    (line,) = _sentences(done)
    assert line.startswith("assets.roots: ")
    assert str(root) in line


@pytest.mark.parametrize("command", ["check", "serve", "dhcp-config"])
def test_mistakes_in_the_configuration(tmp_path: Path, command: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[htpp]\n[http]\nlisten = ["80"]\n')
    kind = ["kea"] if command == "dhcp-config" else []
    lines = _sentences(_run(command, *kind, "--config", config))
    assert len(lines) == 2
    for key in ("htpp: unknown key (did you mean 'http'?)", "http.listen[0]: "):
        assert any(line.startswith(f"{config}: {key}") for line in lines)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    (line,) = _sentences(_run("serve", "--config", tmp_path / "none.toml"))
    assert line == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"


def test_a_mistake_in_a_flag() -> None:
    (line,) = _sentences(_run("serve", "--http", "8080"))
    assert line.startswith("--http: ")
    assert "write ADDR:PORT" in line


def test_a_section_in_the_environment_is_no_traceback() -> None:
    (line,) = _sentences(_run("check", BOOTSERVE_HTTP="*:80"))
    assert line.startswith("BOOTSERVE_HTTP: ")


def test_serve_on_a_busy_port(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = f"127.0.0.1:{other.getsockname()[1]}"
        (line,) = _sentences(_run("serve", "--config", config, "--http", text))
    assert line.startswith(f"HTTP cannot listen on {text}: another program listens there")


def test_serve_on_a_busy_tftp_port(config: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        text = f"127.0.0.1:{other.getsockname()[1]}"
        (line,) = _sentences(_run("serve", "--config", config, "--tftp", text))
    assert line.startswith(f"TFTP cannot listen on {text}: another program listens there")
    assert "--tftp" in line


def test_serve_with_http_off(config: Path) -> None:
    (line,) = _sentences(_run("serve", "--config", config, "--http", "off"))
    assert "--http" in line


@pytest.mark.parametrize("kind", ["dnsmasq", "isc", "kea"])
def test_dhcp_config_names_this_server(config: Path, kind: str) -> None:
    done = _run(
        *("dhcp-config", kind, "--config", config, "--server", "192.0.2.7"),
        BOOTSERVE_HTTP_LISTEN="*:8123",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "http://192.0.2.7:8123/boot.ipxe" in done.stdout
    assert "undionly.kpxe" in done.stdout


@pytest.mark.parametrize("server", ["not an address", "127.0.0.1"])
def test_dhcp_config_for_an_address_that_no_client_can_use(server: str) -> None:
    (line,) = _sentences(_run("dhcp-config", "dnsmasq", "--server", server))
    assert server in line


def test_dhcp_config_without_an_http_door(config: Path) -> None:
    (line,) = _sentences(
        _run("dhcp-config", "dnsmasq", "--config", config, BOOTSERVE_HTTP_LISTEN="off")
    )
    assert "http" in line.lower()


def test_a_command_that_does_not_exist() -> None:
    done = _run("sevre")
    assert done.returncode == 2
    assert "sevre" in done.stderr
    assert "Traceback" not in done.stderr
