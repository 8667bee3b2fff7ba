"""The routes of the HTTP door, as an ASGI application that any server can run."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import parse_qsl, unquote

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bootserve.catalog.assets import Asset, AssetForbidden, AssetNotFound, AssetUnavailable
from bootserve.catalog.catalog import AUTOEXEC, Catalog
from bootserve.catalog.ipxe import checked_url
from bootserve.catalog.lanes import name_of
from bootserve.catalog.machines import identify
from bootserve.catalog.memo import Memo
from bootserve.catalog.profiles import Found
from bootserve.http import lines
from bootserve.http.files import FileAnswer, client_host, header
from bootserve.http.lines import Asker
from bootserve.http.transfers import Transfers
from bootserve.settings import Settings
from bootserve.text import printable
from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import Ledger
from bootserve.watch.metrics import Metrics
from bootserve.watch.status import Status
from bootserve.watch.tally import Tally

_REMEMBERED = 1024
_LONG_QUERY = 1024
"""Host headers and query strings that are remembered with what they mean, and bytes up to which a
query string is."""

_REMEMBERED_BYTES = 8 << 20
_OVERHEAD = 1024
"""Bytes of scripts that are kept as answers, and what each counts for beside its two texts."""

_LONGEST_URL = 300
"""A host name has 255 characters at most (RFC 1035, section 2.3.4)."""

_SLASHES = re.compile("/{2,}")
_SIGNED_BYTE = re.compile(rb"%FFFFFF([89A-F][0-9A-F])")


def create_app(
    settings: Settings,
    *,
    catalog: Catalog | None = None,
    ledger: Ledger | None = None,
    budget: Budget | None = None,
    health: Health | None = None,
    metrics: Metrics | None = None,
    status: Status | None = None,
) -> ASGIApp:
    """Return the ASGI application.

    Args:
        catalog, ledger, budget, health, metrics: those of the process, if other doors share them;
            else its own. Whoever gives a ``ledger`` gives the ``metrics``, too, which observe it.
        status: what the process says of itself, if it has more to say than the ledger's and the
            health's.
    """
    tally = Tally()
    ledger = ledger or Ledger(observers=(tally,))
    budget = budget or Budget()
    health = health or Health(budget, ledger)
    metrics = metrics or Metrics(ledger, tally, health)
    routes = _Routes(settings, catalog or Catalog(settings), ledger, budget, health, metrics)
    status = status or Status(ledger, health)
    return _App(routes, Transfers(status, is_public=settings.status.public))


class _App:
    """Finds the route of a request by hand: a router's stack costs as much as a script does.

    While an answer is sent, which may take an hour, only this one frame stands above it.
    """

    def __init__(self, routes: _Routes, transfers: Transfers) -> None:
        self._routes = routes
        self._transfers = transfers
        # Knows what to say to a lifespan and to a WebSocket.
        self._others = Starlette()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._others if scope["type"] != "http" else await self._answer(scope)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> ASGIApp:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD\n", 405, {"allow": "GET, HEAD"})
        path = _mended_path(scope)
        if path.startswith("/boot/"):
            return await self._routes.file(scope, path[len("/boot/") :])
        if path == "/machine.ipxe":
            return await self._routes.machine(scope)
        if path == "/boot.ipxe":
            return self._routes.entry(scope)
        if path in ("/healthz", "/readyz"):
            return self._routes.health(is_ready=path == "/readyz")
        if path == "/metrics":
            return await self._routes.metrics(scope)
        if path == "/transfers.json":
            return self._transfers.answer(scope)
        if path.startswith("/profile/"):
            return await self._routes.profile(scope, path[len("/profile/") :])
        if path.endswith("/" + AUTOEXEC):
            return await self._routes.file(scope, path[1:])
        return _not_found("nothing here; scripts begin at /boot.ipxe, files lie below /boot/")


def _mended_path(scope: Scope) -> str:
    """Return what firmware means by a path, without a redirect, which it may not follow.

    * ``//boot//x`` is ``/boot/x``.
    * iPXE until 2020 prints bytes from 0x80 on with their sign, ``%FFFFFFC3`` for ``%C3``.
    """
    path: str = scope["path"]
    if b"%FFFFFF" in scope.get("raw_path", b""):
        path = unquote(_SIGNED_BYTE.sub(rb"%\1", scope["raw_path"]).decode("ascii", "replace"))
    # Below another application both paths begin with where that has put us (ASGI, "root_path").
    path = path.removeprefix(scope.get("root_path", ""))
    return _SLASHES.sub("/", path) if "//" in path else path


class _Routes:
    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        ledger: Ledger,
        budget: Budget,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._ledger = ledger
        self._budget = budget
        self._health = health
        self._metrics = metrics
        self._urls = Memo[str, bool](_REMEMBERED)
        self._answers = Memo[str, _Script](_REMEMBERED_BYTES, lambda script: script.weight)
        self._askers = Memo[bytes, Asker](_REMEMBERED)

    def entry(self, scope: Scope) -> ASGIApp:
        """The entry script, the one URL that a DHCP server has to name."""
        url = self._url(scope)
        client = client_host(scope)
        self._boots(client)
        lines.entry(client)
        return self._script(self._catalog.scripts.entry(url))

    async def machine(self, scope: Scope) -> ASGIApp:
        """The script for the machine that the query string describes."""
        url = self._url(scope)
        query = scope["query_string"]
        if len(query) <= _LONG_QUERY:
            asker = self._askers.get(query, lambda: self._asker(query))
        else:
            asker = self._asker(query)
        sighting = asker.sighting
        client = client_host(scope)
        if sighting.label:
            self._catalog.lanes.introduce(client, sighting.label)
            self._catalog.sightings.note(client, sighting)
            self._ledger.boots(sighting.label)
        else:
            if sighting.profile:
                self._catalog.sightings.note_profile(client, sighting.profile)
            self._boots(client)
        try:
            text, what = self._catalog.scripts.machine(url, asker.identity, await self._found())
        except AssetUnavailable as error:
            return self._try_again(client, error)
        lines.boot(client, asker, what)
        return self._script(text)

    async def profile(self, scope: Scope, name: str) -> ASGIApp:
        """The script of one profile, or of one kernel below the asset roots, by name."""
        client = client_host(scope)
        try:
            found = await self._found()
        except AssetUnavailable as error:
            return self._try_again(client, error)
        text = self._catalog.scripts.profile(self._url(scope), name, found)
        if text is None:
            lines.no_profile(client, name)
            return _not_found(f"there is no profile {printable(name)!r}")
        lines.profile(client, name)
        if name in self._settings.profiles:
            self._catalog.sightings.note_profile(client, name)
        return self._script(text)

    async def file(self, scope: Scope, name: str) -> ASGIApp:
        """An asset by its name, or the entry script under a name that iPXE asks for by itself."""
        asked = time.monotonic()
        client = client_host(scope)
        try:
            source = await self._catalog.open(name, self._url(scope))
        except AssetNotFound as error:
            lines.not_found(client, error)
            return _not_found(f"no such file: {printable(error.name)}")
        except AssetUnavailable as error:
            return self._try_again(client, error)
        except AssetForbidden as error:
            lines.refused(client, error)
            return PlainTextResponse("this file may not be read\n", 403)
        if not isinstance(source, Asset):
            self._boots(client)
            lines.entry(client, name)
            return self._script((await source.read(0, source.size)).decode())
        refusal = partial(self._queue, client, source.name)
        return FileAnswer(source, self._ledger, self._catalog, self._budget, refusal, asked)

    def health(self, *, is_ready: bool) -> ASGIApp:
        """What a monitor asks, from memory alone."""
        status, report = self._health.report(is_ready=is_ready)
        return JSONResponse(report, status, {"cache-control": "no-store"})

    async def metrics(self, scope: Scope) -> ASGIApp:
        """What Prometheus asks for."""
        body, content_type = await self._metrics.render(header(scope, b"accept") or "")
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    def _queue(self, client: str, name: str) -> ASGIApp:
        """Have a client wait for a descriptor outside: iPXE comes back, as often as it takes."""
        seconds = self._budget.refuse()
        lines.full(client, name, seconds)
        # The connection is what takes the descriptor.
        headers = {"retry-after": str(seconds), "connection": "close"}
        return PlainTextResponse("the server is full, come back later\n", 503, headers)

    def _try_again(self, client: str, error: AssetUnavailable) -> ASGIApp:
        """Refuse for now: iPXE comes back by itself after as many seconds, however often."""
        lines.unavailable(client, error)
        headers = {"retry-after": str(self._budget.refuse())}
        return PlainTextResponse("the server cannot open this file now, try again\n", 503, headers)

    def _asker(self, query: bytes) -> Asker:
        said = _first(query)
        identity, complaints = identify(said)
        arch, platform = said.get("buildarch"), said.get("platform")
        words = lines.words(identity, arch, platform, complaints)
        return Asker(identity, self._catalog.scripts.sight(identity), arch, platform, words)

    def _script(self, text: str) -> ASGIApp:
        return self._answers.get(text, lambda: _Script(text))

    def _boots(self, client: str) -> None:
        """Whoever is at this address has been started anew."""
        self._ledger.boots(name_of(self._catalog.sightings.at(client), client))

    async def _found(self) -> Sequence[Found]:
        if self._catalog.scripts.reads_disk:
            return await self._catalog.discovery.now()
        return ()

    def _url(self, scope: Scope) -> str:
        """What this client calls us: as configured, as it says, or by the address of the socket."""
        if self._settings.http.url:
            return self._settings.http.url
        said = f"{scope['scheme']}://{header(scope, b'host') or ''}"
        if len(said) <= _LONGEST_URL and self._urls.get(said, lambda: _is_url(said)):
            return said
        host, port = scope.get("server") or ("localhost", None)
        host = f"[{host}]" if ":" in host else host
        return f"{scope['scheme']}://{host}:{port}" if port else f"{scope['scheme']}://{host}"


class _Script:
    """The answer that is a script, made once for all who get it."""

    __slots__ = ("_body", "_head")

    def __init__(self, text: str) -> None:
        body = text.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            # What a machine gets depends on who asks and on today's configuration.
            (b"cache-control", b"no-store"),
        ]
        self._head: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        self._body: Message = {"type": "http.response.body", "body": body}

    @property
    def weight(self) -> int:
        return 2 * len(self._body["body"]) + _OVERHEAD

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        await send(self._head)
        await send(self._body)


def _is_url(text: str) -> bool:
    try:
        checked_url(text)
    except ValueError:
        return False
    return True


def _first(query: bytes) -> dict[str, str]:
    """Return the first value of each key: a later one may have been smuggled into an earlier."""
    return dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))


def _not_found(why: str) -> Response:
    return PlainTextResponse(why + "\n", 404)
