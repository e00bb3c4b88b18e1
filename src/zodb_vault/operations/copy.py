"""Copy the backups of a site to another repository: the same ids, the same objects, each checked while it passes, the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import BackupMissing, Damage, InUse, KeyChanged, KeyMissing, TargetRefused
from ..model import canonical
from ..repository.names import new_id
from ..repository.objects import meta_key, object_key
from ..repository.references import add_names
from ..repository.repository import Repository, manifest_key, signature_key
from ..repository.running import Run
from ..strategies.base import Progress
from .unlock import standing


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy did: the ids that are new in the target, how many were there already, and what was stored for them."""

    site: str
    location: str
    copied: list[str]
    present: int
    objects: int
    bytes: int


def copy(source: Repository, target: Repository, site: str, progress: Progress) -> Copied:
    """Copy what the target does not have; raise InUse while a prune of the target is at work, Damage when the source is damaged.

    A backup exists in the target when all of it does. Run again after an interruption, it goes on from the objects that are there.
    """
    if source.info.id == target.info.id:
        raise TargetRefused("source and target are the same repository", "name another one")
    if sorted(source.info.recipients) != sorted(target.info.recipients):
        raise TargetRefused(
            "source and target are encrypted for others: what is stored is copied as it is", "make the target for the same recipients"
        )
    wanted = source.listing(site).backups
    if not wanted:
        raise BackupMissing(f"there is no backup of the site {site} in {source.store.location}", "check --site and --repository")
    with _marked(target, site) as run:
        return _Copy(source, target, site, run, progress).run(wanted)


@contextlib.contextmanager
def _marked(target: Repository, site: str) -> Iterator[Run]:
    """Hold a marker, beside which nothing is swept; a sweep that is at work now is not waited for."""
    run = Run.start(target.store, site, "copy", new_id([], target.store.clock()), [])
    try:
        for one in standing(target):
            if one.marker.what == "prune" and one.alive:
                who = f"host {one.marker.host}, pid {one.marker.pid}"
                raise InUse(f"a prune of {target.store.location} is at work ({who})", "run the copy again after it")
            if one.marker.what == "copy" and one.marker.run != run.marker.run and not one.alive:
                with contextlib.suppress(KeyChanged):
                    target.store.delete(one.key, expected=one.data)
        yield run
    finally:
        run.finish()


class _Copy:
    def __init__(self, source: Repository, target: Repository, site: str, marker: Run, progress: Progress) -> None:
        self.source, self.target, self.site = source, target, site
        self.marker, self.progress = marker, progress
        self.documents = source.objects("")
        self.objects = self.bytes = 0

    def run(self, wanted: list[str]) -> Copied:
        listed, trashed = self.target.listing(self.site).backups, self.target.trashed(self.site)
        present = set(listed) | set(trashed)
        # only now that nothing is swept, what is there can be relied on
        self.there = {entry.key: entry.size for prefix in ("meta/", "objects/") for entry in self.target.store.list(prefix)}
        new = [one for one in wanted if one not in present]
        copied = [one for one in new if self._backup(one)]
        for one in sorted(present & set(wanted)):
            self._labels(one)
        return Copied(
            site=self.site, location=self.target.store.location, copied=copied, present=len(wanted) - len(new), objects=self.objects, bytes=self.bytes
        )

    def _backup(self, backup: str) -> bool:
        """Copy one backup; False when it was deleted meanwhile."""
        try:
            document = self.source.manifest_document(self.site, backup)
        except BackupMissing:
            return False
        needed: dict[str, int] = {}
        try:
            add_names(document, needed, self.documents)
            self.progress.begin("copy", sum(size for name, size in needed.items() if not self._has(name)))
            for name in sorted(needed):
                self._object(name)
        except Damage:
            if backup in self.source.listing(self.site).backups:
                raise
            return False
        self._labels(backup)
        self._note_gone(document.get("seen", ()))
        data = self._manifest(backup, document)
        self.marker.require()
        self.target.store.put(manifest_key(self.site, backup), [data])
        self.progress.note(f"copied {backup}")
        return True

    def _manifest(self, backup: str, document: dict[str, Any]) -> bytes:
        """Return the manifest for the target, which says where it came from; one that is signed stays as it is, and its signature goes first."""
        try:
            signature = self.source.store.get(signature_key(self.site, backup))
        except KeyMissing:
            origin = {"copied_from": document["repository"], "repository": self.target.info.id}
            return canonical.seal({key: value for key, value in document.items() if key != "self_sha256"} | origin)
        self.target.store.put(signature_key(self.site, backup), [signature])
        return self.source.manifest_bytes(self.site, backup)

    def _has(self, name: str) -> bool:
        return meta_key(name) in self.there or object_key(name) in self.there

    def _object(self, name: str) -> None:
        """Copy what is stored under a name; what looks like a name and is none is passed over."""
        if self._has(name):
            return
        for key in (meta_key(name), object_key(name)):
            with contextlib.suppress(KeyMissing):
                self._stored(key, name)

    def _stored(self, key: str, name: str) -> None:
        staging, digest, size = self.target.store.stage(), hashlib.sha256(), 0
        try:
            for chunk in self.source.store.stream(key):
                digest.update(chunk)
                staging.write(chunk)
                size += len(chunk)
                self.progress.advance(len(chunk))
            if digest.hexdigest() != name:
                raise Damage(f"{key} in {self.source.store.location} is damaged: its bytes do not match its name")
            staging.store(key)
        finally:
            staging.discard()
        self.there[key] = size
        self.objects, self.bytes = self.objects + 1, self.bytes + size
        if self.marker.due():
            self.marker.renew()

    def _labels(self, backup: str) -> None:
        """Copy what is known of a backup; what was verified was the other copy."""
        there = set(self.target.listing(self.site).labels.get(backup, ()))
        for key in self.source.listing(self.site).labels.get(backup, ()):
            if key not in there and self.source.label(key).fact not in ("verified", "restored"):
                with contextlib.suppress(KeyMissing):
                    self.target.store.put(key, [self.source.store.get(key)])

    def _note_gone(self, seen: list[str]) -> None:
        """Note the backups that this one has seen and the source does not have any more: in the target nobody misses them."""
        known = {*self.target.listing(self.site).backups, *self.source.listing(self.site).backups}
        for backup in set(seen) - known - set(self.target.trash(self.site).gone) - set(self.target.trashed(self.site)):
            self.target.note_gone(self.site, backup)


