"""``zodb-vault restore``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from zoneinfo import ZoneInfo

import click

from ..errors import ConfigurationError, Declined, UsageError, VaultError
from ..policy.recovery import AtTimestamp
from ..policy.timestamps import in_utc, parse_timestamp
from .context import Context, pass_context
from .options import PATH, PathOption, Text, json_option, limit_options, site_options
from .output import count, print_json, printable, size

if TYPE_CHECKING:
    from ..model.restore import StaleCache, TargetState
    from ..model.source import Site
    from ..operations.restore.plan import RestorePlan, RestoreStep
    from ..operations.restore.run import Restored

AGAIN: Final = (
    "correct the cause (free space, permissions, the disk), then run the restore again: the old state is "
    "whole until its end"
)
GO_ON: Final = (
    "correct the cause (free space, permissions, the disk), then run the same restore again: it goes on "
    "from there"
)
GO_ON_OR_BACK: Final = f"{GO_ON}; or `restore --abort`"
INSTANTS: Final = ("--tid", "--before-tid", "--at")


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
    help="The zope.conf of a client of the ZEO server: what its caches hold of the replaced state is "
    "removed (repeatable).",
)
@click.option(
    "--tid",
    type=Text(not_empty=True),
    metavar="TID",
    help="Keep everything up to this transaction, which has to exist.",
)
@click.option(
    "--before-tid", type=Text(not_empty=True), metavar="TID", help="Keep everything before this transaction."
)
@click.option(
    "--at",
    type=Text(not_empty=True),
    metavar="TIME",
    help="Keep everything up to this moment, ISO 8601; without a zone it is local time.",
)
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option(
    "--only", type=click.Choice(["storage", "blobs"]), help="Half a restore: the result may not fit together."
)
@click.option("--allow-incomplete", is_flag=True, help="Also a backup that lacks blobs.")
@click.option(
    "--no-safety-backup",
    is_flag=True,
    help="Do not back up the present state first; it is kept beside the new one all the same.",
)
@click.option(
    "--replace-blobs",
    is_flag=True,
    help="Also into the blob directory of another site; in a bucket: over other objects too, kept.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Into a database server: also where a database is full; what is there is kept under another name.",
)
@click.option(
    "--role",
    type=Text(not_empty=True),
    metavar="ROLE",
    help="Into a database server: the role that is to own everything.",
)
@click.option(
    "--abort",
    "abort_",
    is_flag=True,
    help="Put the old state back that an interrupted restore was replacing.",
)
@click.option(
    "--discard-kept",
    type=Text(not_empty=True),
    metavar="RESTORE",
    help="Free what the restore of this id kept of the state it replaced.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@limit_options
@json_option
@site_options
@pass_context
def command(
    context: Context,
    /,
    id: str | None,
    output: Path | None,
    target: Path | None,
    tid: str | None,
    before_tid: str | None,
    at: str | None,
    databases: tuple[str, ...],
    client_confs: tuple[Path, ...],
    only: Literal["storage", "blobs"] | None,
    abort_: bool,
    discard_kept: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Bring a backup, or any transaction in it, back.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest`.

    Without --output it goes into the site itself: the state in place is saved and kept, and one atomic step
    makes the new one valid. An interrupted restore is finished by running it again.
    """
    from ..operations.restore.run import RestoreOptions, execute, plan
    from ..operations.restore.targets import request_of

    _exclusive(("--output", output), ("--target", target))
    _exclusive(("--output", output), ("--client-conf", client_confs or None))
    _exclusive(*zip(INSTANTS, (tid, before_tid, at), strict=True))
    _exclusive(("--abort", abort_ or None), ("--discard-kept", discard_kept), ("an ID", id))
    site = None if output is not None else _site(context, target)
    if abort_ or discard_kept:
        return _old_state(context, site, discard_kept, databases, as_json)
    options = RestoreOptions(
        backup=id,
        request=request_of(tid, before_tid, _moment(context, at)),
        databases=databases,
        output=output,
        elsewhere=target is not None,
        only=only,
        clients=() if output is not None else _clients(context, target, client_confs),
        allow_incomplete=flags["allow_incomplete"],
        safety_backup=not flags["no_safety_backup"],
        replace_blobs=flags["replace_blobs"],
        replace=flags["replace"],
        role=flags["role"],
        workers=context.workers,
    )
    context.apply_priority()
    wanted = plan(context.repository, context.site_name, site, options)
    if dry_run:
        print_json(_document(wanted)) if as_json else click.echo("\n".join(_plan_lines(wanted)))
        return None
    for line in _plan_lines(wanted):
        context.say(line)
    if not yes and not context.confirm("Restore this?"):
        raise Declined("nothing was restored")
    with context.progress() as progress, _stopped(*_where_and_way(wanted)):
        done = execute(context.repository, wanted, context.site_name, progress)
    print_json(_document(wanted, done)) if as_json else _print(context, done)
    return None


