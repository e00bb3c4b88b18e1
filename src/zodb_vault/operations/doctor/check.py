"""The result of one check, and how a check is run: an error is a finding, and the next check still runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from ...errors import ExitCode, VaultError


class CheckResult(msgspec.Struct, frozen=True):
    """What was checked, whether it is in order, what was found, and what to do when it is not in order.

    ``code`` is the exit code of a command that finds this. ``cause``: nothing was checked, because another
    check had ended with this ``error``.
    """

    name: str
    ok: bool
    message: str
    hint: str | None = None
    code: ExitCode = ExitCode.FAILURE
    error: BaseException | None = None
    cause: BaseException | None = None


class NotChecked(Exception):
    """A check needs an input that an earlier check could not load: ``cause`` is the error of that one."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


def run_check(name: str, check: Callable[[], Iterable[CheckResult]]) -> Iterator[CheckResult]:
    """Yield the results of a check; an exception that ends it becomes a finding called `name`."""
    try:
        yield from check()
    except NotChecked as error:
        yield CheckResult(name, False, "not checked", cause=error.cause)
    except VaultError as error:
        yield CheckResult(name, False, error.message, error.hint, error=error)
    except OSError as error:
        message = error.strerror or type(error).__name__
        if isinstance(error.filename, (str, bytes, os.PathLike)):
            message += f" ({os.fsdecode(error.filename)})"
        yield CheckResult(name, False, message, "correct the cause and run this command again", error=error)
    except Exception as error:  # noqa: BLE001  the other checks still run; the text may contain a secret
        message = f"the check failed: {type(error).__name__}"
        yield CheckResult(name, False, message, "this is a bug in zodb-vault; please report it", error=error)


def one_per_cause(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the results with one finding for each cause.

    What was not checked is named in the finding of its cause. The same failure in a later check is left out.
    """
    found: list[CheckResult] = []
    failures: set[str] = set()
    for result in results:
        if result.cause is not None or (not result.ok and result.message in failures):
            continue
        failures |= set() if result.ok else {result.message}
        named = [one.name for one in results if result.error is not None and one.cause is result.error]
        if named:
            message = f"{result.message}; not checked because of that: {', '.join(named)}"
            result = msgspec.structs.replace(result, message=message)
        found.append(result)
    return found
