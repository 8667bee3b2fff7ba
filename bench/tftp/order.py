"""What TFTP clients are to do, and what has come of it: both travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Order:
    """What the clients are to do."""

    host: str
    port: int
    name: str
    size: int
    """Bytes that the file has; a transfer of another length has failed."""
    clients: int = 1
    blksize: int = 1468
    windowsize: int = 1
    seconds: float = 0
    """Each client begins again as long as fewer have passed; then it breaks off. 0: just once."""
    limit: float = 60
    """Seconds after which what is still in flight has failed."""
    repeat_after: float = 1
    """Seconds of silence after which the last packet is sent again."""
    patience: float = 30
    """Seconds without progress after which a transfer has failed."""
    digest: bool = False
    """Compute the SHA-256 of what comes. With one client only."""


@dataclass
class Outcome:
    """What has come of it."""

    bytes: int = 0
    seconds: float = 0
    completed: int = 0
    worst: float = 0
    """Seconds of the client that took longest, from its request to its last ACK."""
    median: float = 0
    failures: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    """Packets that clients sent again because they had heard nothing."""
    gaps: int = 0
    """Blocks that did not come although later ones did."""
    duplicates: int = 0
    """Blocks that came again."""
    blksize: int = 0
    windowsize: int = 0
    """What the server has agreed to."""
    cpu: float = 0
    """CPU seconds of the clients."""
    digest: str = ""
