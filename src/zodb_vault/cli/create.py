"""``zodb-vault create``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import click

from ..errors import ExitCode, UsageError, VaultError
from .console import has_terminal
from .context import Context, pass_context
from .options import BACKUP_NAME, BACKUP_NOTE, PATH, json_option, limit_options, method_option, site_options
from .output import count, print_json, print_problem, printable, size, state

if TYPE_CHECKING:
    from ..model.manifest import DatabaseEntry
    from ..operations.create.options import Created

MAX_MISSING_SHOWN: Final = 20


@click.command("create")
@click.option("--name", type=BACKUP_NAME, help="A name for the backup, such as for `restore NAME`.")
@click.option("--note", type=BACKUP_NOTE, help="A note about the backup.")
@click.option(
    "--trigger",
    type=click.Choice(["scheduled", "on-demand"]),
    help="Which retention rules apply. Default: on-demand on a terminal, else scheduled.",
)
@click.option("--full", is_flag=True, help="Read and store everything again, not only what is new.")
@click.option(
    "--cold",
    is_flag=True,
    help="Take the exclusive lock of the storage first; this fails while the site runs.",
)
@method_option
@click.option(
    "--mirror", type=PATH, metavar="DIR", help="The directory for the mirrors of --method portable."
)
@click.option(
    "--only",
    type=click.Choice(["storage", "blobs"]),
    help="Back up only this component; such a backup is never `latest`.",
)
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option("--skip-unchanged", is_flag=True, help="Make no backup if nothing is new since the last one.")
@click.option(
    "--allow-missing",
    type=click.IntRange(0),
    metavar="N",
    help="Make the backup even if up to N blobs are missing.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="If another create of the site is running, wait until it ends. Default: end with exit code 11.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Accept this source, from another machine or path, as the site from now on.",
)
@limit_options
@json_option
@site_options
@pass_context
def command(
    context: Context,
    /,
    trigger: Literal["scheduled", "on-demand"] | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Back up the site: all databases, with storage and blobs.

    Exit code 3: the backup was made, but the source has lost something, has changed what was stored before,
    or may not be the site that was backed up before. Exit code 4: the backup was made, but an earlier backup
    cannot be read, or the backup needs an object that is damaged in the repository and that the source cannot
    replace.
    """
    from ..operations.create.options import CreateOptions
    from ..operations.create.run import create
    from ..operations.identity import require_copyable

    if values["name"] == "latest":
        raise UsageError(
            "a backup cannot have the name 'latest': it means the newest backup", "use another name"
        )
    trigger = trigger or ("on-demand" if has_terminal() else "scheduled")
    values["method"] = values["method"] or context.method
    options = CreateOptions(trigger=trigger, workers=context.workers, **values)
    for copy in context.settings.repository.copies:
        require_copyable(copy, context.settings)
    context.apply_priority()
    context.use_cache()
    repository, site = context.repository, context.site
    with context.progress() as progress:
        done = create(repository, site, options, progress, lambda new: progress.note(f"backup {new}"))
    if as_json:
        print_json(_document(done))
    else:
        _print(context, done)
    _print_problems(done)
    copied = [_copy(context, copy.location, done) for copy in context.settings.repository.copies]
    return _exit_code(done, all_copied=all(copied))


def _exit_code(done: Created, *, all_copied: bool) -> ExitCode:
    if not all_copied or done.unlocked:
        return ExitCode.FAILURE
    if done.damaged or done.still_damaged:
        return ExitCode.DAMAGE
    if done.manifest.status == "incomplete" or done.findings or done.lasting:
        return ExitCode.SOURCE_INCOMPLETE
    return ExitCode.SUCCESS


def _copy(context: Context, location: str, done: Created) -> bool:
    """Copy the backups of the site to another repository; return False on an error: the backup is made."""
    from ..operations.copy.options import CopyOptions
    from ..operations.copy.run import copy

    options = CopyOptions(workers=context.workers)
    try:
        # not the repository of the context, which reads through the cache
        source, target = context.repository_at(context.location), context.repository_at(location)
        with context.progress() as progress:
            copied = copy(source, target, context.site_name, progress, options)
    except VaultError as error:
        problem = f"backup {done.manifest.id} was made, but it was not copied to {location}: {error.message}"
        print_problem(problem, f"{error.hint}; the next run copies it too")
        return False
    context.say(f"{count(len(copied.copied), 'backup')} copied to {copied.location}")
    return True


