"""Verify a backup at one of four levels, each named for what it proves: ``objects``, ``bytes``, ``records``, ``restore``."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

import msgspec

from ...blobs.packs import Member, member_key, pack_members, read_members
from ...blobs.refs import BlobSet
from ...errors import BackupMissing, Damage, KeyMissing, TargetRefused, UsageError, VaultError
from ...model import chain
from ...model.blob import MissingRows
from ...model.chain import Chain, E, deltas_of, dump_of, log_of, packs_of, segments_of
from ...model.manifest import DatabaseEntry, DocumentRef, Dump, Pack, Part
from ...repository.labels import Level
from ...repository.objects import Objects, meta_key, object_key
from ...repository.repository import INFO_KEY, RECOVERY_KEY, Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ...strategies.registry import backend_of_entry
from ..catalog import Backup
from ..identity import require_key
from .load import Loaded, StorageToLoad, load_configured, load_everything


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it should be: of which database, what it is, which object, OID or TID, and why."""

    database: str | None
    what: str
    why: str
    object: str | None = None
    oid: str | None = None
    tid: str | None = None


class Report(msgspec.Struct, kw_only=True):
    """The outcome: ``damage`` is ours to mend by another backup, ``source`` was like that when it was backed up."""

    id: str
    level: Level
    checked: dict[str, int] = {}
    damage: list[Finding] = []
    source: list[Finding] = []

    @property
    def ok(self) -> bool:
        """Tell whether there is no damage."""
        return not self.damage

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was checked."""
        self.checked[what] = self.checked.get(what, 0) + number


class _CheckReport:
    """Turns what the check of one database finds into findings of the report."""

    def __init__(self, report: Report, database: str) -> None:
        self._report, self._database = report, database
        self.count = report.count

    def damage(self, what: str, why: str, **where: str) -> None:
        self._report.damage.append(Finding(self._database, what, why, **where))

    def source(self, what: str, why: str, **where: str) -> None:
        finding = Finding(self._database, what, why, **where)
        if finding not in self._report.source[-1:]:
            self._report.source.append(finding)


class VerifyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to verify; ``sample`` is the share of objects whose bytes are read, another one every day.

    The level restore needs room: ``scratch`` is the directory for it, ``scratch_dsn`` the PostgreSQL that dumps of one are restored into.
    """

    level: Level = "records"
    sample: float = 1.0
    scratch: Path | None = None
    scratch_dsn: str | None = None
    workers: int = 2


def verify(
    repository: Repository, site: str, backup: Backup, options: VerifyOptions, progress: Progress
) -> Report:
    """Verify one backup and note the outcome as a label; raise StoreError when the store fails, never for damage."""
    if options.sample < 1 and options.level != "bytes":
        raise UsageError("--sample goes with --level bytes", "the other levels look at everything")
    report = Report(id=backup.manifest.id, level=options.level, checked={}, damage=[], source=[])
    _Verification(repository, site, backup, options, progress, report).run()
    value = {"level": report.level, "ok": report.ok, "at": clock.iso(clock.now())}
    try:
        repository.add_label(site, report.id, "verified", value, repository.listing(site))
    except VaultError as error:
        progress.note(f"the outcome could not be noted in the repository: {error.message}")
    return report


