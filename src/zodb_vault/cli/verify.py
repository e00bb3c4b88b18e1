"""``zodb-vault verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from ..errors import BackupMissing, Damage, ExitCode, UsageError
from .context import VARIABLE_PREFIX, Context, pass_context
from .options import PathOption, Text, json_option, limit_options, site_options
from .output import counted, print_json, print_problem, printable, state

if TYPE_CHECKING:
    from ..operations.verify.options import VerifyOptions
    from ..operations.verify.report import Finding, VerifyReport
    from ..runtime.progress import Progress

    NumberType = click.ParamType[float]
else:
    NumberType = click.ParamType  # no generic class before click 8.4

MAX_FINDINGS_SHOWN: Final = 20
NEXT_STEP: Final = (
    "run `zodb-vault create`, which stores again what the site still has; a copy of the repository may have "
    "the rest; `prune` removes nothing while the newest backup is damaged"
)


class Percent(NumberType):
    """A percentage such as ``5%``."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a number greater than 0, up to 1."""
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is not a percentage such as 5%", param, ctx)
        return share


@click.command("verify")
@click.argument("id", type=Text(), required=False)
@click.option(
    "--level",
    type=click.Choice(["objects", "bytes", "records", "restore"]),
    default="records",
    show_default=True,
    help="objects: every object exists. bytes: every byte is as it was stored. records: everything can be "
    "decoded and fits together. restore: the backup is restored into a scratch directory, every object is "
    "loaded and every blob is opened.",
)
@click.option("--all", "every", is_flag=True, help="Verify every backup of the site.")
@click.option(
    "--sample",
    type=Percent(),
    default=1.0,
    metavar="N%",
    help="With --level bytes: check only this part of the objects, a different one every day.",
)
@click.option(
    "--scratch",
    type=PathOption(exists=True, file_okay=False, writable=True),
    metavar="DIR",
    help="The directory for --level restore. Default: the temporary directory of the system.",
)
@click.option(
    "--scratch-dsn",
    type=Text(not_empty=True),
    envvar=f"{VARIABLE_PREFIX}SCRATCH_DSN",
    metavar="DSN",
    help="The PostgreSQL server for the scratch database of --level restore. Default: a temporary server.",
)
@limit_options
@json_option
@site_options
@pass_context
def command(context: Context, /, id: str | None, every: bool, as_json: bool, **values: Any) -> int:
    """Check a backup for damage.

    ID is the id of the backup, a unique prefix of it, the name of the backup, or `latest` (the default).

    Exit code 4: damage was found. Exit code 5: this machine lacks something that the level needs; nothing is
    recorded. Defects that the source already had when it was backed up are reported, but
    are no damage.
    """
    from ..operations.damage import forget_unreadable
    from ..operations.verify.options import VerifyOptions

    if every and id is not None:
        raise UsageError("an ID and --all exclude each other", "give one of them")
    context.apply_priority()
    ids = (
        list(reversed(context.catalog.listing.backups))
        if every
        else [context.select(id or "latest").manifest.id]
    )
    if not ids:
        raise BackupMissing("there are no backups yet", "make the first one with `zodb-vault create`")
    options = VerifyOptions(workers=context.workers, **values)
    with context.progress() as progress:
        found = [_verify(context, one, options, progress, every=every) for one in ids]
    reports = [report for report in found if report is not None]
    if every and options.level != "objects" and options.sample == 1:
        forget_unreadable(context.repository, context.site_name)
    if as_json:
        documents = [_document(report) for report in reports]
        print_json({"reports": documents} if every else documents[0])
    else:
        for report in reports:
            _print(context, report)
    if not all(report.ok for report in reports):
        return ExitCode.DAMAGE
    return ExitCode.NOT_PROVEN if any(report.unproven for report in reports) else ExitCode.SUCCESS


def _verify(
    context: Context, backup_id: str, options: VerifyOptions, progress: Progress, *, every: bool
) -> VerifyReport | None:
    """Verify a backup; return None when, with --all, it was deleted in the meantime."""
    from ..operations.verify.report import VerifyReport
    from ..operations.verify.run import verify

    try:
        try:
            backup = context.catalog.backup(backup_id)
        except Damage as error:
            report = VerifyReport(id=backup_id, level=options.level)
            report.add_damage(None, "manifest", error)
            return report
        return verify(context.repository, context.site_name, backup, options, progress)
    except BackupMissing:
        if every:
            return None
        raise


def _document(report: VerifyReport) -> dict[str, Any]:
    return {
        "id": report.id,
        "level": report.level,
        "ok": report.ok,
        "checked": report.checked,
        "damage": [msgspec.to_builtins(finding) for finding in report.damage],
        "source": [msgspec.to_builtins(finding) for finding in report.source],
        "missing_packages": report.missing_packages,
        "unproven": [msgspec.to_builtins(one) for one in report.unproven],
    }


def _print(context: Context, report: VerifyReport) -> None:
    checked = ", ".join(counted(number, what) for what, number in report.checked.items())
    if not context.quiet or not report.ok or report.unproven:
        result = "DAMAGED" if not report.ok else "CANNOT BE PROVEN HERE" if report.unproven else "ok"
        click.echo(f"{report.id} {report.level}: {state(result)} ({checked})")
    for one in report.unproven:
        print_problem(f"{one.database or 'restore'}: {one.why}", one.hint)
    _print_findings("damage", report.damage)
    if not report.ok:
        click.echo(f"  next step: {NEXT_STEP}")
    if not context.quiet:
        _print_findings("source", report.source)
        _print_missing_packages(report)


def _print_missing_packages(report: VerifyReport) -> None:
    """Print which packages of the application are not installed here, those of most objects first."""
    packages = sorted(report.missing_packages.items(), key=lambda one: (-one[1], one[0]))
    if packages:
        named = ", ".join(f"{printable(name)} ({number:,})" for name, number in packages[:MAX_FINDINGS_SHOWN])
        more = len(packages) - MAX_FINDINGS_SHOWN
        click.echo(f"  not installed here: {named}{f' and {more} more' if more > 0 else ''}")


def _print_findings(kind: str, findings: list[Finding]) -> None:
    for one in findings[:MAX_FINDINGS_SHOWN]:
        place = " ".join(filter(None, [one.database, one.what, one.oid, one.tid]))
        click.echo(f"  {kind}: {printable(place)}: {printable(one.why)}")
    if len(findings) > MAX_FINDINGS_SHOWN:
        click.echo(f"  {kind}: and {len(findings) - MAX_FINDINGS_SHOWN} more; --json lists all")
