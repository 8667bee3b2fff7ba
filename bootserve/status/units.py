"""Sizes, rates and times as people read them: three digits, and the unit that fits."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size(count: float) -> str:
    """Bytes, as in ``52.4 MB``: seven characters at most below 1000 EB."""
    scaled, unit, places = _scale(count)
    return f"{scaled:.{places}f} {unit}"


def rate(per_second: float) -> str:
    """Bytes per second, as in ``11.2 MB/s``."""
    return size(per_second) + "/s"


def part(done: float, total: float) -> str:
    """How much of how much, in the unit of the whole: ``10.5/52.4 MB``."""
    scaled, unit, places = _scale(total)
    factor = scaled / total if total else 1.0
    return f"{done * factor:.{places}f}/{scaled:.{places}f} {unit}"


def duration(seconds: float, *, whole: bool = False) -> str:
    """As in ``4.2 s``, ``42 s``, ``3:05`` minutes, ``1:02:03`` hours, ``3 d 4 h``.

    Args:
        whole: seconds without tenths.
    """
    if seconds < 9.95 and not whole:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, rest = divmod(rounded, 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02}"
    if hours < 24:
        return f"{hours}:{minutes:02}:{rest:02}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days < 100 else f"{days} d"


def ago(seconds: float) -> str:
    """How long ago something was, as in ``42 s ago``, ``7 min ago``: ten characters at most."""
    for unit, length, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86400)):
        if seconds < most:
            return f"{int(max(seconds, 0) // length)} {unit} ago"
    return f"{int(min(seconds // 86400, 9999))} d ago"


def _scale(count: float) -> tuple[float, str, int]:
    scaled, unit = float(count), _UNITS[0]
    for bigger in _UNITS[1:]:
        # What would be rounded to 1000 is one of the next.
        if scaled < 999.5:
            break
        scaled, unit = scaled / 1000, bigger
    places = 0 if unit == "B" or scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return scaled, unit, places
