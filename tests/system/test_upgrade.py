"""bootserve is installed again over itself, and removed. These tests come last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bootserve

from .client import MIB, REFUSED
from .service import ASSETS, CONFIG, LARGE, UNIT

if TYPE_CHECKING:
    from .service import Service

NEXT = "99.1"
ELSEWHERE = "/srv/bootserve"


def test_an_installation_upgrades_what_runs_and_keeps_the_configuration(service: Service) -> None:
    service.configure("# As it is here.")
    with service.download("large") as slow:
        slow.read(MIB)
        old = service.main_pid()
        since = service.machine.cursor()
        for name in ("bootserve/__init__.py", "pyproject.toml"):
            service.edit_source(name, f'"{bootserve.__version__}"', f'"{NEXT}"')
        # What a new version would have changed in its example.
        service.edit_source("systemd/bootserve.toml", "[http]", "# New.\n[http]")
        service.edit_source("systemd/bootserve.service", "TasksMax=2048", "TasksMax=2049")
        said = service.make("install")
        new = service.main_pid()
        assert new != old
        service.wait_said(f"bootserve {NEXT}", since)
        assert service.serves("small")
        assert slow.received < LARGE / 2
        assert slow.finish() == service.digests["large"]
    service.wait(lambda: not service.is_alive(old), "the end of the process that was replaced")
    assert service.main_pid() == new
    config = service.machine.path(CONFIG).read_text()
    assert config.endswith("# As it is here.")
    assert "# New." not in config
    assert "# New." in service.machine.path(f"{CONFIG}.new").read_text()
    assert f"{CONFIG} is kept as it is" in said
    assert "The unit has changed" in said
    assert "The unit has changed" not in service.make("install")


def test_an_installation_at_another_prefix_says_that_it_takes_a_restart(service: Service) -> None:
    assert service.serves("small")
    old = service.main_pid()
    said = service.make("install", f"PREFIX={ELSEWHERE}")
    assert "still the one in /opt/bootserve" in said
    assert "systemctl restart bootserve" in said
    assert service.main_pid() == old
    service.machine.run("systemctl", "restart", UNIT)
    assert ELSEWHERE in service.machine.run("cat", f"/proc/{service.main_pid()}/cmdline")
    assert service.serves("small")
    # And back to where the next test looks for it.
    assert f"still the one in {ELSEWHERE}" in service.make("install")
    service.machine.run("rm", "-r", ELSEWHERE)


def test_what_is_removed_leaves_what_is_yours(service: Service) -> None:
    """The last one: nothing is there any more after it."""
    assert service.serves("small")
    service.configure("# As it is here.")
    service.make("uninstall")
    assert service.machine.try_to("systemctl", "cat", UNIT).returncode != 0
    assert service.machine.try_to("curl", "-s", "http://127.0.0.1").returncode == REFUSED
    left = service.machine.files() - service.files_before
    yours = {CONFIG, *(f"{ASSETS}/{name}" for name in service.digests)}
    # And the folders that they lie in.
    assert {name for name in left if not service.machine.path(name).is_dir()} == yours
    assert all(name.startswith(("/etc/bootserve", ASSETS)) for name in left), left
