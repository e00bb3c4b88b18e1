"""One writer at a time where the service has no conditional writes.

Write an own sign, look whether another one stands, else withdraw.

Whoever goes on has seen its own sign listed and no other. As a write is seen by every later list, of two that
begin at the same moment at least one sees the other. What this cannot promise: a process that is stopped for
minutes between its look and its write is taken for dead.
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
from .s3api import BucketClient, ListedObject

FOLDER: Final = ".turns/"
KEPT: Final = "keep"
DEAD: Final = timedelta(minutes=5)
# Whoever took longer than this to get its turn has to ask again: others may soon take it for dead.
FRESH_SECONDS: Final = 60.0
MOST_SECONDS: Final = 60.0
MOST_LATE: Final = 5
FIRST_PAUSE: Final = 0.02


class Mutex:
    """The turns of all keys of one place."""

    def __init__(self, api: BucketClient, prefix: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._api, self._prefix, self._sleep = api, prefix + FOLDER, sleep
        self._kept = False

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the turn of a key; raise InUse when another one holds it for too long."""
        signs = f"{self._prefix}{hashlib.sha256(key.encode()).hexdigest()[:32]}-"
        self._keep_folder()
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            mine = signs + secrets.token_hex(8)
            written = time.monotonic()
            try:
                self._api.put(mine, b"", hashlib.sha256().digest())
                if self._alone(signs, mine, written + FRESH_SECONDS):
                    yield
                    return
            finally:
                self._api.delete(mine)
            if time.monotonic() - begun > MOST_SECONDS:
                minutes = DEAD.seconds // 60
                why = "another run holds the turn, or what is written is not listed at once"
                raise InUse(
                    f"no turn to write {key}: {why}",
                    f"wait for it; a run that died is passed over after {minutes} minutes",
                )
            self._sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _keep_folder(self) -> None:
        """Leave something in the folder.

        Services on a file system drop one that is empty, with what is being written into it.
        """
        if not self._kept:
            self._api.put(f"{self._prefix}{KEPT}", b"", hashlib.sha256().digest())
            self._kept = True

    def _alone(self, signs: str, mine: str, until: float) -> bool:
        """Tell whether no other sign stands.

        The first of several by name stays and waits for the others to withdraw.
        """
        late = 0
        while True:
            names = sorted({sign.key for sign in self._standing(signs)})
            if time.monotonic() > until:
                return False
            if mine not in names and late < MOST_LATE:
                late += 1  # a list that does not have what was just written tells nothing
            elif len(names) == 1 or names[:1] != [mine]:
                return names == [mine]
            self._sleep(random.uniform(FIRST_PAUSE, 2 * FIRST_PAUSE))

    def _standing(self, signs: str) -> list[ListedObject]:
        found = [sign for page in self._api.pages(signs) for sign in page]
        dead = [sign for sign in found if self._api.now(signs) - sign.modified > DEAD]
        for sign in dead:
            self._api.delete(sign.key)
        return [sign for sign in found if sign not in dead]
