"""The options and the types of values that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..errors import UsageError
from ..model.source import METHODS
from ..policy.parallelism import MAX_CONFIGURED
from .context import Context
from .limits import RATE

if TYPE_CHECKING:
    TextType = click.ParamType[str]
else:
    TextType = click.ParamType  # no generic class before click 8.4

F = TypeVar("F", bound=Callable[..., Any])


class PathOption(click.Path):
    """A path that is not empty.

    An empty one comes from a script whose variable is not set; pathlib would take it for the working
    directory.
    """

    def __init__(self, **options: Any) -> None:
        # whether the file can be read is found out, and reported, where it is read
        super().__init__(path_type=Path, readable=False, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path."""
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class Text(TextType):
    """A text that can be stored as UTF-8, on request not empty, or of limited length."""

    name = "text"

    def __init__(self, *, not_empty: bool = False, max_length: int | None = None) -> None:
        self._not_empty, self._max_length = not_empty, max_length

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        try:
            # in a locale without UTF-8, Python represents unknown bytes of arguments as surrogates
            text = str(value).encode("utf-8", "surrogateescape").decode()
        except UnicodeError:
            self.fail("the value is not valid UTF-8", param, ctx)
        if self._not_empty and not text.strip():
            self.fail("the value is empty", param, ctx)
        if self._max_length and len(text) > self._max_length:
            problem = f"the value has {len(text):,} characters, at most {self._max_length:,} are allowed"
            self.fail(problem, param, ctx)
        return text


PATH: Final = PathOption()
BACKUP_NAME: Final = Text(max_length=200)
BACKUP_NOTE: Final = Text(max_length=4000)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store an option in the context, so that it counts before and after the name of the command."""
    context = ctx.ensure_object(Context)
    if value not in (None, False) and parameter.name:
        context.options[parameter.name] = value
    if context.quiet and context.verbose:
        raise UsageError("--quiet and --verbose exclude each other", "give one of them")


def _shared(option: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator for an option whose value goes to the context, not to the command's function."""

    def decorate(function: F) -> F:
        decorated = option(function)
        parameters: list[click.Option] = decorated.__click_params__  # type: ignore[attr-defined]
        parameters[-1].expose_value = False
        parameters[-1].callback = _remember
        return decorated

    return decorate


SITE_OPTIONS: Final = (
    click.option("--config", type=PATH, metavar="FILE", help="Read this zodb-vault.toml."),
    click.option("--site", metavar="NAME", help="Use this site, if several are configured."),
    click.option(
        "--repository",
        metavar="LOCATION",
        help="Where the backups are stored: a directory, or s3://bucket/prefix.",
    ),
    click.option("--zope-conf", type=PATH, metavar="FILE", help="Take the databases from this zope.conf."),
    click.option(
        "--zeo-conf",
        type=PATH,
        metavar="FILE",
        help="Take the databases from this zeo.conf; run the command on the ZEO server.",
    ),
    click.option("--data-fs", type=PATH, metavar="FILE", help="Use this Data.fs, without a zope.conf."),
    click.option("--blob-dir", type=PATH, metavar="DIR", help="The blob directory of --data-fs."),
    click.option("-q", "--quiet", is_flag=True, default=None, help="Print only problems."),
    click.option("-v", "--verbose", is_flag=True, default=None, help="Print details."),
)
LIMIT_OPTIONS: Final = (
    click.option(
        "--limit-rate",
        type=RATE,
        metavar="RATE",
        help="Limit the transfer to and from the repository to this many bytes a second, such as 10M.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, MAX_CONFIGURED),
        metavar="N",
        help="Use N workers at the same time; each needs memory. Default: depends on the processors.",
    ),
    click.option("--nice", is_flag=True, default=None, help="Run with low CPU and I/O priority."),
)


def site_options(function: F) -> F:
    """Add the options that name the configuration, the site and the repository."""
    for option in reversed(SITE_OPTIONS):
        function = _shared(option)(function)
    return function


def limit_options(function: F) -> F:
    """Add the options that limit how much of the machine and of the network the command uses."""
    for option in reversed(LIMIT_OPTIONS):
        function = _shared(option)(function)
    return function


method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How databases are read. Default: `method` of the configured site, else native.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
