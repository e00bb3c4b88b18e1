"""Check what describes a backup: signature, manifest and labels, ``repository.json``, ``RECOVERY.md``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

from ...errors import BackupMissing, Damage, KeyMissing, VaultError
from ...model.manifest import Manifest
from ...repository.layout import INFO_KEY, RECOVERY_KEY
from ...repository.repository import Repository
from .report import VerifyReport


def check_signature(repository: Repository, manifest: Manifest, report: VerifyReport) -> None:
    """Check the signature of the manifest, if signatures are required."""
    try:
        repository.signatures.require(manifest)
    except Damage as error:
        report.add_damage(None, "signature", error)


def check_metadata(repository: Repository, site: str, manifest: Manifest, report: VerifyReport) -> None:
    """Check the small files that describe the backup; raise BackupMissing if it was just deleted."""
    checks: list[tuple[str, Callable[[], object]]] = [
        (INFO_KEY, lambda: Repository.open(repository.store)),
        (RECOVERY_KEY, lambda: _check_recovery(repository, manifest)),
        ("manifest", lambda: repository.manifest_bytes(site, manifest.id)),
    ]
    report.count("files", len(checks))
    # each verification adds a label, so labels are no measure of the backup
    labels = repository.listing(site).labels.get(manifest.id, [])
    checks += [(label, partial(repository.labels.get, label)) for label in labels]
    for what, check in checks:
        try:
            check()
        except BackupMissing:
            raise
        except VaultError as error:
            report.add_damage(None, what, error)


def _check_recovery(repository: Repository, manifest: Manifest) -> None:
    """Check RECOVERY.md; raise Damage.

    The digest can be the one in repository.json or the one in the manifest: `recipients set` replaces the
    file first, and repository.json, which has its digest, afterwards.
    """
    try:
        data = repository.store.get(RECOVERY_KEY)
    except KeyMissing:
        raise Damage(f"{RECOVERY_KEY} is missing") from None
    if hashlib.sha256(data).hexdigest() not in (repository.info.recovery, manifest.recovery):
        raise Damage(f"{RECOVERY_KEY} is not what was written")
