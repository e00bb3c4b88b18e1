"""Copy one backup: its content first, then its labels, its manifest last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec

from ...errors import BackupMissing, ConfigurationError, Damage, InUse, KeyExists, KeyMissing, StoreError
from ...model import canonical
from ...repository.layout import Listing, manifest_key
from ...repository.markers import RunMarker
from ...repository.objects import meta_key, object_key
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..object_lock import Locks, needed_keys
from .coordination import Heartbeat
from .reencrypt import Reencryption
from .transfer import BackupTransfer
from .verbatim import VerbatimCopy


class BackupCopier:
    """Copies the backups of a site one by one, and counts what is stored.

    ``damaged`` are the backups that could not be copied because they are damaged in the source.
    ``lock_error`` says why objects that the target already had could not be locked long enough.
    """

    def __init__(
        self,
        source: Repository,
        target: Repository,
        site: str,
        method: VerbatimCopy | Reencryption,
        marker: RunMarker,
        heartbeat: Heartbeat,
        locks: Locks,
        progress: Progress,
        workers: int,
    ) -> None:
        self._source, self._target, self._site = source, target, site
        self._method, self._reencryption = method, method if isinstance(method, Reencryption) else None
        self._marker, self._heartbeat, self._locks = marker, heartbeat, locks
        self._progress, self._workers = progress, workers
        # keys of what this run has stored, which is locked already
        self._stored_keys: set[str] = set()
        self.lock_error: StoreError | Damage | None = None
        self.damaged: dict[str, Damage] = {}
        self.objects = self.bytes = 0

    def copy(self, backup: str) -> bool:
        """Copy one backup; return False when it was just deleted or is damaged: the others are copied."""
        try:
            document = self._source.manifest_document(self._site, backup)
            signature = self._signature(backup)
            transfer = self._method.start(document)
            self._transfer(transfer)
            manifest = transfer.manifest()
        except BackupMissing:
            return False
        except Damage as error:
            if backup in self._source.listing(self._site).backups:
                self.damaged[backup] = error
                self._progress.note(f"not copied {backup}: {error.message}")
            return False
        ours, theirs = self._source.listing(self._site), self._target.listing(self._site)
        copy_labels(self._source, self._target, backup, ours, theirs)
        note_gone(self._source, self._target, self._site, document.get("seen", ()))
        locked_until = self._renew_locks(manifest)
        self.commit(backup, manifest, signature, locked_until)
        if self._reencryption:
            self._reencryption.committed(backup)
        self._progress.note(f"copied {backup}")
        return True

    def _transfer(self, transfer: BackupTransfer) -> None:
        self._progress.begin("copy", transfer.size)
        with Workers(self._workers, self._heartbeat.renew_if_due) as pool:
            for result in pool.in_order(transfer.jobs()):
                for one in result:
                    self.objects += 1
                    self.bytes += one.stored
                    transfer.add(one)
                    if self._locks.until is not None:
                        self._stored_keys |= {meta_key(one.name), object_key(one.name)}
                    self._heartbeat.count(one.stored)

    def _signature(self, backup: str) -> bytes | None:
        """Return the signature of a backup.

        Re-encryption changes the manifest, so the copy needs a new signature. Raise Damage or
        ConfigurationError when the present one is not valid, or no key to sign with is configured.
        """
        signature = self._source.signatures.get(self._site, backup)
        if signature and self._reencryption:
            if not (self._source.signatures.signers and self._target.signatures.can_sign):
                raise ConfigurationError(
                    [
                        f"the backup {backup} is signed, and its copy needs a new signature, "
                        "because re-encryption changes the names of all objects"
                    ],
                    "configure [repository.signing]: signers to check the old one, a key to make the new one",
                )
            self._source.signatures.require(self._source.manifest(self._site, backup))
        return signature

    def _renew_locks(self, manifest: dict[str, Any]) -> str | None:
        """Renew the locks of what the target already had; return until when all of the backup is locked.

        An error is kept in ``lock_error``: the backup is copied nevertheless.
        """
        if self._locks.until is None:
            return None
        parent: str | None = manifest.get("parent")
        previous = None
        if parent is not None and parent in self._target.listing(self._site).backups:
            previous = self._target.manifest(self._site, parent)
        documents = self._target.objects("")
        until = self._locks.lasting([previous])
        try:
            needed = needed_keys(manifest, documents) - self._stored_keys
            if until is not None:  # what the parent needs is locked long enough
                needed -= needed_keys(msgspec.to_builtins(previous), documents)
            if needed:
                self._locks.renew(needed, self._heartbeat.renew_if_due)
        except (StoreError, Damage) as error:
            self.lock_error = error
            return None
        return clock.iso(min(self._locks.until, until or self._locks.until))

    def commit(
        self, backup: str, manifest: dict[str, Any], signature: bytes | None, locked_until: str | None
    ) -> None:
        """Write the manifest: from then on the backup exists in the target.

        The manifest says where the copy comes from. If it is signed and nothing else in it changes, it is
        copied as it is, because the signature would not be valid any more.
        """
        data = self._source.manifest_bytes(self._site, backup)
        if signature is None or self._reencryption:
            origin = {
                "copied_from": self._source.info.id,
                "repository": self._target.info.id,
                "locked_until": locked_until,
            }
            content = {key: value for key, value in manifest.items() if key != "self_sha256"}
            data = canonical.with_digest(content | origin)
        # Another run may have declared this one dead and removed its marker. Then a sweep may delete its
        # objects, and the backup must not be committed. So nothing that takes time comes between this check
        # and the commit.
        self._marker.require_unchanged()
        try:
            if signature:
                own = None if self._reencryption else signature
                self._target.signatures.put(self._site, backup, data, own)
            self._target.store.put(manifest_key(self._site, backup), [data])
        except KeyExists:
            raise InUse(
                f"another copy has just stored {backup} in {self._target.store.location}",
                "run this copy again; it uses what is already there",
            ) from None


def copy_labels(source: Repository, target: Repository, backup: str, ours: Listing, theirs: Listing) -> None:
    """Copy the labels that the target does not have, except those about what was done with the other copy."""
    for key in sorted({*ours.labels.get(backup, ())} - {*theirs.labels.get(backup, ())}):
        with contextlib.suppress(KeyMissing):
            if source.labels.get(key).fact not in ("verified", "restored"):
                target.store.put(key, [source.store.get(key)])


def note_gone(source: Repository, target: Repository, site: str, seen: Iterable[str]) -> None:
    """Note in the target the backups that a backup has seen and the source no longer has.

    Without the note, a prune of the target would report them as missing.
    """
    known = {*target.listing(site).backups, *source.listing(site).backups}
    known |= {*target.trash.listing(site).gone, *target.trash.backups(site)}
    for backup in set(seen) - known:
        target.trash.note_gone(site, backup)
