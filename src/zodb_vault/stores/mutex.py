"""A mutex for services without conditional writes, made of small objects that runs list.

A run writes a lock object of its own and lists the folder. If it finds its own object and no other, it holds
the mutex. Otherwise it removes its object and tries again later. Every list shows the writes that finished
before it, so of two runs that start together at least one sees the other.

Limit: a run that stops for minutes between its list and its write counts as dead, and both may write.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from ..errors import InUse
from .retry import LONGEST_PAUSE
from .s3bucket import BucketClient, ListedObject

FOLDER: Final = ".mutex/"
KEPT: Final = "keep"
DEAD: Final = timedelta(minutes=5)
# A run that took longer than this to acquire the mutex tries again: other runs may soon consider it dead.
FRESH_SECONDS: Final = 60.0
MOST_SECONDS: Final = 60.0
MOST_LATE: Final = 5
FIRST_PAUSE: Final = 0.02


class Mutex:
    """The mutexes of all keys below one prefix of a bucket."""

    def __init__(
        self, client: BucketClient, prefix: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client, self._prefix, self._sleep = client, prefix + FOLDER, sleep
        self._has_folder = False

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the mutex of a key; raise InUse when another run holds it for more than a minute."""
        prefix = f"{self._prefix}{hashlib.sha256(key.encode()).hexdigest()[:32]}-"
        self._keep_folder()
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            mine = prefix + secrets.token_hex(8)
            written = time.monotonic()
            try:
                self._client.put(mine, b"", hashlib.sha256().digest())
                if self._is_alone(prefix, mine, written + FRESH_SECONDS):
                    yield
                    return
            finally:
                self._client.delete(mine)
            if time.monotonic() - begun > MOST_SECONDS:
                minutes = DEAD.seconds // 60
                why = "another run holds it, or the service does not list a new object at once"
                raise InUse(
                    f"the mutex to write {key} could not be acquired: {why}",
                    f"run the command again later; the mutex of a dead run expires after {minutes} minutes",
                )
            self._sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _keep_folder(self) -> None:
        """Write an object that stays in the folder.

        A service on a file system removes an empty folder, even while another run writes into it.
        """
        if not self._has_folder:
            self._client.put(f"{self._prefix}{KEPT}", b"", hashlib.sha256().digest())
            self._has_folder = True

    def _is_alone(self, prefix: str, mine: str, until: float) -> bool:
        """Return whether this run has the only lock object of a key.

        With several, the first by name stays and waits until the others are removed.
        """
        late = 0
        while True:
            names = sorted({found.key for found in self._live_objects(prefix)})
            if time.monotonic() > until:
                return False
            if mine not in names and late < MOST_LATE:
                late += 1  # a list without the object that was just written is out of date
            elif len(names) == 1 or names[:1] != [mine]:
                return names == [mine]
            self._sleep(random.uniform(FIRST_PAUSE, 2 * FIRST_PAUSE))

    def _live_objects(self, prefix: str) -> list[ListedObject]:
        """Return the lock objects of a key, and remove those of dead runs."""
        listed = [found for page in self._client.pages(prefix) for found in page]
        dead = [found for found in listed if self._client.now(prefix) - found.modified > DEAD]
        for found in dead:
            self._client.delete(found.key)
        return [found for found in listed if found not in dead]
