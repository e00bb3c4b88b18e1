"""The register of damaged objects: what is known to be bad in a repository, until it is read well again.

Damage is bound to the object, not to the backup in which it was found: all backups share their objects. Each
record is a small file below ``sites/SITE/damage/``. A record never changes. It is removed when its objects
have been read well, and replaced by a shorter one when some of them have.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from ..errors import Damage, KeyMissing
from ..model import canonical
from ..model.chain import Documents
from ..model.manifest import DamagedObject, DamageRecord, Proof
from ..runtime import clock
from ..stores.base import Store
from .ids import new_id
from .layout import damage_key
from .references import NAME, read_list

# A lost disk can damage a million objects. A record of this many stays below 3 MB.
OBJECTS_IN_RECORD: Final = 10_000
# A record is written by this program; a text of more characters is cut.
MOST_TEXT: Final = 500


class ObjectObserver:
    """Notes which objects were found damaged, and which of the ``watched`` ones were read well.

    All readers of a repository share one; its methods may be called by several threads. ``recorded``: the
    damaged ones are in the register. ``active``: a command is observing. ``judges_disk``: an object that the
    disk cannot read counts as damaged. That is for a verification, which goes on with the other objects; any
    other command fails, as it may succeed later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.damaged: dict[str, DamagedObject] = {}
        self.watched: Collection[str] = frozenset()
        self.intact: dict[str, Proof] = {}
        self.recorded = self.active = self.judges_disk = False

    def begin(self, watched: Collection[str]) -> None:
        """Forget what was noted, and watch these names from now on."""
        with self._lock:
            self.damaged, self.intact = {}, {}
            self.watched, self.recorded, self.active = frozenset(watched), False, True

    def note_damaged(self, name: str, why: str, proof: Proof = "bytes") -> None:
        """Note that an object is damaged."""
        with self._lock:
            self.damaged.setdefault(name, DamagedObject(name, why[:MOST_TEXT], proof))

    def note_intact(self, name: str, proof: Proof) -> None:
        """Note that an object was read well; only those that are watched are kept."""
        if name in self.watched:
            with self._lock:
                self.intact[name] = "records" if self.intact.get(name) == "records" else proof


class DamageRegister:
    """The damaged objects of a site, as its records name them; ``keys`` are those of the records.

    ``unreadable`` are records that cannot be read, with the reason: they hide what they name, so they count
    as a finding, too.
    """

    def __init__(self, store: Store, site: str, keys: Iterable[str]) -> None:
        self._store, self._site = store, site
        self._records: dict[str, DamageRecord] = {}
        self.unreadable: dict[str, str] = {}
        for key in keys:
            try:
                data = canonical.check_digest(store.get(key), key)
                self._records[key] = msgspec.json.decode(data, type=DamageRecord)
            except KeyMissing:
                continue  # another run has just replaced it
            except (Damage, msgspec.MsgspecError, UnicodeDecodeError) as error:
                self.unreadable[key] = str(error)
        self.objects: dict[str, DamagedObject] = {
            one.name: one for record in self._records.values() for one in record.objects
        }

    def __bool__(self) -> bool:
        return bool(self.objects or self.unreadable)

    def update(self, observer: ObjectObserver, found_by: str) -> None:
        """Record what was found damaged, and clear what was read well; raise StoreError."""
        new = [one for one in observer.damaged.values() if one.name not in self.objects]
        self._record(found_by, new)
        self.clear({one.name for one in self.objects.values() if _is_proven(one, observer.intact)})

    def clear(self, names: Collection[str]) -> None:
        """Remove objects from the register; raise StoreError.

        The shorter record is written before the old one is removed: a run that dies in between leaves an
        object twice in the register, never outside of it.
        """
        for key, record in list(self._records.items()):
            left = [one for one in record.objects if one.name not in names]
            if len(left) < len(record.objects):
                self._record(record.found_by, left)
                self._remove(key)
                del self._records[key]
        for name in names:
            self.objects.pop(name, None)

    def clear_unreadable(self) -> None:
        """Remove the records that cannot be read; raise StoreError.

        For a run that has read every object of the site itself.
        """
        for key in self.unreadable:
            self._remove(key)
        self.unreadable = {}

    def _record(self, found_by: str, objects: list[DamagedObject]) -> None:
        for start in range(0, len(objects), OBJECTS_IN_RECORD):
            some = objects[start : start + OBJECTS_IN_RECORD]
            now = clock.now()
            record = DamageRecord(found_by=found_by, at=clock.iso(now), objects=some)
            key = damage_key(self._site, new_id([], now))
            self._store.put(key, [canonical.with_digest(record)])
            self._records[key] = record
            self.objects |= {one.name: one for one in some}

    def _remove(self, key: str) -> None:
        with contextlib.suppress(KeyMissing):
            self._store.delete(key)


def _is_proven(damaged: DamagedObject, intact: Mapping[str, Proof]) -> bool:
    proof = intact.get(damaged.name)
    return proof == "records" or proof == damaged.proof


class NeededDamage:
    """Finds which of the damaged objects a backup needs, itself or through its lists.

    Lists are shared by many backups, and each is read once.
    """

    def __init__(self, names: Collection[str], documents: Documents) -> None:
        self._names, self._documents = names, documents
        self._of_lists: dict[str, frozenset[str]] = {}

    def of(self, document: Any) -> frozenset[str]:
        """Return the damaged names in a manifest or in a part of one.

        A list that cannot be read counts as damaged itself.
        """
        if isinstance(document, Mapping):
            found: set[str] = set()
            for key, value in document.items():
                if not (isinstance(value, str) and NAME.match(value)):
                    found |= self.of(value)
                    continue
                if value in self._names:
                    found.add(value)
                elif key == "list":
                    found |= self._of_list(value)
            return frozenset(found)
        if isinstance(document, list):
            return frozenset().union(*map(self.of, document))
        return frozenset()

    def _of_list(self, name: str) -> frozenset[str]:
        if name not in self._of_lists:
            try:
                self._of_lists[name] = self.of(read_list(name, self._documents))
            except Damage:
                self._of_lists[name] = frozenset({name})
        return self._of_lists[name]
