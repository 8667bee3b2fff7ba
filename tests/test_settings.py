"""Where settings come from, and which of them wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootserve.config_errors import ConfigError
from bootserve.endpoint import Endpoint
from bootserve.settings import Settings, load, unknown_variables

_DEFAULT = (Endpoint(None, 8080), Endpoint(None, 80, is_optional=True))
_FILE = (Endpoint("192.0.2.1", 81),)
_ENVIRONMENT = (Endpoint("192.0.2.2", 82), Endpoint("::1", 82))
_FLAG = (Endpoint("192.0.2.3", 83),)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("has_file", "has_variable", "has_flag", "expected"),
    [
        (False, False, False, _DEFAULT),
        (True, False, False, _FILE),
        (False, True, False, _ENVIRONMENT),
        (True, True, False, _ENVIRONMENT),
        (False, False, True, _FLAG),
        (True, False, True, _FLAG),
        (False, True, True, _FLAG),
        (True, True, True, _FLAG),
    ],
)
def test_the_stronger_source_wins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_file: bool,
    has_variable: bool,
    has_flag: bool,
    expected: tuple[Endpoint, ...],
) -> None:
    config = None
    flags: dict[str, Any] = {}
    if has_file:
        config = _write(tmp_path / "c.toml", '[http]\nlisten = ["192.0.2.1:81"]\n')
    if has_variable:
        monkeypatch.setenv("BOOTSERVE_HTTP_LISTEN", "192.0.2.2:82, [::1]:82")
    if has_flag:
        flags = {"http": {"listen": ["192.0.2.3:83"]}}
    assert load(config, flags).http.listen == expected


def test_sources_are_merged_key_by_key_and_not_section_by_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _write(
        tmp_path / "c.toml", '[http]\nurl = "http://boot.example"\nkeep_alive = 20\nlisten = "*:1"'
    )
    monkeypatch.setenv("BOOTSERVE_HTTP_KEEP_ALIVE", "30")
    http = load(config, {"http": {"listen": ["*:2"]}}).http
    assert http.url == "http://boot.example"
    assert http.keep_alive == 30
    assert http.listen == (Endpoint(None, 2),)


def test_the_file_may_be_named_by_the_environment_and_a_flag_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _write(tmp_path / "one.toml", "[boot]\nattempts = 1\n")
    two = _write(tmp_path / "two.toml", "[boot]\nattempts = 2\n")
    assert load().boot.attempts == 8
    monkeypatch.setenv("BOOTSERVE_CONFIG", str(one))
    assert load().boot.attempts == 1
    assert load(two).boot.attempts == 2
    monkeypatch.setenv("BOOTSERVE_CONFIG", "")
    assert load().boot.attempts == 8


def test_one_load_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    load(_write(tmp_path / "c.toml", "[boot]\nattempts = 1\n"))
    with pytest.raises(ConfigError):
        load(_write(tmp_path / "bad.toml", "[boot]\nattempts = 0\n"))
    assert load() == Settings()


def test_defaults_are_those_of_the_handbook() -> None:
    settings = load()
    assert [str(endpoint) for endpoint in settings.tftp.listen] == ["*:6969", "*:69"]
    assert [endpoint.is_optional for endpoint in settings.tftp.listen] == [False, True]
    assert settings.tftp.patience == 300
    assert not settings.tftp.ignore_case
    assert settings.assets.roots == (Path("boot-assets"),)
    assert settings.boot.default is None
    assert not settings.ipxe.rechain


def test_a_number_a_switch_and_a_name_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _write(
        tmp_path / "c.toml", '[profiles.rescue]\nscript = "#!ipxe"\n[ipxe]\nrechain=false'
    )
    monkeypatch.setenv("BOOTSERVE_BOOT_MENU_TIMEOUT", "0")
    monkeypatch.setenv("BOOTSERVE_IPXE_RECHAIN", "true")
    monkeypatch.setenv("BOOTSERVE_BOOT_DEFAULT", "rescue")
    monkeypatch.setenv("bootserve_log_level", "error")
    settings = load(config)
    assert settings.boot.menu_timeout == 0
    assert settings.ipxe.rechain
    assert settings.boot.default == "rescue"
    assert settings.log.level == "error"


def test_a_list_in_the_environment_is_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOOTSERVE_ASSETS_ROOTS", "/srv/one, two,,/srv/with blank ,")
    monkeypatch.setenv("BOOTSERVE_TFTP_LISTEN", "*:6969,[::1]:69?")
    settings = load()
    assert settings.assets.roots == (Path("/srv/one"), Path("two"), Path("/srv/with blank"))
    assert settings.tftp.listen == (Endpoint(None, 6969), Endpoint("::1", 69, is_optional=True))


@pytest.mark.parametrize("toml", ['listen = "off"', 'listen = ["off"]', "listen = []"])
def test_a_door_is_closed_in_the_file(tmp_path: Path, toml: str) -> None:
    assert load(_write(tmp_path / "c.toml", f"[tftp]\n{toml}\n")).tftp.listen == ()


def test_a_door_is_closed_by_a_variable_and_opened_again_by_a_flag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOOTSERVE_TFTP_LISTEN", "off")
    assert load().tftp.listen == ()
    assert load(None, {"tftp": {"listen": ["*:69"]}}).tftp.listen == (Endpoint(None, 69),)
    monkeypatch.setenv("BOOTSERVE_TFTP_LISTEN", "*:69")
    assert load(None, {"tftp": {"listen": ["off"]}}).tftp.listen == ()


def test_roots_of_a_file_are_relative_to_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _write(
        tmp_path / "etc/c.toml",
        '[assets]\nroots = ["images", "../more", "/srv"]\n[ipxe]\nsearch = ["ipxe"]\n',
    )
    monkeypatch.chdir(_write(tmp_path / "elsewhere/x", "").parent)
    settings = load(config)
    assert [root.resolve() for root in settings.assets.roots] == [
        tmp_path / "etc/images",
        tmp_path / "more",
        Path("/srv"),
    ]
    assert [path.resolve() for path in settings.ipxe.search] == [tmp_path / "etc/ipxe"]


def test_a_single_root_written_without_brackets_is_relative_to_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _write(tmp_path / "etc/c.toml", '[assets]\nroots = "images"\n')
    monkeypatch.chdir(_write(tmp_path / "elsewhere/x", "").parent)
    assert [root.resolve() for root in load(config).assets.roots] == [tmp_path / "etc/images"]


def test_roots_of_flags_and_variables_are_relative_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _write(tmp_path / "etc/c.toml", '[assets]\nroots = ["images"]\n')
    monkeypatch.setenv("BOOTSERVE_ASSETS_ROOTS", "mine")
    assert load(config).assets.roots == (Path("mine"),)
    assert load(config, {"assets": {"roots": [Path("ours")]}}).assets.roots == (Path("ours"),)


def test_machines_are_normalised_as_clients_are(tmp_path: Path) -> None:
    config = _write(
        tmp_path / "c.toml",
        """
        [profiles.rescue]
        script = "#!ipxe"
        [[machines]]
        mac = ["52-54-00-AB-CD-EF", "525400abcd00"]
        uuid = "4C4C4544-0042-3510-8054-B4C04F4D3432"
        serial = " 7XK2P "
        hostname = "Node1.Example.COM."
        profile = "rescue"
        """,
    )
    (machine,) = load(config).machines
    assert machine.mac == ("52:54:00:ab:cd:ef", "52:54:00:ab:cd:00")
    assert machine.uuid == ("4c4c4544-0042-3510-8054-b4c04f4d3432",)
    assert machine.serial == ("7XK2P",)
    assert machine.hostname == ("node1.example.com",)


def test_a_variable_that_sets_nothing_is_told_with_what_was_meant() -> None:
    (line,) = unknown_variables(
        {
            "BOOTSERVE_HTP_LISTEN": "*:80",
            "BOOTSERVE_CONFIG": "x",
            "BOOTSERVE_HTTP_LISTEN": "*:80",
            "bootserve_boot_menu_timeout": "1",
            "PATH": "/bin",
        }
    )
    assert "BOOTSERVE_HTP_LISTEN" in line
    assert "BOOTSERVE_HTTP_LISTEN" in line


def test_no_variable_of_ours_is_called_unknown() -> None:
    sections = {
        "HTTP": ("LISTEN", "URL", "KEEP_ALIVE"),
        "TFTP": ("LISTEN", "PATIENCE", "MAX_SESSIONS"),
        "ASSETS": ("ROOTS",),
        "IPXE": ("SEARCH", "RECHAIN"),
        "BOOT": ("DEFAULT", "MENU_TIMEOUT", "ATTEMPTS"),
        "LOG": ("LEVEL",),
    }
    names = [f"BOOTSERVE_{section}_{key}" for section in sections for key in sections[section]]
    assert unknown_variables(dict.fromkeys(names, "")) == []


def test_lanes_from_the_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _write(
        tmp_path / "c.toml",
        """
        [http]
        window = 262144
        [lanes]
        window = "32 KiB"
        [[lanes.agents]]
        user_agent = "iPXE/1.0.0*"
        pace = "1MB/s"
        [profiles.p]
        script = "#!ipxe"
        pace = "1Gbit/s"
        [[machines]]
        mac = "525400123456"
        profile = "p"
        window = "off"
        """,
    )
    monkeypatch.setenv("BOOTSERVE_HTTP_PACE", "10Gbit/s")
    monkeypatch.setenv("BOOTSERVE_LANES_AUTO_LANE", "true")
    settings = load(config)
    assert (settings.http.pace, settings.http.window) == (1_250_000_000, 262_144)
    assert settings.lanes.auto_lane
    assert (settings.lanes.pace, settings.lanes.window) == (1_250_000, 32_768)
    [agent] = settings.lanes.agents
    assert (agent.user_agent, agent.pace, agent.window) == ("iPXE/1.0.0*", 1_000_000, None)
    profile, [machine] = settings.profiles["p"], settings.machines
    assert (profile.pace, profile.window) == (125_000_000, None)
    assert (machine.pace, machine.window) == (None, 0)


def test_nobody_is_held_to_a_lane_by_default() -> None:
    settings = load(None)
    assert (settings.http.pace, settings.http.window) == (0, 4 << 20)
    assert not settings.lanes.auto_lane
    assert (settings.lanes.pace, settings.lanes.window) == (1_250_000, 65_536)


def test_how_a_process_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().service.drain_timeout is None
    config = tmp_path / "bootserve.toml"
    config.write_text('[service]\ndrain_timeout = 90\nruntime_dir = "run"\n')
    service = load(config).service
    assert service.drain_timeout == 90
    assert service.runtime_dir == tmp_path / "run"
    monkeypatch.setenv("BOOTSERVE_SERVICE_RUNTIME_DIR", "/run/x")
    monkeypatch.setenv("BOOTSERVE_SERVICE_DRAIN_TIMEOUT", "60")
    service = load(config).service
    assert service.drain_timeout == 60
    assert service.runtime_dir == Path("/run/x")
    monkeypatch.setenv("BOOTSERVE_SERVICE_DRAIN_TIMEOUT", "0")
    with pytest.raises(
        ConfigError, match=r"BOOTSERVE_SERVICE_DRAIN_TIMEOUT: service\.drain_timeout"
    ):
        load(config)
