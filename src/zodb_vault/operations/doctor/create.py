"""Check that the next backup can begin: everything is decided as ``create`` does, and nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import InUse, SourceChanged
from ...model.source import Database
from ...runtime.progress import Unit
from ...strategies.portable.mirror import require_usable
from ..create.attempt import Attempt
from ..create.eligibility import by_method
from ..create.mirrors import Mirrored, mirror_of, refuse_directory
from ..create.options import CreateOptions
from ..identity import require_copyable
from .check import CheckResult
from .inputs import CheckInputs

NAME = "create"


class NoProgress:
    """A progress that nobody sees."""

    def begin(self, what: str, total: int | None) -> None:
        """Do nothing."""

    def expect(self, total: int, unit: Unit) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


def check_create(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check recipients, copies, mirrors and the decisions of the next backup.

    Databases that cannot be read have findings of their own, and nothing is decided without them.
    """
    inputs.repository.require_recipients()
    for copy in inputs.settings.repository.copies:
        require_copyable(copy, inputs.settings)
    databases = inputs.site.databases
    if not databases or inputs.unanswered or inputs.unprepared:
        return
    mirrored = [one for one in databases if inputs.method_of(one) == "portable"]
    for database in mirrored:
        directory = mirror_of(inputs.site, database, None)
        refuse_directory(directory, inputs.repository, inputs.site)
        require_usable(directory)
    if mirrored:
        where = ", ".join(str(mirror_of(inputs.site, one, None)) for one in mirrored)
        yield CheckResult(NAME, True, f"the portable method can use the mirror {where}")
        return
    yield _decided(inputs, [by_method(one, inputs.method_of(one)) for one in databases])


def _decided(inputs: CheckInputs, databases: list[Database]) -> CheckResult:
    sources = Mirrored(databases, lambda: False)
    attempt = Attempt(
        inputs.repository, inputs.site, sources, CreateOptions(), NoProgress(), lambda _id: None
    )
    try:
        attempt.rehearse()
    except InUse as error:
        return CheckResult(NAME, True, f"not tried: {error.message}")
    except SourceChanged as error:
        return CheckResult(NAME, True, f"not tried, the site is being packed or restored: {error.message}")
    return CheckResult(NAME, True, "the next backup can begin: the site is the one of its earlier backups")
