"""Decide how many things are done at once."""

from __future__ import annotations

from typing import Final

# One worker hides what the other waits for, also on one processor; each takes up to 45 MB, of 200 for the
# whole process.
MIN_WORKERS: Final = 2
MAX_WORKERS: Final = 3
MAX_CONFIGURED: Final = 64
# A service answers slower than a disk: while one worker waits for it, the processors are to have work.
MORE_FOR_SERVICE: Final = 1


def workers(processors: int, *, service: bool) -> int:
    """Return how many workers a run has that was told no number."""
    return min(MAX_WORKERS, max(MIN_WORKERS, processors) + (MORE_FOR_SERVICE if service else 0))
