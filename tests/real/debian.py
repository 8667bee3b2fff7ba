"""Kernels and busybox for the virtual machines, taken from Debian's packages.

`python -m tests.real.debian [amd64|i386]...` fetches them once into a cache
(.cache/real in the checkout, or $REAL_TEST_CACHE); afterwards they are
reused without a network.

It needs no privilege and leaves the host's apt alone: apt is run on a private
state directory, for the wanted architecture only, with the host's own sources
and keys. That way i386 packages come without `dpkg --add-architecture`, mirrors
and proxies are those the host already uses, and apt checks the signatures.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Architecture = Literal["amd64", "i386"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

# The metapackages; each depends on the package of the current kernel.
KERNEL_PACKAGES: dict[Architecture, str] = {
    "amd64": "linux-image-amd64",
    "i386": "linux-image-686",
}
BUSYBOX_PACKAGE = "busybox-static"

CACHE_VARIABLE = "REAL_TEST_CACHE"
# Read once, at import: tests run with the BOOTSERVE_ variables taken away.
CACHE = Path(
    os.environ.get(CACHE_VARIABLE) or Path(__file__).resolve().parents[2] / ".cache" / "real"
).absolute()

APT_CONF = """\
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures "{architecture}";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{state}/cache";
Dir::Log "{state}/log";
// The private state may lie where apt's own sandbox user cannot look.
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
// Hooks of the host would work on the host's cache and lists.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""

# For `apt-get indextargets`: "/etc/apt/sources.list.d/debian.sources:1".
FILE_AND_ENTRY = "$(SOURCESENTRY)"


class FetchError(RuntimeError):
    """Something could not be had from Debian's archive; the text is one sentence."""


@dataclass(frozen=True)
class Parts:
    """What a virtual machine of one architecture boots from."""

    kernel: Path
    busybox: Path

    def present(self) -> bool:
        return self.kernel.is_file() and self.busybox.is_file()


def parts(architecture: Architecture) -> Parts:
    """Where the parts of an architecture are, or will be after `fetch`."""
    directory = CACHE / architecture
    return Parts(directory / "vmlinuz", directory / "busybox")


def fetch(architecture: Architecture, say: Callable[[str], None] = print) -> Parts:
    """The parts of an architecture, from the cache or else from Debian's archive."""
    wanted = parts(architecture)
    if wanted.present():
        return wanted
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(program) is None:
            raise FetchError(
                f"The program {program} is missing: Debian's packages are fetched with Debian's"
                " tools (packages apt and dpkg)."
            )
    directory = wanted.kernel.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="fetch-", dir=directory)
    except OSError as error:
        raise FetchError(f"The cache {directory} cannot be written: {error.strerror}.") from error
    with scratch as name:
        apt = Apt(Path(name), architecture)
        say(f"Reading the index of Debian's {architecture} packages ...")
        apt.update()
        _take(apt, apt.kernels(), "./boot/vmlinuz-", wanted.kernel, say)
        busyboxes = [BUSYBOX_PACKAGE, *apt.versions(BUSYBOX_PACKAGE)]
        _take(apt, busyboxes, "./bin/busybox", wanted.busybox, say)
    return wanted


def _take(
    apt: Apt,
    packages: Sequence[str],
    member: str,
    target: Path,
    say: Callable[[str], None],
) -> None:
    """Put one file of the first of `packages` that can be downloaded at `target`."""
    if not packages:
        raise FetchError(
            f"Debian's index for {apt.architecture} has no"
            f" {KERNEL_PACKAGES[apt.architecture]}: {apt.complaint or 'is apt set up for Debian?'}"
        )
    problem = ""
    for package in packages:
        say(f"Fetching {package} ({apt.architecture}) ...")
        try:
            archive = apt.download(package)
        except FetchError as error:
            # An index can be ahead of its mirror's files for a while; an older
            # version is as good for us.
            problem = str(error)
            continue
        _extract(archive, member, target)
        archive.unlink()
        return
    raise FetchError(problem)


