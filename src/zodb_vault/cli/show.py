"""``zodb-vault show``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from ..model.chain import Documents, dump_of
from ..model.manifest import DatabaseEntry, Dump, PgTransactions, StoredFiles
from ..operations.catalog import Backup, raw_size, stored_size
from .context import Context, pass_context
from .options import Text, json_option, site_options
from .output import count, print_json, printable, size, state

MAX_DAMAGED_SHOWN: Final = 20


@click.command("show")
@click.argument("id", type=Text(), default="latest")
@json_option
@site_options
@pass_context
def command(context: Context, id: str, as_json: bool) -> None:
    """Show everything about one backup.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest` (the default).
    """
    backup = context.select(id)
    if as_json:
        backup_id = backup.manifest.id
        keys = sorted(context.catalog.listing.labels.get(backup_id, []))
        document = context.repository.manifest_document(context.site_name, backup_id)
        print_json({"manifest": document, "labels": [context.repository.labels.get(key) for key in keys]})
        return
    for label, value in _rows(backup, context.repository.objects("")):
        if value is not None:
            click.echo(f"{label:>10}  {_coloured(label, printable(str(value)))}")


def _rows(backup: Backup, documents: Documents) -> Iterator[tuple[str, Any]]:
    """Yield label and value of each row; a value of None is not shown."""
    manifest, facts = backup.manifest, backup.facts
    yield "id", manifest.id
    yield "name", facts.name
    yield "note", facts.note
    yield "pinned", "yes" if facts.pinned else None
    yield "status", manifest.status
    yield "damaged", _damage(backup)
    yield "contents", manifest.contents
    yield "made", f"{manifest.how}: {manifest.reason.text}"
    yield "parent", manifest.parent
    yield "trigger", manifest.trigger
    yield "created", manifest.created_at
    yield "finished", manifest.finished_at
    yield "source", f"{', '.join(manifest.source.paths)} on {manifest.source.machine}"
    yield "software", _versions(manifest.software)
    yield "added", size(manifest.added)
    yield "stored", size(sum(stored_size(entry) for entry in manifest.databases))
    yield "restores", size(sum(raw_size(entry) for entry in manifest.databases))
    for one in facts.verified:
        yield "verified", f"{one.level} {'ok' if one.ok else 'DAMAGED'} at {one.at}"
    for entry in manifest.databases:
        yield from _rows_of(entry, documents)


def _coloured(label: str, value: str) -> str:
    if label == "verified":
        return value.replace("DAMAGED", state("DAMAGED"))
    return state(value) if label == "status" else value


def _damage(backup: Backup) -> str | None:
    if backup.damage is None:
        return None
    names = sorted(backup.damaged)
    listed = ": " + ", ".join(names[:MAX_DAMAGED_SHOWN]) if names else ""
    more = f" and {len(names) - MAX_DAMAGED_SHOWN} more" if len(names) > MAX_DAMAGED_SHOWN else ""
    return f"it {backup.damage}{listed}{more}"


def _rows_of(entry: DatabaseEntry, documents: Documents) -> Iterator[tuple[str, str]]:
    yield (
        "database",
        f"{entry.name} ({entry.backend}), last transaction {entry.last_tid} at {entry.last_time}",
    )
    yield "", f"restorable from {entry.pack_tid or entry.first_tid} on"
    if entry.data_fs:
        transactions = count(entry.data_fs.transactions, "transaction")
        yield "", f"Data.fs: {size(entry.data_fs.end)}, {transactions}"
    if isinstance(entry.dump, StoredFiles):
        files = len({part.to for part in dump_of(entry, documents)})
        yield "", f"{count(files, 'file')}, {size(entry.dump.size)}"
    elif entry.dump:
        yield from _rows_of_dump(entry.dump)
    if entry.blobs:
        blobs = f"{count(entry.blobs.count, 'blob')}, {size(entry.blobs.size)}"
        yield "", f"blobs: {blobs}, {entry.blobs.missing.count} missing"
    for warning in entry.warnings:
        yield "warning", warning


def _rows_of_dump(dump: Dump) -> Iterator[tuple[str, str]]:
    rows = count(sum(dump.tables.values()), "row")
    yield "", f"dump: {size(dump.size)}, {rows} ({_versions(dump.versions)})"
    if isinstance(dump, PgTransactions):
        deltas = sum(ref.count for ref in dump.delta_lists) + len(dump.deltas)
        yield "", f"{count(deltas, 'delta')} after the base of {dump.base.created_at}, experimental"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
