"""Secrets in command lines and scripts, which systemd hands over in files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bootserve.catalog.model import Arch
from bootserve.config_errors import ConfigError
from bootserve.settings import load

VALUE = "hunter2-#||;$x"

_MACHINE = '[[machines]]\nmac = "52:54:00:12:34:56"\nprofile = "a"\n'
_KERNEL = '[profiles.a]\nkernel = "x86_64/vmlinuz"\n'


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "credentials"
    found.mkdir()
    (found / "token").write_text(VALUE + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(found))
    return found


def _config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


@pytest.mark.usefixtures("directory")
def test_a_credential_stands_wherever_a_command_line_or_script_names_it(tmp_path: Path) -> None:
    settings = load(
        _config(
            tmp_path,
            _KERNEL.replace("x86_64", "{arch}")
            + 'architectures = ["x86_64", "i386"]\n'
            + "[profiles.a.cmdline]\n"
            + 'x86_64 = "quiet t={credential:token} a={arch} ip=${ip}"\ni386 = "none"\n'
            + '[profiles.b]\nscript = """#!ipxe\nset t {credential:token}\n"""\n'
            + _MACHINE
            + 'cmdline = "u={credential:token},{credential:token}"\n',
        )
    )
    cmdline = settings.profiles["a"].cmdline
    assert isinstance(cmdline, dict)
    assert cmdline[Arch.X86_64] == f"quiet t={VALUE} a={{arch}} ip=${{ip}}"
    assert settings.profiles["b"].script == f"#!ipxe\nset t {VALUE}\n"
    assert settings.machines[0].cmdline == f"u={VALUE},{VALUE}"


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    ("toml", "key", "remedy"),
    [
        (_KERNEL + 'cmdline = "{credential:x}"', "profiles.a.cmdline", "no credential 'x' in"),
        (
            _KERNEL + "[profiles.a.cmdline]\nx86_64 = 'a {credential:x}'",
            "profiles.a.cmdline.x86_64",
            "LoadCredential=",
        ),
        (
            '[profiles.a]\nscript = "#!ipxe\\n{credential:x}"',
            "profiles.a.script",
            "a reload keeps the old ones",
        ),
        (
            _KERNEL + _MACHINE + 'cmdline = "{credential:../token}"',
            "machines[0].cmdline",
            "not the name of a credential",
        ),
        (_KERNEL + 'cmdline = "{credential:..}"', "profiles.a.cmdline", "not the name"),
        (_KERNEL + 'cmdline = "${credential:token}"', "profiles.a.cmdline", "without the $"),
    ],
)
def test_a_reference_that_cannot_be_filled_in_names_its_key(
    toml: str, key: str, remedy: str, tmp_path: Path
) -> None:
    config = _config(tmp_path, toml)
    with pytest.raises(ConfigError) as caught:
        load(config)
    [problem] = caught.value.problems
    assert problem.startswith(f"{config}: {key}: ")
    assert remedy in problem


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe", "is not text"),
        (b"secret-${x}", "replaced once more"),
        (b"secret-{arch}", "replaced once more"),
        (b"secret-\x1b", "control character"),
    ],
)
def test_what_cannot_be_used_is_said_without_its_value(
    content: bytes, complaint: str, directory: Path, tmp_path: Path
) -> None:
    (directory / "token").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(_config(tmp_path, _KERNEL + 'cmdline = "{credential:token}"'))
    for problem in caught.value.problems:
        assert "profiles.a.cmdline" in problem
        assert "secret-" not in problem
    assert complaint in caught.value.problems[0]


def test_without_a_service_manager_it_says_where_credentials_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set") as caught:
        load(_config(tmp_path, _KERNEL + 'cmdline = "{credential:token}"'))
    assert "LoadCredential=" in caught.value.problems[0]


def test_who_only_checks_a_configuration_needs_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    root = tmp_path / "root"
    (root / "x86_64").mkdir(parents=True)
    (root / "x86_64" / "vmlinuz").write_bytes(b"kernel")
    config = _config(
        tmp_path,
        '[assets]\nroots = ["root"]\n'
        + _KERNEL
        + 'architectures = ["x86_64"]\ncmdline = "token={credential:secret_token}"\n'
        + _MACHINE,
    )
    for command in (["check"], ["dhcp-config", "dnsmasq", "--server", "192.0.2.1"]):
        found = subprocess.run(
            [sys.executable, "-m", "bootserve", *command, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (found.returncode, found.stderr) == (0, "")
