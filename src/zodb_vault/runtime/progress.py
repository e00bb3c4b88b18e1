"""What a long operation reports while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told how far a long operation is."""

    def begin(self, what: str, total: int | None) -> None:
        """Begin a phase of ``total`` bytes (None: not known)."""
        ...

    def advance(self, count: int) -> None:
        """Tell that this many bytes more are done; any thread may call it."""
        ...

    def note(self, text: str) -> None:
        """Tell something that is worth a line."""
        ...
