"""Copy a backup so that its content is encoded anew: for other recipients, or for nobody. Every object and every list gets another name then.

What an object is called in the target is learned from the backups that both repositories have, read side by side, and from what an interrupted
copy has noted: so nothing is read and stored twice, although the same content is encrypted to other bytes each time. What is learned takes
some 200 bytes for each object; lists are read one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any, Final

from ...errors import Damage, KeyNeeded
from ...model import canonical
from ...model.manifest import Codec, ListRef, Part
from ...repository.encryption import WHERE
from ...repository.objects import Objects, meta_key, object_key
from ...repository.references import Reference, part_of, read_list, reference, references, rewrite_references
from ...repository.repository import Repository
from .transfer import Carried, ExistingObjects, Job, ObjectCopier

NOTED: Final = 1024


class Names:
    """What objects and lists of the source are called in the target, and how content is encoded there."""

    def __init__(self) -> None:
        self._found: dict[bytes, bytes] = {}

    def __contains__(self, name: str) -> bool:
        return bytes.fromhex(name) in self._found

    def learn(self, name: str, new: str, codec: Codec | None = None) -> None:
        """Note what something is called."""
        self._found[bytes.fromhex(name)] = bytes.fromhex(new) + (b"+" if codec == "zstd+age" else b"")

    def of(self, name: str) -> tuple[str, Codec]:
        """Return what something is called, and how it is encoded."""
        found = self._found[bytes.fromhex(name)]
        return found[:32].hex(), "zstd+age" if found[32:] else "zstd"


class Notes:
    """What has been stored for a backup that does not exist yet, as lists that a marker names: the next copy goes on from them."""

    def __init__(self, documents: Objects) -> None:
        self._documents = documents
        self._full: list[ListRef] = []
        self._rows: list[dict[str, Any]] = []
        self._last: list[ListRef] = []
        self._fresh = False

    def adopt(self, refs: Iterable[ListRef]) -> None:
        """Keep what an interrupted copy has noted."""
        self._full += refs

    def add(self, one: Carried) -> None:
        """Note one object."""
        self._rows.append({"object": one.name, "stored": one.stored, "codec": one.codec, "of": one.of})
        self._fresh = True

    def stored(self) -> list[ListRef]:
        """Store what is new, and return references to everything."""
        if self._fresh:
            meta = self._documents.put_document(canonical.encode({"entries": self._rows}))
            stored = meta.stored + sum(row["stored"] for row in self._rows)
            self._last, self._fresh = (
                [ListRef(list=meta.meta, count=len(self._rows), stored=stored, raw=0)],
                False,
            )
        refs = [*self._full, *self._last]
        if len(self._rows) >= NOTED:
            self._full, self._rows, self._last = refs, [], []
        return refs

    def forget(self) -> None:
        """Forget everything: it belongs to a backup now."""
        self._full, self._rows, self._last, self._fresh = [], [], [], False


class Reencryptor:
    """Knows what everything is called in the target, and what is still to be brought there."""

    def __init__(
        self, source: Repository, target: Repository, carrier: ObjectCopier, stock: ExistingObjects, run: str
    ) -> None:
        self._carrier, self._stock = carrier, stock
        self._keys, self._recipients = source.keys, target.info.recipients
        self._from, self._to = source.objects(""), target.objects(run)
        self._names = Names()
        self._totals: dict[str, int] = {}
        self._claimed: set[bytes] = set()
        # whether content that is lacking was encrypted for exactly the recipients of the target, so that it can stay as it is
        self._fits = False

    # what is known

    def adopt(self, refs: Iterable[ListRef]) -> list[ListRef]:
        """Learn from what an interrupted copy has noted, and return what could be read: what is lost is stored again."""
        found = []
        for ref in refs:
            with contextlib.suppress(Damage):
                for row in read_list(ref.list, self._to)["entries"]:
                    if row["object"] in self._stock:
                        self._names.learn(row["of"], row["object"], row["codec"])
                found.append(ref)
        return found

    def learn(self, ours: Any, theirs: Any) -> bool:
        """Learn from a document that both repositories have; tell whether all that it names is there. Raise ValueError if it is not the same one."""
        whole = True
        for one, other in zip_longest(references(ours), references(theirs)):
            if not (one and other and _alike(one, other)):
                raise ValueError
            whole = self._learn(one, other) and whole
        return whole

    def _learn(self, one: Reference, other: Reference) -> bool:
        if other.name not in self._stock:
            return False
        if one.kind == "content":
            self._names.learn(one.name, other.name, other.attributes.get("codec", "zstd"))
        elif one.kind == "list" and one.name not in self._names:
            if not self.learn(read_list(one.name, self._from), read_list(other.name, self._to)):
                return False
            self._names.learn(one.name, other.name)
            self._totals[one.name] = other.attributes.get("stored", 0)
        return True

    # what is to be done

    def begin(self, document: Any, *, fits: bool) -> int:
        """Begin with a backup and return the bytes that it needs; raise KeyNeeded when they cannot be decrypted here.

        ``fits``: what is lacking was encrypted for the recipients of the target.
        """
        self._claimed, self._fits, total = set(), fits, 0
        ends: list[Part] = []
        for found in self._lacking(document):
            total += int(found.attributes.get("stored", 0))
            if (
                found.kind == "content"
                and not self._stays(found)
                and (part := part_of(found)).codec != "zstd"
            ):
                ends = [*ends[:1], part]
        if ends and not self._keys.identities:
            raise KeyNeeded(
                "the content is encrypted for others than the target is, and nothing says where the private key is",
                WHERE,
            )
        for part in ends:
            self._from.require_key(part)
        return total

    def _lacking(self, document: Any) -> Iterator[Reference]:
        for found in references(document):
            if self._known(found):
                continue
            if found.kind == "list":
                yield from self._lacking(read_list(found.name, self._from))
            else:
                yield found

    def jobs(self, document: Any) -> Iterator[Job]:
        """Yield what brings over all that the target lacks of a document; ``took`` has to be told what each has brought."""
        if isinstance(document, list):
            for entry in document:
                yield from self.jobs(entry)
        elif isinstance(document, Mapping):
            for key, value in document.items():
                if found := reference(key, value, document):
                    yield from self._jobs_of(found)
                elif key == "parts" and isinstance(value, list) and all("object" in part for part in value):
                    yield from self._jobs_of_whole(
                        document, [Reference("content", part["object"], part) for part in value]
                    )
                else:
                    yield from self.jobs(value)

    def _jobs_of(self, found: Reference) -> Iterator[Job]:
        if not self._claim(found):
            return
        match found.kind:
            case "list":
                yield from self.jobs(read_list(found.name, self._from))
            case "document":
                yield partial(self._carrier.as_stored, meta_key(found.name), found.name)
            case "content" if self._stays(found):
                yield partial(
                    self._carrier.as_stored, object_key(found.name), found.name, part_of(found).codec
                )
            case "content":
                yield partial(self._carrier.anew, {}, [part_of(found)])

    def _jobs_of_whole(self, whole: Mapping[str, Any], parts: list[Reference]) -> Iterator[Job]:
        """Bring the parts of a segment or pack as one, as what they make together can be checked."""
        if all(self._stays(part) for part in parts):
            for part in parts:
                yield from self._jobs_of(part)
        elif any([self._claim(part) for part in parts]):
            yield partial(self._carrier.anew, whole, [part_of(part) for part in parts])

    def _stays(self, found: Reference) -> bool:
        """Tell whether an object can be stored in the target as it is."""
        return part_of(found).codec == ("zstd+age" if self._recipients else "zstd") and (
            self._fits or not self._recipients
        )

    def _known(self, found: Reference) -> bool:
        return found.name in (self._stock if found.kind == "document" else self._names)

    def _claim(self, found: Reference) -> bool:
        """Tell whether something is to be brought, the first time it is asked for."""
        digest = bytes.fromhex(found.name)
        if self._known(found) or digest in self._claimed:
            return False
        self._claimed.add(digest)
        return True

    def took(self, one: Carried) -> None:
        """Note what was brought over."""
        self._stock.add(one.name, one.stored)
        if one.codec:
            self._names.learn(one.of, one.name, one.codec)

    # what it is called

    def renamed(self, document: Any) -> Any:
        """Return a document as the target has it; all that it names is there then."""
        return rewrite_references(document, self._change)

    def _change(self, found: Reference) -> Mapping[str, Any]:
        match found.kind:
            case "content":
                new, codec = self._names.of(found.name)
                return {"object": new, "stored": self._stock.size(new), "codec": codec}
            case "list":
                if found.name not in self._names:
                    self._store_list(found.name)
                stored = {"stored": self._totals[found.name]} if "stored" in found.attributes else {}
                return {"list": self._names.of(found.name)[0]} | stored
        return {}

    def _store_list(self, name: str) -> None:
        content = read_list(name, self._from)
        changed = self.renamed(content)
        if changed != content:
            meta = self._to.put_document(canonical.encode(changed))
            new, stored = meta.meta, meta.stored
        else:
            (one,) = self._carrier.as_stored(meta_key(name), name)
            new, stored = one.name, one.stored
        self._stock.add(new, stored)
        self._names.learn(name, new)
        self._totals[name] = stored + sum(
            int(found.attributes.get("stored", 0)) for found in references(changed)
        )


def _alike(one: Reference, other: Reference) -> bool:
    """Tell whether two references can be to the same thing."""
    if one.kind != other.kind:
        return False
    if one.kind == "document":
        return one.name == other.name
    return [one.attributes.get(key) for key in ("raw", "to", "count")] == [
        other.attributes.get(key) for key in ("raw", "to", "count")
    ]
