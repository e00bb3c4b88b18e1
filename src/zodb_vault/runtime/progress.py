"""How a long operation reports its progress."""

from __future__ import annotations

from typing import Literal, Protocol

Unit = Literal["B", "blobs", "objects"]


class Progress(Protocol):
    """Receives the progress of a long operation."""

    def begin(self, what: str, total: int | None) -> None:
        """Begin a phase of ``total`` bytes (None: not known)."""
        ...

    def expect(self, total: int, unit: Unit) -> None:
        """Set how much the present phase has to do, as soon as that is known; it starts again at 0."""
        ...

    def advance(self, count: int) -> None:
        """Report that ``count`` more bytes (or of the unit) are done; every thread may call it."""
        ...

    def note(self, text: str) -> None:
        """Report a message of one line."""
        ...
