"""The commands. Thin: parse, call, print."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import anyio
import typer
from rich.console import Console

from bootserve import __version__, banner, remote
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.check import asset_problems
from bootserve.catalog.roots import root_problem
from bootserve.config_errors import ConfigError
from bootserve.control import Json
from bootserve.dhcp_config import DhcpServer
from bootserve.doors import open_doors
from bootserve.handover import Start
from bootserve.log import NoJournal, start_logging
from bootserve.loop import DirectLoop
from bootserve.remote import RemoteError
from bootserve.runtime import every_directory
from bootserve.sections import AssetSettings
from bootserve.service import Service
from bootserve.settings import Settings, config_file, load, unknown_variables
from bootserve.sockets import ListenError
from bootserve.status import live
from bootserve.successor import Predecessor
from bootserve.supervisor import Supervisor
from bootserve.systemd import inherited_sockets
from bootserve.watch.ledger import RECENT
from bootserve.watch.status import USUAL_RECENT

app = typer.Typer(
    name="bootserve",
    help="PXE/iPXE boot file server: TFTP, HTTP and iPXE scripts in one process.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
logger = logging.getLogger("bootserve")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="TOML file; default: $BOOTSERVE_CONFIG, if set."
    ),
]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", metavar="DIR", help="Asset root; may be given several times."),
]
Http = Annotated[
    list[str] | None,
    typer.Option("--http", metavar="ADDR:PORT", help="HTTP address; may be given several times."),
]
Tftp = Annotated[
    list[str] | None,
    typer.Option(
        "--tftp", metavar="ADDR:PORT|off", help="TFTP address; may be given several times."
    ),
]

RuntimeDir = Annotated[
    Path | None,
    typer.Option(
        "--runtime-dir",
        metavar="DIR",
        envvar="BOOTSERVE_SERVICE_RUNTIME_DIR",
        help="The server's service.runtime_dir, if it has set one.",
    ),
]


@app.command()
def serve(config: Config = None, root: Roots = None, http: Http = None, tftp: Tftp = None) -> None:
    """Serve boot files until SIGTERM or Ctrl-C; a second cuts transfers off. SIGHUP upgrades."""
    predecessor = Predecessor.take()
    try:
        service = _prepare(config, root, http, tftp, predecessor)
    except _Failed as failure:
        predecessor.tell_failed(failure.problems)
        raise
    is_clean = anyio.run(service.run, backend_options={"loop_factory": DirectLoop})
    # A thread that waits for a medium which hangs would hold an ordinary exit up.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0 if is_clean else 1)


def _prepare(
    config: Path | None,
    root: list[Path] | None,
    http: list[str] | None,
    tftp: list[str] | None,
    predecessor: Predecessor,
) -> Service:
    """Open the doors and say so."""
    start = Start.of_this_process()
    supervisor = Supervisor.of_this_process(has_predecessor=predecessor.is_there)
    try:
        # Before anything else opens a descriptor, or starts a child that would inherit them.
        inherited = inherited_sockets()
    except ListenError as error:
        _fail([str(error)])
    settings = _settings(config, root, http, tftp)
    try:
        start_logging(settings.log.level, settings.log.format)
    except NoJournal as error:
        _fail([str(error)])
    for sentence in unknown_variables():
        logger.warning("%s", sentence)
    missing = [
        f"assets.roots: {path} {problem}"
        for path in settings.assets.roots
        if (problem := root_problem(path)) and settings.assets != AssetSettings()
    ]
    if missing:
        _fail(missing)
    try:
        doors = open_doors(settings, inherited)
    except ListenError as error:
        _fail([str(error)])
    console = Console(soft_wrap=True, highlight=False)

    def on_ready() -> None:
        with _unread():
            banner.show_ready(console)
        if predecessor.is_there:
            # Which then says whose process the service is.
            predecessor.tell_ready()
            return
        try:
            supervisor.tell_ready()
        except OSError as error:
            logger.warning(
                "systemd cannot be told that this server is ready: NOTIFY_SOCKET: %s",
                error.strerror or error,
            )

    with _unread():
        banner.show(
            console,
            settings,
            doors,
            # A person does once what they are for; a journal would get them at every start.
            has_lines=not (predecessor.is_there or supervisor.has_started_us),
            options=_as_given(config, root, http, tftp),
        )
    return Service(
        settings,
        doors,
        on_ready=on_ready,
        start=start,
        supervisor=supervisor,
        predecessor=predecessor,
    )


def _as_given(
    config: Path | None, roots: list[Path] | None, http: list[str] | None, tftp: list[str] | None
) -> list[str]:
    """The options that have another command go by the same settings."""
    given = {"--root": roots, "--http": http, "--tftp": tftp}
    file = config_file(config)
    return [
        *(("--config", str(file)) if file else ()),
        *(
            word
            for flag, values in given.items()
            for value in values or ()
            for word in (flag, str(value))
        ),
    ]


@contextlib.contextmanager
def _unread() -> Iterator[None]:
    """Print what nobody may be there to read: a server can outlive its terminal."""
    # For a broken pipe rich wants the program to end.
    with contextlib.suppress(OSError, SystemExit):
        yield


@app.command()
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document, for scripts.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Print it once and leave.")] = False,
    pid: Annotated[
        int | None,
        typer.Option("--pid", metavar="PID", help="Which server; default: all that run."),
    ] = None,
    runtime_dir: RuntimeDir = None,
    recent: Annotated[
        int, typer.Option(min=0, max=RECENT, help="How many transfers that have ended.")
    ] = USUAL_RECENT,
    interval: Annotated[
        float, typer.Option(min=0.2, max=60, help="Seconds from one look to the next.")
    ] = 1.0,
) -> None:
    """Show who is downloading what, and how it goes, until Ctrl-C."""

    def ask() -> list[Json]:
        return remote.statuses(every_directory(runtime_dir), pid, recent)

    if sys.stdout is None:
        _fail(["standard output is closed; there is nowhere to show anything"])
    console = live.terminal()
    try:
        found = ask()
        problems = [each["error"] for each in found if "error" in each]
        if as_json:
            print(json.dumps({"servers": found}), flush=True)
        if len(problems) == len(found):
            _fail(problems)
        if not as_json and (once or not live.can_watch(console)):
            live.show(found, console)
        elif not as_json:
            live.watch(found, ask, console, interval)
    except RemoteError as error:
        _fail([str(error)])
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Whoever reads has read enough.
        _drop_output()
    except OSError as error:
        _drop_output()
        _fail([f"cannot write to standard output: {error.strerror or error}"])


def _drop_output() -> None:
    """What is left in the buffer must not be tried again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def upgrade(
    pid: Annotated[
        int | None,
        typer.Option("--pid", metavar="PID", help="Which server; default: the one that runs."),
    ] = None,
    runtime_dir: RuntimeDir = None,
) -> None:
    """Replace a running server by a new process; no download is cut, no request refused."""
    # The configuration is not read: it is the new process's, and what is wrong with it is too.
    try:
        print(remote.upgrade(every_directory(runtime_dir), pid))
    except RemoteError as error:
        _fail([str(error)])


