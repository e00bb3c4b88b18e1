"""``zodb-vault create``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..errors import Damage, UsageError, VaultError
from .context import (
    A_METHOD,
    A_NAME,
    A_NOTE,
    A_PATH,
    Context,
    json_option,
    limit_options,
    pass_context,
    site_options,
    somebody_there,
)
from .output import count, print_json, printable, size

if TYPE_CHECKING:
    from ..model.source import Method
    from ..operations.create.options import Created

INCOMPLETE = 3
NAMED = 20


@click.command("create")
@click.option("--name", type=A_NAME, help="A name for people; `restore NAME` finds it.")
@click.option("--note", type=A_NOTE, help="Anything worth remembering.")
@click.option(
    "--trigger",
    type=click.Choice(["scheduled", "on-demand"]),
    help="Default: on-demand with a terminal, scheduled without.",
)
@click.option("--full", is_flag=True, help="Store everything again instead of what is new.")
@click.option(
    "--cold", is_flag=True, help="Take the exclusive lock of the storage first; fails while the site runs."
)
@click.option("--method", type=A_METHOD, default="native", show_default=True, help="How storages are copied.")
@click.option("--mirror", type=A_PATH, metavar="DIR", help="Where the portable method keeps its copies.")
@click.option("--only", type=click.Choice(["storage", "blobs"]), help="Half a backup; it is never `latest`.")
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option("--skip-unchanged", is_flag=True, help="Make no backup when nothing is new since the last one.")
@click.option(
    "--allow-missing", type=click.IntRange(0), metavar="N", help="Go on although up to N blobs are missing."
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for another create of the site to end, instead of ending with status 11.",
)
@click.option("--take-over", is_flag=True, help="This source, from another place, is the site from now on.")
@limit_options
@json_option
@site_options
@pass_context
def command(
    context: Context,
    /,
    name: str | None,
    note: str | None,
    trigger: Literal["scheduled", "on-demand"] | None,
    method: Method,
    mirror: Path | None,
    only: Literal["storage", "blobs"] | None,
    databases: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> int:
    """Back up the site as one unit: storage and blobs.

    Exit status 3: the backup was made, but the source has lost something or has changed what was stored before.
    Exit status 4: the backup was made, but an earlier one cannot be read.
    """
    from ..operations.create.options import CreateOptions
    from ..operations.create.run import create

    if name == "latest":
        raise UsageError(
            "a backup cannot be named 'latest': the word means the newest one", "choose another name"
        )
    options = CreateOptions(
        name=name,
        note=note,
        trigger=trigger or ("on-demand" if somebody_there() else "scheduled"),
        only=only,
        databases=databases,
        method=method,
        mirror=mirror,
        full=flags["full"],
        cold=flags["cold"],
        skip_unchanged=flags["skip_unchanged"],
        allow_missing=flags["allow_missing"],
        take_over=flags["take_over"],
        wait=flags["wait"],
        workers=context.workers,
    )
    context.require_copies()
    context.give_way()
    repository, site = context.remembering.repository, context.site
    with context.progress() as progress:
        done = create(repository, site, options, progress, lambda new: progress.note(f"backup {new}"))
    if as_json:
        print_json(_document(done))
    else:
        _print(context, done)
    _say_what_is_wrong(done)
    if not all([_copied(context, copy.location, done) for copy in context.settings.repository.copies]):
        return VaultError.exit_code
    if done.unlocked:
        return VaultError.exit_code
    if done.damaged:
        return Damage.exit_code
    return INCOMPLETE if done.manifest.status == "incomplete" or done.findings else 0


def _copied(context: Context, location: str, done: Created) -> bool:
    """Copy the backups of the site to another repository; False when that failed, which takes nothing from the backup that was made."""
    from ..operations.copy.run import CopyOptions, copy

    options = CopyOptions(workers=context.workers)
    try:
        with context.progress() as progress:
            copied = copy(
                context.repository_at(context.location),
                context.repository_at(location),
                context.site_name,
                progress,
                options,
            )
    except VaultError as error:
        made = f"backup {done.manifest.id} was made, but it was not copied to {printable(location)}"
        click.echo(f"zodb-vault: {made}: {printable(error.message)}", err=True)
        click.echo(f"  -> {printable(error.hint)}; the next run copies it too", err=True)
        return False
    context.say(f"{count(len(copied.copied), 'backup')} copied to {copied.location}")
    return True


def _say_what_is_wrong(done: Created) -> None:
    """Name what is wrong in the repository; it costs the backup nothing that was made."""
    if done.unlocked:
        made = f"backup {done.manifest.id} was made, but what it takes from earlier ones is not locked for as long as it has to be"
        click.echo(f"zodb-vault: {made}: {printable(done.unlocked.message)}", err=True)
        click.echo(f"  -> {printable(done.unlocked.hint)}; the next run tries it again", err=True)
    for backup_id, why in done.damaged.items():
        click.echo(
            f"zodb-vault: backup {backup_id} cannot be read and was not used: {printable(why)}", err=True
        )


def _print(context: Context, done: Created) -> None:
    manifest = done.manifest
    if not context.quiet:
        click.echo(_skipped(done) if done.skipped else _summary(done))
    context.detail(f"{manifest.how}: {manifest.reason.text}")
    for entry in manifest.databases if not done.skipped else []:
        context.detail(f"{printable(entry.name)}: last transaction {entry.last_tid} at {entry.last_time}")
        for warning in entry.warnings if not context.quiet or done.findings else []:
            click.echo(f"zodb-vault: {printable(entry.name)}: {printable(warning)}", err=True)
        # what is accepted as lost is no news any more
        rows = (
            done.missing.get(entry.name, []) if not context.quiet or manifest.status == "incomplete" else []
        )
        for oid, tid, path in rows[:NAMED]:
            click.echo(
                f"zodb-vault: {printable(entry.name)}: the blob {oid} {tid} is missing: {printable(path)}",
                err=True,
            )
        if len(rows) > NAMED:
            click.echo(
                f"zodb-vault: {entry.name}: and {len(rows) - NAMED} more; `zodb-vault verify {manifest.id} --json` lists all",
                err=True,
            )


def _skipped(done: Created) -> str:
    return f"nothing new since {done.manifest.id}, no backup made"


def _summary(done: Created) -> str:
    manifest = done.manifest
    transactions = sum(entry.transactions_added for entry in manifest.databases)
    blobs = sum(entry.blobs_added for entry in manifest.databases)
    return (
        f"{manifest.id} {manifest.status}: {manifest.how} ({manifest.reason.code}), {count(transactions, 'new transaction')}, "
        f"{count(blobs, 'new blob')}, {size(manifest.added)} added; restores {size(done.raw)} from {size(done.stored)}"
    )


def _document(done: Created) -> dict[str, Any]:
    manifest = done.manifest
    return {
        "id": manifest.id,
        "site": manifest.site,
        "status": "skipped" if done.skipped else manifest.status,
        "how": manifest.how,
        "reason": manifest.reason,
        "created_at": manifest.created_at,
        "finished_at": manifest.finished_at,
        "locked_until": manifest.locked_until,
        "added": 0 if done.skipped else manifest.added,
        "raw": done.raw,
        "stored": done.stored,
        "databases": [
            {
                "name": entry.name,
                "last_tid": entry.last_tid,
                "transactions": entry.storage.transactions if entry.storage else None,
                "transactions_added": 0 if done.skipped else entry.transactions_added,
                "blobs": {"added": 0 if done.skipped else entry.blobs_added, "count": entry.blobs.count}
                if entry.blobs
                else None,
                "missing": [
                    {"oid": oid, "tid": tid, "path": path}
                    for oid, tid, path in done.missing.get(entry.name, [])
                ],
                "warnings": entry.warnings,
            }
            for entry in manifest.databases
        ],
    }
