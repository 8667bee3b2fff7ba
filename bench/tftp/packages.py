"""Debian's tftpd-hpa and atftpd, unpacked but not installed: `python -m bench.tftp.packages`.

The two cannot be installed beside each other, and an installed one would run. `apt-get download`
and `dpkg-deb` need neither root nor a change of the host. Both programs need the package libwrap0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.peers import REPOSITORY, program
from bench.process import BenchError

PACKAGES: Final = ("tftpd-hpa", "atftpd")
VARIABLE: Final = "BENCH_PEERS"
ROOT: Final = Path(os.environ.get(VARIABLE) or REPOSITORY / ".cache" / "bench").absolute()
"""Where they lie, as if it were the host's root."""
PROGRAMS: Final = ROOT / "usr" / "sbin"


def main() -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            fetch = [program("apt-get", "apt"), "-q", "download", *PACKAGES]
            subprocess.run(fetch, cwd=directory, check=True)
            for archive in Path(directory).glob("*.deb"):
                subprocess.run([program("dpkg-deb", "dpkg"), "-x", archive, ROOT], check=True)
        except (BenchError, subprocess.CalledProcessError) as error:
            sys.exit(f"bench: Debian's packages could not be fetched: {error}")
    print(f"{', '.join(PACKAGES)}: unpacked into {ROOT}")


if __name__ == "__main__":
    main()
