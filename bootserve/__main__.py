"""The entry point: ``bootserve`` and ``python -m bootserve``."""

import signal
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        # Until there is somebody who receives it, SIGHUP would end the process, and what comes
        # now takes a while. `bootserve.service` lets it through.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from bootserve import cli

    cli.main()


if __name__ == "__main__":
    main()
