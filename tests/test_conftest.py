"""The rule of tests/conftest.py that CI rests on: a test that did not run proves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SKIPPED_INSIDE = """
import pytest

def test_present():
    pass

def test_absent():
    pytest.skip("no such program here")
"""
_SKIPPED_BY_MARK = """
import pytest

@pytest.mark.skip(reason="no such program here")
def test_absent():
    pass
"""
_SKIPPED_IN_FIXTURE = """
import pytest

@pytest.fixture
def program():
    pytest.skip("no such program here")

def test_absent(program):
    pass
"""
_SKIPPED_AS_A_WHOLE = """
import pytest

pytest.skip("no such program here", allow_module_level=True)
"""
_NOTHING_SKIPPED = """
import pytest

def test_present():
    pass

@pytest.mark.xfail(reason="known")
def test_known_to_fail():
    assert False
"""


_SKIPPED = {
    "test_inside.py": _SKIPPED_INSIDE,
    "test_mark.py": _SKIPPED_BY_MARK,
    "test_fixture.py": _SKIPPED_IN_FIXTURE,
    "test_module.py": _SKIPPED_AS_A_WHOLE,
}


def _run(
    directory: Path, sources: dict[str, str], no_skip: str, *options: str
) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), directory)
    for name, source in sources.items():
        (directory / name).write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir=.", *options],
        cwd=directory,
        env={**os.environ, "NO_SKIP": no_skip, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_skip_fails_the_run_where_skipping_is_forbidden(tmp_path: Path, workers: str) -> None:
    done = _run(tmp_path, _SKIPPED, "1", "-n", workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    for name in (
        "test_inside.py::test_absent",
        "test_mark.py::test_absent",
        "test_fixture.py::test_absent",
        "test_module.py",
    ):
        assert done.stdout.count(f"{name}: Skipped: no such program here") == 1


def test_a_run_that_skips_all_it_has_fails_too(tmp_path: Path) -> None:
    done = _run(tmp_path, {"test_module.py": _SKIPPED_AS_A_WHOLE}, "1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_a_skip_is_fine_elsewhere(tmp_path: Path) -> None:
    assert _run(tmp_path, _SKIPPED, "").returncode == pytest.ExitCode.OK


def test_a_run_without_a_skip_passes_where_skipping_is_forbidden(tmp_path: Path) -> None:
    done = _run(tmp_path, {"test_it.py": _NOTHING_SKIPPED}, "1")
    assert done.returncode == pytest.ExitCode.OK
