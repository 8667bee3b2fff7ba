"""What every test may rely on: a clean environment, and that nothing is skipped unseen in CI."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest

# How fast a busy machine makes examples says nothing of what is tested with them.
hypothesis.settings.register_profile(
    "bootserve", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bootserve")

_NOBODY = 65534
_NO_SKIP = "NO_SKIP"
_skipped = pytest.StashKey[list[str]]()

# Imported before the privileges go: a checkout in root's home is out of reach afterwards.
_GIVE_UP_ROOT = f"""
import encodings.unicode_escape, json, os, socket, sys
from pathlib import Path
import bootserve.cli
from bootserve.catalog.assets import AssetError, Assets
from bootserve.http.listener import open_listener
from bootserve.endpoint import Endpoint
from bootserve.sockets import ListenError, open_endpoint
if os.geteuid() == 0:
    try:
        os.setgroups([])
        os.setresgid({_NOBODY}, {_NOBODY}, {_NOBODY})
        os.setresuid({_NOBODY}, {_NOBODY}, {_NOBODY})
    except OSError as error:
        sys.exit(f"cannot give up root: {{error}}")
"""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Skipped(config.stash.setdefault(_skipped, [])))


class _Skipped:
    """Notes what did not run; where several workers run the tests, for all of them."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            name = f"{report.nodeid}: {reason}"
            # Every worker collects, and so tells of the same modules.
            if name not in self._names:
                self._names.append(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The file that takes the longest, mostly waiting, goes beside all others.
    items.sort(key=lambda item: item.path.name != "test_patience.py")


def _forbidden_skips(config: pytest.Config) -> list[str]:
    return config.stash[_skipped] if os.environ.get(_NO_SKIP, "") not in ("", "0") else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _forbidden_skips(session.config) and session.exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    forbidden = _forbidden_skips(config)
    if forbidden:
        terminalreporter.section(f"skipped although {_NO_SKIP} is set", red=True)
        for line in forbidden:
            terminalreporter.line(line)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    # How wide somebody's terminal is; pytest's workers have it set.
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.upper().startswith("BOOTSERVE_") and name != _NO_SKIP:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Servers of tests are not to be found beside real ones."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path_factory.getbasetemp()))


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that other users reach, too; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="bootserve-test-") as name:
        path = Path(name).resolve()
        path.chmod(0o755)
        yield path


class Unprivileged(Protocol):
    def __call__(
        self, code: str, *args: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def unprivileged() -> Unprivileged:
    """Run Python code as somebody who may neither read everything nor use low ports."""

    def run(
        code: str, *args: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        done = subprocess.run(
            [sys.executable, "-c", _GIVE_UP_ROOT + code, *map(str, args)],
            env={**os.environ, "PYTHONPATH": path},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "cannot give up root" in done.stderr:
            pytest.skip(done.stderr.strip())
        return done

    return run