def _extract(archive: Path, member: str, target: Path) -> None:
    """Write the file whose name starts with `member` in a .deb to `target`, whole or not at all.

    The rest of a kernel package (some hundred megabytes of modules) never
    touches the disk.
    """
    temporary = archive.with_suffix(".part")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", archive],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as unpacker:
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar:
                for entry in tar:
                    if entry.isfile() and entry.name.startswith(member):
                        source = tar.extractfile(entry)
                        assert source is not None
                        with source, temporary.open("wb") as out:
                            shutil.copyfileobj(source, out)
                        temporary.chmod(0o755)
                        temporary.replace(target)
                        return
        except tarfile.TarError as error:
            raise FetchError(f"The package {archive.name} cannot be read: {error}.") from error
        finally:
            unpacker.kill()
    raise FetchError(f"The package {archive.name} has no file {member.removeprefix('.')}*.")


class Apt:
    """apt on a private state directory, for one architecture."""

    def __init__(self, directory: Path, architecture: Architecture) -> None:
        self.directory = directory
        self.architecture = architecture
        self.complaint = ""
        state = directory / "state"
        (state / "lists" / "partial").mkdir(parents=True)
        (state / "cache" / "archives" / "partial").mkdir(parents=True)
        self._config = directory / "apt.conf"
        self._config.write_text(APT_CONF.format(architecture=architecture, state=state))

    def update(self) -> None:
        """Read the package indexes.

        A part that fails (a third party's repository without i386, a mirror in
        the middle of its synchronisation) is apt's error but not ours: what
        counts is whether the packages we want can be found afterwards.
        """
        self.complaint = _first_error(self._run("apt-get", "update").stderr)

    def kernels(self) -> list[str]:
        """The kernel packages the metapackage points to, the newest first."""
        done = self._run("apt-cache", "show", KERNEL_PACKAGES[self.architecture])
        found = re.findall(r"^Depends:.*?\b(linux-image-\d[^\s,]*)", done.stdout, re.MULTILINE)
        return list(dict.fromkeys(found))

    def versions(self, package: str) -> Iterator[str]:
        """`package=version` for every version in the indexes, the newest first."""
        done = self._run("apt-cache", "madison", package)
        for line in done.stdout.splitlines():
            columns = [column.strip() for column in line.split("|")]
            if len(columns) == 3 and not columns[2].endswith("Sources"):
                yield f"{package}={columns[1]}"

    def debian_sources(self) -> list[Path]:
        """The host's files with sources (sources.list(5)) that are Debian's."""
        done = self._run("apt-get", "indextargets", "--format", FILE_AND_ENTRY, "Origin: Debian")
        files = [line.rpartition(":")[0] for line in done.stdout.splitlines()]
        return [Path(name) for name in dict.fromkeys(files)]

    def download(self, package: str) -> Path:
        done = self._run("apt-get", "download", package)
        archives = sorted(self.directory.glob("*.deb"))
        if done.returncode or len(archives) != 1:
            raise FetchError(
                f"The {self.architecture} package {package} cannot be downloaded:"
                f" {_first_error(done.stderr) or self.complaint}"
            )
        return archives[0]

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return subprocess.run(
            # `-c` is read after the host's configuration, so what it clears stays clear.
            [program, "-q", "-c", self._config, *arguments],
            cwd=self.directory,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _first_error(stderr: str) -> str:
    # An archive that cannot be reached at all is only a warning to apt.
    for kind in ("E: ", "W: "):
        for line in stderr.splitlines():
            if line.startswith(kind):
                return line.removeprefix(kind).strip()
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.real.debian",
        description="Fetch Debian's kernel and busybox for the tests with real machines.",
    )
    parser.add_argument(
        "architectures", nargs="*", metavar="amd64|i386", help="default: both", default=[]
    )
    names: list[str] = parser.parse_args(arguments).architectures
    for name in names:
        if name not in ARCHITECTURES:
            parser.error(f"{name!r} is not one of {', '.join(ARCHITECTURES)}")
    try:
        for architecture in ARCHITECTURES:
            if not names or architecture in names:
                found = fetch(architecture)
                print(f"{architecture}: {found.kernel} and {found.busybox}")
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
