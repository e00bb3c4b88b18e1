"""Find out whether a store can hold a repository: write, read, list, replace and delete a probe in it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from ...errors import KeyChanged, KeyExists, RepositoryMissing, StoreError
from ...model.manifest import RepositoryInfo
from ...repository import markers
from ...repository.ids import ID_TIME
from ...repository.repository import Repository
from ...runtime import clock
from ...stores.base import ProbesCapabilities, Store
from ..object_lock import object_lock_of, try_extending
from .check import CheckResult, run_check

PROBE_PREFIX: Final = "_doctor-"
PROBE_SIZE: Final = 100_000
# A backup that is newer than this machine's clock by more than this says that a clock is, or was, wrong.
MAX_AHEAD: Final = timedelta(minutes=1)
MAX_CLOCK_DIFFERENCE: Final = timedelta(hours=1)
UNRELIABLE: Final = (
    "a repository is not safe there; check the file system or the service, or choose another location"
)


def probe_store(store: Store) -> list[CheckResult]:
    """Check a store, with or without a repository in it."""
    found: list[RepositoryInfo] = []

    def check_repository() -> Iterator[CheckResult]:
        try:
            opened = Repository.open(store)
        except RepositoryMissing:
            yield CheckResult("repository", True, f"there is none in {store.location} yet")
            return
        found.append(opened.info)
        yield CheckResult("repository", True, f"{opened.info.id} in {store.location}")

    checks: tuple[tuple[str, Callable[[], Iterable[CheckResult]]], ...] = (
        ("repository", check_repository),
        ("repository access", partial(check_access, store)),
        ("repository service", lambda: check_service(store, found[0] if found else None)),
        ("object lock", partial(check_object_lock, store)),
        ("clock", partial(check_clocks, store, None)),
    )
    return [result for name, check in checks for result in run_check(name, check)]


def _probe_key() -> str:
    """Return a new key; the time in it tells later runs which probes are old enough to be removed."""
    return f"{PROBE_PREFIX}{clock.now().strftime(ID_TIME)}-{secrets.token_hex(8)}"


def check_access(store: Store) -> Iterator[CheckResult]:
    """Write, read, list and delete a probe. Probes that killed runs left behind are removed as well."""
    problem, name, key = None, "repository access", _probe_key()
    try:
        _use(store, key)
    except StoreError as error:
        problem = error
    finally:
        left = _remove_probes(store, key)
    if problem is None and not left:
        yield CheckResult(name, True, f"writing, reading, listing and deleting work in {store.location}")
        return
    messages = [problem.message] if problem else []
    if left:
        messages.append(f"{', '.join(left)} could not be removed")
    hint = problem.hint if problem else f"remove it from {store.location}"
    yield CheckResult(name, False, "; ".join(messages), hint)


def _use(store: Store, key: str) -> None:
    """Write, read, list, replace and delete as backups do; raise StoreError."""
    data = secrets.token_bytes(PROBE_SIZE)
    staging = store.stage()
    try:
        staging.write(data)
        staging.store(key)
    finally:
        staging.discard()
    read_back = store.get(key) == data and b"".join(store.stream(key)) == data
    _require(read_back, "the store returns other bytes than were written")
    _require((key, len(data)) in _probes(store), "the store does not list what was written")
    _require_conflict(KeyExists, lambda: store.put(key, [b"other"]), "an existing key can be overwritten")
    store.delete(key)
    _require(all(found != key for found, _size in _probes(store)), "the store still lists what was deleted")
    store.put(key, [data])
    _require_conflict(
        KeyChanged,
        lambda: store.replace(key, b"other", b"not what is stored"),
        "a key can be replaced although another run has changed it",
    )
    store.replace(key, b"replaced", data)
    _require(store.get(key) == b"replaced", "the store returns other bytes than were written")
    _require_conflict(
        KeyChanged,
        lambda: store.delete(key, data),
        "a key can be deleted although another run has changed it",
    )
    store.delete(key, b"replaced")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise StoreError(problem, UNRELIABLE)


def _require_conflict(kind: type[StoreError], attempt: Callable[[], object], problem: str) -> None:
    """Raise StoreError when the store allows what it has to refuse."""
    with contextlib.suppress(kind):
        attempt()
        raise StoreError(f"{problem}, so two runs could destroy each other's work", UNRELIABLE)


def _probes(store: Store) -> Iterator[tuple[str, int]]:
    """Yield key and size of each probe.

    A list is in byte order and may be long, so it is left at the first key that comes after all probes.
    """
    for key, size in store.list(""):
        if key.startswith(PROBE_PREFIX):
            yield key, size
        elif key > PROBE_PREFIX:
            return


def _remove_probes(store: Store, probe: str) -> list[str]:
    """Remove this probe and the old ones of killed runs; return the keys that cannot be removed.

    A probe that is younger than a stale marker may belong to a run that is still alive, and is left alone.
    """
    before = f"{PROBE_PREFIX}{(clock.now() - markers.STALE).strftime(ID_TIME)}"
    keys, left = [probe], []
    with contextlib.suppress(StoreError):
        keys += [key for key, _size in _probes(store) if key < before]
    for key in keys:
        try:
            store.delete(key)
        except StoreError:
            left.append(key)
    return left


def check_service(store: Store, info: RepositoryInfo | None) -> Iterator[CheckResult]:
    """Report what the service cannot do; a finding is what worked when the repository was created."""
    if not isinstance(store, ProbesCapabilities):
        return
    name, found = "repository service", store.probe()
    recorded = info.store if info else {}
    missing = [ability for ability, works in found.items() if works is False]
    same_service = all(recorded.get(one) == found[one] for one in ("location", "endpoint"))
    lost = [ability for ability in missing if same_service and recorded.get(ability)]
    if lost:
        worked = f"{', '.join(lost)} worked when the repository was created"
        message = f"{worked} and no longer works; every run relies on it"
        hint = "find out what changed at the service; until then, run only one command at a time"
        yield CheckResult(name, False, message, hint)
    elif missing:
        yield CheckResult(name, True, f"it cannot do {', '.join(missing)}; {'; '.join(store.limitations())}")
    else:
        yield CheckResult(name, True, "conditional writes, replaces and deletes work, and so do ranges")


def check_object_lock(store: Store) -> Iterator[CheckResult]:
    """Check that a lock can be extended. What this leaves of the probe is locked for a minute."""
    found = object_lock_of(store)
    if found is None:
        return
    try:
        try_extending(store, found[0], _probe_key())
    except StoreError as error:
        yield CheckResult("object lock", False, f"locks cannot be renewed: {error.message}", error.hint)
        return
    message = f"locks can be renewed; what a backup needs is kept for {found[1]} after it"
    yield CheckResult("object lock", True, message)


def check_clocks(store: Store, newest: datetime | None) -> Iterator[CheckResult]:
    """Compare the clock of this machine with those of the store and of the newest backup."""
    now, store_time = clock.now(), store.clock()
    if abs(store_time - now) > MAX_CLOCK_DIFFERENCE:
        message = f"the clock shows {clock.iso(now)} here and {clock.iso(store_time)} where the repository is"
        hint = "set the clock of this machine (NTP); until it is right, nothing is deleted by age"
        yield CheckResult("clock", False, message, hint)
    elif newest is not None and newest > now + MAX_AHEAD:
        message = (
            f"the clock shows {clock.iso(now)}, and the newest backup has the time {clock.iso(newest)}, "
            "which is in the future: the clock is wrong, or it was wrong when that backup was made"
        )
        hint = (
            "if the clock is wrong, set it (NTP); if it is right, this finding ends with the next backup; "
            "delete the backup of the future: until then, prune removes nothing by age"
        )
        yield CheckResult("clock", False, message, hint)
    else:
        yield CheckResult("clock", True, f"the clock shows {clock.iso(now)}; the newest backup is older")
