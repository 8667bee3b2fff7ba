"""The README shows figures that the bench has printed, and no others."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bootserve.catalog.entries import Section
from bootserve.catalog.names import NameQuirk
from bootserve.events import Event
from bootserve.settings import Settings, load
from bootserve.tftp.quirks import Quirk

_ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("heading", ["## Targets", "## Beside nginx"])
def test_the_readmes_tables_are_those_of_the_bench(heading: str) -> None:
    printed = (_ROOT / "bench" / "results" / "http.md").read_text().split(f"{heading}\n")[1]
    rows = [line for line in printed.split("\n## ")[0].splitlines() if line.startswith("|")]
    shown = (_ROOT / "README.md").read_text().splitlines()
    assert rows
    assert [row for row in rows if row not in shown] == []


def test_the_readmes_configuration_is_one(tmp_path: Path) -> None:
    text = (_ROOT / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    config = tmp_path / "bootserve.toml"
    config.write_text(text)
    settings = load(config)
    assert settings.profiles
    assert settings.lanes.agents


def test_the_readmes_configuration_shows_every_key() -> None:
    text = (_ROOT / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    # What is commented out shows a key, too.
    shown = tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    missing = [
        f"{name}.{key}"
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
        if key not in shown.get(name, {})
    ]
    assert missing == []


def test_every_event_of_the_log_is_explained() -> None:
    text = (_ROOT / "README.md").read_text()
    for event in Event:
        assert f"`{event.name.lower()}`, `{event.value}`" in text


def test_every_quirk_of_firmware_is_explained() -> None:
    text = (_ROOT / "docs" / "tftp.md").read_text()
    explained = {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert explained == {quirk.value for quirk in (*Quirk, *NameQuirk)}
