"""Find out by using it whether a place can hold a repository: written, exchanged, read, listed and deleted for real, and removed again."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import msgspec

from ...errors import KeyChanged, KeyExists, RepositoryMissing, StoreError, VaultError
from ...model.manifest import RepositoryInfo
from ...repository import markers
from ...repository.ids import ID_TIME
from ...repository.repository import Repository
from ...runtime import clock
from ...stores.base import ProbesCapabilities, Store
from ..locks import attempt, retaining

PROBE_PREFIX: Final = "_doctor-"
PROBE_SIZE: Final = 100_000
FAST: Final = timedelta(minutes=1)
APART: Final = timedelta(hours=1)
UNRELIABLE: Final = (
    "the repository cannot be relied on there; check the file system or the service, or keep it elsewhere"
)


class Check(msgspec.Struct, frozen=True):
    """What was looked at, whether it is as it has to be, what was found, and what to do about it."""

    name: str
    ok: bool
    message: str
    hint: str | None = None


def exercise(store: Store) -> list[Check]:
    """Return the results for a place, whether there is a repository already or not."""
    found: list[RepositoryInfo] = []

    def repository() -> Iterator[Check]:
        try:
            opened = Repository.open(store)
        except RepositoryMissing:
            yield Check("repository", True, f"there is none in {store.location} yet")
            return
        found.append(opened.info)
        yield Check("repository", True, f"{opened.info.id} in {store.location}")

    steps: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("repository", repository),
        ("repository access", partial(access, store)),
        ("repository service", lambda: abilities(store, found[0] if found else None)),
        ("object lock", partial(locks, store)),
        ("clock", partial(clocks, store, None)),
    )
    return [check for name, step in steps for check in guarded(name, step)]


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield checks; what ends one of them becomes a finding that ends no other."""
    try:
        yield from checks()
    except VaultError as error:
        yield Check(name, False, error.message, error.hint)
    except OSError as error:
        where = (
            f" ({os.fsdecode(error.filename)})"
            if isinstance(error.filename, (str, bytes, os.PathLike))
            else ""
        )
        yield Check(
            name,
            False,
            f"{error.strerror or type(error).__name__}{where}",
            "correct the cause and run this again",
        )
    except Exception as error:  # noqa: BLE001  the others are wanted nevertheless; the text of an unknown error may hold a secret
        yield Check(
            name,
            False,
            f"the check failed: {type(error).__name__}",
            "this is a mistake in zodb-vault; please report it",
        )


def access(store: Store) -> Iterator[Check]:
    """Write, read, list and delete for real, and leave nothing behind, also of a run that was killed."""
    problem, name = None, "repository access"
    key = f"{PROBE_PREFIX}{clock.now().strftime(ID_TIME)}-{secrets.token_hex(8)}"
    try:
        _exercise(store, key)
    except StoreError as error:
        problem = error
    finally:
        left = _remove(store, key)
    if problem is None and not left:
        yield Check(name, True, f"written, read, listed and deleted in {store.location}")
        return
    what = [problem.message] if problem else []
    what += [f"{', '.join(left)} could not be removed"] if left else []
    yield Check(name, False, "; ".join(what), problem.hint if problem else f"remove it from {store.location}")


def _exercise(store: Store, key: str) -> None:
    """Write, read, list and delete as backups do; raise StoreError."""
    data = secrets.token_bytes(PROBE_SIZE)
    staging = store.stage()
    try:
        staging.write(data)
        staging.store(key)
    finally:
        staging.discard()
    _require(
        store.get(key) == data and b"".join(store.stream(key)) == data,
        "what was written reads back differently",
    )
    _require((key, len(data)) in _probes(store), "what was written is not listed")
    taken = "a name that is taken can be written again, so two runs could destroy each other's work"
    _require(_raises(KeyExists, lambda: store.put(key, [b"other"])), taken)
    store.delete(key)
    _require(not any(found == key for found, _size in _probes(store)), "what was deleted is still listed")
    store.put(key, [data])
    changed = "what another run has changed can be exchanged or deleted, so two runs could destroy each other's work"
    _require(_raises(KeyChanged, lambda: store.replace(key, b"other", b"nothing like it")), changed)
    store.replace(key, b"exchanged", data)
    _require(store.get(key) == b"exchanged", "what was exchanged reads back differently")
    _require(_raises(KeyChanged, lambda: store.delete(key, data)), changed)
    store.delete(key, b"exchanged")


