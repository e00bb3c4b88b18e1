"""Copy the backups of a site to another repository: the same ids, each object checked while it passes, the manifest last.

Where both are encrypted alike, objects are copied as they are stored, under the same names. Else they are encoded anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from ...errors import (
    BackupMissing,
    ConfigurationError,
    Damage,
    InUse,
    KeyChanged,
    KeyExists,
    KeyMissing,
    StoreError,
    TargetRefused,
    UsageError,
    VaultError,
)
from ...model import canonical
from ...repository import markers
from ...repository.encryption import FEATURE
from ...repository.ids import new_id
from ...repository.markers import RunMarker
from ...repository.objects import meta_key, object_key
from ...repository.repository import Listing, Repository, manifest_key
from ...repository.trash import note_dead_run
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ..locks import Locks, needed_keys, trial_key
from ..prune.unlock import MarkerState, marker_states
from .reencrypt import Notes, Reencryptor
from .transfer import Carried, ExistingObjects, Job, ObjectCopier, Unchanged

NOTE_BYTES: Final = 1 << 30


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy did: the ids that are new in the target, how many were there already, and what was stored for them."""

    site: str
    location: str
    copied: list[str]
    present: int
    objects: int
    bytes: int


class CopyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to copy; ``decrypt``: it is meant that the target is not encrypted."""

    decrypt: bool = False
    workers: int = 2


def copy(
    source: Repository, target: Repository, site: str, progress: Progress, options: CopyOptions | None = None
) -> Copied:
    """Copy what the target does not have; raise InUse while a prune of the target is at work, Damage when the source is damaged.

    A backup exists in the target when all of it does. Run again after an interruption, it goes on from the objects that are there.
    Where content has to be encoded anew, raise KeyNeeded without the private key, UsageError when it is not certain for whom it is meant.
    """
    if source.info.id == target.info.id:
        raise TargetRefused("source and target are the same repository", "name another one")
    wanted = source.listing(site).backups
    if not wanted:
        raise BackupMissing(
            f"there is no backup of the site {site} in {source.store.location}",
            "check --site and --repository",
        )
    with _marked(target, site) as (run, others), _relied_on(source, site, wanted, progress) as reading:
        return SiteCopy(source, target, site, run, reading, progress, options or CopyOptions()).run(
            wanted, others
        )


@contextlib.contextmanager
def _marked(target: Repository, site: str) -> Iterator[tuple[RunMarker, list[MarkerState]]]:
    """Hold a marker, beside which nothing is swept, and give it with those of other copies of the site.

    A sweep that is at work now is not waited for. What this copy has noted stays for the next one when it does not end well.
    """
    run = RunMarker.start(target.store, site, "copy", new_id([], target.store.clock()), [])
    try:
        others = [one for one in marker_states(target) if one.marker.run != run.marker.run]
        for one in others:
            if one.marker.what == "prune" and one.alive:
                who = f"host {one.marker.host}, pid {one.marker.pid}"
                raise InUse(
                    f"a prune of {target.store.location} is at work ({who})", "run the copy again after it"
                )
        copies = [one for one in others if one.marker.what == "copy"]
        for one in copies:
            if one.site != site and not one.alive and not one.marker.copied:
                _take_away(target, one)
        yield run, [one for one in copies if one.site == site]
    except BaseException:
        with contextlib.suppress(VaultError):
            if run.marker.copied:
                run.update(ended=True)
            else:
                run.remove()
        raise
    run.remove()


def _take_away(target: Repository, one: MarkerState) -> None:
    """Take the marker of a dead copy away; should it be alive after all, what it relies on is safe for a grace period."""
    if not one.marker.ended:
        note_dead_run(target.store, one.key)
    with contextlib.suppress(KeyChanged, KeyMissing):
        target.store.delete(one.key, expected=one.data)


@contextlib.contextmanager
def _relied_on(
    source: Repository, site: str, backups: list[str], progress: Progress
) -> Iterator[RunMarker | None]:
    """Keep the backups from being deleted while they are read, where anything can be written there; without it, those that go are passed over."""
    try:
        run = RunMarker.start(source.store, site, "export", new_id([], source.store.clock()), backups)
    except StoreError as error:
        progress.note(
            f"backups may be deleted while they are copied, as no marker can be written: {error.message}"
        )
        yield None
        return
    try:
        _forget_dead(source, site)
        yield run
    finally:
        with contextlib.suppress(StoreError):
            run.remove()


def _forget_dead(source: Repository, site: str) -> None:
    """Remove what copies that died have left here; should one be alive, it passes over the backups that go."""
    for key in source.listing(site).markers:
        with contextlib.suppress(KeyMissing, KeyChanged):
            marker, data = markers.read_marker(source.store, key)
            if marker.what == "export" and not markers.is_alive(marker, source.store):
                source.store.delete(key, expected=data)


class SiteCopy:
    """One copy; without a ``recoder`` everything stays as it is stored."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        site: str,
        marker: RunMarker,
        reading: RunMarker | None,
        progress: Progress,
        options: CopyOptions,
    ) -> None:
        self.source, self.target, self.site = source, target, site
        self.marker, self.reading = marker, reading
        self.progress, self.options = progress, options
        self.carrier = ObjectCopier(source, target, progress)
        self.notes = Notes(target.objects(marker.marker.run))
        self.recoder: Reencryptor | None = None
        self.known: set[str] = set()
        self.stored: set[str] = set()
        self.locks = Locks(target, trial_key(site, marker.marker.run), clock.now(), progress)
        self.unlocked: VaultError | None = None
        self.damaged: dict[str, Damage] = {}
        self.objects = self.bytes = self.unnoted = 0

    def run(self, wanted: list[str], others: list[MarkerState]) -> Copied:
        """Copy the wanted backups that the target does not have; ``others`` are the markers of other copies of the site."""
        ours, theirs = self.source.listing(self.site), self.target.listing(self.site)
        present = {*theirs.backups, *self.target.trashed(self.site)}
        new = [one for one in wanted if one not in present]
        anew = not self._as_stored(new)
        if anew:
            self._require_meant()
            self._require_first(others)
        # only now that nothing is swept, what is there can be relied on
        self.stock = ExistingObjects(self.target.store)
        self.unchanged = Unchanged(self.source, self.carrier, self.stock)
        if anew:
            self.recoder = Reencryptor(
                self.source, self.target, self.carrier, self.stock, self.marker.marker.run
            )
        self._adopt([one for one in others if not one.alive])
        try:
            if new and self.recoder:
                self._learn(sorted(present, reverse=True), theirs)
            copied = [one for one in new if self._backup(one)]
        except BaseException:
            if self.recoder:
                with contextlib.suppress(VaultError):
                    self._beat(now=True)
            raise
        for one in sorted(present & set(wanted)):
            self._labels(one, ours, theirs)
        if self.unlocked:
            what = f"everything was copied to {self.target.store.location}, but what was there already is not locked for as long as it has to be"
            raise StoreError(f"{what}: {self.unlocked.message}", self.unlocked.hint)
        if self.damaged:
            why = "; ".join(f"{backup}: {error.message}" for backup, error in self.damaged.items())
            raise Damage(
                f"not copied, as they are damaged in {self.source.store.location}: {why}",
                "every other backup was copied; `zodb-vault verify` tells more, and `delete` ends it where nothing can be done",
            )
        return Copied(
            site=self.site,
            location=self.target.store.location,
            copied=copied,
            present=len(wanted) - len(new),
            objects=self.objects,
            bytes=self.bytes,
        )

    # as it is stored, or anew

    def _as_stored(self, new: Iterable[str]) -> bool:
        """Tell whether all that may be in the source is encoded as what is in the target may be."""
        ours, theirs = self.source.info, self.target.info
        written = {frozenset(ours.recipients), *map(frozenset, ours.former)}
        for backup in new:
            with contextlib.suppress(BackupMissing):
                written.add(frozenset(self.source.manifest_document(self.site, backup).get("recipients", ())))
        return set(ours.recipients) == set(theirs.recipients) and written <= {
            frozenset(theirs.recipients),
            *map(frozenset, theirs.former),
        }

    def _require_meant(self) -> None:
        """Raise UsageError unless it is certain that who can read the target is to read what is copied."""
        where = self.target.store.location
        if self.target.info.recipients:
            if self.options.decrypt:
                raise UsageError(
                    f"{where} is encrypted, and --decrypt is for a repository that is not",
                    "leave it out, or name another target",
                )
            self.target.require_recipients()
        elif FEATURE in self.source.info.requires and not self.options.decrypt:
            raise UsageError(
                f"{where} is not encrypted, so that whoever can read it could read what is encrypted in {self.source.store.location}",
                "make the target with recipients; or, if it is meant, say --decrypt",
            )

    def _require_first(self, others: list[MarkerState]) -> None:
        """Raise InUse when another copy of the site is at work, which would store the same under other names, and another manifest."""
        for one in others:
            if one.alive:
                who = f"host {one.marker.host}, pid {one.marker.pid}"
                raise InUse(
                    f"another copy of the site {self.site} to {self.target.store.location} is at work ({who})",
                    "wait for it to end",
                )

    def _adopt(self, left: list[MarkerState]) -> None:
        """Go on from what interrupted copies have left: our marker names it before theirs go."""
        for one in left:
            if self.recoder and one.marker.copied:
                self.notes.adopt(self.recoder.adopt(one.marker.copied))
                self.marker.update(copied=self.notes.stored())
            _take_away(self.target, one)

    def _learn(self, present: Iterable[str], listed: Listing) -> None:
        """Learn the names of the target from the backups that both have."""
        assert self.recoder
        for backup in present:
            self._beat()
            with contextlib.suppress(BackupMissing):
                ours, theirs = (
                    _wherever(self.source, self.site, backup),
                    _wherever(self.target, self.site, backup),
                )
                if self._vouched(backup, listed):
                    self._learn_from(backup, self.recoder, ours, theirs)

    def _learn_from(
        self, backup: str, recoder: Reencryptor, ours: dict[str, Any], theirs: dict[str, Any]
    ) -> None:
        try:
            recoder.learn(ours, theirs)
        except ValueError:
            where = f"{self.target.store.location} and {self.source.store.location}"
            raise Damage(
                f"the backup {backup} is not the same one in {where}",
                "one of them was changed, or is no copy of the other",
            ) from None
        except Damage:
            for repository in (self.source, self.target):
                _wherever(repository, self.site, backup)  # deleted for good meanwhile
            raise
        self.known.add(backup)

    def _vouched(self, backup: str, listed: Listing) -> bool:
        """Tell whether the manifests of a backup can be relied on in both repositories."""
        if not self.source.signers:
            return True
        try:
            for repository in (self.source, self.target):
                repository.require_signature(repository.manifest(self.site, backup))
        except Damage:
            return False
        return backup in listed.backups

    # one backup

    def _backup(self, backup: str) -> bool:
        """Copy one backup; False when it was deleted meanwhile, or is damaged: that must not keep those after it from being copied."""
        try:
            document = self.source.manifest_document(self.site, backup)
            signed = self._signature(backup)
            content = (
                self._content(document) if self.recoder is None else self._recoded(document, self.recoder)
            )
        except BackupMissing:
            return False
        except Damage as error:
            if backup in self.source.listing(self.site).backups:
                self.damaged[backup] = error
                self.progress.note(f"not copied {backup}: {error.message}")
            return False
        self._labels(backup, self.source.listing(self.site), self.target.listing(self.site))
        self._note_gone(document.get("seen", ()))
        locked_until = self._locked(content)
        self.commit(backup, content, signed, locked_until)
        self.known.add(backup)
        self.notes.forget()
        self.progress.note(f"copied {backup}")
        return True

    def _content(self, document: dict[str, Any]) -> dict[str, Any]:
        """Copy all that a backup needs as it is stored, and return what the manifest says."""
        unchanged = self.unchanged
        self.progress.begin("copy", unchanged.begin(document))
        self._work(unchanged.jobs(document), unchanged.took)
        unchanged.renamed(document)
        return document

    def _recoded(self, document: dict[str, Any], recoder: Reencryptor) -> dict[str, Any]:
        """Copy all that a backup needs, encoded as the target has it, and return what the manifest says there."""
        info, parent = self.target.info, document.get("parent")
        # what a backup needs and its parent does not have was stored by its own run
        fits = set(document.get("recipients", ())) == set(info.recipients) and (
            parent is None or parent in self.known
        )
        self.progress.begin("copy", recoder.begin(document, fits=fits))
        self._work(recoder.jobs(document), recoder.took)
        requires = dict.fromkeys(
            [*(feature for feature in document.get("requires", ()) if feature != FEATURE), *info.requires]
        )
        changed = {"requires": list(requires), "recipients": info.recipients, "recovery": info.recovery}
        renamed: dict[str, Any] = recoder.renamed(document)
        return renamed | changed

    def _work(self, jobs: Iterable[Job], took: Callable[[Carried], None]) -> None:
        with Workers(self.options.workers, self._beat) as workers:
            for one in (one for carried in workers.in_order(jobs) for one in carried):
                self.objects, self.bytes, self.unnoted = (
                    self.objects + 1,
                    self.bytes + one.stored,
                    self.unnoted + one.stored,
                )
                took(one)
                if self.locks.until is not None:
                    self.stored |= {meta_key(one.name), object_key(one.name)}
                if self.recoder and one.codec:
                    self.notes.add(one)
                if self.recoder and self.unnoted >= NOTE_BYTES:
                    self._beat(now=True)

    def _beat(self, *, now: bool = False) -> None:
        """Tell that this run is alive, and note what it has stored."""
        if now or self.marker.heartbeat_is_due():
            self.marker.update(copied=self.notes.stored())
            self.unnoted = 0
            if self.reading:
                self.reading.update()

    # its manifest

    def _signature(self, backup: str) -> bytes | None:
        """Return the signature of a backup; raise Damage or ConfigurationError when it is to get another one and the first cannot be relied on."""
        signature = self.source.signature(self.site, backup)
        if signature and self.recoder:
            if not (self.source.signers and self.target.signs):
                raise ConfigurationError(
                    [
                        f"the backup {backup} is signed, and its copy needs another signature, as the names of all objects change"
                    ],
                    "name the signers, so that its signature is checked, and a key to sign the copy with in [repository.signing]",
                )
            self.source.require_signature(self.source.manifest(self.site, backup))
        return signature

    def _locked(self, document: dict[str, Any]) -> str | None:
        """Renew what locks have to be, and return until when all of them last in the target; a failure costs no copy, and is raised at the end."""
        if self.locks.until is None:
            return None
        parent = document.get("parent")
        before = (
            self.target.manifest(self.site, parent)
            if parent in self.target.listing(self.site).backups
            else None
        )
        until = self.locks.lasting([before])
        try:
            needed = needed_keys(document, self.target.objects("")) - self.stored
            if until is not None:
                needed -= needed_keys(msgspec.to_builtins(before), self.target.objects(""))
            if needed:
                self.locks.renew(needed, self._beat)
        except (StoreError, Damage) as error:
            self.unlocked = error
            return None
        return clock.iso(min(self.locks.until, until or self.locks.until))

    def commit(
        self, backup: str, document: dict[str, Any], signature: bytes | None, locked_until: str | None
    ) -> None:
        """Write the manifest, which says where it came from; one that is signed and of which nothing changes stays as it is."""
        data = self.source.manifest_bytes(self.site, backup)
        if signature is None or self.recoder:
            origin = {
                "copied_from": self.source.info.id,
                "repository": self.target.info.id,
                "locked_until": locked_until,
            }
            data = canonical.with_digest(
                {key: value for key, value in document.items() if key != "self_sha256"} | origin
            )
        # nothing comes between the look whether others take this run for dead and what they may do then
        self.marker.require_unchanged()
        try:
            if signature:
                self.target.put_signature(self.site, backup, data, None if self.recoder else signature)
            self.target.store.put(manifest_key(self.site, backup), [data])
        except KeyExists:
            raise InUse(
                f"another copy has just brought {backup} to {self.target.store.location}",
                "run it again; what is there is used",
            ) from None

    # what is known of it

    def _labels(self, backup: str, ours: Listing, theirs: Listing) -> None:
        """Copy what is known of a backup; what was verified was the other copy."""
        for key in sorted({*ours.labels.get(backup, ())} - {*theirs.labels.get(backup, ())}):
            with contextlib.suppress(KeyMissing):
                if self.source.label(key).fact not in ("verified", "restored"):
                    self.target.store.put(key, [self.source.store.get(key)])

    def _note_gone(self, seen: list[str]) -> None:
        """Note the backups that this one has seen and the source does not have any more: in the target nobody misses them."""
        known = {*self.target.listing(self.site).backups, *self.source.listing(self.site).backups}
        for backup in (
            set(seen) - known - set(self.target.trash(self.site).gone) - set(self.target.trashed(self.site))
        ):
            self.target.note_gone(self.site, backup)


def _wherever(repository: Repository, site: str, backup: str) -> dict[str, Any]:
    """Return the manifest of a backup, also of one in the trash; raise BackupMissing."""
    try:
        return repository.manifest_document(site, backup)
    except BackupMissing:
        return repository.trashed_document(site, backup)
