"""What a person sees when the server starts."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bootserve import banner
from bootserve.doors import open_doors
from bootserve.settings import Settings


def _shown(*, has_lines: bool) -> str:
    settings = Settings.model_validate({"http": {"listen": "*:0"}, "tftp": {"listen": "off"}})
    console = Console(file=io.StringIO(), soft_wrap=True, highlight=False)
    doors = open_doors(settings, [])
    try:
        options = ("--config", "/etc/boot serve.toml")
        banner.show(console, settings, doors, has_lines=has_lines, options=options)
    finally:
        doors.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(autouse=True)
def _address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banner, "host_addresses", lambda: ["192.0.2.7"])


def test_a_person_gets_the_lines_for_every_dhcp_server() -> None:
    text = _shown(has_lines=True)
    for kind in ("dnsmasq", "isc", "kea"):
        assert f"---- {kind} ----" in text
    assert "stand above" in text


def test_who_gets_no_lines_is_told_the_command_that_goes_by_the_same_settings() -> None:
    text = _shown(has_lines=False)
    assert "----" not in text
    command = "bootserve dhcp-config dnsmasq|isc|kea --config '/etc/boot serve.toml'"
    assert f"run `{command}` for the lines of your server" in text