def _raises(kind: type[StoreError], attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except kind:
        return True
    return False


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise StoreError(problem, UNRELIABLE)


def _probes(store: Store) -> Iterator[tuple[str, int]]:
    """Yield the probes in the repository; the list is in byte order, and left as soon as it is past them: what follows may be long."""
    for key, size in store.list(""):
        if key.startswith(PROBE_PREFIX):
            yield key, size
        elif key > PROBE_PREFIX:
            return


def _remove(store: Store, probe: str) -> list[str]:
    """Remove a probe and those of runs that were killed, older than any that still goes on; return what cannot be removed."""
    before = f"{PROBE_PREFIX}{(clock.now() - markers.STALE).strftime(ID_TIME)}"
    there, left = [probe], []
    with contextlib.suppress(StoreError):
        there += [key for key, _size in _probes(store) if key < before]
    for key in there:
        try:
            store.delete(key)
        except StoreError:
            left.append(key)
    return left


def abilities(store: Store, info: RepositoryInfo | None) -> Iterator[Check]:
    """Tell what the service lacks, and whether it is still as it was found when the repository was made."""
    if not isinstance(store, ProbesCapabilities):
        return
    name, found = "repository service", store.probe()
    recorded = info.store if info else {}
    here = (recorded.get("location"), recorded.get("endpoint")) == (found["location"], found["endpoint"])
    lost = [ability for ability, there in found.items() if there is False and here and recorded.get(ability)]
    missing = ", ".join(ability for ability, there in found.items() if there is False)
    if lost:
        message = f"{', '.join(lost)} worked when the repository was made and does not any more; every run relies on it"
        yield Check(
            name,
            False,
            message,
            "find out what changed at the service, and run nothing at the same time until then",
        )
    elif missing:
        yield Check(name, True, f"it lacks {missing}; {'; '.join(store.limits())}")
    else:
        yield Check(name, True, "it has everything: conditional writes, exchanges and deletions, and ranges")


def locks(store: Store) -> Iterator[Check]:
    """Tell whether the time for which something is locked can be made longer; what this leaves of a probe is locked for a minute."""
    if (found := retaining(store)) is None:
        return
    try:
        attempt(store, found[0], f"{PROBE_PREFIX}{clock.now().strftime(ID_TIME)}-{secrets.token_hex(8)}")
    except StoreError as error:
        yield Check("object lock", False, f"locks cannot be renewed: {error.message}", error.hint)
        return
    yield Check(
        "object lock", True, f"locks can be renewed; what a backup needs is kept for {found[1]} after it"
    )


def clocks(store: Store, newest: datetime | None) -> Iterator[Check]:
    """Compare the clocks of this machine, of the store and of the newest backup."""
    now, there = clock.now(), store.clock()
    hint = "set the clock of this machine (NTP); until it is right, nothing is deleted by age"
    if abs(there - now) > APART:
        yield Check(
            "clock",
            False,
            f"it is {clock.iso(now)} here and {clock.iso(there)} where the repository is",
            hint,
        )
    elif newest is not None and newest > now + FAST:
        message = f"it is {clock.iso(now)}, and the newest backup is of {clock.iso(newest)}, in the future: "
        message += "the clock is wrong, or it was when that was made"
        hint = "set the clock if it is wrong (NTP); if it is right, this passes when that time has come, or with that backup"
        yield Check("clock", False, message, hint)
    else:
        yield Check("clock", True, f"it is {clock.iso(now)}; no backup is newer")
