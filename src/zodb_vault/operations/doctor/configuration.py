"""Checks of the configuration: it can be read, and the site has databases to back up."""

from __future__ import annotations

from collections.abc import Iterator

from .check import CheckResult
from .inputs import CheckInputs


def check_configuration(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that the configuration file can be read, when there is one."""
    settings = inputs.settings
    message = (
        f"read from {settings.file}" if settings.file else f"{settings.origin}; options and variables count"
    )
    yield CheckResult("configuration", True, message)


def check_site(inputs: CheckInputs) -> Iterator[CheckResult]:
    """Check that the site has a database to back up, and show the warnings about zope.conf."""
    site = inputs.site
    if not site.databases:
        reasons = "; ".join(f"{one.name}: {one.why}" for one in site.skipped)
        message = f"the site {site.name} has no persistent database"
        yield CheckResult("site", False, message, reasons or None)
        return
    kinds = ", ".join(f"{one.name} ({one.backend}, blobs: {one.blob_mode})" for one in site.databases)
    yield CheckResult("site", True, f"{site.name}: {kinds}")
    for database in site.databases:
        if database.warnings:
            yield CheckResult(f"notes {database.name}", True, "; ".join(database.warnings))
