"""Copy backups as they are stored: every object and every document keeps its name and its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ...repository.objects import Objects, meta_key, object_key
from ...repository.references import Reference, part_of, read_list, references
from .transfer import ExistingObjects, Job, ObjectCopier, Transferred


class VerbatimCopy:
    """Copies backups as they are stored."""

    def __init__(self, documents: Objects, copier: ObjectCopier, existing: ExistingObjects) -> None:
        self._documents, self._copier, self._existing = documents, copier, existing
        # Lists that the target has with everything that they name. They are shared by many backups, and not
        # read again.
        self._complete_lists: set[str] = set()

    def start(self, document: dict[str, Any]) -> VerbatimBackup:
        """Return the copy of one backup, given its manifest; raise Damage when a list cannot be read."""
        return VerbatimBackup(document, self._documents, self._copier, self._existing, self._complete_lists)


class VerbatimBackup:
    """The copy of one backup."""

    def __init__(
        self,
        document: dict[str, Any],
        documents: Objects,
        copier: ObjectCopier,
        existing: ExistingObjects,
        complete_lists: set[str],
    ) -> None:
        self._document, self._documents = document, documents
        self._copier, self._existing = copier, existing
        self._complete_lists = complete_lists
        missing = self._missing(document, set())
        self.size = sum(int(one.attributes.get("stored", 0)) for one in missing if one.kind != "list")

    def jobs(self) -> Iterator[Job]:
        """Yield a job for each object that the target does not have."""
        for one in self._missing(self._document, set()):
            codec = part_of(one).codec if one.kind == "content" else None
            key = (object_key if one.kind == "content" else meta_key)(one.name)
            yield partial(self._copier.copy, key, one.name, codec)

    def add(self, one: Transferred) -> None:
        """Note that an object was copied."""
        self._existing.add(one.name, one.stored)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, which does not change."""
        self._complete_lists |= {one.name for one in references(self._document) if one.kind == "list"}
        return self._document

    def _missing(self, document: Any, visited: set[str]) -> Iterator[Reference]:
        """Yield what the target does not have, each name once.

        A list that the target has is read nevertheless: an interrupted copy may have stored it before what it
        names.
        """
        for one in references(document):
            if one.name in visited or one.name in self._complete_lists:
                continue
            visited.add(one.name)
            if one.name not in self._existing:
                yield one
            if one.kind == "list":
                yield from self._missing(read_list(one.name, self._documents), visited)