def _print_problems(done: Created) -> None:
    """Print what is wrong in the repository or with the site, although the backup was made."""
    if done.unlocked:
        problem = (
            f"backup {done.manifest.id} was made, but the objects that it shares with earlier backups "
            f"are not locked long enough: {done.unlocked.message}"
        )
        print_problem(problem, f"{done.unlocked.hint}; the next run tries it again")
    if done.still_damaged:
        number = count(len(done.still_damaged), "damaged object")
        problem = f"backup {done.manifest.id} needs {number}, and the source no longer has the same content"
        hint = (
            "bring the files back from a copy of the repository, then run `zodb-vault verify`; "
            "`zodb-vault create --full` stores everything again that the source has"
        )
        print_problem(f"{problem}: {', '.join(done.still_damaged[:MAX_MISSING_SHOWN])}", hint)
    for backup_id, why in done.damaged.items():
        print_problem(f"backup {backup_id} cannot be read and was not used: {why}")
    for finding in done.lasting:
        print_problem(finding.message, finding.hint)


def _print(context: Context, done: Created) -> None:
    manifest = done.manifest
    if not context.quiet:
        click.echo(_summary(done))
    if done.healed and not context.quiet:
        stored_again = count(done.healed, "damaged object")
        click.echo(f"the content of {stored_again} in the repository was stored again")
    context.detail(f"{manifest.how}: {manifest.reason.text}")
    for entry in manifest.databases if not done.skipped else []:
        context.detail(f"{printable(entry.name)}: last transaction {entry.last_tid} at {entry.last_time}")
        if not context.quiet or done.findings:
            for warning in entry.warnings:
                print_problem(f"{entry.name}: {warning}")
        # blobs that were accepted as lost are not reported again
        if not context.quiet or manifest.status == "incomplete":
            _print_missing(done, entry)


def _print_missing(done: Created, entry: DatabaseEntry) -> None:
    rows = done.missing.get(entry.name, [])
    for row in rows[:MAX_MISSING_SHOWN]:
        print_problem(f"{entry.name}: the blob {row.oid} {row.tid} is missing: {row.path}")
    if len(rows) > MAX_MISSING_SHOWN:
        more = len(rows) - MAX_MISSING_SHOWN
        hint = f"`zodb-vault verify {done.manifest.id} --json` lists all"
        print_problem(f"{entry.name}: and {more} more; {hint}")


def _summary(done: Created) -> str:
    manifest = done.manifest
    if done.skipped:
        return f"nothing new since {manifest.id}, no backup made"
    transactions = sum(entry.transactions_added for entry in manifest.databases)
    blobs = sum(entry.blobs_added for entry in manifest.databases)
    new = f"{count(transactions, 'new transaction')}, {count(blobs, 'new blob')}"
    return (
        f"{manifest.id} {state(manifest.status)}: {manifest.how} ({manifest.reason.code}), {new}, "
        f"{size(manifest.added)} added; restores {size(done.raw)} from {size(done.stored)}"
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
        "healed": done.healed,
        "still_damaged": done.still_damaged,
        "databases": [_document_of(done, entry) for entry in manifest.databases],
        "findings": done.lasting,
    }


def _document_of(done: Created, entry: DatabaseEntry) -> dict[str, Any]:
    blobs = None
    if entry.blobs:
        blobs = {"added": 0 if done.skipped else entry.blobs_added, "count": entry.blobs.count}
    rows = done.missing.get(entry.name, [])
    missing = [{"oid": row.oid, "tid": row.tid, "path": row.path} for row in rows]
    return {
        "name": entry.name,
        "last_tid": entry.last_tid,
        "transactions": entry.storage.transactions if entry.storage else None,
        "transactions_added": 0 if done.skipped else entry.transactions_added,
        "blobs": blobs,
        "missing": missing,
        "warnings": entry.warnings,
    }
