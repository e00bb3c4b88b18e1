"""What every command is told: the repository, the site, how much to say; the same options before and behind its name."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..errors import NoTerminal, UsageError
from ..policy.parallelism import MOST_TOLD
from .limits import RATE

if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..model.source import Site
    from ..operations.catalog import Catalog
    from ..policy.retention import Rules
    from ..repository.repository import Repository
    from ..runtime.progress import Progress
    from ..stores.base import Store

    TextType = click.ParamType[str]
else:
    TextType = click.ParamType  # no generic class before click 8.4

F = TypeVar("F", bound=Callable[..., Any])
VARIABLE: Final = "ZODB_VAULT_"
SOURCES: Final = ("zope_conf", "zeo_conf", "data_fs", "blob_dir")


class APath(click.Path):
    """A path; an empty one is a variable of a script that was not set, and never the working directory."""

    def __init__(self, **options: Any) -> None:
        # whether it can be read is found out, and told, where it is read
        super().__init__(path_type=Path, readable=False, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path."""
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class Text(TextType):
    """A text that can be stored: valid in UTF-8; ``needed``: and not empty; ``longest``: of so many characters at most."""

    name = "text"

    def __init__(self, *, needed: bool = False, longest: int | None = None) -> None:
        self._needed, self._longest = needed, longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        try:
            # in a locale without UTF-8 Python hides bytes that it does not know as surrogates
            text = str(value).encode("utf-8", "surrogateescape").decode()
        except UnicodeError:
            self.fail("the value is not a text in UTF-8", param, ctx)
        if self._needed and not text.strip():
            self.fail("the value is empty", param, ctx)
        if self._longest and len(text) > self._longest:
            self.fail(
                f"it has {len(text):,} characters, and {self._longest:,} are the most; make it shorter",
                param,
                ctx,
            )
        return text


A_PATH: Final = APath()
A_METHOD: Final = click.Choice(["native", "portable", "transactions"])
A_NAME: Final = Text(longest=200)
A_NOTE: Final = Text(longest=4000)


class Context:
    """The options given, and what follows from them, made when it is first asked for."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    @property
    def quiet(self) -> bool:
        """Tell whether only what is wrong is to be said."""
        return bool(self.given.get("quiet"))

    @property
    def verbose(self) -> bool:
        """Tell whether details are wanted."""
        return bool(self.given.get("verbose"))

    @property
    def remembering(self) -> Context:
        """Return this context for a command that neither proves nor restores: what was read of a distant repository before is not read again."""
        from ..repository.cache import Cache, cache_directory
        from ..stores.base import ProbesCapabilities

        if isinstance(self.repository.store, ProbesCapabilities):
            self.repository.remember(Cache(cache_directory(), self.repository.info.id))
        return self

    def _told(self, name: str) -> str | None:
        """Return an option, else its variable; an empty variable counts as not set."""
        given = self.given.get(name)
        return given if given is not None else os.environ.get(VARIABLE + name.upper()) or None

    @cached_property
    def settings(self) -> Settings:
        """Return the configuration; raise ConfigurationError."""
        from ..config.settings import load_settings

        return load_settings(
            self.given.get("config"),
            os.environ,
            Path.cwd(),
            zope_conf=self._sources()["zope_conf"],
            repository=self._told("repository"),
        )

    @property
    def location(self) -> str:
        """Return where the repository is; raise UsageError when nothing says it."""
        location = self.settings.repository.location
        if location is None:
            raise UsageError(
                "nothing says where the repository is",
                "give --repository LOCATION, or [repository] location in zodb-vault.toml",
            )
        return str(location)

    @cached_property
    def store(self) -> Store:
        """Return the place where the repository is, or is to be."""
        from ..stores.registry import open_store

        return open_store(
            self.location,
            self.settings.repository.s3_at(self.location),
            self.given.get("limit_rate") or self.settings.limits.rate,
        )

    @property
    def workers(self) -> int:
        """Return how many things are done at once."""
        from ..policy.parallelism import workers
        from .limits import processors

        told = self.given.get("workers") or self.settings.limits.workers
        return int(told or workers(processors(), service=self.location.startswith("s3://")))

    def give_way(self) -> None:
        """Let everybody else go first, if that is asked for."""
        from .limits import give_way

        if self.given.get("nice") or self.settings.limits.nice:
            give_way()

    @cached_property
    def repository(self) -> Repository:
        """Open the repository; raise RepositoryMissing."""
        return self._opened(self.store, self.location)

    def repository_at(self, location: str) -> Repository:
        """Open another repository, with what the configuration says of its place; raise RepositoryMissing, UsageError."""
        from ..stores.registry import open_store

        store = open_store(
            location,
            self.settings.repository.s3_at(location),
            self.given.get("limit_rate") or self.settings.limits.rate,
        )
        return self._opened(store, location)

    def _opened(self, store: Store, location: str) -> Repository:
        from ..repository.repository import Repository

        repository = Repository.open(store)
        repository.configure(self.settings.repository.recipients_at(location), self._identities)
        repository.sign_with(self.settings.repository.signing.key, self.settings.repository.signing.signers)
        return repository

    def _identities(self) -> list[str]:
        from ..operations.identity import identities

        return identities(self.settings.identity, self.ask_secret)

    def require_copies(self) -> None:
        """Raise ConfigurationError where a copy after each backup can never succeed."""
        from ..operations.identity import require_copyable

        for copy in self.settings.repository.copies:
            require_copyable(copy, self.settings)

    @property
    def client_confs(self) -> tuple[Path, ...]:
        """Return the configurations of the ZEO clients that are configured for the site; none when the site is named on the command line."""
        site = self.settings.sites.get(self.site_name)
        return site.client_confs if site is not None and not any(self._sources().values()) else ()

    @property
    def site_name(self) -> str:
        """Return the name of the site that is meant, whether it is configured or not."""
        from ..config.sites import choose_site

        return choose_site(self.settings, self._told("site"))

    @cached_property
    def site(self) -> Site:
        """Return the site with its databases; raise ConfigurationError, UsageError."""
        from ..config.sites import resolve_site

        return resolve_site(
            self.settings, site=self._told("site"), **self._sources(), environment=os.environ, cwd=Path.cwd()
        )

    def _sources(self) -> dict[str, Path | None]:
        """Return the options that say what the site is; the variables count when the command line names none, never mixed with it."""
        given: dict[str, Path | None] = {name: self.given.get(name) for name in SOURCES}
        if any(given.values()):
            return given
        return {name: Path(text) if (text := self._told(name)) else None for name in SOURCES}

    def rules(self, policy: str | None = None) -> Rules:
        """Return how long backups of the site stay, by the policy of this name, else by the one configured for it."""
        from ..config.settings import zone_of
        from ..policy.retention import Rules

        settings = self.settings
        configured = settings.sites.get(self.site_name)
        chosen = settings.policy(policy or (configured.retention if configured else None))
        return Rules(
            scheduled=chosen.scheduled,
            on_demand=chosen.on_demand,
            safety=chosen.safety,
            zone=zone_of(settings.schedule.timezone),
        )

    @cached_property
    def catalog(self) -> Catalog:
        """Return the backups of the site."""
        from ..operations.catalog import Catalog

        return Catalog(self.repository, self.site_name)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give who is told about progress: a bar on a terminal, notes otherwise, nothing when quiet; the bar is gone afterwards."""
        from .progress import choose

        with choose(quiet=self.quiet, terminal=sys.stderr.isatty()) as progress:
            yield progress

    def say(self, text: str) -> None:
        """Print a line on standard error unless quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Print a line on standard error when details are wanted."""
        if self.verbose:
            click.echo(text, err=True)

    def ask_secret(self, question: str) -> str:
        """Ask for something that is not shown; raise NoTerminal when nobody is there."""
        if not somebody_there():
            raise NoTerminal("there is no terminal to ask for it", "run this on a terminal")
        return str(click.prompt(question, hide_input=True, err=True))

    def confirm(self, question: str) -> bool:
        """Ask; raise NoTerminal when nobody is there."""
        if not somebody_there():
            raise NoTerminal(
                "this needs an answer and there is no terminal", "give --yes to go on without being asked"
            )
        return click.confirm(question, err=True)


