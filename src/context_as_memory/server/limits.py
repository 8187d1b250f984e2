"""What a server may cost."""

import contextlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server and one session may cost."""

    sessions: int = 8
    """Walkers at once."""
    viewers: int = 16
    """Of one walk, beside its visitor."""
    stored_worlds: int = 500
    """Stored on this server; then no new ones are begun."""
    history_frames: int = 20_000
    """Of one world, in all its branches together; a walk ends there."""
    branches: int = 64
    """Of one world."""
    free_bytes: int = 1_000_000_000
    """That stay free on the disk of the worlds: nothing is stored beyond."""
    keep_worlds_gb: float | None = None
    """Gigabytes that all stored worlds may take; beyond, those that were not walked in for longest are removed. Never
    an open one, nor one walked in within the last --idle-s seconds. None: nothing is removed."""
    idle_s: float = 600.0
    """Seconds without any message but heartbeats, then a visitor's place is given to others."""
    max_context: int = 32
    """Frames of memory for one chunk."""
    upload_bytes: int = 8_000_000
    """Of a picture file to start from."""
    upload_pixels: int = 40_000_000
    """Of that picture."""
    jpeg_quality: int = 85
    """Of pictures that are sent as JPEG."""
    chunks_ahead: int = 2
    """Sent to a visitor but not shown yet, where its page says what it has shown."""
    message_rate: int = 120
    """Messages a second that one connection is heard with; it may say more, which waits."""
    strangers: int = 128
    """Connections that have not said yet what they want; those with the token are counted by themselves."""
    downloads: int = 4
    """Films and world files that are made and sent at once."""
    waiting_messages: int = 64
    """For a viewer who is slow; one who lags further behind is let go."""


def resident_mb() -> int | None:
    """Working memory of this process in megabytes, where the system tells."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 1_000_000
    return None
