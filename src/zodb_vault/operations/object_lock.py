"""Object lock: make sure that everything a backup needs is locked as long as the backup itself.

What a run stores is locked when it is stored. What it shares with earlier backups was locked earlier, for a
shorter time. The manifest says until when all of it is locked, so that most runs need not renew anything.
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
from ..repository.layout import INFO_KEY, RECOVERY_KEY
from ..repository.objects import meta_key, object_key
from ..repository.references import read_list, references
from ..repository.repository import Repository
from ..runtime import clock
from ..runtime.progress import Progress
from ..runtime.workers import Workers
from ..stores.base import Store, SupportsObjectLock

# A worker waits for the service nearly all the time, and needs hardly any memory.
RENEWERS: Final = 16
MAX_KEYS_SHOWN: Final = 5
# A trial object cannot be deleted for good before this time.
TRIAL_DURATION: Final = timedelta(minutes=1)


def object_lock_of(store: Store) -> tuple[SupportsObjectLock, timedelta] | None:
    """Return the store, and how long it locks what is stored; None for a store without object lock."""
    if isinstance(store, SupportsObjectLock) and store.lock_duration:
        return store, store.lock_duration
    return None


def needed_keys(document: Any, documents: Documents, found: set[str] | None = None) -> set[str]:
    """Return the keys of everything that a backup needs; raise Damage when a list cannot be read."""
    keys = set[str]() if found is None else found
    for one in references(document):
        key = object_key(one.name) if one.kind == "content" else meta_key(one.name)
        if key not in keys:
            keys.add(key)
            if one.kind == "list":
                needed_keys(read_list(one.name, documents), documents, keys)
    return keys


def trial_key(site: str, run: str) -> str:
    """Return a key for the trial object of a run, where a run is allowed to write; it is no marker."""
    return f"sites/{site}/running/{run}-trial"


class Locks:
    """The locks of one run that began at ``now``.

    ``until`` is the time until which everything that the run needs has to be locked. Without object lock it
    is None, and there is nothing to do.
    """

    def __init__(self, repository: Repository, trial_key: str, now: datetime, progress: Progress) -> None:
        self._repository, self._trial_key, self._now, self._progress = repository, trial_key, now, progress
        self._found = object_lock_of(repository.store)
        self.until = lock_expiry(now, self._found[1]) if self._found else None
        self._renewed = set[str]()

    def lasting(self, manifests: Iterable[Manifest | None]) -> datetime | None:
        """Return until when everything that these backups need is locked.

        Return None when that is too soon for this run, or not known of one of them: None stands for an
        unknown backup, and a manifest that was copied from another repository says when it is locked there.
        """
        if self._found is None:
            return None
        here = self._repository.info.id
        times: list[datetime | None] = []
        for manifest in manifests:
            known = manifest is not None and manifest.repository == here and manifest.locked_until
            times.append(clock.parse(known) if known else None)
        return common_expiry(times, self._now, self._found[1])

    def renew(self, keys: Iterable[str], heartbeat: Callable[[], None]) -> None:
        """Lock these keys until ``until``, and call ``heartbeat`` meanwhile; raise StoreError."""
        assert self._found and self.until
        todo = sorted({*keys, INFO_KEY, RECOVERY_KEY} - self._renewed)
        if not self._renewed:
            try_extending(self._repository.store, self._found[0], self._trial_key)
        self._progress.note(f"renewing the locks of {len(todo)} objects")
        missing: list[str] = []
        with Workers(RENEWERS, heartbeat) as pool:
            for key in pool.in_order(partial(_extend, self._found[0], key, self.until) for key in todo):
                if key is not None:
                    missing.append(key)
                heartbeat()
        if missing:
            more = f" and {len(missing) - MAX_KEYS_SHOWN} more" if len(missing) > MAX_KEYS_SHOWN else ""
            keys_shown = ", ".join(missing[:MAX_KEYS_SHOWN])
            raise StoreError(
                f"{keys_shown}{more} cannot be found in {self._repository.store.location}",
                "`zodb-vault verify` shows which backups need it",
            )
        self._renewed |= set(todo)


def _extend(store: SupportsObjectLock, key: str, until: datetime) -> str | None:
    """Extend a lock; return the key when nothing is stored there."""
    try:
        store.extend_lock(key, until)
    except KeyMissing:
        return key
    return None


def try_extending(store: Store, lockable: SupportsObjectLock, key: str) -> None:
    """Try with a worthless object whether locks can be extended; raise StoreError.

    A service that does not know object lock may ignore that part of the request, take it for an upload, and
    replace the object with the text of the request.
    """
    data = secrets.token_bytes(32)
    store.put(key, [data])
    try:
        lockable.extend_lock(key, clock.now() + TRIAL_DURATION)
        if store.get(key) != data:
            raise StoreError(
                f"the service of {store.location} has no object lock: "
                "it has replaced a test object with the request to lock it",
                "remove object_lock from [repository.s3], or use a service with object lock",
            )
    finally:
        store.delete(key)
