"""Put inherited descriptors where LISTEN_FDS wants them, then become the program that takes them.

Run by `bootserve.handover` in a fresh interpreter (``python -I -S -c``), because LISTEN_PID must be
the number of the process that it is told to, which nobody else knows before. It imports nothing of
bootserve and is run from the text that the old process has read at its own start: files may have
been replaced since.

Arguments: the sockets' descriptors, separated by commas; in the same way other descriptors, each
behind the variable that tells the program of it and a ``=``; then the interpreter and its
arguments.
"""

import fcntl
import os
import sys

_FIRST = 3


def main() -> None:
    numbers, others, *program = sys.argv[1:]
    named = [word.split("=") for word in others.split(",")]
    sockets = numbers.split(",") if numbers else []
    sources = [int(number) for number in (*sockets, *(number for _, number in named))]
    beyond = _FIRST + len(sources)
    for source in sources:
        os.set_inheritable(source, False)
    # First out of the way, because one's place may be another's number.
    copies = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, beyond) for source in sources]
    for place, copy in enumerate(copies, _FIRST):
        os.dup2(copy, place, inheritable=True)
    os.environ["LISTEN_PID"] = str(os.getpid())
    # Our parent will tell the service manager that its main process is this one.
    for variable in ("SYSTEMD_EXEC_PID", "WATCHDOG_PID"):
        if os.environ.get(variable) == str(os.getppid()):
            os.environ[variable] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(sockets))
    for place, (variable, _) in enumerate(named, _FIRST + len(sockets)):
        os.environ[variable] = str(place)
    try:
        os.execv(program[0], program)  # noqa: S606 (a shell is what we do not want)
    except OSError as error:
        sys.exit(f"bootserve: {program[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
