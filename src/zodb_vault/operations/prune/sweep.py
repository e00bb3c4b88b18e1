"""Sweep: list what nothing names any more, and delete what has been on that list for the grace period and still is not named.

That no backup ever loses an object to it is proved in ``docs/explanation/concurrency.rst``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from ...errors import BackupMissing, Damage, InUse, KeyChanged, KeyMissing
from ...model.manifest import Marker
from ...policy.retention import SKEW
from ...repository import markers as running
from ...repository.ids import is_id_file, new_id
from ...repository.labels import superseded
from ...repository.markers import RunMarker
from ...repository.references import add_names
from ...repository.repository import MARKER, Repository, gone_key, signature_key, trash_key
from ...repository.trash import PendingList, dead_run_noted_at, note_dead_run
from ...runtime import clock
from ...runtime.workers import Workers
from ...stores.base import LeavesTemporaries

ATTEMPTS: Final = 3
NAMED: Final = 5
DELETERS: Final = 8
# A temporary file may belong to a write that is still going on.
LEFTOVER_GRACE: Final = timedelta(days=1)
WRITING: Final = ("create", "copy")
DEAD: Final = timedelta(days=14)


class Swept(msgspec.Struct, frozen=True):
    """What was deleted for good: how many files, and exactly how many bytes."""

    objects: int = 0
    bytes: int = 0


class SweepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to sweep; ``site`` is whose prune it is."""

    site: str
    grace: timedelta
    dry_run: bool = False


class ObjectKey(NamedTuple):
    """A backup of a site."""

    site: str
    id: str


class References(NamedTuple):
    """What can name objects, as it was found in one look: first the markers, then the backups, then the trash."""

    markers: dict[str, tuple[Marker, bytes]]
    listed: set[ObjectKey]
    trashed: dict[ObjectKey, int]
    labels: dict[str, int]
    gone: dict[ObjectKey, int]
    broken: dict[str, int]
    signatures: dict[str, int]

    @property
    def known(self) -> set[ObjectKey]:
        """Return all backups that exist."""
        return self.listed | set(self.trashed)


