"""Decide how many worker threads a run uses."""

from __future__ import annotations

from typing import Final

# Two workers even on one processor: one works while the other waits. Each takes up to 45 MB of memory, the
# whole process has 200 MB.
MIN_WORKERS: Final = 2
MAX_WORKERS: Final = 3
MAX_CONFIGURED: Final = 64
# A network service answers slower than a disk: one more worker keeps the processors busy.
MORE_FOR_SERVICE: Final = 1


def workers(processors: int, *, service: bool) -> int:
    """Return the number of workers when none is configured; ``service``: the repository is in a service."""
    return min(MAX_WORKERS, max(MIN_WORKERS, processors) + (MORE_FOR_SERVICE if service else 0))
