"""Which objects and documents a backup needs, as its manifest and its lists name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ...errors import Damage
from ...model import chain
from ...model.chain import Chain, E, deltas_of, dump_of, file_name, log_of, packs_of, segments_of
from ...model.manifest import DatabaseEntry, DocumentRef, Dump, Manifest, Part
from ...repository.objects import Objects, meta_key, object_key
from .report import VerifyReport


class NeededObject(NamedTuple):
    """An object or document of a backup; ``size`` is None where the manifest does not say it."""

    key: str
    name: str
    size: int | None
    database: str


def needed_objects(manifest: Manifest, objects: Objects, report: VerifyReport) -> Iterator[NeededObject]:
    """Yield everything that a backup needs; lists that cannot be read and unsafe file names are damage.

    What several databases or segments share is yielded several times.
    """
    for entry in manifest.databases:
        for one in _needed_by_database(entry, objects, report):
            match one:
                case Part():
                    _check_name(entry, one, report)
                    yield NeededObject(object_key(one.object), one.object, one.stored, entry.name)
                case DocumentRef():
                    yield NeededObject(meta_key(one.meta), one.meta, one.stored, entry.name)
                case str():
                    yield NeededObject(meta_key(one), one, None, entry.name)


def _check_name(entry: DatabaseEntry, part: Part, report: VerifyReport) -> None:
    try:
        file_name(part)
    except Damage as error:
        report.add_damage(entry.name, "name", error, object=part.object)


def _needed_by_database(
    entry: DatabaseEntry, objects: Objects, report: VerifyReport
) -> Iterator[Part | DocumentRef | str]:
    """Yield parts, references to documents, and the names of lists."""
    for component in (entry.storage, entry.blobs):
        for ref in component.lists if component else []:
            yield ref.list
    if entry.blobs and entry.blobs.missing.list:
        yield entry.blobs.missing.list
    if entry.blobs and entry.blobs.keys:
        yield entry.blobs.keys
    if entry.dump:
        yield from _needed_by_dump(entry, entry.dump, objects, report)
    for segment in _entries(entry, segments_of(entry, objects), objects, report):
        yield from segment.parts
        yield from segment.log
        yield from [segment.tids] if segment.tids else []
    for pack in _entries(entry, packs_of(entry, objects), objects, report):
        yield from pack.parts
        yield pack.index


def _needed_by_dump(
    entry: DatabaseEntry, dump: Dump, objects: Objects, report: VerifyReport
) -> Iterator[Part | DocumentRef | str]:
    yield from (ref.list for ref in (*deltas_of(entry, objects).lists, *dump.log_lists))
    yield from _entries(entry, dump_of(entry, objects), objects, report)
    yield from dump.documents
    yield from dump.files
    for delta in _entries(entry, deltas_of(entry, objects), objects, report):
        yield from delta.parts
    for block in _entries(entry, log_of(entry, objects), objects, report):
        yield from block.log
        yield block.tids


def _entries(entry: DatabaseEntry, entries: Chain[E], objects: Objects, report: VerifyReport) -> Iterator[E]:
    """Yield the entries of a chain as far as its lists can be read."""
    for ref in entries.lists:
        try:
            yield from chain.load_list(entries.kind, objects, ref)
        except Damage as error:
            report.add_damage(entry.name, "list", error, object=ref.list)
    yield from entries.tail
