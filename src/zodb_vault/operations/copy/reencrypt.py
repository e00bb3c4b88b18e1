"""Copy backups with other encryption than in the source: for other recipients, or without encryption.

Every object with content gets a new name then, and so does every list, since its name is a digest and it
contains names. What something is called in the target is learned from two sources: backups that both
repositories have, which are read side by side, and the notes of an interrupted copy. Without that everything
would be read and stored again, because encryption gives other bytes each time. It takes about 200 bytes of
memory for each object; lists are read one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

from ...errors import Damage, KeyNeeded
from ...model import canonical
from ...model.manifest import Codec, ListRef, Part
from ...repository.encryption import FEATURE, WHERE
from ...repository.objects import Objects, meta_key, object_key
from ...repository.references import (
    Reference,
    part_of,
    read_list,
    reference,
    references,
    rewrite_references,
)
from ...repository.repository import Repository
from .notes import Notes
from .transfer import ExistingObjects, Job, ObjectCopier, Transferred


class NewNames:
    """The names that objects and lists of the source have in the target, with the codec of content."""

    def __init__(self) -> None:
        self._found: dict[bytes, bytes] = {}

    def __contains__(self, name: str) -> bool:
        return bytes.fromhex(name) in self._found

    def add(self, name: str, new: str, codec: Codec | None = None) -> None:
        """Note the new name of something."""
        self._found[bytes.fromhex(name)] = bytes.fromhex(new) + (b"+" if codec == "zstd+age" else b"")

    def get(self, name: str) -> tuple[str, Codec]:
        """Return the new name of something, and its codec."""
        found = self._found[bytes.fromhex(name)]
        return found[:32].hex(), "zstd+age" if found[32:] else "zstd"


class Reencryption:
    """Copies backups with the encryption of the target, and knows what everything is called there."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        copier: ObjectCopier,
        existing: ExistingObjects,
        notes: Notes,
        run: str,
    ) -> None:
        self.copier, self.existing, self._notes = copier, existing, notes
        self._keys, self._info = source.keys, target.info
        self.source_objects, self.target_objects = source.objects(""), target.objects(run)
        self.names = NewNames()
        self._stored_for_list: dict[str, int] = {}
        self._learned: set[str] = set()

    @property
    def codec(self) -> Codec:
        """Return the codec of content in the target."""
        return "zstd+age" if self._info.recipients else "zstd"

    def adopt(self, refs: Iterable[ListRef]) -> None:
        """Use the objects that an interrupted copy has noted; what a lost list has named is stored again."""
        readable = []
        for ref in refs:
            with contextlib.suppress(Damage):
                for row in read_list(ref.list, self.target_objects)["entries"]:
                    if row["object"] in self.existing:
                        self.names.add(row["of"], row["object"], row["codec"])
                readable.append(ref)
        self._notes.adopt(readable)

    def learn_backup(self, backup: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """Learn names from the manifests of a backup that both repositories have.

        Raise ValueError when they are not the same backup, Damage when a list cannot be read.
        """
        self._learn(ours, theirs)
        self._learned.add(backup)

    def _learn(self, ours: Any, theirs: Any) -> bool:
        """Learn from a document of both repositories; tell whether the target has all that it names."""
        complete = True
        for our, their in zip_longest(references(ours), references(theirs)):
            if not (our and their and _may_be_same(our, their)):
                raise ValueError
            complete = self._learn_reference(our, their) and complete
        return complete

    def _learn_reference(self, our: Reference, their: Reference) -> bool:
        if their.name not in self.existing:
            return False
        if our.kind == "content":
            self.names.add(our.name, their.name, their.attributes.get("codec", "zstd"))
        elif our.kind == "list" and our.name not in self.names:
            our_list = read_list(our.name, self.source_objects)
            their_list = read_list(their.name, self.target_objects)
            if not self._learn(our_list, their_list):
                return False
            self.names.add(our.name, their.name)
            self._stored_for_list[our.name] = their.attributes.get("stored", 0)
        return True

    def start(self, document: dict[str, Any]) -> ReencryptedBackup:
        """Return the copy of one backup, given its manifest.

        Raise KeyNeeded when its content cannot be decrypted here, Damage when a list cannot be read.
        """
        parent = document.get("parent")
        # Content that the target does not have was stored by the run of this backup itself if its parent is
        # known there. If that run has encrypted it for the recipients of the target, it is copied as it is.
        keeps_encryption = set(document.get("recipients", ())) == set(self._info.recipients) and (
            parent is None or parent in self._learned
        )
        transfer = ReencryptedBackup(self, document, keeps_encryption=keeps_encryption)
        self._require_keys(transfer.ends())
        return transfer

    def _require_keys(self, parts: list[Part]) -> None:
        if parts and not self._keys.identities:
            raise KeyNeeded(
                "the target has other recipients than the content, and no private key is configured",
                WHERE,
            )
        for part in parts:
            self.source_objects.require_key(part)

    def committed(self, backup: str) -> None:
        """Note that a backup was committed: its objects need no notes any more."""
        self._learned.add(backup)
        self._notes.clear()

    def add(self, one: Transferred) -> None:
        """Note that an object was copied."""
        self.existing.add(one.name, one.stored)
        if one.codec:
            self.names.add(one.of, one.name, one.codec)
            self._notes.add(one)

    def rewritten(self, document: Any) -> Any:
        """Return a document with the names of the target, and store its lists; all else is there already."""
        return rewrite_references(document, self._new_reference)

    def rewritten_manifest(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a manifest as the target has it, with the recipients and the recovery instructions there."""
        features = [feature for feature in document.get("requires", ()) if feature != FEATURE]
        rewritten: dict[str, Any] = self.rewritten(document)
        return rewritten | {
            "requires": list(dict.fromkeys([*features, *self._info.requires])),
            "recipients": self._info.recipients,
            "recovery": self._info.recovery,
        }

    def _new_reference(self, one: Reference) -> Mapping[str, Any]:
        match one.kind:
            case "content":
                new, codec = self.names.get(one.name)
                return {"object": new, "stored": self.existing.size(new), "codec": codec}
            case "list":
                if one.name not in self.names:
                    self._store_list(one.name)
                changed: dict[str, Any] = {"list": self.names.get(one.name)[0]}
                if "stored" in one.attributes:
                    changed["stored"] = self._stored_for_list[one.name]
                return changed
        return {}

    def _store_list(self, name: str) -> None:
        content = read_list(name, self.source_objects)
        changed = self.rewritten(content)
        if changed != content:
            meta = self.target_objects.put_document(canonical.encode(changed))
            new, stored = meta.meta, meta.stored
        else:
            (one,) = self.copier.copy(meta_key(name), name)
            new, stored = one.name, one.stored
        self.existing.add(new, stored)
        self.names.add(name, new)
        named = sum(int(one.attributes.get("stored", 0)) for one in references(changed))
        self._stored_for_list[name] = stored + named


class ReencryptedBackup:
    """The copy of one backup; with ``keeps_encryption``, content is copied as it is if its codec is right."""

    def __init__(
        self, reencryption: Reencryption, document: dict[str, Any], *, keeps_encryption: bool
    ) -> None:
        self._reencryption, self._document = reencryption, document
        self._keeps_encryption = keeps_encryption or reencryption.codec == "zstd"
        self._copier = reencryption.copier
        self._documents: Objects = reencryption.source_objects
        self._started: set[bytes] = set()
        self._ends: list[Part] = []
        self.size = 0
        for one in self._missing(document):
            self.size += int(one.attributes.get("stored", 0))
            self._note_end(one)

    def _note_end(self, one: Reference) -> None:
        """Remember the first and the last object that has to be decrypted."""
        if one.kind == "content" and not self._stays(one):
            part = part_of(one)
            if part.codec != "zstd":
                self._ends = [*self._ends[:1], part]

    def ends(self) -> list[Part]:
        """Return the first and the last object that has to be decrypted, for a check that the key fits."""
        return self._ends

    def jobs(self) -> Iterator[Job]:
        """Yield jobs that copy everything that the target does not have."""
        yield from self._jobs_of_document(self._document)

    def add(self, one: Transferred) -> None:
        """Note that an object was copied."""
        self._reencryption.add(one)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest with the names of the target."""
        return self._reencryption.rewritten_manifest(self._document)

    def _missing(self, document: Any) -> Iterator[Reference]:
        for one in references(document):
            if self._is_known(one):
                continue
            if one.kind == "list":
                yield from self._missing(read_list(one.name, self._documents))
            else:
                yield one

    def _jobs_of_document(self, document: Any) -> Iterator[Job]:
        if isinstance(document, list):
            for entry in document:
                yield from self._jobs_of_document(entry)
        elif isinstance(document, Mapping):
            for key, value in document.items():
                if found := reference(key, value, document):
                    yield from self._jobs_of_reference(found)
                elif key == "parts" and isinstance(value, list) and all("object" in part for part in value):
                    parts = [Reference("content", part["object"], part) for part in value]
                    yield from self._jobs_of_parts(document, parts)
                else:
                    yield from self._jobs_of_document(value)

    def _jobs_of_reference(self, one: Reference) -> Iterator[Job]:
        if not self._start(one):
            return
        match one.kind:
            case "list":
                yield from self._jobs_of_document(read_list(one.name, self._documents))
            case "document":
                yield partial(self._copier.copy, meta_key(one.name), one.name)
            case "content" if self._stays(one):
                yield partial(self._copier.copy, object_key(one.name), one.name, part_of(one).codec)
            case "content":
                yield partial(self._copier.reencrypt, {}, [part_of(one)])

    def _jobs_of_parts(self, whole: Mapping[str, Any], parts: list[Reference]) -> Iterator[Job]:
        """Re-encrypt the parts of a segment or pack in one job, so that the whole content can be checked."""
        if all(self._stays(part) for part in parts):
            for part in parts:
                yield from self._jobs_of_reference(part)
            return
        started = [self._start(part) for part in parts]
        if any(started):
            yield partial(self._copier.reencrypt, whole, [part_of(part) for part in parts])

    def _stays(self, one: Reference) -> bool:
        """Tell whether content can be copied as it is."""
        return self._keeps_encryption and part_of(one).codec == self._reencryption.codec

    def _is_known(self, one: Reference) -> bool:
        """Tell whether the target has something; a document keeps its name, since it is never encrypted."""
        if one.kind == "document":
            return one.name in self._reencryption.existing
        return one.name in self._reencryption.names

    def _start(self, one: Reference) -> bool:
        """Tell whether something still has to be copied; True only once for each name."""
        digest = bytes.fromhex(one.name)
        if self._is_known(one) or digest in self._started:
            return False
        self._started.add(digest)
        return True


def _may_be_same(our: Reference, their: Reference) -> bool:
    """Tell whether two references can be to the same content."""
    if our.kind != their.kind:
        return False
    if our.kind == "document":
        return our.name == their.name
    keys = ("raw", "to", "count")
    return [our.attributes.get(key) for key in keys] == [their.attributes.get(key) for key in keys]
