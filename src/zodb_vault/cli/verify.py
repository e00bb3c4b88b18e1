"""``zodb-vault verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..errors import BackupMissing, Damage, UsageError
from .context import VARIABLE, APath, Context, Text, json_option, limit_options, pass_context, site_options
from .output import print_json, printable

if TYPE_CHECKING:
    from ..operations.verify.run import Report, VerifyOptions
    from ..runtime.progress import Progress

    NumberType = click.ParamType[float]
else:
    NumberType = click.ParamType  # no generic class before click 8.4

DAMAGED = 4
NAMED = 20


class Share(NumberType):
    """A share such as ``5%``."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share as a number up to 1."""
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is not a share such as 5%", param, ctx)
        return share


@click.command("verify")
@click.argument("id", type=Text(), required=False)
@click.option(
    "--level",
    type=click.Choice(["objects", "bytes", "records", "restore"]),
    default="records",
    show_default=True,
    help="objects: everything is there; bytes: every byte is as it was stored; records: everything decodes and fits together; "
    "restore: restored into a scratch directory, every object loaded, every blob opened.",
)
@click.option("--all", "every", is_flag=True, help="Every backup of the site.")
@click.option(
    "--sample",
    type=Share(),
    default=1.0,
    metavar="N%",
    help="With --level bytes: this share of the objects, another one every day.",
)
@click.option(
    "--scratch",
    type=APath(exists=True, file_okay=False, writable=True),
    metavar="DIR",
    help="Where --level restore restores to; default: the temporary directory.",
)
@click.option(
    "--scratch-dsn",
    type=Text(needed=True),
    envvar=f"{VARIABLE}SCRATCH_DSN",
    metavar="DSN",
    help="The PostgreSQL in which --level restore makes a database for a while; default: a server of its own, from the installed programs.",
)
@limit_options
@json_option
@site_options
@pass_context
def command(
    context: Context,
    id: str | None,
    level: str,
    every: bool,
    sample: float,
    scratch: Path | None,
    scratch_dsn: str | None,
    as_json: bool,
) -> int:
    """Prove that a backup is what it should be (ID: id, unique prefix, name, or `latest`, which it is when none is given).

    Exit status 4: damage was found. What the source had lost when it was backed up is told and is no damage.
    """
    from ..operations.verify.run import VerifyOptions

    if every and id is not None:
        raise UsageError("an ID and --all exclude each other", "give one of them")
    context.give_way()
    catalog = context.catalog
    ids = list(reversed(catalog.listing.backups)) if every else [catalog.select(id or "latest").manifest.id]
    if not ids:
        raise BackupMissing("there are no backups yet", "make the first one with: zodb-vault create")
    options = VerifyOptions(
        level=level,  # type: ignore[arg-type]
        sample=sample,
        scratch=scratch,
        scratch_dsn=scratch_dsn,
        workers=context.workers,
    )
    with context.progress() as progress:
        reports = [
            report for one in ids if (report := _verified(context, one, options, progress, every=every))
        ]
    if as_json:
        documents = [_document(report) for report in reports]
        print_json({"reports": documents} if every else documents[0])
    else:
        for report in reports:
            _print(context, report)
    return 0 if all(report.ok for report in reports) else DAMAGED


def _verified(
    context: Context, backup_id: str, options: VerifyOptions, progress: Progress, *, every: bool
) -> Report | None:
    """Verify a backup; None when it is one of all and was deleted meanwhile."""
    from ..operations.verify.run import Finding, Report, verify

    try:
        try:
            backup = context.catalog.backup(backup_id)
        except Damage as error:
            return Report(
                id=backup_id, level=options.level, damage=[Finding(None, "manifest", error.message)]
            )
        return verify(context.repository, context.site_name, backup, options, progress)
    except BackupMissing:
        if every:
            return None
        raise


def _document(report: Report) -> dict[str, Any]:
    return {
        "id": report.id,
        "level": report.level,
        "ok": report.ok,
        "checked": report.checked,
        "damage": [msgspec.to_builtins(finding) for finding in report.damage],
        "source": [msgspec.to_builtins(one) for one in report.source],
    }


def _print(context: Context, report: Report) -> None:
    checked = ", ".join(f"{number:,} {what}" for what, number in report.checked.items())
    if not context.quiet or not report.ok:
        click.echo(f"{report.id} {report.level}: {'ok' if report.ok else 'DAMAGED'} ({checked})")
    for kind, findings in (("damage", report.damage), ("source", report.source)):
        shown = findings if kind == "damage" or not context.quiet else []
        for one in shown[:NAMED]:
            what = " ".join(filter(None, [one.database, one.what, one.oid, one.tid]))
            click.echo(f"  {kind}: {printable(what)}: {printable(one.why)}")
        if len(shown) > NAMED:
            click.echo(f"  {kind}: and {len(shown) - NAMED} more; --json lists all")
