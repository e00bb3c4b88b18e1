"""What is wrong with the backups of a site as a whole, and is reported by every command until it is accepted.

The commands are create, prune, list and doctor. Nothing here needs the source of the site.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from ..errors import TargetMissing
from ..repository.ids import id_time
from ..repository.repository import Repository
from ..runtime import clock
from .catalog import Backup, Catalog, parents, sites_with_backups


class SiteFinding(msgspec.Struct, frozen=True):
    """What was found, and what to do."""

    message: str
    hint: str


def findings_of(catalog: Catalog, max_age: timedelta | None = None) -> list[SiteFinding]:
    """Return what was found; ``max_age`` is how old the newest backup may be, None for any age."""
    found = [new_history(catalog), same_source(catalog)]
    if max_age is not None:
        found.append(too_old(catalog, max_age, clock.now()))
    return [one for one in found if one is not None]


def new_history(catalog: Catalog) -> SiteFinding | None:
    """Tell whether the newest backups share no transaction with the earlier ones, and nobody accepted that.

    It is so when a volume is not mounted, and Zope makes a new Data.fs.
    """
    begin = catalog.unaccepted_history()
    if begin is None:
        return None
    start = begin.manifest.id
    before = _newest_before(catalog, start)
    earlier = f" ({before})" if before else ""
    return SiteFinding(
        f"the site {catalog.site} is not the one that was backed up before: since the backup {start} it "
        f"shares no transaction with the earlier backups{earlier}",
        f"check that the volume with {', '.join(begin.manifest.source.paths)} is mounted; if this is the "
        f"site from now on, `zodb-vault annotate {start} --accept-history` ends this message",
    )


def require_clear_latest(catalog: Catalog) -> None:
    """Raise TargetMissing when ``latest`` may mean a site before or after a new history not accepted yet."""
    begin = catalog.unaccepted_history()
    before = _newest_before(catalog, begin.manifest.id) if begin is not None else None
    if begin is None or before is None:
        return
    start = begin.manifest.id
    raise TargetMissing(
        f"it is not clear which backup `latest` is: since the backup {start} the site {catalog.site} shares "
        f"no transaction with the backups before it, of which {before} is the newest",
        f"restore one of them by its id, such as `zodb-vault restore {before}`; "
        f"`zodb-vault annotate {start} --accept-history` makes the newest backup the latest one",
    )


def _newest_before(catalog: Catalog, start: str) -> str | None:
    """Return the newest backup before another one that could be ``latest``."""
    return next((one.manifest.id for one in catalog.intact() if one.counts and one.manifest.id < start), None)


def same_source(catalog: Catalog) -> SiteFinding | None:
    """Tell whether an older site of the repository has the same source, and nobody accepted that."""
    newest = next(parents(catalog), None)
    if newest is None or any(one.facts.accept_history for one in catalog.intact()):
        return None
    for name in sites_with_backups(catalog.repository):
        other = (
            _older_site(catalog.repository, name, catalog.listing.backups[0])
            if name != catalog.site
            else None
        )
        if other is not None and _is_same_place(newest, other):
            return SiteFinding(
                f"{', '.join(newest.manifest.source.paths)} is also backed up as the site {name}: everything "
                "is stored twice",
                f"use --site {name}, and delete the backups of {catalog.site}; if both are wanted, "
                f"`zodb-vault annotate {newest.manifest.id} --accept-history` ends this message",
            )
    return None


def _older_site(repository: Repository, name: str, first: str) -> Backup | None:
    """Return the newest backup of a site, None when the site is younger than the backup ``first``."""
    other = Catalog(repository, name)
    ours, theirs = id_time(first), id_time(other.listing.backups[0])
    is_younger = ours is not None and theirs is not None and theirs > ours
    return None if is_younger else next(parents(other), None)


def _is_same_place(ours: Backup, theirs: Backup) -> bool:
    a, b = ours.manifest.source, theirs.manifest.source
    return a.machine == b.machine and not set(a.paths).isdisjoint(b.paths)


def too_old(catalog: Catalog, max_age: timedelta, now: datetime) -> SiteFinding | None:
    """Tell whether the newest backup is too old; safety backups and parts of the site do not count."""
    newest = next(parents(catalog), None)
    hint = "find out why `zodb-vault create` does not run, or fails: its timer or crontab, and its log"
    if newest is None:
        return SiteFinding(f"there is no backup of the site {catalog.site}, and max_age is configured", hint)
    age = now - clock.parse(newest.manifest.created_at)
    if age <= max_age:
        return None
    return SiteFinding(
        f"the newest backup of the site {catalog.site} is {_spoken(age)} old, more than max_age allows "
        f"({_spoken(max_age)}): {newest.manifest.id}",
        hint,
    )


def _spoken(age: timedelta) -> str:
    """Return a length of time in the largest unit that says it well."""
    hours = age.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
