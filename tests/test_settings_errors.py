"""Every mistake in a configuration is one sentence: its place, its key, what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootserve.catalog.ipxe import checked_url
from bootserve.config_errors import ConfigError
from bootserve.settings import load

_PROFILE = '[profiles.debian]\nkernel = "x86_64/vmlinuz"\n'


def _problems(config: Path | None, flags: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config, flags)
    problems = caught.value.problems
    assert problems
    assert all("\n" not in problem for problem in problems)
    return problems


@pytest.mark.parametrize(
    ("toml", "key", "remedy"),
    [
        ("[htpp]\nlisten = []", "htpp", "did you mean 'http'?"),
        ("[http]\nlistn = []", "http.listn", "did you mean 'listen'?"),
        ("[http]\nzzzzzz = 1", "http.zzzzzz", "remove or rename"),
        ('[profiles.a]\nkernal = "x86_64/k"', "profiles.a.kernal", "did you mean 'kernel'?"),
        (
            _PROFILE + '[[machines]]\nmacs = "525400123456"\nprofile = "debian"',
            "machines[0].macs",
            "did you mean 'mac'?",
        ),
        (
            _PROFILE + '[[machines]]\nmac = "52:54:00:12:34"\nprofile = "debian"',
            "machines[0].mac[0]",
            "write it like 52:54:00:12:34:56",
        ),
        (
            _PROFILE + '[[machines]]\nuuid = "4c4c4544"\nprofile = "debian"',
            "machines[0].uuid[0]",
            "write it like 4c4c4544-",
        ),
        (
            _PROFILE + '[[machines]]\nhostname = ["ok", "not ok"]\nprofile = "debian"',
            "machines[0].hostname[1]",
            "write it like node1",
        ),
        (
            _PROFILE + '[[machines]]\nserial = "a\\u0007"\nprofile = "debian"',
            "machines[0].serial[0]",
            "printable characters",
        ),
        (_PROFILE + '[[machines]]\nprofile = "debian"', "machines[0]", "give it a `mac`"),
        (_PROFILE + '[[machines]]\nmac = "525400123456"', "machines[0].profile", "required"),
        (
            _PROFILE + '[[machines]]\nmac = "525400123456"\nprofile = "debain"',
            "machines[0].profile",
            "did you mean 'debian'?",
        ),
        (_PROFILE + '[boot]\ndefault = "debia"', "boot.default", "did you mean 'debian'?"),
        ('[boot]\ndefault = "debian"', "boot.default", "there is no profile 'debian'"),
        ('[http]\nlisten = ["8080"]', "http.listen[0]", "write ADDR:PORT"),
        ('[tftp]\nlisten = ["*:69", "::1:69"]', "tftp.listen[1]", "write ADDR:PORT"),
        ('[http]\nlisten = ["off", "*:80"]', "http.listen[0]", "write ADDR:PORT"),
        ('[http]\nkeep_alive = "long"', "http.keep_alive", "must be a number"),
        ("[http]\nkeep_alive = 5", "http.keep_alive", "greater than or equal to 11"),
        ("[http]\nkeep_alive = nan", "http.keep_alive", "equal to"),
        ('[http]\nurl = "boot.example"', "http.url", "http"),
        ("[tftp]\nmax_sessions = 0", "tftp.max_sessions", "greater than or equal to 1"),
        ("[assets]\nroots = []", "assets.roots", "must name at least 1"),
        ("[assets]\nroots = [1]", "assets.roots[0]", "path"),
        ('[log]\nlevel = "loud"', "log.level", "'info', 'warning' or 'error'"),
        ('[log]\nformat = "xml"', "log.format", "'auto', 'text', 'journal' or 'json'"),
        ('[http]\npace = "fast"', "http.pace", 'write it like "10Mbit/s"'),
        ("[http]\npace = 10", "http.pace", 'write it like "10Mbit/s"'),
        ('[http]\nwindow = "1KiB"', "http.window", "between 4KiB and 64MiB"),
        ('[lanes]\nauto = "yes"', "lanes.auto", "did you mean 'auto_lane'?"),
        ('[lanes]\nauto_lane = "perhaps"', "lanes.auto_lane", "must be true or false"),
        ('[lanes]\nagents = "iPXE"', "lanes.agents", "must be a list"),
        (
            '[[lanes.agents]]\nagent = "iPXE/*"\npace = "1MB/s"',
            "lanes.agents[0].agent",
            "did you mean 'user_agent'?",
        ),
        ('[[lanes.agents]]\npace = "1MB/s"', "lanes.agents[0].user_agent", "required"),
        ('[[lanes.agents]]\nuser_agent = "iPXE/*"', "lanes.agents[0]", "give it a `pace`"),
        (
            '[[lanes.agents]]\nuser_agent = "*"\nwindow = "1 GiB"',
            "lanes.agents[0].window",
            "between 4KiB and 64MiB",
        ),
        (_PROFILE + 'pace = "1Mb/s"', "profiles.debian.pace", 'write it like "10Mbit/s"'),
        (_PROFILE + 'windw = "1MiB"', "profiles.debian.windw", "did you mean 'window'?"),
        (
            _PROFILE + '[[machines]]\nmac = "525400123456"\nprofile = "debian"\nwindow = true',
            "machines[0].window",
            'write it like "256KiB"',
        ),
        ("http = 5", "http", "must be a table"),
        ("machines = 5", "machines", "must be a list"),
        ('[profiles."a b"]\nscript = "#!ipxe"', "profiles.a b", "not a name"),
        ("[profiles.a]", "profiles.a", "needs either `kernel` or `script`"),
        (
            '[profiles.a]\nkernel = "x86_64/k"\nscript = "#!ipxe"',
            "profiles.a",
            "needs either `kernel` or `script`",
        ),
        ('[profiles.a]\nscript = "echo"', "profiles.a", "#!ipxe"),
        ('[profiles.a]\nkernel = "vmlinuz"', "profiles.a", 'architectures = ["x86_64"]'),
        (
            '[profiles.a]\nkernel = "{arch}/k"\narchitectures = ["amd64"]',
            "profiles.a.architectures[0]",
            "'x86_64', 'i386' or 'arm64'",
        ),
        (
            '[profiles.a]\nkernel = "x86_64/k"\ncmdline = "a\\u001bb"',
            "profiles.a.cmdline",
            "control",
        ),
        (
            '[profiles.a]\nkernel = {x86_64 = "k", i386 = "k"}\ninitrds = {x86_64 = ["i"]}',
            "profiles.a",
            "`initrds` has no entry for i386",
        ),
        (
            '[profiles.a]\narchitectures = ["x86_64", "i386"]\nkernel = {x86_64 = "k"}',
            "profiles.a",
            "`kernel` has no entry for i386",
        ),
    ],
    ids=lambda value: value.partition("\n")[0][:40],
)
def test_a_mistake_in_the_file(tmp_path: Path, toml: str, key: str, remedy: str) -> None:
    config = tmp_path / "bootserve.toml"
    config.write_text(toml)
    problems = _problems(config)
    assert any(line.startswith(f"{config}: {key}") and remedy in line for line in problems), (
        problems
    )
    assert all(line.startswith(f"{config}: ") for line in problems)


def test_what_is_wrong_in_a_list_is_not_told_of_the_list_as_well(tmp_path: Path) -> None:
    config = tmp_path / "bootserve.toml"
    config.write_text(_PROFILE + 'architectures = ["amd64"]')
    (line,) = _problems(config)
    assert "profiles.debian.architectures[0]: must be 'x86_64'" in line


def test_a_machine_that_is_listed_twice_is_told_with_both_places(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        _PROFILE
        + '[[machines]]\nmac = "52:54:00:12:34:56"\nprofile = "debian"\n'
        + '[[machines]]\nmac = ["525400000000", "52-54-00-12-34-56"]\nprofile = "debian"\n'
    )
    (line,) = _problems(config)
    assert line.startswith(f"{config}: machines[1].mac: duplicate machine")
    assert "52:54:00:12:34:56" in line
    assert "machines[0]" in line
    assert "keep one" in line


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[http]\nlisten = ["nowhere"]\nfoo = 1\n[boot]\nattempts = 0\n')
    keys = {line.removeprefix(f"{config}: ").partition(":")[0] for line in _problems(config)}
    assert keys == {"http.listen[0]", "http.foo", "boot.attempts"}


def test_a_mistake_on_the_command_line_names_the_flag(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[http]\nlisten = ["*:80"]\n')
    (line,) = _problems(config, {"http": {"listen": ["80"]}})
    assert line.startswith("--http: ")
    assert "write ADDR:PORT" in line
    (line,) = _problems(None, {"tftp": {"listen": ["*:x"]}})
    assert line.startswith("--tftp: ")


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("BOOTSERVE_HTTP_LISTEN", "*:80,nowhere", "write ADDR:PORT"),
        ("BOOTSERVE_HTTP_KEEP_ALIVE", "soon", "number"),
        ("BOOTSERVE_HTTP_SILENCE_LIMIT", "1", "must be greater than or equal to 5"),
        ("BOOTSERVE_HTTP_LISTN", "*:80", "did you mean 'listen'?"),
        ("BOOTSERVE_BOOT_DEFAULT", "debian", "there is no profile 'debian'"),
        ("BOOTSERVE_HTTP_PACE", "10", 'write it like "10Mbit/s"'),
        ("BOOTSERVE_LANES_WINDOW", "1", "between 4KiB and 64MiB"),
        ("BOOTSERVE_LANES_AGENTS", "iPXE", "in the TOML file"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("")
    monkeypatch.setenv(variable, value)
    (line,) = _problems(config)
    assert line.startswith(f"{variable}: ")
    assert remedy in line


@pytest.mark.parametrize("variable", ["BOOTSERVE_HTTP", "BOOTSERVE_MACHINES", "BOOTSERVE_PROFILES"])
def test_a_variable_named_like_a_section_is_a_mistake_like_others(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "*:80")
    (line,) = _problems(None)
    assert line.startswith(f"{variable}: ")


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    (line,) = _problems(tmp_path / "none.toml")
    assert line == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    (line,) = _problems(tmp_path)
    assert line == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize("content", [b"[http\n", b"a = \xff", b"\x00", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    config = tmp_path / "c.toml"
    config.write_bytes(content)
    (line,) = _problems(config)
    assert line.startswith(f"{config}: is not valid TOML: ")


def test_a_file_named_by_the_environment_is_named_in_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[boot]\nattempts = 0\n")
    monkeypatch.setenv("BOOTSERVE_CONFIG", str(config))
    (line,) = _problems(None)
    assert line.startswith(f"{config}: boot.attempts: ")


@pytest.mark.parametrize(
    "url", ["http://boot.example", "https://[2001:db8::1]:8443", "http://192.0.2.1/pxe/a-b_c.d~e"]
)
def test_a_url_that_passes_here_can_be_written_into_a_script(url: str) -> None:
    # The two are separate checks; the stricter one would otherwise fail at boot time only.
    settings = load(None, {"http": {"url": url}})
    assert checked_url(settings.http.url or "") == url


def test_a_url_that_no_script_could_hold_is_refused_here(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[http]\nurl = "http://b\u00fccher.example"\n')
    (line,) = _problems(config)
    assert line.startswith(f"{config}: http.url: ")


def test_an_empty_runtime_directory_is_not_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "bootserve.toml"
    config.write_text('[service]\nruntime_dir = ""\n')
    [problem] = _problems(config)
    assert problem.startswith(f"{config}: service.runtime_dir: ")
    assert "is empty" in problem
    monkeypatch.setenv("BOOTSERVE_SERVICE_RUNTIME_DIR", "")
    [problem] = _problems(None)
    assert problem.startswith("BOOTSERVE_SERVICE_RUNTIME_DIR: service.runtime_dir")
    assert "is empty" in problem
