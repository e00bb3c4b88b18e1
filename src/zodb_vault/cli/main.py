"""The command line: import and run one command. Only this module turns errors into exit codes."""

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
from ..errors import ConfigurationError, ExitCode, UsageError, VaultError
from ..runtime import shutdown
from .group import Group
from .options import site_options
from .output import print_error
from .signals import ignore_signals, install_handlers
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

# Bytes. Linux passes the memory of a crashed process to a program that collects core dumps even if the limit
# is 0; only with a limit of 1 it does not.
CORE_DUMP_LIMIT: Final = 1

EPILOG = """\b
Exit codes:
  0   success
  1   failure, or a question was answered with no
  2   wrong command line or configuration, nothing to back up, or no terminal to ask on
  3   success, but the source has lost something or has changed what was stored
  4   damage was found in the repository
  5   this machine lacks what a proof needs; nothing is recorded
  10  no repository at the location
  11  locked or in use
  12  the private key is missing or wrong
  13  no such backup or restore point
  130 interrupted
"""


class LazyGroup(Group):
    """Imports a command only when it is called, so that every command starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None when there is none with this name."""
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
    """Back up, verify and restore ZODB databases: storage and blobs together.

    The options below can also follow the name of the command.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; print an error on standard error, as JSON with --json."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    try:
        result: Any = cli.main(arguments, prog_name="zodb-vault", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return ExitCode.FAILURE
    except (click.exceptions.Abort, KeyboardInterrupt):
        hint = "run the command again; it uses what is already stored"
        print_error("interrupted", ["interrupted"], hint, ExitCode.INTERRUPTED, as_json=as_json)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click before 8.2 does not have this class
            click.echo(error.format_message(), err=True)
            return ExitCode.USAGE
        return _failed(_usage_error(error), as_json)
    except VaultError as error:
        return _failed(error, as_json)
    except OSError as error:
        _discard_output()
        return _failed(_system_error(error), as_json)
    except Exception as error:  # noqa: BLE001  a bug: reported as such, without the values in its message
        if {"-v", "--verbose"} & set(arguments):
            # only names and lines of code: the message of the error may contain a secret
            click.echo("".join(traceback.format_tb(error.__traceback__)), err=True)
        return _failed(_internal_error(error), as_json)
    return result if isinstance(result, int) else ExitCode.SUCCESS


def _usage_error(error: click.ClickException) -> VaultError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "zodb-vault"
    message = " ".join(error.format_message().split())  # click prints choices on several lines
    return UsageError(message, f"`{command} --help` shows the arguments and options")


def _system_error(error: OSError) -> VaultError:
    message = str(error.strerror or error)
    if isinstance(error.filename, (str, bytes, os.PathLike)):
        message += f" ({os.fsdecode(error.filename)})"
    return VaultError(message)


def _internal_error(error: Exception) -> VaultError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.name} (line {last.lineno} of {last.filename.rpartition('/')[2]})"
    return VaultError(
        f"internal error: {type(error).__name__} in {place}",
        "this is a bug in zodb-vault; please report it with the output of `--verbose`",
    )


def _failed(error: VaultError, as_json: bool) -> int:
    lines = error.issues if isinstance(error, ConfigurationError) else [error.message]
    print_error(error.kind, lines, error.hint, error.exit_code, as_json=as_json)
    # an interrupted run counts as interrupted, whatever error the interruption has caused
    return ExitCode.INTERRUPTED if shutdown.requested() else error.exit_code


def _prevent_core_dumps() -> None:
    """Keep the memory of this process and its children, which holds keys and passwords, out of core dumps."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = CORE_DUMP_LIMIT if hard == resource.RLIM_INFINITY else min(CORE_DUMP_LIMIT, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _discard_output() -> None:
    """Discard what cannot be written to standard output; at exit Python would try it again, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> NoReturn:
    """Run the command line and exit. SIGTERM and a closed terminal end it in the same way as Ctrl-C."""
    prepare()
    _prevent_core_dumps()
    try:
        install_handlers()
        status = run()
    except KeyboardInterrupt:  # before or after the command itself
        status = ExitCode.INTERRUPTED
    ignore_signals()  # the work is done, so the exit code is right
    if status == ExitCode.INTERRUPTED:
        # The clean-up is done. A normal exit waits for all threads, and a thread that was interrupted while
        # it started never ends.
        _discard_output()
        os._exit(status)
    sys.exit(status)
