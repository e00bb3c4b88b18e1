"""``zodb-vault list``."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, Final

import click

from ..errors import BackupMissing, Damage, ExitCode
from ..operations.catalog import Backup, raw_size, sites_with_backups, stored_size
from ..operations.findings import findings_of
from ..runtime import clock
from .context import Context, pass_context
from .options import json_option, site_options
from .output import ago, print_json, print_problem, size, table
from .trash_output import print_trash

MAX_NAME_SHOWN: Final = 200
HEADINGS: Final = ("ID", "NAME", "CREATED", "SIZE", "STATUS", "HOW", "TRIGGER", "TIER", "VERIFIED")
# Which columns a narrow terminal loses first; NAME is shortened.
FIT: Final = ("TRIGGER", "HOW", "TIER", "NAME", "SIZE", "VERIFIED", "CREATED", "NAME")
# Keys of a row that only a readable manifest fills.
UNKNOWN: Final = (
    "name",
    "note",
    "trigger",
    "how",
    "tier",
    "contents",
    "finished_at",
    "raw",
    "stored",
    "added",
    "last_tid",
    "missing",
    "damage",
    "proven",
)
VERIFY_ALL: Final = "`zodb-vault verify --all --level bytes` reads everything again"


@click.command("list")
@click.option("--trash", is_flag=True, help="List the removed backups that `undelete` can bring back.")
@json_option
@site_options
@pass_context
def command(context: Context, trash: bool, as_json: bool) -> int:
    """List the backups of the site, newest first, and the creates and restores that are running.

    With --trash the columns say when a backup was removed, and until when at least it can be brought back.

    Exit code 3: the newest backup is older than `max_age`, or the site may not be the one that was backed up
    before. Exit code 4: a backup is damaged. Its status is `damaged`: its manifest or a label cannot be read,
    it needs objects that are known to be damaged, or it failed its verification. Exit code 13: the repository
    has no backup of this site, but has backups of other sites.
    """
    context.use_cache()
    if trash:
        return print_trash(context, as_json=as_json)
    backups = [
        row for backup_id in reversed(context.catalog.listing.backups) if (row := _row_of(context, backup_id))
    ]
    _add_tiers(context, backups)
    rows = [*_runs(context), *backups]
    findings = findings_of(context.catalog, context.settings.max_age(context.site_name))
    if as_json:
        print_json({"backups": rows, "findings": findings})
    elif not rows:
        others = sites_with_backups(context.repository)
        known = f"; there are backups of {', '.join(others)}" if others else ""
        context.say(f"no backups of the site {context.site_name} in {context.location}{known}")
    else:
        now = clock.now()
        for line in table(HEADINGS, (_cells(row, now) for row in rows), FIT):
            click.echo(line)
    for finding in findings:
        print_problem(finding.message, finding.hint)
    if any(row["status"] == "damaged" for row in rows) or _print_unreadable(context):
        return ExitCode.DAMAGE
    return ExitCode.SOURCE_INCOMPLETE if findings else ExitCode.SUCCESS


def _print_unreadable(context: Context) -> bool:
    """Print which records of damage cannot be read, and tell whether there are any."""
    unreadable = context.catalog.register.unreadable
    for why in unreadable.values():
        print_problem(f"a record of damaged objects cannot be read: {why}", VERIFY_ALL)
    return bool(unreadable)


def _row_of(context: Context, backup_id: str) -> dict[str, Any] | None:
    """Return the row of a backup, without details if it is damaged; None when it has just been deleted."""
    try:
        return _row(context.catalog.backup(backup_id))
    except Damage as error:
        print_problem(error.message)
        return _row_without_manifest(context, backup_id, status="damaged", created_at=None)
    except BackupMissing:
        return None


def _add_tiers(context: Context, rows: list[dict[str, Any]]) -> None:
    """Add to each row the tier that keeps the backup, as `prune` would decide now."""
    from ..policy.retention import tiers_of

    readable = [context.catalog.backup(row["id"]) for row in rows if row["how"] is not None]
    tiers = tiers_of([backup.retained() for backup in readable], context.rules(), clock.now())
    for row in rows:
        row["tier"] = tiers.get(row["id"])


def _row(backup: Backup) -> dict[str, Any]:
    manifest, facts = backup.manifest, backup.facts
    return {
        "id": manifest.id,
        "site": manifest.site,
        "name": facts.name,
        "note": facts.note,
        "pinned": facts.pinned,
        "status": "damaged" if backup.damage else manifest.status,
        "damage": backup.damage,
        "trigger": manifest.trigger,
        "how": manifest.how,
        "tier": None,
        "contents": manifest.contents,
        "created_at": manifest.created_at,
        "finished_at": manifest.finished_at,
        "raw": sum(raw_size(entry) for entry in manifest.databases),
        "stored": sum(stored_size(entry) for entry in manifest.databases),
        "added": manifest.added,
        "last_tid": manifest.databases[0].last_tid if manifest.databases else None,
        "databases": [
            {
                "name": entry.name,
                "last_tid": entry.last_tid,
                "restorable_from": entry.pack_tid or entry.first_tid,
            }
            for entry in manifest.databases
        ],
        "missing": sum(entry.blobs.missing.count for entry in manifest.databases if entry.blobs),
        "verified": facts.verified,
        "proven": facts.proven,
    }


def _runs(context: Context) -> list[dict[str, Any]]:
    """Return a row for each run that is alive, and for each create that died (``failed``)."""
    from ..repository import markers

    states = {"create": "creating", "restore": "restoring"}
    known = set(context.catalog.listing.backups)
    rows = []
    for marker, _data in context.catalog.markers.values():
        alive = markers.is_alive(marker, context.repository.store)
        if marker.run in known or (not alive and marker.what != "create"):
            continue
        status = states.get(marker.what, marker.what) if alive else "failed"
        rows.append(_row_without_manifest(context, marker.run, status=status, created_at=marker.started))
    return rows


def _row_without_manifest(
    context: Context, row_id: str, *, status: str, created_at: str | None
) -> dict[str, Any]:
    return dict.fromkeys(UNKNOWN) | {
        "id": row_id,
        "site": context.site_name,
        "pinned": False,
        "databases": [],
        "verified": [],
        "status": status,
        "created_at": created_at,
    }


def _cells(row: dict[str, Any], now: datetime) -> list[str]:
    """Return the cells of a row, in the order of the headings."""
    created = row["created_at"] or "-"
    if row["created_at"] and sys.stdout is not None and sys.stdout.isatty():
        created = ago(clock.parse(created), now)
    status = row["status"]
    if row["contents"] not in ("all", None):
        status += f" ({_contents(row['contents'])})"
    proven = row["proven"]
    return [
        row["id"],
        _shortened(row["name"] or "-") + (" (pinned)" if row["pinned"] else ""),
        created,
        size(row["raw"]),
        status,
        row["how"] or "-",
        row["trigger"] or "-",
        row["tier"] or "-",
        f"{proven.level} {proven.at[:10]}" if proven else "-",
    ]


def _shortened(name: str) -> str:
    """Shorten a name for the table; another version of zodb-vault may allow longer names."""
    return name if len(name) <= MAX_NAME_SHOWN else f"{name[: MAX_NAME_SHOWN - 3]}..."


def _contents(contents: str | list[str]) -> str:
    return contents if isinstance(contents, str) else ", ".join(contents)
