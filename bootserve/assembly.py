"""What a serving process is made of, put together from its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from bootserve.catalog.assets import Source
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.names import NameQuirk
from bootserve.catalog.roots import root_problem
from bootserve.doors import Doors
from bootserve.endpoint import as_configured
from bootserve.http.app import create_app
from bootserve.http.door import Manners
from bootserve.http.server import HttpServer, http_config
from bootserve.http.zerocopy import own_files
from bootserve.notify import Report, what_goes_on, what_is_left, what_is_served
from bootserve.resources import affordable_sessions, open_descriptors, raised_descriptor_limit
from bootserve.settings import Settings
from bootserve.text import path_printable
from bootserve.tftp.quirks import Quirk
from bootserve.tftp.server import Manners as TftpManners
from bootserve.tftp.server import TftpRequestInfo, TftpServer
from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import Ledger, Transfer
from bootserve.watch.liveness import Verdict
from bootserve.watch.metrics import Metrics
from bootserve.watch.restarts import Restarts
from bootserve.watch.status import Status
from bootserve.watch.tally import Tally

_OWN_DESCRIPTORS: Final = 4
"""What the event loop and its helpers open when there is something to do."""

_QUIRKS: Final = tuple(quirk.value for quirk in (*Quirk, *NameQuirk))


def watch_restarts(settings: Settings, catalog: Catalog) -> Restarts:
    """Report restart loops and, as the settings have it, move the machines in them."""

    def remedy(transfer: Transfer, name: str) -> str:
        if transfer.protocol != "HTTP":
            return ""  # lanes are for HTTP
        if not settings.lanes.auto_lane:
            return "; set `pace` and `window` for this machine, or lanes.auto_lane = true"
        is_news = catalog.lanes.slow_down(name)
        seen = catalog.sightings.at(transfer.client)
        lane = catalog.lanes.choose(seen, transfer.client, transfer.agent)
        if lane == catalog.lanes.choose_unslowed(seen, transfer.agent):
            return f" (the slow lane would change nothing; its lane stays: {lane})"
        return f" ({'moved to' if is_news else 'already in'} the slow lane: {lane})"

    return Restarts(remedy)


class Assembly:
    """The doors and what they share. Nothing in here runs or owns a socket.

    Args:
        on_ready: called once, when the HTTP door is open.
        state: where the process is in its life, in a word.
    """

    def __init__(
        self,
        settings: Settings,
        doors: Doors,
        on_ready: Callable[[], None],
        state: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._doors = doors
        self.catalog = Catalog(settings)
        restarts = watch_restarts(settings, self.catalog)
        tally = Tally()
        self.ledger = Ledger(observers=(tally, restarts))
        limit = raised_descriptor_limit()
        self.budget = Budget(limit, open_descriptors() + _OWN_DESCRIPTORS)
        self.catalog.assets.limit_openers(self.budget.spare // 2)
        self.health = Health(
            self.budget,
            self.ledger,
            quick={"http": self._http_problem, "tftp": self._tftp_problem},
            slow={
                f"asset root {path_printable(root)}": partial(_root_trouble, root)
                for root in settings.assets.roots
            },
            loops=lambda: restarts.loops,
            extra=self._figures,
        )
        self.status = Status(
            self.ledger,
            self.health,
            state=state,
            http=as_configured(doors.http_endpoints()),
            tftp=as_configured(doors.tftp_endpoints()),
        )
        app = create_app(
            settings,
            catalog=self.catalog,
            ledger=self.ledger,
            budget=self.budget,
            health=self.health,
            metrics=Metrics(self.ledger, tally, self.health, quirks=_QUIRKS),
            status=self.status,
        )
        self.http = HttpServer(
            http_config(settings, app),
            on_ready,
            budget=self.budget,
            manners=Manners(settings.http.head_timeout, settings.http.silence_limit),
        )
        self.tftp = TftpServer(
            doors.tftp,
            open_source=self._open_for_tftp,
            ledger=self.ledger,
            machine=self.catalog.sightings.label,
            manners=self._tftp_manners(limit),
            has_room=lambda: self.budget.may_accept,
        )
        self.budget.count(lambda: self.tftp.descriptors)
        self.budget.count(lambda: self.catalog.assets.open_files)
        self.budget.count(own_files)

    def drain(self) -> None:
        """Take no more work; both doors' ``serve`` return when all has come to its end."""
        self.health.is_serving = False
        self.http.should_exit = True
        self.tftp.drain()

    def report(self) -> Report:
        """How this process is, for systemd. That it is busy makes it no less sound."""
        live = self.ledger.live
        if not self.health.is_serving:
            return Report(what_is_left(len(live)), is_stopping=True)
        if problem := self._http_problem() or self._tftp_problem():
            return Report(problem, is_sound=False)
        clients = len({transfer.client for transfer in live})
        silent = sum(transfer.verdict == Verdict.SILENT for transfer in live)
        where = {"HTTP": self._doors.http_endpoints(), "TFTP": self._doors.tftp_endpoints()}
        return Report(f"{what_is_served(where)}; {what_goes_on(len(live), clients, silent)}")

    def _tftp_manners(self, limit: int | None) -> TftpManners:
        wanted = self._settings.tftp
        sessions = wanted.max_sessions
        if self._doors.tftp and not wanted.single_port:
            sessions = affordable_sessions(sessions, limit)
        return TftpManners(
            patience=wanted.patience,
            max_sessions=sessions,
            max_sessions_per_client=min(wanted.max_sessions_per_client, sessions),
            max_windowsize=wanted.max_windowsize,
            single_port=wanted.single_port,
            fragment=wanted.fragment,
            rollover=wanted.rollover,
        )

    def _http_problem(self) -> str | None:
        return self.http.problem if self.health.is_serving else None

    def _tftp_problem(self) -> str | None:
        if not self._doors.tftp or not self.health.is_serving:
            return None
        return self.tftp.problem

    def _figures(self) -> dict[str, Any]:
        state = self.http.state
        return {
            "connections": {
                "open": self.budget.connections,
                "idle": state.idle,
                "silent": state.silent,
            },
            "tftp": {
                "sessions": self.tftp.sessions,
                "refused": self.tftp.refused,
                "quirks": dict(self.tftp.quirks),
            },
        }

    async def _open_for_tftp(self, request: TftpRequestInfo) -> Source:
        return await self.catalog.open_for_firmware(
            request.name,
            self._url_at(request.local),
            client=request.client,
            note=self.tftp.quirks.met,
        )

    def _url_at(self, local_host: str) -> str:
        """What a client that reached TFTP at ``local_host`` would call the HTTP door."""
        if self._settings.http.url:
            return self._settings.http.url
        # An IPv4 client that came through a socket for both families.
        host = local_host.partition("%")[0].removeprefix("::ffff:")
        return (
            f"http://[{host}]:{self._port_at(host)}"
            if ":" in host
            else (f"http://{host}:{self._port_at(host)}")
        )

    def _port_at(self, host: str) -> int:
        for endpoint in self._doors.http_endpoints():
            if endpoint.is_everywhere or endpoint.host == host:
                return endpoint.port
        return self._doors.http_port


def _root_trouble(root: Path) -> str | None:
    problem = root_problem(root)
    return None if problem is None else f"asset root {path_printable(root)} {problem}"
