"""One machine for all of these tests, and nothing of it stays behind, whatever ends the run."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests import needs

from .image import CACHE, image
from .machine import Machine
from .service import CONFIG, LARGE, SMALL, SOCKET, UNIT, Service

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.fixture(scope="session", autouse=True)
def _termination_cleans_up() -> Iterator[None]:
    """A job cut short gets SIGTERM; taken as a Ctrl-C, it lets fixtures end what they began."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted Debian."""
    needs.root()
    for name, package in (
        ("systemd-nspawn", "systemd-container"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
    ):
        needs.program(name, package)
    parts = image()
    if not parts.present():
        pytest.skip(
            f"there is no Debian system in {CACHE}: build it, as root, with"
            " `.venv/bin/python -m tests.system.image`"
        )
    with Machine(parts, tmp_path_factory.mktemp("system")) as booted:
        yield booted


@pytest.fixture(scope="session")
def installed(machine: Machine) -> Service:
    """bootserve, installed as README says, with two files to serve."""
    service = Service(machine)
    service.bring_source(image())
    service.make("install")
    machine.run("systemctl", "enable", "--now", "bootserve")
    service.config = machine.path(CONFIG).read_text()
    service.put("small", os.urandom(SMALL))
    service.put("large", os.urandom(LARGE))
    return service


@pytest.fixture
def service(installed: Service) -> Service:
    """The service as a first client finds it: sockets that listen, and no process."""
    installed.rest()
    return installed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    machine = getattr(item, "funcargs", {}).get("machine")
    if report.failed and isinstance(machine, Machine) and machine.running:
        report.sections.append(("the machine", machine.evidence_of(UNIT, SOCKET)))
    return report
