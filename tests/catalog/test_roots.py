"""What keeps a directory from being an asset root, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootserve.catalog.roots import root_problem


@pytest.mark.parametrize(
    ("root", "setting"),
    [
        ("/home/no-such-user/boot", "ProtectHome="),
        ("/tmp/no-such-folder", "PrivateTmp="),
        ("/var/tmp/no-such-folder", "PrivateTmp="),
        ("/srv/no-such-folder", None),
    ],
)
def test_a_service_is_told_what_its_unit_may_hide(
    root: str, setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    plain = root_problem(Path(root))
    assert plain is not None
    assert plain.startswith("does not exist")
    assert "hides" not in plain
    monkeypatch.setenv("INVOCATION_ID", "0123456789abcdef")
    hint = root_problem(Path(root))
    assert hint is not None
    assert hint.startswith(plain)
    if setting:
        assert f"the unit's {setting} hides" in hint
    else:
        assert hint == plain
