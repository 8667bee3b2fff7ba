"""The peers that are Python libraries, each as its documentation would have it written.

`python -m bench.tftp.apps tftpy|fbtftp HOST PORT ROOT`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

RETRIES, TIMEOUT = 5, 5


def tftpy(host: str, port: int, root: Path) -> None:
    from tftpy import TftpServer

    TftpServer(str(root)).listen(host, port)


def fbtftp(host: str, port: int, root: Path) -> None:
    from fbtftp.base_handler import BaseHandler, ResponseData
    from fbtftp.base_server import BaseServer

    class File(ResponseData):  # type: ignore[misc]  # the package has no types
        def __init__(self, path: Path) -> None:
            self._size = path.stat().st_size
            self._file = path.open("rb")

        def read(self, count: int) -> bytes:
            return self._file.read(count)

        def size(self) -> int:
            return self._size

        def close(self) -> None:
            self._file.close()

    class Handler(BaseHandler):  # type: ignore[misc]
        def get_response_data(self) -> File:
            return File(root / self._path)

    class Server(BaseServer):  # type: ignore[misc]
        def get_handler(self, server: object, peer: object, path: str, options: Any) -> Handler:
            return Handler(server, peer, path, options, lambda _: None)

    Server(host, port, RETRIES, TIMEOUT).run()


def main() -> None:
    name, host, port, root = sys.argv[1:]
    {"tftpy": tftpy, "fbtftp": fbtftp}[name](host, int(port), Path(root))


if __name__ == "__main__":
    main()
