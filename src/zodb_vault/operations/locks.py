"""Object lock: let what a backup uses of earlier ones be locked for as long as the backup itself.

What a run stores is locked when it is stored. What it takes from earlier backups was locked then, and the manifest says until when all of it is, so
that most runs ask for nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from ..errors import KeyMissing, StoreError
from ..model.chain import Documents
from ..model.manifest import Manifest
from ..policy.lock_expiry import common_expiry, lock_expiry
from ..repository.objects import meta_key, object_key
from ..repository.references import read_list, references
from ..repository.repository import INFO_KEY, RECOVERY_KEY, Repository
from ..runtime import clock
from ..runtime.progress import Progress
from ..runtime.workers import Workers
from ..stores.base import Store, SupportsObjectLock

# Each waits for an answer nearly all the time.
RENEWERS: Final = 16
NAMED: Final = 5
TRIAL: Final = timedelta(minutes=1)


def retaining(store: Store) -> tuple[SupportsObjectLock, timedelta] | None:
    """Return a store that is to lock what is stored, and for how long; None for others."""
    return (
        (store, store.lock_duration)
        if isinstance(store, SupportsObjectLock) and store.lock_duration
        else None
    )


def needed_keys(document: Any, documents: Documents, found: set[str] | None = None) -> set[str]:
    """Return the keys of all objects and documents that a backup needs; raise Damage at a list that cannot be read."""
    keys = set[str]() if found is None else found
    for one in references(document):
        key = object_key(one.name) if one.kind == "content" else meta_key(one.name)
        if key not in keys:
            keys.add(key)
            if one.kind == "list":
                needed_keys(read_list(one.name, documents), documents, keys)
    return keys


def trial_key(site: str, run: str) -> str:
    """Return a key under which a run may write, read and remove, and which is no marker."""
    return f"sites/{site}/running/{run}-trial"


class Locks:
    """The locks of one run, which began at ``now``; without object lock there is nothing to do, and ``until`` is None."""

    def __init__(self, repository: Repository, trial_key: str, now: datetime, progress: Progress) -> None:
        self._repository, self._trial_key, self._now, self._progress = repository, trial_key, now, progress
        self._found = retaining(repository.store)
        self.until = lock_expiry(now, self._found[1]) if self._found else None
        self._renewed = set[str]()

    def lasting(self, manifests: Iterable[Manifest | None]) -> datetime | None:
        """Return until when all is locked that a backup takes from these, None when that is not long enough, or not known of one."""
        if self._found is None:
            return None
        here = self._repository.info.id
        claims = [one.locked_until if one and one.repository == here else None for one in manifests]
        return common_expiry(
            [clock.parse(claim) if claim else None for claim in claims], self._now, self._found[1]
        )

    def renew(self, keys: Iterable[str], beat: Callable[[], None]) -> None:
        """Let what is stored under these keys be locked ``until`` then; raise StoreError."""
        assert self._found and self.until
        todo = sorted({*keys, INFO_KEY, RECOVERY_KEY} - self._renewed)
        if not self._renewed:
            attempt(self._repository.store, self._found[0], self._trial_key)
        self._progress.note(f"renewing the locks of {len(todo)} objects")
        missing = []
        with Workers(RENEWERS, beat) as workers:
            for key in workers.in_order(partial(_missing, self._found[0], key, self.until) for key in todo):
                missing += [key] if key else []
                beat()
        if missing:
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            where = self._repository.store.location
            raise StoreError(
                f"{', '.join(missing[:NAMED])}{more} cannot be found in {where}",
                "`zodb-vault verify` tells which backups need it",
            )
        self._renewed |= set(todo)


def _missing(store: SupportsObjectLock, key: str, until: datetime) -> str | None:
    """Renew a lock; return the key when there is nothing under it."""
    try:
        store.extend_lock(key, until)
    except KeyMissing:
        return key
    return None


def attempt(store: Store, retaining: SupportsObjectLock, key: str) -> None:
    """Try on something of no worth whether locks can be renewed; raise StoreError.

    A service that does not know such requests may take them for what is to be stored, and write that over what is there.
    """
    data = secrets.token_bytes(32)
    store.put(key, [data])
    try:
        retaining.extend_lock(key, clock.now() + TRIAL)
        if store.get(key) != data:
            what = f"the service of {store.location} takes the request to lock an object for new content of it, and has no object lock"
            raise StoreError(
                what,
                "take [repository.s3] object_lock out of the configuration, or use a service that has it",
            )
    finally:
        store.delete(key)
