"""How a long operation reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a long operation."""

    def begin(self, what: str, total: int | None) -> None:
        """Begin a phase of ``total`` bytes (None: not known)."""
        ...

    def advance(self, count: int) -> None:
        """Report that ``count`` more bytes are done; every thread may call it."""
        ...

    def note(self, text: str) -> None:
        """Report a message of one line."""
        ...