class _Verification:
    def __init__(
        self,
        repository: Repository,
        site: str,
        backup: Backup,
        options: VerifyOptions,
        progress: Progress,
        report: Report,
    ) -> None:
        self.repository, self.site, self.backup = repository, site, backup
        self.options, self.progress, self.report = options, progress, report
        self.objects: Objects = repository.objects("")

    def run(self) -> None:
        level = self.options.level
        self._signature()
        if level == "objects":
            self._listed()
        elif level == "bytes":
            self._own_files()
            self._bytes()
        else:
            with contextlib.suppress(Damage):  # which is told below
                require_key(self.backup.manifest.databases, self.objects)
            self._own_files()
            for entry in self.backup.manifest.databases:
                self._records(entry)
            if level == "restore" and self.report.ok:
                self._restore()

    def _signature(self) -> None:
        try:
            self.repository.require_signature(self.backup.manifest)
        except Damage as error:
            self._damage(None, "signature", error)

    def _damage(self, database: str | None, what: str, error: VaultError | str, **where: str) -> None:
        self.report.damage.append(
            Finding(database, what, error if isinstance(error, str) else error.message, **where)
        )

    # every object and document that the backup needs

    def _needed(self) -> Iterator[tuple[str, str, int, str]]:
        """Yield (key, name, stored size or -1, database) of everything; a list that cannot be read is damage itself."""
        for entry in self.backup.manifest.databases:
            for one in self._of_database(entry):
                match one:
                    case Part():
                        yield object_key(one.object), one.object, one.stored, entry.name
                    case DocumentRef():
                        yield meta_key(one.meta), one.meta, one.stored, entry.name
                    case str():
                        yield meta_key(one), one, -1, entry.name

    def _of_database(self, entry: DatabaseEntry) -> Iterator[Part | DocumentRef | str]:
        for half in (entry.storage, entry.blobs):
            for ref in half.lists if half else []:
                yield ref.list
        if entry.blobs and entry.blobs.missing.list:
            yield entry.blobs.missing.list
        if entry.blobs and entry.blobs.keys:
            yield entry.blobs.keys
        if entry.dump:
            yield from self._of_dump(entry, entry.dump)
        for segment in self._entries(entry, segments_of(entry, self.objects)):
            yield from segment.parts
            yield from segment.log
            yield from [segment.tids] if segment.tids else []
        for pack in self._entries(entry, packs_of(entry, self.objects)):
            yield from pack.parts
            yield pack.index

    def _of_dump(self, entry: DatabaseEntry, dump: Dump) -> Iterator[Part | DocumentRef | str]:
        yield from (ref.list for ref in (*deltas_of(entry, self.objects).lists, *dump.log_lists))
        yield from self._entries(entry, dump_of(entry, self.objects))
        yield from dump.documents
        yield from dump.files
        for delta in self._entries(entry, deltas_of(entry, self.objects)):
            yield from delta.parts
        for block in self._entries(entry, log_of(entry, self.objects)):
            yield from block.log
            yield block.tids

    def _entries(self, entry: DatabaseEntry, entries: Chain[E]) -> Iterator[E]:
        for ref in entries.lists:
            try:
                yield from chain.load_list(entries.kind, self.objects, ref)
            except Damage as error:
                self._damage(entry.name, "list", error, object=ref.list)
        yield from entries.tail

    def _listed(self) -> None:
        store = self.repository.store
        sizes = {item.key: item.size for prefix in ("objects/", "meta/") for item in store.list(prefix)}
        for key_, name, size, database in self._needed():
            self.report.count("objects")
            if key_ not in sizes:
                self._damage(database, "object", f"{key_} is missing", object=name)
            elif size not in (-1, sizes[key_]):
                self._damage(
                    database, "object", f"{key_} has {sizes[key_]} bytes, {size} were stored", object=name
                )

    def _bytes(self) -> None:
        needed = {name: (key_, database, size) for key_, name, size, database in self._needed()}
        chosen = [(name, *rest) for name, rest in needed.items() if self._in_sample(name)]
        self.progress.begin("bytes", sum(max(0, size) for _name, _key, _database, size in chosen))
        with Workers(self.options.workers, _nothing) as workers:
            for count in workers.in_order(partial(self._check, *one) for one in chosen):
                self.report.count("objects")
                self.report.count("bytes", count)

    def _check(self, name: str, key_: str, database: str, _size: int) -> int:
        try:
            size = self.objects.check(key_, name)
        except Damage as error:
            self._damage(database, "object", error, object=name)
            return 0
        self.progress.advance(size)
        return size

    def _in_sample(self, name: str) -> bool:
        slots = max(1, round(1 / self.options.sample))
        return int(name[:8], 16) % slots == date.toordinal(clock.now().date()) % slots

    def _own_files(self) -> None:
        """Check what describes the backup: repository.json, RECOVERY.md, manifest and labels."""
        checks: list[tuple[str, Callable[[], object]]] = [
            (INFO_KEY, lambda: Repository.open(self.repository.store)),
            (RECOVERY_KEY, self._recovery),
            ("manifest", lambda: self.repository.manifest_bytes(self.site, self.backup.manifest.id)),
        ]
        labels = self.repository.listing(self.site).labels.get(self.backup.manifest.id, [])
        checks += [(label, partial(self.repository.label, label)) for label in labels]
        for what, check in checks:
            self.report.count("files")
            try:
                check()
            except BackupMissing:
                raise  # deleted meanwhile, which is no damage
            except VaultError as error:
                self._damage(None, what, error)

    def _recovery(self) -> None:
        try:
            data = self.repository.store.get(RECOVERY_KEY)
        except KeyMissing:
            raise Damage(f"{RECOVERY_KEY} is missing") from None
        if hashlib.sha256(data).hexdigest() not in (
            self.repository.info.recovery,
            self.backup.manifest.recovery,
        ):
            raise Damage(f"{RECOVERY_KEY} is not what was written")

    # records: everything decodes and fits together

    def _records(self, entry: DatabaseEntry) -> None:
        refs = BlobSet()
        try:
            verdict = _CheckReport(self.report, entry.name)
            backend_of_entry(entry).check(
                entry, self.objects, refs, verdict, self.progress, self.options.workers
            )
            self._packs(entry, refs)
        except Damage as error:
            self._damage(entry.name, "content", error)
        finally:
            refs.close()

    def _packs(self, entry: DatabaseEntry, refs: BlobSet) -> None:
        if entry.blobs is None:
            return
        self.progress.begin("blobs", entry.blobs.size)
        count = 0
        with Workers(self.options.workers, _nothing) as workers:
            packs = list(packs_of(entry, self.objects))
            for pack, good in zip(
                packs, workers.in_order(partial(self._pack, entry.name, pack) for pack in packs), strict=True
            ):
                refs.have(good)
                count += pack.count
        self.report.count("blobs", count)
        if count != entry.blobs.count:
            self._damage(entry.name, "blobs", f"the packs list {count} blobs, not {entry.blobs.count}")
        self._missing(entry, refs)

    def _pack(self, database: str, pack: Pack) -> list[bytes]:
        good: list[bytes] = []
        try:
            rows = pack_members(self.objects, pack)
            for member, chunks in read_members(rows, self.objects.read(pack.parts), lambda _member: True):
                if self._whole(member, chunks):
                    good.append(member_key(member))
                else:
                    self._damage(
                        database,
                        "blob",
                        "its bytes in the pack are not those that were stored",
                        oid=member.oid,
                        tid=member.tid,
                    )
        except Damage as error:
            self._damage(database, "pack", error, object=pack.index.meta)
        return good

    def _whole(self, member: Member, chunks: Iterator[memoryview]) -> bool:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            self.progress.advance(len(chunk))
        return (size, digest.hexdigest()) == (member.size, member.sha256)

    def _missing(self, entry: DatabaseEntry, refs: BlobSet) -> None:
        listed = entry.blobs.missing.list if entry.blobs else None
        rows = msgspec.json.decode(self.objects.document(listed), type=MissingRows).rows if listed else []
        known = {(oid, tid) for oid, tid, _path in rows}
        self.report.source += [
            Finding(entry.name, "blob", f"was missing at {path}", oid=oid, tid=tid) for oid, tid, path in rows
        ]
        if entry.storage is None:
            return
        for ref in refs.lacking():
            oid, tid = "0x" + ref.oid.hex(), "0x" + ref.tid.hex()
            if ref.sure and (oid, tid) not in known:
                self._damage(
                    entry.name, "blob", "the storage refers to it and no pack has it", oid=oid, tid=tid
                )

    # restore: into a scratch directory, opened with the real storage

    def _restore(self) -> None:
        from ..restore import run as restore

        dumps = [entry for entry in self.backup.manifest.databases if entry.dump]
        for entry in dumps:
            self._restore_dump(entry)
        if len(dumps) == len(self.backup.manifest.databases):
            return
        with tempfile.TemporaryDirectory(prefix="zodb-vault-verify-", dir=self.options.scratch) as scratch:
            wanted = restore.RestoreOptions(
                backup=self.backup.manifest.id,
                output=Path(scratch) / "site",
                allow_incomplete=True,
                workers=self.options.workers,
                databases=tuple(one.name for one in self.backup.manifest.databases if one not in dumps)
                if dumps
                else (),
            )
            try:
                done = restore.execute(
                    self.repository,
                    restore.plan(self.repository, self.site, None, wanted),
                    self.site,
                    self.progress,
                )
            except Damage as error:
                self._damage(None, "restore", error)
                return
            for step in done.plan.steps:
                self._load(step.cut.entry, step.place.data_fs, step.place.blob_dir)

    def _restore_dump(self, entry: DatabaseEntry) -> None:
        """Restore a dump into a scratch database, and open it with the real storage."""
        from ...strategies.blobs.cache import fill_cache
        from ..restore.dumps import DumpOptions, Dumps, plan_dump
        from ..restore.targets import DatabaseCut

        # blobs of a bucket go into a cache: there is no other bucket, and nobody may write to that of the site
        how = DumpOptions(
            workers=self.options.workers, only="storage" if entry.blob_mode == "database+s3" else None
        )
        with tempfile.TemporaryDirectory(prefix="zodb-vault-verify-", dir=self.options.scratch) as scratch:
            directory = Path(scratch) / "site"
            directory.mkdir()
            backend = backend_of_entry(entry)
            with backend.scratch(entry, directory, self.options.scratch_dsn, self.progress.note) as ours:
                try:
                    step = plan_dump(
                        DatabaseCut(entry, 0, entry.last_tid, 0), ours.database, None, self.objects, how
                    )
                    Dumps(self.objects, [step], how, self.backup.manifest.id, self.progress, _nothing).run()
                    if ours.cache:
                        fill_cache(entry, self.objects, ours.cache)
                except (Damage, TargetRefused) as error:
                    self._damage(entry.name, "restore", error)
                    return
                described = StorageToLoad(entry.backend, ours.configuration, ours.settings)
                loaded = self._loaded(entry, lambda: load_configured(described))
        found = loaded.objects + loaded.undone
        if ours.objects not in (None, found) and not loaded.failure:
            self._damage(
                entry.name,
                "storage",
                f"{found} objects were found by the storage, the snapshot had {ours.objects}",
            )

    def _load(self, entry: DatabaseEntry, data_fs: Path, blob_dir: Path | None) -> None:
        self._loaded(entry, lambda: load_everything(data_fs, blob_dir))

    def _loaded(self, entry: DatabaseEntry, load: Callable[[], Loaded]) -> Loaded:
        self.progress.begin("objects", None)
        known = {(finding.oid, finding.tid) for finding in self.report.source if finding.what == "blob"}
        loaded = load()
        self.report.count("objects loaded", loaded.objects)
        self.report.count("objects of missing classes", loaded.broken)
        if loaded.opaque:
            self.report.count("objects of unknown encoding", loaded.opaque)
        self.report.count("blobs opened", loaded.blobs)
        self.report.source += [Finding(entry.name, "object", why, oid=oid) for oid, why in loaded.undecodable]
        for oid, tid, why in loaded.unreadable_blobs:
            if (oid, tid) not in known:
                self._damage(entry.name, "blob", why, oid=oid, tid=tid)
        if loaded.failure:
            self._damage(entry.name, "storage", loaded.failure)
        return loaded


def _nothing() -> None:
    pass
