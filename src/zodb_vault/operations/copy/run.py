"""Copy the backups of a site to another repository, with the same ids; every object is checked meanwhile.

If source and target are encrypted for the same recipients, objects are copied as they are stored
(verbatim.py). Otherwise they are re-encrypted (reencrypt.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from ...errors import BackupMissing, Damage, InUse, StoreError, TargetRefused, VaultError
from ...repository.layout import Listing
from ...repository.markers import RunMarker
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ..damage import damage_recorded
from ..object_lock import Locks, trial_key
from ..prune.unlock import MarkerState
from .backup import BackupCopier, copy_labels
from .coordination import Heartbeat, hold_source, hold_target, remove_dead_marker
from .notes import Notes
from .options import CopyOptions, CopyResult
from .recipients import can_stay_as_stored, require_intended
from .reencrypt import Reencryption
from .transfer import ExistingObjects, ObjectCopier
from .verbatim import VerbatimCopy


def copy(
    source: Repository, target: Repository, site: str, progress: Progress, options: CopyOptions | None = None
) -> CopyResult:
    """Copy the backups of a site that the target does not have.

    A backup exists in the target only when all of it does. After an interruption, the next copy uses what is
    there. Raise InUse while a prune of the target is running, Damage when a backup of the source is damaged
    (the others are copied), KeyNeeded when re-encryption needs the private key, UsageError when it may not be
    intended.
    """
    if source.info.id == target.info.id:
        raise TargetRefused("source and target are the same repository", "name another target")
    wanted = source.listing(site).backups
    if not wanted:
        raise BackupMissing(
            f"there is no backup of the site {site} in {source.store.location}",
            "check --site and --repository",
        )
    with (
        hold_target(target, site) as (marker, others),
        hold_source(source, site, wanted, progress) as source_marker,
        damage_recorded(source, site, "copy", progress.note),
    ):
        session = CopySession(source, target, site, marker, source_marker, others, progress)
        return session.run(wanted, options or CopyOptions())


class CopySession:
    """One copy of a site, while the markers in source and target are held.

    ``others`` are the markers of other copies of the site in the target, alive or dead.
    """

    def __init__(
        self,
        source: Repository,
        target: Repository,
        site: str,
        marker: RunMarker,
        source_marker: RunMarker | None,
        others: list[MarkerState],
        progress: Progress,
    ) -> None:
        self._source, self._target, self._site = source, target, site
        self._marker, self._source_marker, self._others = marker, source_marker, others
        self._progress = progress

    def run(self, wanted: list[str], options: CopyOptions) -> CopyResult:
        """Copy what the target does not have."""
        ours, theirs = self._source.listing(self._site), self._target.listing(self._site)
        present = {*theirs.backups, *self._target.trash.backups(self._site)}
        new = [one for one in wanted if one not in present]
        reencrypts = not can_stay_as_stored(self._source, self._target, self._site, new)
        if reencrypts:
            require_intended(self._source, self._target, decrypt=options.decrypt)
            self._require_only_copy()
        notes = Notes(self._target.objects(self._marker.marker.run)) if reencrypts else None
        heartbeat = Heartbeat(self._marker, self._source_marker, notes)
        method = self._method(notes)
        self._adopt_interrupted(method, heartbeat)
        copier = self._backup_copier(method, heartbeat, options.workers)
        try:
            if new and isinstance(method, Reencryption):
                self._learn_names(method, sorted(present, reverse=True), theirs, heartbeat)
            copied = [one for one in new if copier.copy(one)]
        except BaseException:
            if reencrypts:
                with contextlib.suppress(VaultError):
                    heartbeat.renew()  # so that the next copy knows everything that was stored
            raise
        for one in sorted(present & set(wanted)):
            copy_labels(self._source, self._target, one, ours, theirs)
        self._raise_problems(copier)
        return CopyResult(
            site=self._site,
            location=self._target.store.location,
            copied=copied,
            present=len(wanted) - len(new),
            objects=copier.objects,
            bytes=copier.bytes,
        )

    def _method(self, notes: Notes | None) -> VerbatimCopy | Reencryption:
        """Return how to copy. The target is listed while the marker is held, so nothing is swept any more."""
        existing = ExistingObjects(self._target.store)
        copier = ObjectCopier(self._source, self._target, self._progress)
        if notes is None:
            return VerbatimCopy(self._source.objects(""), copier, existing)
        run = self._marker.marker.run
        return Reencryption(self._source, self._target, copier, existing, notes, run)

    def _backup_copier(
        self, method: VerbatimCopy | Reencryption, heartbeat: Heartbeat, workers: int
    ) -> BackupCopier:
        trial = trial_key(self._site, self._marker.marker.run)
        return BackupCopier(
            self._source,
            self._target,
            self._site,
            method,
            self._marker,
            heartbeat,
            Locks(self._target, trial, clock.now(), self._progress),
            self._progress,
            workers,
        )

    def _require_only_copy(self) -> None:
        """Raise InUse when another copy of the site with re-encryption is running.

        Encryption gives other bytes each time: both would store everything, and two manifests for each
        backup.
        """
        for one in self._others:
            if one.alive:
                process = f"host {one.marker.host}, pid {one.marker.pid}"
                raise InUse(
                    f"another copy of the site {self._site} to {self._target.store.location} "
                    f"is running ({process})",
                    "wait for it to end",
                )

    def _adopt_interrupted(self, method: VerbatimCopy | Reencryption, heartbeat: Heartbeat) -> None:
        """Use what interrupted copies have stored: our marker names it before their markers are removed."""
        for one in self._others:
            if one.alive:
                continue
            if isinstance(method, Reencryption) and one.marker.copied:
                method.adopt(one.marker.copied)
                heartbeat.note_stored()
            remove_dead_marker(self._target, one)

    def _learn_names(
        self, method: Reencryption, present: Iterable[str], listed: Listing, heartbeat: Heartbeat
    ) -> None:
        """Learn the names in the target from the backups that both repositories have."""
        for backup in present:
            heartbeat.renew_if_due()
            with contextlib.suppress(BackupMissing):
                ours = _manifest_or_trashed(self._source, self._site, backup)
                theirs = _manifest_or_trashed(self._target, self._site, backup)
                if self._is_trusted(backup, listed):
                    self._learn_names_from(method, backup, ours, theirs)

    def _learn_names_from(
        self, method: Reencryption, backup: str, ours: dict[str, Any], theirs: dict[str, Any]
    ) -> None:
        try:
            method.learn_backup(backup, ours, theirs)
        except ValueError:
            where = f"{self._target.store.location} and {self._source.store.location}"
            raise Damage(
                f"the backup {backup} is not the same in {where}",
                "one of them was changed, or is not a copy of the other",
            ) from None
        except Damage:
            # what was just deleted for good is not damaged: then this raises BackupMissing
            for repository in (self._source, self._target):
                _manifest_or_trashed(repository, self._site, backup)
            raise

    def _is_trusted(self, backup: str, listed: Listing) -> bool:
        """Tell whether both manifests of a backup have valid signatures, if signatures are required."""
        if not self._source.signatures.signers:
            return True
        try:
            for repository in (self._source, self._target):
                repository.signatures.require(repository.manifest(self._site, backup))
        except Damage:
            return False
        return backup in listed.backups

    def _raise_problems(self, copier: BackupCopier) -> None:
        """Raise what did not keep the other backups from being copied: StoreError or Damage."""
        if copier.lock_error:
            raise StoreError(
                f"everything was copied to {self._target.store.location}, but objects that it already had "
                f"are not locked long enough: {copier.lock_error.message}",
                copier.lock_error.hint,
            )
        if copier.damaged:
            why = "; ".join(f"{backup}: {error.message}" for backup, error in copier.damaged.items())
            raise Damage(
                f"not copied, because they are damaged in {self._source.store.location}: {why}",
                "every other backup was copied; `zodb-vault verify` shows details, and `zodb-vault delete` "
                "removes a backup that cannot be repaired",
            )


def _manifest_or_trashed(repository: Repository, site: str, backup: str) -> dict[str, Any]:
    """Return the manifest of a backup, or of one in the trash; raise BackupMissing."""
    try:
        return repository.manifest_document(site, backup)
    except BackupMissing:
        return repository.trash.document(site, backup)
