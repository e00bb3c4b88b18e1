"""Find out whether backups of a site can be made and restored here, before they are needed.

Every check runs, even when an earlier one failed. Checks that need what an earlier one could not read are
named in the finding of that one. Nothing is changed, except for probes that are removed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from ...model.source import Database
from .check import CheckResult, one_per_cause, run_check
from .configuration import check_configuration, check_site
from .create import check_create
from .inputs import CheckInputs
from .packages import check_packages, check_proof, check_site_packages, check_tools
from .repository import (
    check_clock,
    check_damage,
    check_findings,
    check_location,
    check_locks,
    check_newest_backup,
    check_repository,
    check_store,
)
from .restore import check_restore, check_restore_space, check_site_space
from .source import check_blobs, check_database, check_source
from .space import check_repository_space

Check = Callable[[CheckInputs], Iterable[CheckResult]]
DatabaseCheck = Callable[[CheckInputs, Database], Iterable[CheckResult]]


def examine(inputs: CheckInputs) -> list[CheckResult]:
    """Return the results of all checks, in the order in which they depend on each other."""
    results = [result for name, check in CHECKS for result in run_check(name, partial(check, inputs))]
    return one_per_cause(results)


def _per_database(name: str, check: DatabaseCheck) -> tuple[str, Check]:
    """Return a check of every database by itself: an error in one does not end the check of the others."""

    def check_all(inputs: CheckInputs) -> Iterator[CheckResult]:
        for database in inputs.site.databases:
            yield from run_check(f"{name} {database.name}", partial(check, inputs, database))

    return name, check_all


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("configuration", check_configuration),
    ("site", check_site),
    ("packages", check_packages),
    ("packages of the site", check_site_packages),
    ("tools", check_tools),
    _per_database("proof", check_proof),
    _per_database("source", check_source),
    _per_database("database", check_database),
    _per_database("blobs", check_blobs),
    ("repository", check_repository),
    ("repository location", check_location),
    ("repository access", check_store),
    ("newest backup", check_newest_backup),
    ("damage", check_damage),
    ("site in the repository", check_findings),
    _per_database("restore", check_restore),
    _per_database("space", check_site_space),
    ("space restore", check_restore_space),
    ("space repository", check_repository_space),
    ("clock", check_clock),
    ("locks", check_locks),
    ("create", check_create),
)
