"""Checks of a restore beside the running site: what ``restore`` itself requires of rights and of space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from ...config.backend_registry import DATA_FS
from ...errors import NothingToBackUp, TargetRefused, UsageError
from ...model.manifest import DatabaseEntry
from ...model.restore import DatabaseCut, DestinationOptions, SpaceNeed
from ...model.source import Database
from ...model.units import readable_size
from ...strategies.backend_lookup import backend_named, backend_of, backend_of_entry
from ...strategies.destination import Destination, RestoreSource
from ..restore.preflight import refuse_within, require_space
from .check import CheckResult
from .inputs import CheckInputs

# what the user may say at a restore, and a check cannot know
WILLING = DestinationOptions(replace=True)


def check_restore(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Check what a restore in place needs, beside the real database; nothing of it is changed."""
    name = f"restore {database.name}"
    if database.name in inputs.unanswered and database.data_fs is None:
        return
    entry = inputs.newest_entry(database)
    try:
        destination = _destination(inputs, database, entry)
    except NothingToBackUp:  # the check of the source says so
        return
    except UsageError as error:
        yield CheckResult(name, True, f"not in place: {error.message}; {error.hint}")
        return
    findings = list(destination.preflight(_source(inputs, entry)))
    refusals = [one.refusal for one in findings if one.refusal is not None]
    if refusals:
        message = "a restore in place would be refused: " + "; ".join(one.message for one in refusals)
        yield CheckResult(name, False, message, "; ".join(dict.fromkeys(one.hint for one in refusals)))
        return
    yield CheckResult(name, True, f"in place, {_place(database)}: " + "; ".join(f.message for f in findings))


def _place(database: Database) -> str:
    """Return the place of a database without the secrets that a wrong DSN can have anywhere in it."""
    return backend_of(database).shown_location(database)


def check_places(inputs: CheckInputs) -> None:
    """Raise TargetRefused when a restore would write into the repository, or into foreign blobs."""
    for database in inputs.site.databases:
        try:
            destination = _destination(inputs, database, inputs.newest_entry(database))
        except UsageError:
            continue
        refuse_within(inputs.repository, destination)


def check_site_space(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Check that a restore in place has room: it writes the new state beside the old one."""
    name = f"space {database.name}"
    try:
        destination = _destination(inputs, database, inputs.newest_entry(database))
    except UsageError:
        return
    needs = _needs(inputs, database, destination)
    size = readable_size(_size(inputs, database, destination)[0])
    if not needs:
        entry = inputs.newest_entry(database)
        needed = f" {size}" if entry else " as much as the database has now"
        message = (
            f"the free space of the server of {_place(database)} is not known here: a restore needs"
            f"{needed} there, beside what is there now"
        )
        yield CheckResult(name, True, message)
        return
    free = readable_size(shutil.disk_usage(needs[0].directory).free)
    message = (
        f"{free} free beside {_place(database)}; a restore in place needs {size}, "
        "and room for the blobs that the site no longer has"
    )
    yield CheckResult(name, _fits(needs), message, HINT)


def check_restore_space(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that a restore of all databases together has room, which is more than each of them needs."""
    needs: list[SpaceNeed] = []
    for database in inputs.site.databases:
        try:
            destination = _destination(inputs, database, inputs.newest_entry(database))
        except UsageError:
            continue
        alone = _needs(inputs, database, destination)
        if not _fits(alone):  # its own check says so
            return
        needs += alone
    if len(inputs.site.databases) > 1 and needs:
        total = readable_size(sum(need.size for need in needs))
        message = f"a restore in place of all databases needs {total}"
        yield CheckResult("space restore", _fits(needs), message, HINT)


HINT = "free space there; until then restore into another file system with --output DIR"


def _destination(inputs: CheckInputs, database: Database, entry: DatabaseEntry | None) -> Destination:
    """Return where ``restore`` would put the newest backup of a database, or the next one.

    Raise UsageError when it cannot be restored in place.
    """
    if entry is not None:
        backend = backend_of_entry(entry)
    elif inputs.method_of(database) == "portable":
        backend = backend_named(DATA_FS)
    else:
        backend = backend_of(database)
    return backend.destination(database, WILLING)


def _source(inputs: CheckInputs, entry: DatabaseEntry | None) -> RestoreSource | None:
    """Return the newest backup of a database as ``restore`` takes it."""
    newest = inputs.newest if entry is not None else None
    if entry is None or newest is None:
        return None
    end = entry.storage.size if entry.storage else 0
    return RestoreSource(newest.id, DatabaseCut(entry, end, entry.last_tid, 0), inputs.repository.objects(""))


def _size(inputs: CheckInputs, database: Database, destination: Destination) -> tuple[int, int]:
    """Return the bytes of the storage, now or in the newest backup, and of the blobs."""
    entry = inputs.newest_entry(database)
    stored = entry.storage.size if entry and entry.storage else 0
    blobs = entry.blobs.size if entry and entry.blobs else 0
    return max(destination.present_size(), stored), blobs


def _needs(inputs: CheckInputs, database: Database, destination: Destination) -> list[SpaceNeed]:
    return destination.space(*_size(inputs, database, destination))


def _fits(needs: list[SpaceNeed]) -> bool:
    try:
        require_space(needs)
    except TargetRefused:
        return False
    return True
