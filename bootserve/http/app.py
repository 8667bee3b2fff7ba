"""The routes of the HTTP door, as an ASGI application that any server can run."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bootserve.catalog.assets import Asset, AssetForbidden, AssetNotFound, AssetUnavailable
from bootserve.catalog.catalog import AUTOEXEC, Catalog
from bootserve.catalog.ipxe import checked_url
from bootserve.catalog.machines import identify
from bootserve.http.files import FileAnswer, client_host
from bootserve.settings import Settings
from bootserve.text import as_word, printable
from bootserve.watch.ledger import Ledger
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.http")

_unavailable = QuietLog(logger)
_refusals = QuietLog(logger)

_Result = TypeVar("_Result")

_SLASHES = re.compile("/{2,}")
_SIGNED_BYTE = re.compile(rb"%FFFFFF([89A-F][0-9A-F])")


def create_app(
    settings: Settings, *, catalog: Catalog | None = None, ledger: Ledger | None = None
) -> Starlette:
    """Return the ASGI application.

    Args:
        catalog, ledger: those of the process, if other doors share them; else its own.
    """
    routes = _Routes(settings, catalog or Catalog(settings), ledger or Ledger())
    app = Starlette(
        routes=[
            Route("/boot.ipxe", routes.entry),
            Route("/machine.ipxe", routes.machine),
            Route("/profile/{name:path}", routes.profile),
            Route("/boot/{name:path}", routes.file),
            Route("/{name:path}", routes.elsewhere),
        ],
        middleware=[Middleware(_MendPath)],
    )
    app.router.redirect_slashes = False
    return app


class _MendPath:
    """Serve what firmware means by a path, without a redirect, which it may not follow.

    * ``//boot//x`` is ``/boot/x``.
    * iPXE until 2020 prints bytes from 0x80 on with their sign, ``%FFFFFFC3`` for ``%C3``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if b"%FFFFFF" in scope.get("raw_path", b""):
                raw = _SIGNED_BYTE.sub(rb"%\1", scope["raw_path"])
                path = unquote(raw.decode("ascii"))
            if "//" in path:
                path = _SLASHES.sub("/", path)
            if path is not scope["path"]:
                scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class _Routes:
    def __init__(self, settings: Settings, catalog: Catalog, ledger: Ledger) -> None:
        self._settings = settings
        self._catalog = catalog
        self._ledger = ledger

    async def entry(self, request: Request) -> Response:
        """The entry script, the one URL that a DHCP server has to name."""
        url = self._url(request)
        client = client_host(request)
        logger.info("HTTP %s gets the entry script", printable(client))
        return _script(self._catalog.scripts.entry(url))

    async def machine(self, request: Request) -> Response:
        """The script for the machine that the query string describes."""
        url = self._url(request)
        identity, complaints = identify(_first(request.query_params))
        client = client_host(request)
        if identity.label:
            self._catalog.sightings.note(client, identity.label)
        try:
            text, what = await self._write(lambda: self._catalog.scripts.machine(url, identity))
        except AssetUnavailable as error:
            return _try_again(client, error)
        logger.info(
            "HTTP %s (%s, %s %s) gets the script of: %s%s",
            printable(client),
            as_word(identity.label) if identity.label else "unknown machine",
            as_word(request.query_params.get("buildarch", "?")),
            as_word(request.query_params.get("platform", "?")),
            as_word(what),
            "".join(f"; ignored {as_word(complaint)}" for complaint in complaints),
        )
        return _script(text)

    async def profile(self, request: Request) -> Response:
        """The script of one profile, or of one kernel below the asset roots, by name."""
        url = self._url(request)
        name = request.path_params["name"]
        client = client_host(request)
        try:
            text = await self._write(lambda: self._catalog.scripts.profile(url, name))
        except AssetUnavailable as error:
            return _try_again(client, error)
        logger.info("HTTP %s gets the script of profile %s", printable(client), as_word(name))
        if text is None:
            return _not_found(f"there is no profile {printable(name)!r}")
        return _script(text)

    async def file(self, request: Request) -> Response | FileAnswer:
        """An asset, by its name below ``/boot/``."""
        return await self._send(request, request.path_params["name"])

    async def elsewhere(self, request: Request) -> Response | FileAnswer:
        """Anything else: nothing, but for what an iPXE asks for beside the file it came from."""
        name = request.path_params["name"]
        if name.rpartition("/")[2] == AUTOEXEC:
            return await self._send(request, name)
        return _not_found("nothing here; scripts begin at /boot.ipxe, files lie below /boot/")

    async def _send(self, request: Request, name: str) -> Response | FileAnswer:
        client = client_host(request)
        try:
            source = await self._catalog.open(name, self._url(request))
        except AssetNotFound as error:
            who, what = printable(client), as_word(error.name or "/")
            _refusals.log(logging.INFO, "HTTP %s %s: not found", who, what)
            return _not_found(f"no such file: {printable(error.name)}")
        except AssetUnavailable as error:
            return _try_again(client, error)
        except AssetForbidden as error:
            who, what = printable(client), as_word(error.name)
            _refusals.log(logging.WARNING, "HTTP %s %s: refused, %s", who, what, error.reason)
            return PlainTextResponse("this file may not be read\n", 403)
        if not isinstance(source, Asset):
            logger.info("HTTP %s gets the entry script, as %s", printable(client), as_word(name))
            return _script((await source.read(0, source.size)).decode())
        return FileAnswer(source, request, self._ledger, self._catalog.sightings.label(client))

    async def _write(self, write: Callable[[], _Result]) -> _Result:
        if self._catalog.scripts.reads_disk:
            return await anyio.to_thread.run_sync(write, abandon_on_cancel=True)
        return write()

    def _url(self, request: Request) -> str:
        """What this client calls us: as configured, as it says, or by the address of the socket."""
        if self._settings.http.url:
            return self._settings.http.url
        scheme = request.url.scheme
        try:
            return checked_url(f"{scheme}://{request.headers['host']}")
        except (KeyError, ValueError):
            host, port = request.scope.get("server") or ("localhost", None)
            host = f"[{host}]" if ":" in host else host
            return f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"


def _first(query: QueryParams) -> dict[str, str]:
    """Return the first value of each key: a later one may have been smuggled into an earlier."""
    return dict(reversed(query.multi_items()))


def _script(text: str) -> Response:
    # What a machine gets depends on who asks and on today's configuration: no cache may keep it.
    return PlainTextResponse(text, headers={"cache-control": "no-store"})


def _try_again(client: str, error: AssetUnavailable) -> Response:
    """Refuse for now: iPXE comes back by itself after as many seconds, as often as it takes."""
    _unavailable.log(
        logging.WARNING, "HTTP %s %s: %s", printable(client), as_word(error.name), error.reason
    )
    # Spread out, so that a rack that was refused together does not come back together.
    headers = {"retry-after": str(random.randint(2, 8))}  # noqa: S311
    return PlainTextResponse("the server cannot open this file now, try again\n", 503, headers)


def _not_found(why: str) -> Response:
    return PlainTextResponse(why + "\n", 404)
