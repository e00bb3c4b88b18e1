"""The result of one check, and how a check is run: an error is a finding, and the next check still runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ...errors import ExitCode, VaultError


class CheckResult(msgspec.Struct, frozen=True):
    """What was checked, whether it is in order, what was found, and what to do when it is not in order.

    ``code`` is the exit code of a command that finds this.
    """

    name: str
    ok: bool
    message: str
    hint: str | None = None
    code: ExitCode = ExitCode.FAILURE


def run_check(name: str, check: Callable[[], Iterable[CheckResult]]) -> Iterator[CheckResult]:
    """Yield the results of a check; an exception that ends it becomes a finding called `name`."""
    try:
        yield from check()
    except VaultError as error:
        yield CheckResult(name, False, error.message, error.hint)
    except OSError as error:
        message = error.strerror or type(error).__name__
        if isinstance(error.filename, (str, bytes, os.PathLike)):
            message += f" ({os.fsdecode(error.filename)})"
        yield CheckResult(name, False, message, "correct the cause and run this command again")
    except Exception as error:  # noqa: BLE001  the other checks still run; the text may contain a secret
        message = f"the check failed: {type(error).__name__}"
        yield CheckResult(name, False, message, "this is a bug in zodb-vault; please report it")