def _where_and_way(wanted: RestorePlan) -> tuple[str, str]:
    """Return where a restore may be stopped by the system, and what the user does then."""
    way = AGAIN if not wanted.resumes else GO_ON_OR_BACK if wanted.in_place else GO_ON
    return wanted.steps[0].state.where if wanted.steps else "", way


@contextlib.contextmanager
def _stopped(data_fs: str, hint: str) -> Iterator[None]:
    """Say of an error of the system what it has stopped, and how to go on from there."""
    try:
        yield
    except OSError as error:
        where = (
            os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes, os.PathLike)) else data_fs
        )
        raise VaultError(f"the restore stopped at {where}: {error.strerror or error}", hint) from error


def _exclusive(*given: tuple[str, object]) -> None:
    named = [name for name, value in given if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", "give one of them")


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


def _moment(context: Context, text: str | None) -> AtTimestamp | None:
    if text is None:
        return None
    moment = parse_timestamp(text, LocalZone())
    context.say(f"{printable(text)} is {in_utc(moment)}")
    return AtTimestamp(moment)


class LocalZone(tzinfo):
    """The zone of this machine, looked up when a time without a zone asks for it."""

    @cached_property
    def _zone(self) -> tzinfo:
        return local_zone()

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return the offset from UTC."""
        return self._zone.utcoffset(moment)

    def dst(self, moment: datetime | None) -> timedelta | None:
        """Return how much of the offset is summer time."""
        return self._zone.dst(moment)

    def tzname(self, moment: datetime | None) -> str | None:
        """Return the name of the offset."""
        return self._zone.tzname(moment)


def local_zone() -> tzinfo:
    """Return the zone of this machine with its rules: ``TZ`` (a name or a file), else ``/etc/localtime``.

    An empty TZ is UTC, as it is for libc.

    Raise ConfigurationError for a TZ that is neither.
    """
    name = os.environ.get("TZ", "/etc/localtime").removeprefix(":") or "UTC"
    try:
        if not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except FileNotFoundError as error:
        if name == "/etc/localtime":
            return ZoneInfo("UTC")
        raise _unknown_zone(name) from error
    except (ValueError, KeyError, OSError) as error:
        raise _unknown_zone(name) from error


def _unknown_zone(name: str) -> ConfigurationError:
    return ConfigurationError(
        [f"the time zone {name} is not known"], "give times with a zone, such as 2026-11-20T10:15Z"
    )


def _plan_lines(wanted: RestorePlan) -> list[str]:
    manifest = wanted.target.backup.manifest
    lines = [f"backup {manifest.id} of {manifest.created_at}"]
    for step in wanted.steps:
        lines += _step_lines(step, blobs_only=wanted.options.only == "blobs")
    for cache in wanted.caches:
        lines += _cache_lines(cache)
    return lines + [printable(note) for note in wanted.notes]


def _step_lines(step: RestoreStep, *, blobs_only: bool) -> list[str]:
    from ..model import tid as tids

    cut, state = step.cut, step.state
    when = f" ({tids.iso(tids.from_hex(cut.last_tid))})" if cut.last_tid else ""
    what = "blobs only" if blobs_only else f"{size(cut.end)} of {state.content}"
    lines = [
        f"{printable(cut.entry.name)}: up to transaction {cut.last_tid}{when}, {what}, to "
        f"{printable(state.where)}"
    ]
    lines += [f"  {line}" for line in _change_lines(step)]
    lines += [f"  {printable(detail)}" for detail in state.details]
    if state.needs:
        rest = ", and room for blobs that are not there any more" if state.more_for_blobs else ""
        lines.append(f"  needs {size(sum(need.size for need in state.needs))} of free space{rest}")
    return lines


def _change_lines(step: RestoreStep) -> list[str]:
    """Return what a restore leaves out of the backup, and what it does to the state in place."""
    state, left_out = step.state, step.cut.left_out
    if state.resumed:
        return [f"goes on with the interrupted restore {state.resumed}"]
    lines = []
    if left_out and state.lost is None:
        lines.append(f"leaves out {count(left_out, 'later transaction')} of the backup")
    if state.way:
        lines.append(state.way + _replaced_words(state))
    return lines


def _replaced_words(state: TargetState) -> str:
    if not state.exists:
        return ""
    dropped = f", {count(state.lost, 'transaction')} of it dropped" if state.lost is not None else ""
    return f" (last transaction {state.last_tid}){dropped}"


def _cache_lines(cache: StaleCache) -> list[str]:
    lines = [f"removes {printable(str(path))}, a cache of {printable(cache.owner)}" for path in cache.files]
    if cache.blobs:
        directory = printable(str(cache.blobs[0].parent.parent))
        lines.append(f"removes {count(len(cache.blobs), 'blob')} of the replaced state from {directory}")
    return lines


def _old_state(
    context: Context, site: Site | None, discard: str | None, databases: tuple[str, ...], as_json: bool
) -> None:
    from ..operations.restore.abort import abort, discard_kept
    from ..operations.restore.destination import resuming_destinations
    from ..operations.restore.preflight import require_together

    if site is None:
        raise UsageError(
            "--abort and --discard-kept are about a site, not about --output",
            "an output directory can be removed",
        )
    chosen = [one for one in site.databases if not databases or one.name in databases]
    destinations = resuming_destinations(chosen)
    if not destinations:
        raise UsageError(
            "a restore into a database server leaves nothing to abort, and keeps the old database",
            "DROP DATABASE frees what was kept",
        )
    aborted, removed = list[str](), list[str]()
    if discard is None:
        for one in destinations:
            one.require_stopped()
        others = resuming_destinations(one for one in site.databases if one not in chosen)
        require_together(destinations, others, done=True)
        with _stopped(destinations[0].where, "correct the cause, then run `restore --abort` again"):
            undone = abort(destinations)
        for restore in undone:
            aborted.append(restore.restore)
            context.say(f"{restore.database}: the state before the restore of {restore.backup} is back")
    for path in discard_kept(destinations, discard) if discard else ():
        removed.append(path)
        context.say(f"removed {printable(path)}")
    if as_json:
        print_json({"aborted": aborted, "removed": removed})


def _print(context: Context, done: Restored) -> None:
    for step in done.plan.steps:
        state = step.state
        what = f"{state.where}, last transaction {step.cut.last_tid}"
        if done.plan.options.only == "blobs":
            what = f"{state.blobs}, blobs only"
        context.say(f"{printable(step.cut.entry.name)}: restored to {printable(what)}")
    if done.safety_backup:
        context.say(f"the state before is the safety backup {done.safety_backup}")
    for path in done.caches:
        context.say(f"removed: {printable(path)}")
    for path in done.kept:
        context.say(f"kept: {printable(path)}")
    for note in done.notes:
        click.echo(f"zodb-vault: {printable(note)}", err=True)
    for line in dict.fromkeys(line for step in done.plan.steps for line in step.state.next_steps):
        context.say(printable(line))


def _document(wanted: RestorePlan, done: Restored | None = None) -> dict[str, Any]:
    """Return the document of a restore, or of a plan of which nothing was done yet."""
    return {
        "id": wanted.target.backup.manifest.id,
        "target": _target(wanted),
        "databases": [
            {
                "name": step.cut.entry.name,
                "last_tid": step.cut.last_tid,
                "dropped_transactions": step.cut.left_out if step.state.lost is None else step.state.lost,
            }
            for step in wanted.steps
        ],
        "kept": done.kept if done else [],
        "caches": done.caches if done else [str(path) for cache in wanted.caches for path in cache.paths],
        "safety_backup": done.safety_backup if done else None,
        "notes": wanted.notes + (done.notes if done else []),
    }


def _target(wanted: RestorePlan) -> str | None:
    """Return the directory that was named, else what the first database was restored to."""
    if wanted.options.output is not None:
        return str(wanted.options.output.absolute())
    return wanted.steps[0].state.location if wanted.steps else None