@app.command()
def check(config: Config = None, root: Roots = None) -> None:
    """Check a configuration and the assets it names; exit 1 if anything would fail."""
    settings = _settings(config, root, None, None, needs_credentials=False)
    problems = list(asset_problems(settings, Catalog(settings)))
    file = config_file(config)
    origin = f"{file}: " if file else ""
    if problems:
        _fail([origin + problem for problem in problems])
    for sentence in unknown_variables():
        Console(stderr=True, soft_wrap=True).print(f"warning: {sentence}", markup=False)
    print(f"{origin}fine: {banner.what_boots(settings, Catalog(settings).assets)}")


@app.command("dhcp-config")
def dhcp_config(
    kind: Annotated[DhcpServer, typer.Argument(help="Which DHCP server.")],
    config: Config = None,
    root: Roots = None,
    http: Http = None,
    tftp: Tftp = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="ADDR", help="This host's address, as clients see it."),
    ] = None,
) -> None:
    """Print the lines to paste into a DHCP server, so that its clients chain into bootserve."""
    settings = _settings(config, root, http, tftp, needs_credentials=False)
    try:
        print(banner.dhcp_text(kind, settings, server=server), end="")
    except ValueError as error:
        _fail([f"dhcp-config: {error}"])


def _version(value: bool) -> None:
    if value:
        print(f"bootserve {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point."""
    app()


def _settings(
    config: Path | None,
    roots: list[Path] | None,
    http: list[str] | None,
    tftp: list[str] | None,
    *,
    needs_credentials: bool = True,
) -> Settings:
    flags: dict[str, dict[str, Any]] = {}
    if roots:
        flags["assets"] = {"roots": roots}
    if http:
        flags["http"] = {"listen": http}
    if tftp:
        flags["tftp"] = {"listen": tftp}
    try:
        return load(config, flags, needs_credentials=needs_credentials)
    except ConfigError as error:
        _fail(error.problems)


class _Failed(typer.Exit):
    def __init__(self, problems: list[str]) -> None:
        super().__init__(1)
        self.problems = problems


def _fail(problems: list[str]) -> NoReturn:
    for problem in problems:
        print(f"bootserve: {problem}", file=sys.stderr)
    raise _Failed(problems)
