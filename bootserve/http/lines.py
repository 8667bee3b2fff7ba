"""The log's lines about requests, but for transfers: who gets which script, who is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from bootserve.catalog.assets import AssetForbidden, AssetNotFound, AssetUnavailable
from bootserve.catalog.machines import Identity, Sighting
from bootserve.events import Event, Fields, with_fields
from bootserve.text import as_word, printable
from bootserve.watch.fields import of_refusal
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.http")

# One each, so that a flood of one kind does not hide the others.
_unavailable = QuietLog(logger)
_not_found = QuietLog(logger)
_forbidden = QuietLog(logger)
_queued = QuietLog(logger, most=5)


class Asker(NamedTuple):
    """Who asks for a script."""

    identity: Identity
    sighting: Sighting
    arch: str | None
    platform: str | None
    """iPXE's ``buildarch`` and ``platform``; untrusted."""

    words: tuple[str, str, str, str]
    """What the line of a boot says of it: who, arch, platform, and what was ignored."""


def words(
    identity: Identity, arch: str | None, platform: str | None, complaints: Sequence[str]
) -> tuple[str, str, str, str]:
    """Return `Asker.words`; each complaint is a sentence."""
    return (
        as_word(identity.label) if identity.label else "unknown machine",
        as_word("?" if arch is None else arch),
        as_word("?" if platform is None else platform),
        "".join(f"; ignored {as_word(complaint)}" for complaint in complaints),
    )


def entry(client: str, name: str = "") -> None:
    """A client gets the entry script, as a file if it has asked for one by name."""
    logger.info(
        "HTTP %s gets the entry script%s",
        printable(client),
        f", as {as_word(name)}" if name else "",
        extra=with_fields(_entry, client, name),
    )


def boot(client: str, asker: Asker, what: str) -> None:
    """A machine gets the script that it boots with."""
    who, arch, platform, ignored = asker.words
    logger.info(
        "HTTP %s (%s, %s %s) gets the script of: %s%s",
        printable(client),
        who,
        arch,
        platform,
        as_word(what),
        ignored,
        extra=with_fields(_boot, client, asker, what),
    )


def profile(client: str, name: str) -> None:
    """A client has chosen from a menu."""
    logger.info(
        "HTTP %s gets the script of profile %s",
        printable(client),
        as_word(name),
        extra=with_fields(_choice, client, name),
    )


def no_profile(client: str, name: str) -> None:
    """A client has asked for a choice that no menu offers."""
    _not_found.log(
        logging.INFO,
        "HTTP %s profile %s: not found",
        printable(client),
        as_word(name),
        extra=with_fields(_choice, client, name),
    )


def not_found(client: str, error: AssetNotFound) -> None:
    _not_found.log(
        logging.INFO,
        "HTTP %s %s: not found",
        printable(client),
        as_word(error.name or "/"),
        extra=with_fields(of_refusal, "HTTP", client, error.name),
    )


def refused(client: str, error: AssetForbidden) -> None:
    _forbidden.log(
        logging.WARNING,
        "HTTP %s %s: refused, %s",
        printable(client),
        as_word(error.name),
        error.reason,
        extra=with_fields(of_refusal, "HTTP", client, error.name, error.reason),
    )


def unavailable(client: str, error: AssetUnavailable) -> None:
    _unavailable.log(
        logging.WARNING,
        "HTTP %s %s: %s",
        printable(client),
        as_word(error.name),
        error.reason,
        extra=with_fields(of_refusal, "HTTP", client, error.name, error.reason),
    )


def full(client: str, name: str, seconds: int) -> None:
    """A client is told to come back after so many seconds."""
    _queued.log(
        logging.INFO,
        "HTTP %s %s: full, to come back in %d s",
        printable(client),
        as_word(name),
        seconds,
        extra=with_fields(of_refusal, "HTTP", client, name),
    )


def _entry(client: str, name: str) -> Fields:
    return {"protocol": "HTTP", "client": client, "name": name}


def _choice(client: str, profile: str) -> Fields:
    return {"protocol": "HTTP", "client": client, "profile": profile}


def _boot(client: str, asker: Asker, what: str) -> Fields:
    return {
        "event": Event.BOOT,
        "protocol": "HTTP",
        "client": client,
        "machine": asker.identity.label,
        "arch": asker.arch,
        "platform": asker.platform,
        "profile": asker.sighting.profile,
        "script": what,
    }
