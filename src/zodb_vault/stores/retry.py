"""Retry requests that failed with a transient error: how often, and with which pauses."""

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
# During a shutdown: the marker, which says what the run stored, is worth a second attempt; the user does not
# wait for minutes.
ATTEMPTS_AT_END: Final = 2


class TransientError(Exception):
    """A failure that may pass: throttling, an overloaded server, a broken connection."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class RetryPolicy:
    """Limits the attempts and pauses between them.

    Each pause is up to twice as long as the last one. A random part keeps many clients from coming back
    together. The values above survive an outage of about a minute. After progress, ``reset`` allows all
    attempts again.
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
        """Return a new policy with the same limits and no failures."""
        return RetryPolicy(self._attempts, self._first, self._sleep)

    def reset(self) -> None:
        """Forget the failures so far, because there was progress."""
        self._failures = 0

    def wait(self, failure: TransientError) -> None:
        """Wait before the next attempt.

        Raise StoreError after the last attempt, KeyboardInterrupt in a worker thread during a shutdown.
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
        """Return the result of a call; repeat it after transient errors."""
        policy = self.restarted()
        while True:
            try:
                return what()
            except TransientError as failure:
                policy.wait(failure)
