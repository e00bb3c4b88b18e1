"""``zodb-vault list``."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..errors import BackupMissing, Damage
from ..operations.catalog import Backup, raw_size, stored_size
from ..runtime import clock
from .context import Context, json_option, pass_context, site_options
from .output import ago, print_json, printable, size, table

SHOWN = 200


@click.command("list")
@json_option
@site_options
@pass_context
def command(context: Context, as_json: bool) -> int:
    """List the backups of the site, newest first, and what is being created or restored now.

    Exit status 4: the manifest or a label of a backup is damaged; it is listed as `damaged`.
    """
    context = context.remembering
    backups = [
        row for backup_id in reversed(context.catalog.listing.backups) if (row := _row_of(context, backup_id))
    ]
    _add_tiers(context, backups)
    rows = [*_running(context), *backups]
    if as_json:
        print_json({"backups": rows})
    elif not rows:
        context.say(f"no backups of the site {context.site_name} in {context.location}")
    else:
        now = clock.now()
        for line in table(
            ["ID", "NAME", "CREATED", "SIZE", "STATUS", "HOW", "TRIGGER", "TIER", "VERIFIED"],
            (_cells(row, now) for row in rows),
        ):
            click.echo(line)
    return Damage.exit_code if any(row["status"] == "damaged" for row in rows) else 0


def _row_of(context: Context, backup_id: str) -> dict[str, Any] | None:
    """Return the row of a backup, None when it was deleted meanwhile; one that cannot be read does not hide the others."""
    try:
        return _row(context.catalog.backup(backup_id))
    except Damage as error:
        click.echo(f"zodb-vault: {printable(error.message)}", err=True)
        return _unknown(context, backup_id, status="damaged", created_at=None)
    except BackupMissing:
        return None


def _add_tiers(context: Context, rows: list[dict[str, Any]]) -> None:
    """Fill in which tier keeps each backup, as `prune` would decide now."""
    from ..policy.retention import tiers_of

    readable = [context.catalog.backup(row["id"]) for row in rows if row["status"] != "damaged"]
    tiers = tiers_of([backup.retained() for backup in readable], context.rules())
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
        "status": manifest.status,
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
    }


def _running(context: Context) -> list[dict[str, Any]]:
    """Return rows for runs in progress; creates that died without a backup are ``failed``."""
    from ..repository import markers

    states = {"create": "creating", "restore": "restoring"}
    known = set(context.catalog.listing.backups)
    rows = []
    for marker, _data in context.catalog.markers.values():
        alive = markers.alive(marker, context.repository.store)
        if marker.run in known or (not alive and marker.what != "create"):
            continue
        status = states.get(marker.what, marker.what) if alive else "failed"
        rows.append(_unknown(context, marker.run, status=status, created_at=marker.started))
    return rows


def _unknown(context: Context, row_id: str, **known: Any) -> dict[str, Any]:
    """Return the row of what has no manifest that could be read."""
    nothing = (
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
    )
    return (
        dict.fromkeys(nothing)
        | {"id": row_id, "site": context.site_name, "pinned": False, "databases": [], "verified": []}
        | known
    )


def _cells(row: dict[str, Any], now: Any) -> list[str]:
    created = row["created_at"]
    verified = row["verified"][-1] if row["verified"] else None
    return [
        row["id"],
        _shortened(row["name"] or "-") + (" (pinned)" if row["pinned"] else ""),
        ago(clock.parse(created), now)
        if created and sys.stdout is not None and sys.stdout.isatty()
        else created or "-",
        size(row["raw"]),
        row["status"]
        if row["contents"] in ("all", None)
        else f"{row['status']} ({_contents(row['contents'])})",
        row["how"] or "-",
        row["trigger"] or "-",
        row["tier"] or "-",
        f"{verified.level}{'' if verified.ok else ': damaged'}" if verified else "-",
    ]


def _shortened(name: str) -> str:
    """Return what a table shows of a name; another version may have taken a longer one."""
    return name if len(name) <= SHOWN else f"{name[: SHOWN - 3]}..."


def _contents(contents: str | list[str]) -> str:
    return contents if isinstance(contents, str) else ", ".join(contents)
