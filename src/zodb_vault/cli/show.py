"""``zodb-vault show``."""

from __future__ import annotations

from typing import Any

import click

from ..model.manifest import PgTransactions
from ..operations.catalog import raw_size, stored_size
from .context import Context, Text, json_option, pass_context, site_options
from .output import count, print_json, printable, size


@click.command("show")
@click.argument("id", type=Text(), default="latest")
@json_option
@site_options
@pass_context
def command(context: Context, id: str, as_json: bool) -> None:
    """Show everything about one backup (ID: id, unique prefix, name, or `latest`)."""
    backup = context.catalog.select(id)
    manifest = backup.manifest
    if as_json:
        keys = sorted(context.catalog.listing.labels.get(manifest.id, []))
        document = context.repository.manifest_document(context.site_name, manifest.id)
        print_json({"manifest": document, "labels": [context.repository.label(key) for key in keys]})
        return
    facts = backup.facts
    rows: list[tuple[str, Any]] = [
        ("id", manifest.id), ("name", facts.name), ("note", facts.note), ("pinned", "yes" if facts.pinned else None),
        ("status", manifest.status), ("contents", manifest.contents), ("made", f"{manifest.how}: {manifest.reason.text}"),
        ("continues", manifest.parent), ("trigger", manifest.trigger), ("created", manifest.created_at), ("finished", manifest.finished_at),
        ("source", f"{', '.join(manifest.source.paths)} on {manifest.source.machine}"),
        ("software", ", ".join(f"{name} {version}" for name, version in sorted(manifest.software.items()))),
        ("added", size(manifest.added)), ("stored", size(sum(stored_size(entry) for entry in manifest.databases))),
        ("restores", size(sum(raw_size(entry) for entry in manifest.databases))),
        *(("verified", f"{one.level} {'well' if one.ok else 'DAMAGED'} at {one.at}") for one in facts.verified),
    ]  # fmt: skip
    for entry in manifest.databases:
        rows.append(
            (
                "database",
                f"{entry.name} ({entry.backend}), last transaction {entry.last_tid} at {entry.last_time}",
            )
        )
        rows.append(("", f"restorable from {entry.pack_tid or entry.first_tid} on"))
        if entry.data_fs:
            rows.append(
                (
                    "",
                    f"Data.fs: {size(entry.data_fs.end)}, {count(entry.data_fs.transactions, 'transaction')}",
                )
            )
        if entry.dump:
            made = ", ".join(f"{name} {version}" for name, version in sorted(entry.dump.versions.items()))
            rows.append(
                (
                    "",
                    f"dump: {size(entry.dump.size)}, {count(sum(entry.dump.tables.values()), 'row')} ({made})",
                )
            )
        if isinstance(entry.dump, PgTransactions):
            laid = sum(ref.count for ref in entry.dump.delta_lists) + len(entry.dump.deltas)
            rows.append(
                ("", f"{count(laid, 'delta')} over the dump of {entry.dump.base.created_at}, experimental")
            )
        if entry.blobs:
            rows.append(
                (
                    "",
                    f"blobs: {count(entry.blobs.count, 'blob')}, {size(entry.blobs.size)}, {entry.blobs.missing.count} missing",
                )
            )
        rows += [("warning", warning) for warning in entry.warnings]
    for label, value in rows:
        if value is not None:
            click.echo(f"{label:>10}  {printable(str(value))}")
