"""Checks of the repository: it can be opened and used, its backups can be read, and no run has died in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

from ...errors import ExitCode, KeyMissing
from ...repository import markers
from ...runtime import clock
from ...stores.base import Store
from ..catalog import sites_with_backups
from ..create.eligibility import refuse_overlap
from ..findings import findings_of
from .check import CheckResult, run_check
from .inputs import CheckInputs
from .restore import check_places
from .store_probe import check_access, check_clocks, check_object_lock, check_service


def check_repository(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that the repository can be opened."""
    repository = inputs.repository
    yield CheckResult("repository", True, f"{repository.info.id} in {repository.store.location}")


def check_location(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that neither the repository nor a blob directory contains the other."""
    refuse_overlap(inputs.repository, list(inputs.site.databases))
    check_places(inputs)
    yield CheckResult("repository location", True, "the repository and the blob directories are separate")


def check_store(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check by using it that the store does what the repository relies on."""
    repository = inputs.repository
    yield from check_access(repository.store)
    yield from check_service(repository.store, repository.info)
    yield from check_object_lock(repository.store)


def check_newest_backup(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that the newest backups can be read."""
    name, newest, damaged = "newest backup", inputs.newest, inputs.catalog.damaged
    if damaged:
        names = ", ".join(f"{one}: {why}" for one, why in damaged.items())
        hint = "`zodb-vault verify --all --level bytes` shows what is damaged"
        yield CheckResult(name, False, f"newer backups cannot be read: {names}", hint)
        return
    what = f"{newest.id}, {newest.status}" if newest else "none yet"
    number = len(inputs.catalog.listing.backups)
    others = [] if number else sites_with_backups(inputs.repository)
    known = f"; there are backups of {', '.join(others)}" if others else ""
    yield CheckResult(name, True, f"{what}; backups of {inputs.site_name}: {number}{known}")


def check_findings(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that the backups are of one site and not too old, and that no other site has the same source."""
    name, max_age = "site in the repository", inputs.settings.max_age(inputs.site_name)
    found = findings_of(inputs.catalog, max_age)
    for finding in found:
        yield CheckResult(name, False, finding.message, finding.hint, ExitCode.SOURCE_INCOMPLETE)
    if not found:
        age = (
            "the newest one is young enough"
            if max_age
            else "max_age is not configured, so any age is accepted"
        )
        yield CheckResult(name, True, f"all backups are of one site; {age}")


def check_damage(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that no backup is known to be damaged; the older ones only when damaged objects are known."""
    name, register, readable = "damage", inputs.catalog.register, inputs.catalog.readable()
    backups = readable if register.objects else itertools.islice(readable, 1)
    damaged, unreadable = [one for one in backups if one.damage], register.unreadable
    if damaged:
        newest = damaged[0]
        others = f"; damaged in all: {len(damaged)}" if len(damaged) > 1 else ""
        what = f"backup {newest.manifest.id} {newest.damage}{others}"
        hint = (
            "the next `zodb-vault create` stores again what the site still has; `zodb-vault show` names the "
            "objects, a copy of the repository may still have them"
        )
        yield CheckResult(name, False, what, hint)
    elif unreadable:
        why = "; ".join(unreadable.values())
        hint = "`zodb-vault verify --all --level bytes` reads everything again"
        yield CheckResult(name, False, f"records of damaged objects cannot be read: {why}", hint)
    else:
        yield CheckResult(name, True, "no backup is known to be damaged")


def check_clock(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Compare the clock of this machine with those of the store and of the newest backup.

    Ids do not count: after a backup under a clock that was ahead, they go on from there.
    """
    newest = next((clock.parse(one.manifest.created_at) for one in inputs.catalog.intact()), None)
    yield from check_clocks(inputs.repository.store, newest)


def check_locks(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check the marker of every run that holds the repository."""
    keys = inputs.catalog.listing.markers
    if not keys:
        yield CheckResult("locks", True, "no run holds the repository")
    for key in keys:
        name = f"lock {key.rpartition('/')[2].removesuffix('.json')}"
        yield from run_check(name, partial(_check_marker, inputs.repository.store, key, name))


def _check_marker(store: Store, key: str, name: str) -> Iterator[CheckResult]:
    """Check whether the run of a marker is alive; the marker of a dead run is a finding."""
    try:
        marker, _data = markers.read_marker(store, key)
    except KeyMissing:
        yield CheckResult(name, True, "the run has just ended")
        return
    run = f"{marker.what} {marker.run}, host {marker.host}, pid {marker.pid}, since {marker.started}"
    if markers.is_alive(marker, store):
        yield CheckResult(name, True, f"running: {run}")
        return
    state = "interrupted" if marker.ended else f"died, last heartbeat at {marker.heartbeat}"
    hint = f"find out why it ended; the next {marker.what} of the site takes over what this run stored"
    yield CheckResult(name, False, f"{state}: {run}", hint)
