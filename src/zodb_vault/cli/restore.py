"""``zodb-vault restore``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import Declined, ExitCode, TargetRefused, UsageError
from ..policy.recovery import AtTimestamp, typed
from ..policy.timestamps import parse_timestamp
from .console import has_terminal
from .context import Context, pass_context
from .local_time import LocalZone
from .options import PATH, PathOption, Text, json_option, limit_options, site_options
from .output import print_json, printable
from .restore_output import plan_lines, print_restored, restore_document
from .restore_undo import CORRECT, Undo, system_errors
from .salvage_output import print_salvaged, salvage_document

if TYPE_CHECKING:
    from ..model.source import Site
    from ..operations.restore.options import RestoreOptions
    from ..operations.restore.plan import RestorePlan

AGAIN: Final = f"{CORRECT} the restore again; the old state is unchanged"
CONTINUE: Final = f"{CORRECT} the same restore again; it continues from there"
CONTINUE_OR_ABORT: Final = f"{CONTINUE}; or undo it with `restore --abort`"
SALVAGE_AGAIN: Final = f"{CORRECT} the salvage again, into another directory"


@click.command("restore")
@click.argument("id", type=Text(), required=False)
@click.option(
    "--output",
    type=PathOption(file_okay=False),
    metavar="DIR",
    help="Restore into this empty directory: DIR/Data.fs and DIR/blobs.",
)
@click.option(
    "--target", type=PATH, metavar="FILE", help="Restore into the site of another zope.conf or zeo.conf."
)
@click.option(
    "--client-conf",
    "client_confs",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="The zope.conf of a client of the ZEO server. Its caches of the replaced state are removed "
    "(repeatable).",
)
@click.option(
    "--tid",
    type=Text(not_empty=True),
    metavar="TID",
    help="Restore everything up to this transaction; it must be in the backup.",
)
@click.option(
    "--before-tid",
    type=Text(not_empty=True),
    metavar="TID",
    help="Restore everything before this transaction.",
)
@click.option(
    "--at",
    type=Text(not_empty=True),
    metavar="TIME",
    help="Restore everything up to this time, in ISO 8601. A whole second includes its transactions. "
    "A time without a zone is local time.",
)
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option(
    "--only",
    type=click.Choice(["storage", "blobs"]),
    help="Restore only this component. It may not match the other one.",
)
@click.option("--allow-incomplete", is_flag=True, help="Also restore a backup with missing blobs.")
@click.option(
    "--salvage",
    is_flag=True,
    help="With --output: write everything that is good of a damaged backup, and list what is lost.",
)
@click.option(
    "--allow-missing-caches",
    is_flag=True,
    help="Go on although a cache that a configuration names was not found. "
    "Remove it where it is: it has objects of the replaced state.",
)
@click.option(
    "--no-safety-backup",
    is_flag=True,
    help="Do not back up the present state first. It is still kept beside the new one.",
)
@click.option(
    "--replace-blobs",
    is_flag=True,
    help="Also restore into the blob directory of another site, and replace different objects in a bucket. "
    "Replaced blobs are kept.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="In a database server: also restore into a database that is not empty. "
    "The old database is kept under another name.",
)
@click.option(
    "--role",
    type=Text(not_empty=True),
    metavar="ROLE",
    help="In a database server: the role that becomes the owner of everything.",
)
@click.option("--abort", is_flag=True, help="Undo an interrupted restore: put the old state back.")
@click.option(
    "--discard-kept",
    type=Text(not_empty=True),
    metavar="RESTORE",
    help="Remove for good the old state that a finished restore has kept. "
    "RESTORE is the whole id of the restore, or `latest`.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@limit_options
@json_option
@site_options
@pass_context
def command(
    context: Context, /, *, dry_run: bool, yes: bool, as_json: bool, salvage: bool, **values: Any
) -> ExitCode:
    """Restore a backup, or the state after any transaction in it.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest`.

    Without --output the site itself is restored. Its present state is saved and kept, and one atomic step
    makes the new state valid. To finish an interrupted restore, run it again.

    Exit code 4: the backup is damaged, and nothing was restored; with --salvage, something is lost.
    """
    from ..operations.restore.run import execute, plan

    _require_exclusive(values)
    in_place = values["output"] is None
    context.use_site_of(values["id"], changes=in_place)
    if salvage:
        return _salvage(context, values, dry_run=dry_run, as_json=as_json)
    site = _site(context, values["target"]) if in_place else None
    if values["abort"] or values["discard_kept"]:
        undo = Undo.of(context, site, values["databases"], dry_run=dry_run, yes=yes, as_json=as_json)
        document = undo.abort() if values["abort"] else undo.discard(values["discard_kept"])
        if as_json:
            print_json(document)
        return ExitCode.SUCCESS
    options = _options(context, values)
    context.apply_priority()
    wanted = plan(context.repository, context.catalog.site, site, options)
    if dry_run:
        print_json(restore_document(wanted)) if as_json else click.echo("\n".join(plan_lines(wanted)))
        return ExitCode.SUCCESS
    for line in plan_lines(wanted):
        context.say(line)
    _require_caches(context, wanted, yes=yes)
    if not yes and not context.confirm("Restore this?"):
        raise Declined("nothing was restored")
    with context.progress() as progress, system_errors(*_where_and_hint(wanted)):
        done = execute(context.repository, wanted, context.site_name, progress)
    print_json(restore_document(wanted, done)) if as_json else print_restored(context, done)
    return ExitCode.SUCCESS


# Options that say what is restored or where to; a salvage writes all of one backup into a directory.
NOT_FOR_SALVAGE: Final = (
    "target",
    "client_confs",
    "tid",
    "before_tid",
    "at",
    "databases",
    "only",
    "replace_blobs",
    "replace",
    "role",
    "abort",
    "discard_kept",
)


def _salvage(context: Context, values: dict[str, Any], *, dry_run: bool, as_json: bool) -> ExitCode:
    """Write everything that is good of a backup into a directory, and print what is lost."""
    from ..operations.restore.salvage import salvage

    output = values["output"]
    given = [f"--{name.replace('_', '-')}" for name in NOT_FOR_SALVAGE if values[name]]
    if output is None or dry_run or given:
        problem = f"--salvage and {given[0]} exclude each other" if given else "--salvage needs --output DIR"
        raise UsageError(
            "--salvage has no --dry-run" if dry_run else problem,
            "a salvage writes everything that is good of one backup into a new directory",
        )
    backup = context.catalog.select(values["id"] or "latest")
    context.apply_priority()
    with context.progress() as progress, system_errors(str(output), SALVAGE_AGAIN):
        done = salvage(context.repository, context.catalog.site, backup, output, progress)
    if as_json:
        print_json(salvage_document(backup.manifest.id, output, done))
    else:
        print_salvaged(context, output, done)
    return ExitCode.SUCCESS if all(one.complete for one in done) else ExitCode.DAMAGE


def _require_caches(context: Context, wanted: RestorePlan, *, yes: bool) -> None:
    """Ask what is to be done about caches that were not found; raise TargetRefused when nobody is asked.

    A cache that stays has objects of the replaced state. A client with it mixes them with restored ones.
    """
    if not wanted.missing_caches or wanted.options.allow_missing_caches:
        return
    if yes or not has_terminal():
        raise TargetRefused(
            "; ".join(wanted.missing_caches),
            "correct the configuration, or run this where the cache is; if there is no such cache, or you "
            "remove it yourself before the client starts, use --allow-missing-caches",
        )
    if not context.confirm("Go on without these caches? Each has to be removed before its client starts."):
        raise Declined("nothing was restored")


def _require_exclusive(values: dict[str, Any]) -> None:
    """Raise UsageError for options that exclude each other."""
    output = ("--output", values["output"])
    _exclusive(output, ("--target", values["target"]))
    _exclusive(output, ("--client-conf", values["client_confs"] or None))
    _exclusive(*((f"--{name.replace('_', '-')}", values[name]) for name in ("tid", "before_tid", "at")))
    _exclusive(
        ("--abort", values["abort"] or None),
        ("--discard-kept", values["discard_kept"]),
        ("an ID", values["id"]),
    )


def _exclusive(*given: tuple[str, object]) -> None:
    named = [name for name, value in given if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", "give one of them")


def _options(context: Context, values: dict[str, Any]) -> RestoreOptions:
    from ..operations.restore.options import RestoreOptions
    from ..operations.restore.targets import request_of

    in_place = values["output"] is None
    return RestoreOptions(
        backup=values["id"],
        request=request_of(values["tid"], values["before_tid"], _timestamp(context, values["at"])),
        databases=values["databases"],
        output=values["output"],
        elsewhere=values["target"] is not None,
        only=values["only"],
        clients=_clients(context, values["target"], values["client_confs"]) if in_place else (),
        allow_incomplete=values["allow_incomplete"],
        allow_missing_caches=values["allow_missing_caches"],
        safety_backup=not values["no_safety_backup"],
        replace_blobs=values["replace_blobs"],
        replace=values["replace"],
        role=values["role"],
        workers=context.workers,
    )


def _where_and_hint(wanted: RestorePlan) -> tuple[str, str]:
    """Return the path that is restored, and the hint after a system error."""
    hint = AGAIN
    if wanted.resumes:
        hint = CONTINUE_OR_ABORT if wanted.in_place else CONTINUE
    return wanted.steps[0].state.where if wanted.steps else "", hint


def _site(context: Context, target: Path | None) -> Site:
    if target is None:
        return context.site
    from ..config.zopeconf import read_site

    return read_site(target, context.site_name, os.environ, Path.cwd())


def _clients(context: Context, target: Path | None, client_confs: tuple[Path, ...]) -> tuple[Site, ...]:
    """Return the clients that the command line names, and those that are configured for the site itself."""
    from ..config.zopeconf import read_site

    configured = context.client_confs if target is None else ()
    return tuple(
        read_site(path, context.site_name, os.environ, Path.cwd())
        for path in dict.fromkeys((*client_confs, *configured))
    )


def _timestamp(context: Context, text: str | None) -> AtTimestamp | None:
    if text is None:
        return None
    wanted = AtTimestamp(*parse_timestamp(text, LocalZone()))
    context.say(f"{printable(text)} is {typed(wanted)}")
    return wanted
