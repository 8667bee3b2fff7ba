"""The peers that are Python applications, each as its documentation would have it written.

Their root and script come in the environment, because two of the servers import an application
by its name and give it no arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from bench.site import ROOT, SCRIPT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _root() -> Path:
    return Path(os.environ[ROOT])


def _script() -> str:
    return (_root() / SCRIPT).read_text()


def stock() -> Starlette:
    """Starlette, for uvicorn."""
    boot, script = _root() / "boot", _script()

    async def file(request: Request) -> Response:
        path = boot / request.path_params["name"]
        if not path.is_file():
            return PlainTextResponse("not found", status_code=404)
        return FileResponse(path)

    async def line(_: Request) -> Response:
        return PlainTextResponse(script)

    return Starlette(routes=[Route(f"/{SCRIPT}", line), Route("/boot/{name:path}", file)])


def pathsend() -> Callable[..., Awaitable[None]]:
    """Bare ASGI, for granian, whose Rust side sends the file (`http.response.pathsend`)."""
    boot, script = _root() / "boot", _script().encode()

    async def app(scope: dict[str, Any], _: object, send: Callable[..., Awaitable[None]]) -> None:
        async def start(status: int, length: int) -> None:
            fields = [(b"content-length", b"%d" % length)]
            await send({"type": "http.response.start", "status": status, "headers": fields})

        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        if scope["path"] == f"/{SCRIPT}":
            await start(200, len(script))
            await send({"type": "http.response.body", "body": script})
            return
        path = boot / scope["path"].removeprefix("/boot/")
        if not path.is_file():
            await start(404, 0)
            await send({"type": "http.response.body", "body": b""})
            return
        wanted = dict(scope["headers"]).get(b"range")
        if wanted is None:
            await start(200, path.stat().st_size)
            await send({"type": "http.response.pathsend", "path": str(path)})
            return
        # Granian sends whole files only; a range goes through Python.
        first, _, last = wanted.decode().removeprefix("bytes=").partition("-")
        length = int(last) + 1 - int(first)
        await start(206, length)
        with path.open("rb") as file:
            body = await asyncio.to_thread(os.pread, file.fileno(), length, int(first))
        await send({"type": "http.response.body", "body": body})

    return app


def main() -> None:
    """aiohttp, which is its own server."""
    from aiohttp import web  # the other two do without it

    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    port = parser.parse_args().port
    boot, script = _root() / "boot", _script()

    async def file(request: web.Request) -> web.FileResponse:
        # FileResponse answers for a missing file by itself.
        return web.FileResponse(boot / request.match_info["name"])

    async def line(_: web.Request) -> web.Response:
        return web.Response(text=script)

    app = web.Application()
    app.add_routes([web.get(f"/{SCRIPT}", line), web.get("/boot/{name:.*}", file)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, backlog=4096, print=None)


if __name__ == "__main__":
    main()