def sweep(repository: Repository, options: SweepOptions) -> Swept:
    """Sweep the whole repository, of all sites; raise Damage when something cannot be read: what it names is not known then."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _marked(repository, options) as run:
                return Sweep(repository, options, run).run()
        except InUse:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _marked(repository: Repository, options: SweepOptions) -> Iterator[RunMarker | None]:
    if options.dry_run:
        yield None
        return
    run = RunMarker.start(repository.store, options.site, "prune", new_id([], repository.store.clock()), [])
    try:
        yield run
    finally:
        run.remove()


def read_references(repository: Repository) -> References:
    """Look once; a backup that moves between backups and trash meanwhile is seen in one of them, or the marker of who moves it is."""
    store = repository.store
    markers: dict[str, tuple[Marker, bytes]] = {}
    found = References(markers, set(), {}, {}, {}, {}, {})
    for key, _size in store.list("sites/"):
        match key.split("/")[1:]:
            case [_, "running", name] if MARKER.match(name):
                with contextlib.suppress(KeyMissing):  # that run has just finished
                    markers[key] = running.read_marker(store, key)
            case [site, "backups", name] if is_id_file(name):
                found.listed.add(ObjectKey(site, name.removesuffix(".json")))
    for key, size in store.list("sites/"):
        match key.split("/")[1:]:
            case [site, "backups", name] if is_id_file(name):
                found.listed.add(ObjectKey(site, name.removesuffix(".json")))
            case [_, "backups", name] if name.endswith(".sig"):
                found.signatures[key] = size
            case [_, "labels", _, name] if is_id_file(name):
                found.labels[key] = size
    _look_into_trash(repository, found)
    return found


def _look_into_trash(repository: Repository, found: References) -> None:
    for key, size in repository.store.list("trash/"):
        match key.split("/")[1:]:
            case ["_broken", name] if is_id_file(name):
                found.broken[key] = size
            case [site, name] if is_id_file(name):
                found.trashed[ObjectKey(site, name.removesuffix(".json"))] = size
            case [site, "gone", name] if is_id_file(name):
                found.gone[ObjectKey(site, name.removesuffix(".json"))] = size


class Sweep:
    """One sweep. ``candidates`` is what nothing needs, by key, with its size; ``since`` when each was listed first."""

    def __init__(self, repository: Repository, options: SweepOptions, run: RunMarker | None) -> None:
        self.repository, self.options, self.marker = repository, options, run
        self.store, self.documents = repository.store, repository.objects("")
        self.now = self.store.clock()
        self.list = PendingList(self.store)
        self.candidates: dict[str, int] = {}
        self.ending: dict[ObjectKey, dict[str, int]] = {}

    def run(self) -> Swept:
        """Delete what nothing needs and what is due, and note what is not due yet."""
        self.first = read_references(self.repository)
        self._require_accounted(self.first)
        if self.marker is not None:
            self._break_abandoned(self.first)
        self._collect()
        known = self.list.since
        since = {key: min(known.get(key, self.now), self.now) for key in self.candidates}
        due = self.due_keys(since)
        if self.marker is None:
            return self._count(due)
        seen: dict[str, list[str]] = {}
        for ref in sorted(self.first.known):
            seen.setdefault(ref.site, []).append(ref.id)
        self.list.write(since, seen, certainly=bool(due))
        swept = self.delete_due(due) if due else []
        gone = {
            site: [one for one in ids if ObjectKey(site, one) not in self.ending]
            for site, ids in seen.items()
        }
        self.list.write({key: moment for key, moment in since.items() if key not in swept}, gone)
        return self._count(swept)

    def _count(self, keys: list[str]) -> Swept:
        return Swept(len(keys), sum(self.candidates[key] for key in keys))

    def _require_accounted(self, found: References) -> None:
        """Raise Damage when a backup of any site that the last sweep knew has disappeared."""
        before = {ObjectKey(site, one) for site, ids in self.list.pending.seen.items() for one in ids}
        for ref in sorted(before - found.known - set(found.gone)):
            if missing := unexplained(self.repository, ref.site, {ref.id}):
                raise unaccounted(ref.site, missing, "the last sweep has seen")

    def _break_abandoned(self, found: References) -> None:
        """Declare runs dead that have said nothing for two weeks; what they stored is listed from now on, and protected until it is due."""
        for key, (marker, data) in found.markers.items():
            if running.is_alive(marker, self.store) or (
                marker.what != "prune" and self.now - clock.parse(marker.heartbeat) < DEAD
            ):
                continue
            if marker.what != "prune":  # which relies on nothing
                note_dead_run(self.store, key)
            with contextlib.suppress(KeyChanged, KeyMissing):
                self.store.delete(key, expected=data)

    # what nothing needs

    def _collect(self) -> None:
        found, needed = self.first, dict[str, int]()
        seen: set[ObjectKey] = set()
        for ref in sorted(found.listed):
            seen |= self._add(ref, needed)
        for key in found.markers:
            self._add_stored(found, key, needed)
        used = {
            ObjectKey(key.split("/")[1], one)
            for key, (marker, _) in found.markers.items()
            for one in marker.uses
        }
        for ref in used - found.known:
            self._add(ref, needed)
        stale: dict[ObjectKey, dict[str, int]] = {}
        known = self.list.since
        for ref, size in found.trashed.items():
            if ref in found.listed:
                continue  # on its way there or back
            names: dict[str, int] = {}
            seen |= self._add(ref, names)
            self.candidates[trash_key(*ref)] = size
            since = known.get(trash_key(*ref))
            if ref in used or since is None or self.now - since < self.options.grace:
                needed |= names
            else:
                stale[ref] = names
        self._collect_objects(needed)
        self._collect_labels()
        known_signatures = {signature_key(*ref) for ref in found.known}
        self.candidates |= {
            key: size for key, size in found.signatures.items() if key not in known_signatures
        }
        self.candidates |= {gone_key(*ref): size for ref, size in found.gone.items() if ref not in seen}
        if isinstance(self.store, LeavesTemporaries):
            self.candidates |= {name: size for name, size in self.store.temporaries()}
        self.stale = stale

    def _add(self, ref: ObjectKey, names: dict[str, int]) -> set[ObjectKey]:
        """Add what a backup needs to ``names``, and return what it has seen."""
        document = self._document(ref)
        try:
            add_names(document, names, self.documents)
        except Damage:
            if self._document(ref):
                raise
            return set()  # another sweep has deleted it meanwhile
        return {ObjectKey(ref.site, one) for one in document.get("seen", ())}

    def _add_stored(self, found: References, key: str, names: dict[str, int]) -> None:
        """Add what the run of a marker has stored."""
        marker, data = found.markers[key]
        try:
            add_names(msgspec.to_builtins([marker.stored, marker.copied]), names, self.documents)
        except Damage:
            with contextlib.suppress(KeyMissing):
                if self.store.get(key) == data:
                    raise

    def _document(self, ref: ObjectKey) -> dict[str, Any]:
        """Return a manifest, wherever it is now; nothing when another sweep has just deleted it."""
        for _ in range(2):
            with contextlib.suppress(BackupMissing):
                return self.repository.manifest_document(*ref)
            with contextlib.suppress(BackupMissing):
                return self.repository.trashed_document(*ref)
        return {}

    def _collect_objects(self, needed: dict[str, int]) -> None:
        for prefix in ("meta/", "objects/"):
            for key, size in self.store.list(prefix):
                if key.rpartition("/")[2] not in needed:
                    self.candidates[key] = size

    def _collect_labels(self) -> None:
        """Add the labels of backups that do not exist, and those that a later one has made meaningless."""
        of: dict[ObjectKey, list[str]] = {}
        for key in self.first.labels:
            _, site, _, backup, _ = key.split("/")
            of.setdefault(ObjectKey(site, backup), []).append(key)
        # later ids have to go on behind the newest one, although it may be gone
        newest = {ref.site: ref.id for ref in sorted(self.first.known | of.keys())}
        for ref, keys in of.items():
            if ref in self.first.known or newest[ref.site] == ref.id:
                labels = {key: self.repository.label(key) for key in sorted(keys)} if len(keys) > 1 else {}
                keys = superseded(labels)
            self.candidates |= {key: self.first.labels[key] for key in keys}

    # what is due

    def due_keys(self, since: dict[str, datetime]) -> list[str]:
        """Return what may be deleted now, by what the first look has found; trashed manifests only together with all that they name."""
        if abs(self.now - clock.now()) >= SKEW or self._broken_lately() or self.is_copying(self.first):
            return []
        limit = self.now - self.options.grace
        started = [
            clock.parse(one.started)
            for one, _ in self.first.markers.values()
            if one.what in WRITING and not one.ended
        ]
        # what was listed after a run began may be its own, which nothing names yet
        limit = min([limit, *(moment - SKEW for moment in started)])
        known = self.list.since
        due = {key for key, moment in since.items() if key in known and moment <= limit}
        leftover = [key for key in due if "/.tmp-" in f"/{key}" and self.now - since[key] < LEFTOVER_GRACE]
        due -= {trash_key(*ref) for ref in self.first.trashed} | set(leftover)
        names = {
            key.rpartition("/")[2]
            for key in self.candidates.keys() - due
            if key.startswith(("meta/", "objects/"))
        }
        kept: dict[str, int] = {}
        for ref, needed in self.stale.items():
            if not names.isdisjoint(needed):
                kept |= needed  # a part of it is not due: all of it stays until then
            else:
                self.ending[ref] = needed
        due |= {trash_key(*ref) for ref in self.ending}
        return sorted(key for key in due if key.rpartition("/")[2] not in kept)

    def _broken_lately(self) -> bool:
        """Tell whether a run was declared dead within the grace period."""
        moments = [moment for key in self.first.broken if (moment := dead_run_noted_at(key))]
        return any(self.now - moment < self.options.grace for moment in moments)

    def is_copying(self, found: References) -> bool:
        """Tell whether a copy into this repository is under way, which relies on objects that are here already; one that ended has named its own."""
        return any(marker.what == "copy" and not marker.ended for marker, _data in found.markers.values())

    # deleting

    def delete_due(self, due: list[str]) -> list[str]:
        """Delete the trashed manifests first, then look for who came meanwhile, then delete the rest; return what was deleted."""
        for ref in sorted(self.ending):
            self.repository.note_gone(*ref)
            self.store.delete(trash_key(*ref))
        protected = self.second_look()
        if protected is None:
            return [trash_key(*ref) for ref in self.ending]
        done = [key for key in due if key.rpartition("/")[2] not in protected]
        manifests = {trash_key(*ref) for ref in self.ending}
        with Workers(DELETERS, self._beat) as workers:
            for _ in workers.in_order(partial(self.remove, key) for key in done if key not in manifests):
                self._beat()
        for key in self.first.broken:
            if (moment := dead_run_noted_at(key)) and self.now - moment >= self.options.grace + SKEW:
                self.store.delete(key)
        return done

    def second_look(self) -> set[str] | None:
        """Return the last parts of the keys that are needed after all, None when nothing may be deleted."""
        now, needed = read_references(self.repository), dict[str, int]()
        if self.is_copying(now):
            return None
        for key, (marker, data) in now.markers.items():
            if self.first.markers.get(key, (marker, b""))[1] != data:
                self._add_stored(now, key, needed)
                for ref in (ObjectKey(key.split("/")[1], one) for one in marker.uses):
                    needed |= self.ending.get(ref) or {}
                    self._add(ref, needed)
        for ref in now.known - (self.first.known - set(self.ending)):
            self._add(ref, needed)
        labelled = {
            key.rpartition("/")[2]
            for key in now.labels
            if ObjectKey(key.split("/")[1], key.split("/")[3]) in now.known - self.first.known
        }
        return set(needed) | labelled | {f"{ref.id}.sig" for ref in now.known}

    def remove(self, key: str) -> None:
        """Delete what one key names, also what a write that was interrupted has left."""
        if isinstance(self.store, LeavesTemporaries) and "/.tmp-" in f"/{key}":
            self.store.remove_temporary(key)
        else:
            self.store.delete(key)

    def _beat(self) -> None:
        if self.marker is not None and self.marker.heartbeat_is_due():
            self.marker.update()


def unexplained(repository: Repository, site: str, ids: set[str]) -> set[str]:
    """Return those of the ids that are nowhere: neither listed, nor in the trash, nor on their way from one to the other, nor noted as gone."""
    for _ in range(ATTEMPTS):
        if not ids:
            break
        ids = ids - set(repository.listing(site).backups)
        trash = repository.trash(site)
        ids = ids - set(trash.backups) - set(trash.gone) - set(repository.listing(site).backups)
    return ids


def unaccounted(site: str, missing: Iterable[str], who: str) -> Damage:
    """Return the error for backups that have disappeared."""
    ids = sorted(missing)
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return Damage(
        f"backups of the site {site} that {who} are neither listed nor in the trash: {', '.join(ids[:NAMED])}{more}; nothing is removed",
        "check that the repository is there as a whole; if somebody removed them by hand, `prune --accept-gone ID` notes that",
    )
