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
    from ..model.source import Site
    from ..operations.restore.dumps import DumpStep
    from ..operations.restore.plan import DataFsStep, RestorePlan
    from ..operations.restore.run import Restored

AGAIN: Final = "correct the cause (free space, permissions, the disk), then run the restore again: the old state is whole until its end"
GO_ON: Final = "correct the cause (free space, permissions, the disk), then run the same restore again: it goes on from there"
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
    help="The zope.conf of a client of the ZEO server: what its caches hold of the replaced state is removed (repeatable).",
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

    Without --output it goes into the site itself: the state in place is saved and kept, and one atomic step makes the new one valid.
    An interrupted restore is finished by running it again.
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
    with context.progress() as progress, _stopped(*_place_and_way(wanted)):
        done = execute(context.repository, wanted, context.site_name, progress)
    print_json(_document(wanted, done)) if as_json else _print(context, done)
    return None


def _place_and_way(wanted: RestorePlan) -> tuple[str, str]:
    """Return where a restore may be stopped, and how to go on then."""
    if wanted.dumps:
        return wanted.dumps[0].where, GO_ON if wanted.options.output is not None else AGAIN
    return str(wanted.steps[0].place.data_fs), GO_ON if wanted.options.output is not None else GO_ON_OR_BACK


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
    """Return the zone of this machine with its rules: ``TZ`` (a name or a file), else ``/etc/localtime``; an empty TZ is UTC, as it is for libc.

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
        lines += _step_lines(step, in_place=wanted.in_place)
    for cache in wanted.caches:
        lines += [
            f"removes {printable(str(path))}, a cache of the ZEO client {printable(cache.client)}"
            for path in cache.objects
        ]
        if cache.blobs:
            lines.append(
                f"removes {count(len(cache.blobs), 'blob')} of the replaced state from {printable(str(cache.blobs[0].parent.parent))}"
            )
    for dump in wanted.dumps:
        lines += _dump_lines(dump)
    return lines + [printable(note) for note in wanted.notes]


def _dump_lines(step: DumpStep) -> list[str]:
    dump, what = step.cut.entry.dump, printable(step.cut.entry.name)
    lines = [
        f"{what}: the state of transaction {step.cut.last_tid}, {size(dump.size) if dump else 'blobs only'}, to {printable(step.where)}"
    ]
    if step.point:
        lines.append(
            f"  leaves out {count(step.cut.dropped, 'later transaction')} of the backup, before the database is valid"
        )
    if step.seen:
        lines.append(
            f"  {step.seen.way}" + (f" (last transaction {step.seen.last_tid})" if step.replaces else "")
        )
    if step.blobs:
        lines.append(f"  blobs to {printable(step.blobs)}")
    return lines


def _step_lines(step: DataFsStep, *, in_place: bool) -> list[str]:
    from ..model import tid as tids

    cut = step.cut
    when = f" ({tids.iso(tids.from_hex(cut.last_tid))})" if cut.last_tid else ""
    place = printable(str(step.place.data_fs))
    lines = [
        f"{printable(cut.entry.name)}: up to transaction {cut.last_tid}{when}, {size(cut.end)} of Data.fs, to {place}"
    ]
    if step.resumed:
        lines.append(f"  goes on with the interrupted restore {step.resumed.restore}")
    elif in_place and step.replaces:
        dropped = f"{count(step.dropped, 'transaction')} of it dropped"
        lines.append(f"  replaces the file in place (last transaction {step.present_last_tid}), {dropped}")
    elif step.dropped:
        lines.append(f"  leaves out {count(step.dropped, 'later transaction')} of the backup")
    if step.place.bucket:
        lines.append(f"  blobs to {printable(step.place.bucket.root)}, where nothing is deleted")
    if not step.resumed:
        rest = ", and room for blobs that are not there any more" if _blobs_in_place(step) else ""
        lines.append(f"  needs {size(step.needed)} of free space{rest}")
    return lines


def _blobs_in_place(step: DataFsStep) -> bool:
    """Tell whether blobs go to a directory that has some: which of them it lacks is found out on the way."""
    blobs = step.cut.entry.blobs
    return step.place.blob_dir is not None and blobs is not None and blobs.count > 0 and not step.needed_blobs


def _old_state(
    context: Context, site: Site | None, discard: str | None, databases: tuple[str, ...], as_json: bool
) -> None:
    from ..operations.restore.abort import abort, discard_kept, require_together
    from ..strategies.filestorage.restore.paths import paths_of_database
    from ..strategies.filestorage.zeo import require_stopped

    if site is None:
        raise UsageError(
            "--abort and --discard-kept are about a site, not about --output",
            "an output directory can be removed",
        )
    chosen = [one for one in site.databases if (not databases or one.name in databases) and one.data_fs]
    if not chosen:
        raise UsageError(
            "a restore into a database server leaves nothing to abort, and keeps the old database",
            "DROP DATABASE frees what was kept",
        )
    places = [paths_of_database(one) for one in chosen]
    aborted, removed = list[str](), list[str]()
    if discard is None:
        require_stopped(chosen)
        require_together(places, [one for one in site.databases if one not in chosen], done=True)
        with _stopped(str(places[0].data_fs), "correct the cause, then run `restore --abort` again"):
            undone = abort(places)
        for journal in undone:
            aborted.append(journal.restore)
            context.say(f"{journal.database}: the state before the restore of {journal.backup} is back")
    for path in discard_kept(places, discard) if discard else ():
        removed.append(path)
        context.say(f"removed {printable(path)}")
    if as_json:
        print_json({"aborted": aborted, "removed": removed})


def _print(context: Context, done: Restored) -> None:
    for step in done.plan.steps:
        blobs_only = f"{step.place.blobs}, blobs only" if done.plan.options.only == "blobs" else None
        what = blobs_only or f"{step.place.data_fs}, last transaction {step.cut.last_tid}"
        context.say(f"{printable(step.cut.entry.name)}: restored to {printable(what)}")
    for one in done.plan.dumps:
        context.say(
            f"{printable(one.cut.entry.name)}: restored to {printable(one.where)}, last transaction {one.cut.last_tid}"
        )
    if done.safety_backup:
        context.say(f"the state before is the safety backup {done.safety_backup}")
    for path in done.caches:
        context.say(f"removed: {printable(path)}")
    for path in done.kept:
        context.say(f"kept: {printable(path)}")
    for note in done.notes:
        click.echo(f"zodb-vault: {printable(note)}", err=True)
    if done.plan.in_place and done.plan.steps:
        for line in _next_steps(done.plan):
            context.say(line)


def _next_steps(done: RestorePlan) -> list[str]:
    """Return what has to happen before the site may write again, and why."""
    from ..strategies.filestorage.zeo import is_served

    if not any(is_served(database) for database in (done.site.databases if done.site else ())):
        return ["restart every process that had the site open; ZEO clients have to lose their caches first"]
    lines = [
        "restart every ZEO client, on every host, before the server takes writes again: a client that still has what it had read before is",
        "taken for up to date as soon as the server has a newer transaction, and mixes objects of the lost future with the restored ones",
    ]
    known = ", ".join(printable(str(client.config)) for client in done.options.clients)
    of = f"of every client but {known}" if known else "of every client: none was named with --client-conf"
    return [
        *lines,
        f"remove the persistent caches (*.zec and *.zec.lock, where zope.conf says `client`) {of}",
    ]


def _document(wanted: RestorePlan, done: Restored | None = None) -> dict[str, Any]:
    """Return the document of a restore, or of a plan of which nothing was done yet."""
    return {
        "id": wanted.target.backup.manifest.id,
        "target": _target(wanted),
        "databases": [
            {"name": step.cut.entry.name, "last_tid": step.cut.last_tid, "dropped_transactions": step.dropped}
            for step in wanted.steps
        ]
        + [
            {
                "name": dump.cut.entry.name,
                "last_tid": dump.cut.last_tid,
                "dropped_transactions": dump.cut.dropped if dump.point else None,
            }
            for dump in wanted.dumps
        ],
        "kept": done.kept if done else [],
        "caches": done.caches if done else [str(path) for cache in wanted.caches for path in cache.paths],
        "safety_backup": done.safety_backup if done else None,
        "notes": wanted.notes + (done.notes if done else []),
    }


def _target(wanted: RestorePlan) -> str | None:
    """Return the directory that was named, else that of the (first) Data.fs."""
    if wanted.options.output is not None:
        return str(wanted.options.output.absolute())
    if wanted.dumps:
        return wanted.dumps[0].where
    return str(wanted.steps[0].place.data_fs.parent) if wanted.steps else None
