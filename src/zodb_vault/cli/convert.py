"""``zodb-vault convert``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .context import Context, pass_context
from .options import PATH, json_option, site_options
from .output import print_json, printable

if TYPE_CHECKING:
    from ..config.convertconf import Direction
    from ..operations.convert import Configuration

STANDARD_OUTPUT = Path("-")


@click.group("convert")
@site_options
def command() -> None:
    """Copy databases to another kind of storage with zodb-convert."""


@command.command("config")
@click.option(
    "--export", "exports", is_flag=True, help="Copy from the site into a FileStorage: convert-export.conf."
)
@click.option(
    "--import", "imports", is_flag=True, help="Copy from a FileStorage into the site: convert-import.conf."
)
@click.option(
    "--output",
    type=PATH,
    metavar="FILE",
    help="Write to this file; `-` prints the configuration, with passwords and keys.",
)
@click.option(
    "--directory",
    type=PATH,
    default="converted",
    show_default=True,
    metavar="DIR",
    help="The directory of the FileStorage: DIR/Data.fs and DIR/blobs.",
)
@click.option(
    "--database", "databases", multiple=True, metavar="NAME", help="Only this database (repeatable)."
)
@click.option("--force", is_flag=True, help="Replace existing files.")
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
    """Write the configuration with which zodb-convert copies the databases of this site.

    One file per database is written to the working directory, unless --output names another place. The files
    contain the passwords and keys of the storages, so only their owner can read them.
    """
    from ..config.paths import absolute
    from ..operations.convert import configurations, write

    direction = _direction(exports, imports)
    to_standard_output = output == STANDARD_OUTPUT
    if to_standard_output and as_json:
        raise UsageError("--json and --output - both print to standard output", "give one of them")
    here = Path.cwd()
    file = None if output is None else Path(absolute(output, here))
    target = Path(absolute(directory, here))
    made = configurations(context.site, direction, databases, file, target, os.environ)
    if not to_standard_output:
        write(made, force=force)
    _print_warnings(context, made)
    _print_made(made, with_text=to_standard_output, as_json=as_json)


def _print_made(made: Sequence[Configuration], *, with_text: bool, as_json: bool) -> None:
    """Print the configuration itself with ``with_text``, else the paths of the files."""
    if with_text:
        click.echo(made[0].text, nl=False)
    elif as_json:
        print_json(_document(made))
    else:
        click.echo("\n".join(printable(str(one.path)) for one in made))


def _direction(exports: bool, imports: bool) -> Direction:
    if exports == imports:
        raise UsageError("the direction of the conversion is not clear", "give either --export or --import")
    return "export" if exports else "import"


def _print_warnings(context: Context, made: Sequence[Configuration]) -> None:
    """Print the warnings about the conversion, and with --verbose the warnings about zope.conf."""
    for one in made:
        for warning in one.warnings:
            click.echo(f"zodb-vault: {printable(one.database)}: {printable(warning)}", err=True)
    for database in context.site.databases:
        for warning in database.warnings:
            context.detail(f"{printable(database.name)}: {printable(warning)}")


def _document(made: Sequence[Configuration]) -> dict[str, Any]:
    files = [
        {
            "database": one.database,
            "direction": one.direction,
            "path": str(one.path),
            "directory": str(one.directory),
            "warnings": one.warnings,
        }
        for one in made
    ]
    return {"files": files}
