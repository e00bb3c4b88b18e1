"""How often and how long something is tried again that may only have failed for now."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ..errors import StoreError

R = TypeVar("R")

ATTEMPTS: Final = 8
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 20.0


class Passing(Exception):
    """A failure that may be gone in a moment: throttling, an overloaded server, a broken connection."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Patience:
    """Waits between attempts: twice as long each time and up to that at random, so that many clients do not come back together.

    With the values above an outage of about a minute is sat out. Progress (``renew``) makes it as patient as at the beginning.
    """

    def __init__(self, attempts: int = ATTEMPTS, first: float = FIRST_PAUSE, sleep: Callable[[float], None] = time.sleep) -> None:
        self._attempts, self._first, self._sleep = attempts, first, sleep
        self._failures = 0

    def fresh(self) -> Patience:
        """Return one for another undertaking."""
        return Patience(self._attempts, self._first, self._sleep)

    def renew(self) -> None:
        """Forget the failures so far."""
        self._failures = 0

    def wait(self, failure: Passing) -> None:
        """Wait before the next attempt; raise the failure when there have been enough."""
        self._failures += 1
        if self._failures >= self._attempts:
            raise StoreError(failure.message, failure.hint) from failure
        longest = min(LONGEST_PAUSE, self._first * 2.0 ** (self._failures - 1))
        self._sleep(random.uniform(longest / 2, longest))

    def call(self, what: Callable[[], R]) -> R:
        """Return what a call returns, tried again as long as its failures may pass."""
        patience = self.fresh()
        while True:
            try:
                return what()
            except Passing as failure:
                patience.wait(failure)
