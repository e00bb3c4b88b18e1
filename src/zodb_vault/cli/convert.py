"""``zodb-vault convert``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .context import A_PATH, Context, json_option, pass_context, site_options
from .output import print_json, printable

if TYPE_CHECKING:
    from ..operations.convert import Configuration

STANDARD_OUTPUT = Path("-")


@click.group("convert")
@site_options
def command() -> None:
    """Copy databases between kinds of storages with zodb-convert."""


@command.command("config")
@click.option(
    "--export", "exports", is_flag=True, help="From the site into a FileStorage: convert-export.conf."
)
@click.option(
    "--import", "imports", is_flag=True, help="From a FileStorage into the site: convert-import.conf."
)
@click.option(
    "--output",
    type=A_PATH,
    metavar="FILE",
    help="Where to write; `-` prints it, passwords and keys included.",
)
@click.option(
    "--directory",
    type=A_PATH,
    default="converted",
    show_default=True,
    metavar="DIR",
    help="Of the FileStorage: DIR/Data.fs, DIR/blobs.",
)
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_option
@site_options
@pass_context
def config(
    context: Context,
    /,
    exports: bool,
    imports: bool,
    output: Path | None,
    directory: Path,
    databases: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Write the configuration that zodb-convert needs to copy this site's databases.

    The files hold the passwords and keys of the storages, and so can be read by their owner only. They are written to the working
    directory unless --output says otherwise, one per database.
    """
    from ..config.paths import absolute
    from ..operations.convert import configurations, write

    if exports == imports:
        raise UsageError("it has to be said which way to copy", "give --export or --import")
    printed = output == STANDARD_OUTPUT
    if printed and as_json:
        raise UsageError("--json and --output - both print to standard output", "give one of them")
    here = Path.cwd()
    file = None if output is None else Path(absolute(output, here))
    made = configurations(
        context.site,
        "export" if exports else "import",
        databases,
        file,
        Path(absolute(directory, here)),
        os.environ,
    )
    if not printed:
        write(made, force=force)
    _tell(context, made)
    if printed:
        click.echo(made[0].text, nl=False)
    elif as_json:
        print_json(_document(made))
    else:
        click.echo("\n".join(printable(str(one.path)) for one in made))


def _tell(context: Context, made: Sequence[Configuration]) -> None:
    """Say what zodb-convert does wrong whether wanted or not, and what the reader of the configuration had doubts about as a detail."""
    for one in made:
        for warning in one.warnings:
            click.echo(f"zodb-vault: {printable(one.database)}: {printable(warning)}", err=True)
    for database in context.site.databases:
        for note in database.warnings:
            context.detail(f"{printable(database.name)}: {printable(note)}")


def _document(made: Sequence[Configuration]) -> dict[str, Any]:
    return {
        "files": [
            {
                "database": one.database, "direction": one.direction, "path": str(one.path), "directory": str(one.directory),
                "warnings": one.warnings,
            }
            for one in made
        ]
    }  # fmt: skip
