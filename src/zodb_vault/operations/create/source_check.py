"""Whether the site that is backed up is the one that its earlier backups came from, and what has happened to it since."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import WrongSource
from ...model.manifest import Origin
from ...policy.continuity import Decision
from ...runtime.progress import Progress
from ...strategies.registry import location_of
from . import provenance
from .draft import Draft


def check_source(draft: Draft, starting: Sequence[Decision], progress: Progress) -> None:
    """Raise WrongSource when the site came from another place and does not continue its newest backup.

    Databases may come and go.

    ``starting`` are the decisions that start a timeline. A site that has moved and continues is only noted.
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
        where += f", and none of its databases ({', '.join(before)}) is called {ours}"
    if (starting or stranger) and not draft.options.take_over:
        raise WrongSource(
            f"this is another source: {where}"
            + ("" if stranger else ", and its content does not continue the newest backup"),
            "check --site and the paths; `--take-over` says that this is the site from now on",
        )
    progress.note(
        f"the site moved: {where}" + ("" if stranger else "; its content continues the newest backup")
    )


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
    """Return a sentence for each database that the newest backup holds and the site does not have any more."""
    if draft.newest is None or draft.options.trigger == "safety" or draft.contents != "all":
        return []
    newest, ours = draft.newest.manifest, {database.name for database in draft.databases}
    return [
        f"the database {entry.name} of backup {newest.id} is not in the configuration any more, "
        "and not in this backup"
        for entry in newest.databases
        if entry.name not in ours
    ]


def restored_databases(draft: Draft) -> set[str]:
    """Return the databases that were restored since the newest backup, to another state than that backup's own.

    A restore notes itself as a label; the newest note of a database counts.
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
