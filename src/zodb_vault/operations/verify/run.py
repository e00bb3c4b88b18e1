"""Verify a backup at one of four levels: ``objects``, ``bytes``, ``records`` or ``restore``.

Each level is a module, named by what it checks: objects.py (for the first two), records.py, restore.py. Every
level also checks what describes the backup: metadata.py.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ...errors import Damage, UsageError, VaultError
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ..catalog import Backup
from ..damage import damage_recorded
from ..identity import require_key
from .metadata import check_metadata, check_signature
from .objects import check_bytes, check_existence
from .options import VerifyOptions
from .records import check_records
from .report import VerifyReport
from .restore import check_restore


def verify(
    repository: Repository, site: str, backup: Backup, options: VerifyOptions, progress: Progress
) -> VerifyReport:
    """Verify one backup, and store the outcome as a label of it.

    Damage is in the report and raises nothing. What cannot be checked on this machine is in the report, too,
    but the label names only a lower level that was checked. Raise StoreError when the store fails,
    BackupMissing when the backup was just deleted, KeyNeeded when the private key is missing, UsageError.
    """
    if options.sample < 1 and options.level != "bytes":
        raise UsageError("--sample needs --level bytes", "the other levels check everything")
    report = VerifyReport(id=backup.manifest.id, level=options.level)
    with damage_recorded(repository, site, "verify", progress.note) as observer:
        _check(repository, site, backup, options, progress, report)
    level = report.level
    if report.unproven and report.ok:
        if level != "restore":
            return report
        level = "records"  # which was checked first
    outcome: dict[str, Any] = {"level": level, "ok": report.ok, "at": clock.iso(clock.now())}
    if options.sample < 1:
        outcome["share"] = options.sample
    if not report.ok:
        # one damaged object is the cause of several findings
        outcome["scope"] = "objects" if observer.recorded else report.scope
    try:
        repository.labels.add(site, report.id, "verified", outcome, repository.listing(site))
    except VaultError as error:
        progress.note(f"the outcome could not be stored in the repository: {error.message}")
    return report


def _check(
    repository: Repository,
    site: str,
    backup: Backup,
    options: VerifyOptions,
    progress: Progress,
    report: VerifyReport,
) -> None:
    manifest, objects, workers = backup.manifest, repository.objects(""), options.workers
    check_signature(repository, manifest, report)
    if options.level == "objects":
        check_existence(manifest, objects, repository.store, report)
        return
    if options.level == "bytes":
        check_metadata(repository, site, manifest, report)
        check_bytes(manifest, objects, report, progress, sample=options.sample, workers=workers)
        return
    # Without the key nothing can be decoded; the user enters it before anything takes long. A list that
    # cannot be read is damage, which the check of the records reports.
    with contextlib.suppress(Damage):
        require_key(manifest.databases, objects)
    check_metadata(repository, site, manifest, report)
    for entry in manifest.databases:
        check_records(entry, objects, report, progress, workers)
    if options.level == "restore" and report.ok and not report.unproven:
        check_restore(repository, site, manifest, options, progress, report)
