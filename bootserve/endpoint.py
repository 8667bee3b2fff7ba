"""An address to listen on, as an operator writes it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_FORMS = 'write ADDR:PORT, for example "*:8080", "192.0.2.1:80" or "[::1]:8080"'


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``host`` is an IP literal (IPv6 with its zone, if any), or ``None`` for every address."""

    host: str | None
    port: int
    is_optional: bool = False
    """Listen only if that is permitted and the port is free; written as a ``?`` at the end."""

    @property
    def is_everywhere(self) -> bool:
        """Whether it stands for every address of the host, of one family or of both."""
        return self.host in (None, "0.0.0.0", "::")  # noqa: S104 (compared, not bound)

    @classmethod
    def parse(cls, value: object) -> Endpoint:
        """Parse ``ADDR:PORT`` with an optional ``?`` behind it.

        Raises:
            ValueError: with a sentence that says what would be right.
        """
        if isinstance(value, Endpoint):
            return value
        if not isinstance(value, str):
            raise ValueError(f"is not an address; {_FORMS}")
        text = value.removesuffix("?")
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(f"{value!r} is not an address with a port; {_FORMS}")
        return cls(_host(value, host), int(port), is_optional=value.endswith("?"))

    def __str__(self) -> str:
        host = "*" if self.host is None else f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse)


def as_configured(endpoints: Iterable[Endpoint]) -> list[str]:
    """Write addresses as an operator does: ``*:80`` for those that stand for every one."""
    found = list(dict.fromkeys((endpoint.host, endpoint.port) for endpoint in endpoints))
    for port in dict.fromkeys(port for _, port in found):
        both = [("0.0.0.0", port), ("::", port)]  # noqa: S104 (compared, not bound)
        if all(one in found for one in both):
            found[min(map(found.index, both))] = (None, port)
            found = [one for one in found if one not in both]
    return [str(Endpoint(host, port)) for host, port in found]


def _host(value: str, host: str) -> str | None:
    if host in ("", "*"):
        return None
    if host == "localhost":
        return "127.0.0.1"
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"{value!r}: {host!r} is not an IP address; {_FORMS}") from None
    if bracketed != (address.version == 6):
        raise ValueError(f"{value!r}: IPv6 addresses stand in brackets, and only they; {_FORMS}")
    return str(address)
