"""A Debian system with systemd, built from Debian's packages, and what `make install` wants in it.

`python -m tests.system.image` builds both once into a cache (.cache/system in the checkout, or
$SYSTEM_TEST_CACHE); afterwards they are reused without a network:

- the system as one tar archive, by mmdebstrap, from the host's own sources for Debian, so that
  mirrors, proxies and keys are those that the host uses already. The host's apt is left alone;
- the Python packages that bootserve depends on, as wheels, so that a machine without a network
  installs it with pip.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.debian import Apt, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).resolve().parents[2]

CACHE_VARIABLE = "SYSTEM_TEST_CACHE"
# Read once, at import: tests run with the BOOTSERVE_ variables taken away.
CACHE = Path(os.environ.get(CACHE_VARIABLE) or CHECKOUT / ".cache" / "system").absolute()

PACKAGES = (
    "systemd-sysv",  # systemd as the machine's init
    *("python3-venv", "make"),  # what README asks for
    "curl",  # a client, of HTTP and TFTP
)

# What nobody reads in there is most of its files.
WITHOUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Image:
    """What a system is made of: an archive of its files, and a directory with wheels."""

    system: Path
    wheels: Path

    def present(self) -> bool:
        return self.system.is_file() and self.wheels.is_dir()


def image() -> Image:
    """Where the parts are, or will be after `build`: by a name for what they were made from."""
    python = (CHECKOUT / "pyproject.toml").read_text()
    pins = (CHECKOUT / ".constraints.txt").read_text()
    return Image(
        CACHE / f"debian-{_name_of(_codename(), *PACKAGES, *WITHOUT)}.tar",
        CACHE / f"wheels-{_name_of(_codename(), python, pins)}",
    )


def build(say: Callable[[str], None] = print) -> Image:
    """Make what is missing in the cache.

    Raises:
        FetchError: it could not be done.
    """
    wanted = image()
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="build-", dir=CACHE)
    except OSError as error:
        raise FetchError(f"The cache {CACHE} cannot be written: {error.strerror}.") from error
    with scratch as name:
        if not wanted.system.is_file():
            _build_system(Path(name), wanted.system, say)
        if not wanted.wheels.is_dir():
            say("Fetching what bootserve depends on ...")
            _fetch_wheels(Path(name) / "wheels", _python_of(wanted.system))
            (Path(name) / "wheels").rename(wanted.wheels)
    return wanted


def _build_system(scratch: Path, target: Path, say: Callable[[str], None]) -> None:
    if os.geteuid() != 0:
        raise FetchError("A Debian system is built by root only: run this as root.")
    if shutil.which("mmdebstrap") is None:
        raise FetchError("The program mmdebstrap is missing: install Debian's package mmdebstrap.")
    say("Reading the index of Debian's packages ...")
    apt = Apt(scratch, "amd64")
    apt.update()
    sources = apt.debian_sources()
    if not sources:
        raise FetchError(
            "The host's apt has no source of Debian's packages:"
            f" {apt.complaint or 'is this machine a Debian?'}"
        )
    say("Building a Debian system ...")
    settings = scratch / "acquire.conf"
    settings.write_text(_how_to_fetch())
    archive = scratch / "system.tar"
    command: list[str | Path] = [
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"),
        f"--include={','.join(PACKAGES)}",
        f"--aptopt={settings}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in WITHOUT),
        _codename(),
        archive,
        *sources,
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-20:])
        raise FetchError(f"mmdebstrap could not build a Debian system:\n{end}")
    # Whole or not at all.
    archive.rename(target)


def _how_to_fetch() -> str:
    """The host's settings of how files are fetched, its proxy among them, as apt reads them."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    wanted = re.compile(r'Acquire::(https?|Check-|Retries|Proxy)[^ ]* "[^"]+";')
    found = [line for line in done.stdout.splitlines() if wanted.fullmatch(line)]
    return "\n".join(['Acquire::Languages "none";', *found, ""])


def _fetch_wheels(directory: Path, python: str) -> None:
    """Download the wheels for a Python that need not be ours."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    # `make install` builds a wheel of the checkout; hatchling needs the last one for an editable.
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--only-binary=:all:", "--python-version", python, "--dest", directory),
            *("--constraint", CHECKOUT / ".constraints.txt", *wanted),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-10:])
        raise FetchError(f"pip could not fetch what bootserve depends on:\n{end}")


def _python_of(system: Path) -> str:
    """The version of the Python in a system, as in 3.11."""
    with tarfile.open(system) as tar:
        for entry in tar:
            if entry.name.lstrip("./") == "usr/bin/python3" and entry.issym():
                return entry.linkname.removeprefix("python")
    raise FetchError(f"The system {system} has no Python; remove that file and build it again.")


def _codename() -> str:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    # Of testing and unstable, which have none.
    return found[1] if found else "unstable"


def _name_of(*made_from: str) -> str:
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:12]


def main() -> int:
    try:
        built = build()
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{built.system} and {built.wheels}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