def somebody_there() -> bool:
    """Tell whether a question can be answered."""
    return sys.stdin is not None and sys.stdin.isatty()


pass_context = click.make_pass_decorator(Context, ensure=True)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    context = ctx.ensure_object(Context)
    if value not in (None, False) and parameter.name:
        context.given[parameter.name] = value
    if context.quiet and context.verbose:
        raise UsageError("--quiet and --verbose exclude each other", "give one of them")


def site_options(function: F) -> F:
    """Add the options that say what the command is about."""
    options = [
        click.option("--config", type=A_PATH, help="The zodb-vault.toml to read."),
        click.option("--site", metavar="NAME", help="The site, when several are configured."),
        click.option(
            "--repository",
            metavar="LOCATION",
            help="Where the backups live: a directory, or s3://bucket/prefix.",
        ),
        click.option("--zope-conf", type=A_PATH, help="Read the site's databases from this zope.conf."),
        click.option(
            "--zeo-conf",
            type=A_PATH,
            help="Read the site's databases from this zeo.conf, on the server itself.",
        ),
        click.option("--data-fs", type=A_PATH, help="The Data.fs of a site without configuration."),
        click.option("--blob-dir", type=A_PATH, help="The blob directory that goes with --data-fs."),
        click.option(
            "-q", "--quiet", is_flag=True, default=None, help="Say nothing unless something is wrong."
        ),
        click.option("-v", "--verbose", is_flag=True, default=None, help="Say more."),
    ]
    for option in reversed(options):
        option_with_memory = _with_memory(option)
        function = option_with_memory(function)
    return function


def limit_options(function: F) -> F:
    """Add the options that say how much of the line and of the machine the command takes."""
    for option in (NICE_OPTION, WORKERS_OPTION, RATE_OPTION):
        function = _with_memory(option)(function)
    return function


def _with_memory(option: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        decorated = option(function)
        parameters: list[click.Option] = decorated.__click_params__  # type: ignore[attr-defined]
        parameters[-1].expose_value = False
        parameters[-1].callback = _remember
        return decorated

    return decorate


RATE_OPTION: Final = click.option(
    "--limit-rate",
    type=RATE,
    metavar="RATE",
    help="Transfer at most this much a second to and from the repository, such as 10M.",
)
WORKERS_OPTION: Final = click.option(
    "--workers",
    type=click.IntRange(1, MOST_TOLD),
    metavar="N",
    help="Do this many things at once; each takes memory. Default: by the processors.",
)
NICE_OPTION: Final = click.option(
    "--nice",
    is_flag=True,
    default=None,
    help="Let everybody else go first, at the processors and at the disk.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
