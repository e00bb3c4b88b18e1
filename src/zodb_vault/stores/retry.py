"""How often and how long something is tried again that may only have failed for now."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, TypeVar

from ..errors import StoreError
from ..runtime import shutdown

R = TypeVar("R")

ATTEMPTS: Final = 8
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 20.0
# Of a run that was told to end: the note of what it stored is worth a second try, and whoever waits is not
# kept for minutes.
ATTEMPTS_AT_END: Final = 2


class TransientError(Exception):
    """A failure that may be gone in a moment: throttling, an overloaded server, a broken connection."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class RetryPolicy:
    """Waits between attempts.

    Twice as long each time and up to that at random, so that many clients do not come back together.

    With the values above an outage of about a minute is sat out. Progress (``renew``) makes it as patient as
    at the beginning.
    """

    def __init__(
        self,
        attempts: int = ATTEMPTS,
        first: float = FIRST_PAUSE,
        sleep: Callable[[float], None] = shutdown.sleep,
    ) -> None:
        self._attempts, self._first, self._sleep = attempts, first, sleep
        self._failures = 0

    def restarted(self) -> RetryPolicy:
        """Return one for another undertaking."""
        return RetryPolicy(self._attempts, self._first, self._sleep)

    def reset(self) -> None:
        """Forget the failures so far."""
        self._failures = 0

    def wait(self, failure: TransientError) -> None:
        """Wait before the next attempt.

        Raise the failure when there have been enough, KeyboardInterrupt in a thread that is to end.
        """
        shutdown.check()
        self._failures += 1
        if self._failures >= (
            min(self._attempts, ATTEMPTS_AT_END) if shutdown.requested() else self._attempts
        ):
            raise StoreError(failure.message, failure.hint) from failure
        longest = min(LONGEST_PAUSE, self._first * 2.0 ** (self._failures - 1))
        self._sleep(random.uniform(longest / 2, longest))

    def call(self, what: Callable[[], R]) -> R:
        """Return what a call returns, tried again as long as its failures may pass."""
        patience = self.restarted()
        while True:
            try:
                return what()
            except TransientError as failure:
                patience.wait(failure)
