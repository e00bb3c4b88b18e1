"""Check whether a site is the source of its earlier backups, and what has changed since the newest."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import WrongSource
from ...model.manifest import Origin
from ...policy.full_or_incremental import Decision
from ...runtime.progress import Progress
from ...strategies.backend_lookup import location_of
from . import provenance
from .draft import Draft


def check_source(draft: Draft, starting: Sequence[Decision], progress: Progress) -> None:
    """Raise WrongSource when the site is at another place and does not continue its newest backup.

    ``starting`` are the decisions that start a timeline. It is only noted when a site has moved and continues
    its newest backup. Databases may be added and removed.
    """
    if draft.newest is None or draft.options.trigger == "safety":
        return
    origin = draft.newest.manifest.source
    names = (entry.name for entry in draft.newest.manifest.databases)
    before = dict(zip(names, origin.paths, strict=False))
    stranger = not any(database.name in before for database in draft.site.databases)
    if not stranger and not _has_moved(draft, origin, before):
        return
    where = _where(draft, origin)
    if stranger:
        ours = " or ".join(database.name for database in draft.site.databases)
        where += f", and none of its databases ({', '.join(before)}) has the name {ours}"
    if (starting or stranger) and not draft.options.take_over:
        raise WrongSource(
            f"this is another source: {where}"
            + ("" if stranger else ", and its content does not continue the newest backup"),
            "check --site and the paths; or confirm with --take-over that this is the site from now on",
        )
    continues = "" if stranger or starting else "; its content continues the newest backup"
    progress.note(f"the site moved: {where}{continues}")


def _has_moved(draft: Draft, origin: Origin, before: dict[str, str]) -> bool:
    machine = provenance.machine()
    return any(
        (origin.machine, before[database.name]) != (machine, location_of(database))
        for database in draft.databases
        if database.name in before
    )


def _where(draft: Draft, origin: Origin) -> str:
    ours = provenance.origin_of(draft.site, draft.databases)
    came = f"backups of {draft.site.name} came from {', '.join(origin.paths)} on {origin.machine}"
    return f"{', '.join(ours.paths)} on machine {ours.machine}, {came}"


def missing_databases(draft: Draft) -> list[str]:
    """Return a sentence for each database that is in the newest backup, and no longer in the site."""
    if draft.newest is None or draft.options.trigger == "safety" or draft.contents != "all":
        return []
    newest, ours = draft.newest.manifest, {database.name for database in draft.databases}
    return [
        f"the database {entry.name} of backup {newest.id} is no longer in the configuration, and not in this "
        "backup"
        for entry in newest.databases
        if entry.name not in ours
    ]


def restored_databases(draft: Draft) -> set[str]:
    """Return the databases that were restored, after the newest backup, to another state than the one in it.

    A restore adds a label; for each database, the newest label counts.
    """
    if draft.newest is None:
        return set()
    labels = draft.catalog.labels_since(draft.newest.manifest.created_at)
    notes = [label.value for label in labels if label.fact == "restored"]
    found = set()
    for entry in draft.newest.manifest.databases:
        last = None
        for note in notes:
            tids = note.get("databases", {entry.name: note["tid"]})
            if entry.name in tids:
                last = max(last or ("", ""), (note["at"], tids[entry.name]))
        if last is not None and last[1] != entry.last_tid:
            found.add(entry.name)
    return found
