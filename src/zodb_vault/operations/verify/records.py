"""The level ``records``: everything is decoded, and records, blobs and counts fit together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

from ...blobs.packs import Member, member_key, pack_members, read_members
from ...blobs.refs import BlobSet
from ...errors import Damage, NotProven, UnsupportedRepository
from ...model.chain import packs_of
from ...model.manifest import DatabaseEntry, Pack
from ...repository.objects import Objects
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ...strategies.backend_lookup import backend_of_entry
from ...strategies.blobs.missing import missing_rows
from .report import DatabaseReport, VerifyReport


def check_records(
    entry: DatabaseEntry, objects: Objects, report: VerifyReport, progress: Progress, workers: int
) -> None:
    """Check one database: first its storage, which collects the blobs that it references, then the blobs."""
    refs = BlobSet()
    try:
        backend_of_entry(entry).check(
            entry, objects, refs, DatabaseReport(report, entry.name), progress, workers
        )
        if entry.blobs is not None:
            BlobCheck(entry, objects, refs, report, progress).run(workers)
    except Damage as error:
        report.add_damage(entry.name, "content", error)
    except (NotProven, UnsupportedRepository) as error:
        report.add_unproven(entry.name, error)
    finally:
        refs.close()


class BlobCheck:
    """Reads the blob packs of a database, and compares them with the blobs that the storage references."""

    def __init__(
        self,
        entry: DatabaseEntry,
        objects: Objects,
        refs: BlobSet,
        report: VerifyReport,
        progress: Progress,
    ) -> None:
        self._entry, self._objects, self._refs = entry, objects, refs
        self._report, self._progress = report, progress

    def run(self, workers: int) -> None:
        """Check everything; raise Damage when a list cannot be read."""
        blobs = self._entry.blobs
        if blobs is None:
            return
        self._progress.begin("blobs", blobs.size)
        count = 0
        packs = list(packs_of(self._entry, self._objects))
        with Workers(workers, lambda: None) as pool:
            intact_keys = pool.in_order(partial(self._intact_members, pack) for pack in packs)
            for pack, keys in zip(packs, intact_keys, strict=True):
                self._refs.mark_present(keys)
                count += pack.count
        self._report.count("blobs", count)
        if count != blobs.count:
            self._add_damage("blobs", f"the packs list {count} blobs, not {blobs.count}")
        self._compare_with_references()

    def _intact_members(self, pack: Pack) -> list[bytes]:
        """Read a pack and return the keys (OID + TID) of the blobs whose bytes are as they were stored."""
        intact: list[bytes] = []
        try:
            rows = pack_members(self._objects, pack)
            content = self._objects.read(pack.parts)
            for member, chunks in read_members(rows, content, lambda _member: True):
                if self._is_intact(member, chunks):
                    intact.append(member_key(member))
                else:
                    why = "its bytes in the pack are not the bytes that were stored"
                    self._add_damage("blob", why, oid=member.oid, tid=member.tid)
        except Damage as error:
            self._report.add_damage(self._entry.name, "pack", error, object=pack.index.meta)
        return intact

    def _is_intact(self, member: Member, chunks: Iterator[memoryview]) -> bool:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            self._progress.advance(len(chunk))
        return (size, digest.hexdigest()) == (member.size, member.sha256)

    def _compare_with_references(self) -> None:
        """Report the blobs that the source had lost, and, as damage, referenced blobs that are in no pack."""
        rows = missing_rows(self._entry, self._objects)
        for row in rows:
            self._report.add_source_defect(
                self._entry.name, "blob", f"was missing at {row.path}", oid=row.oid, tid=row.tid
            )
        if self._entry.storage is None:
            return
        lost_before = {(row.oid, row.tid) for row in rows}
        for ref in self._refs.missing():
            oid, tid = "0x" + ref.oid.hex(), "0x" + ref.tid.hex()
            # whether a record that cannot be decoded is a blob, only the existence of its file could tell
            if ref.sure and (oid, tid) not in lost_before:
                self._add_damage("blob", "the storage references it and no pack has it", oid=oid, tid=tid)

    def _add_damage(self, what: str, why: str, **where: str) -> None:
        self._report.add_damage(self._entry.name, what, why, **where)
