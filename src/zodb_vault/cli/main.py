"""The command ``zodb-vault``: finds the command, and is the only place where errors become exit statuses."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from .. import __version__
from ..errors import ConfigurationError, UsageError, VaultError
from ..runtime import shutdown
from .context import site_options
from .group import Group
from .output import print_error
from .signals import INTERRUPTED, let_go, take_over
from .streams import prepare

COMMANDS: Final = {
    "annotate": "annotate",
    "completion": "completion",
    "convert": "convert",
    "create": "create",
    "delete": "delete",
    "doctor": "doctor",
    "list": "list_",
    "log": "log",
    "plan": "plan",
    "prune": "prune",
    "repository": "repository",
    "restore": "restore",
    "show": "show",
    "undelete": "undelete",
    "verify": "verify",
}

# Bytes; under no other limit, not even 0, does Linux leave out a collector.
NO_CORE: Final = 1

EPILOG = """\b
Exit statuses:
  0   done
  1   failed, or a question was answered with no
  2   usage or configuration, nothing to back up, nobody there to ask
  3   done, but something is missing or has changed at the source
  4   damage was found
  10  no such repository
  11  locked or in use
  12  no key, or the wrong one
  13  no such backup or target
  130 interrupted
"""


class LazyGroup(Group):
    """Imports a command when it is called: the start of every command counts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None when there is none of that name."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = importlib.import_module(f"zodb_vault.cli.{module}").command
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@site_options
def cli() -> None:
    """Back up, prove and restore ZODB databases: storage and blobs as one unit.

    The options below may also follow the command's name.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors go to standard error, as JSON when the command was asked for JSON."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    try:
        result: Any = cli.main(arguments, prog_name="zodb-vault", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1
    except (click.exceptions.Abort, KeyboardInterrupt):
        print_error(
            "interrupted",
            ["interrupted"],
            "run the command again; what was stored already is used",
            INTERRUPTED,
            as_json=as_json,
        )
        return INTERRUPTED
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not known to click before 8.2
            click.echo(error.format_message(), err=True)
            return UsageError.exit_code
        return _failed(_translated(error), as_json)
    except VaultError as error:
        return _failed(error, as_json)
    except OSError as error:
        where = (
            f" ({os.fsdecode(error.filename)})"
            if isinstance(error.filename, (str, bytes, os.PathLike))
            else ""
        )
        _drop_output()
        return _failed(VaultError(f"{error.strerror or error}{where}"), as_json)
    except Exception as error:  # noqa: BLE001  a mistake of ours: said as such, never a bare traceback with values in it
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = f"internal error: {type(error).__name__} in {last.name} (line {last.lineno} of {last.filename.rpartition('/')[2]})"
        if {"-v", "--verbose"} & set(arguments):
            # names and lines of our code only: the message may hold a secret
            click.echo("".join(traceback.format_tb(error.__traceback__)), err=True)
        return _failed(
            VaultError(
                message, "this is a mistake in zodb-vault; please report it with what `--verbose` prints"
            ),
            as_json,
        )
    return result if isinstance(result, int) else 0


def _write_no_core() -> None:
    """Keep the memory, which holds keys and passwords, from a file or a collector when this process or one of its children crashes."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = NO_CORE if hard == resource.RLIM_INFINITY else min(NO_CORE, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _drop_output() -> None:
    """Let go of what cannot be written to standard output: the interpreter would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _translated(error: click.ClickException) -> VaultError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "zodb-vault"
    # click lays a choice out over several lines; an error is one
    return UsageError(" ".join(error.format_message().split()), f"`{command} --help` shows what it takes")


def _failed(error: VaultError, as_json: bool) -> int:
    lines = error.issues if isinstance(error, ConfigurationError) else [error.message]
    print_error(error.kind, lines, error.hint, error.exit_code, as_json=as_json)
    # a run that was told to end is interrupted, whatever failed because of that
    return INTERRUPTED if shutdown.requested() else error.exit_code


def main() -> NoReturn:
    """Run the command line and leave the process; SIGTERM, and a terminal that is closed, end it as Ctrl-C does."""
    prepare()
    _write_no_core()
    try:
        take_over()
        status = run()
    except KeyboardInterrupt:  # before the command, or behind it
        status = INTERRUPTED
    let_go()  # all is done: what the exit status says is true
    if status == INTERRUPTED:
        # all is put in order by now; the interpreter would wait for threads, and one that was interrupted at its start never ends
        _drop_output()
        os._exit(status)
    sys.exit(status)
