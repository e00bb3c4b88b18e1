"""What a verification finds: damage of the repository, and defects that the source already had."""

from __future__ import annotations

import msgspec

from ...errors import ObjectDamage, VaultError
from ...repository.labels import Level, Scope


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One problem: in which database, in what, and why; with the object, OID or TID where that is known."""

    database: str | None
    what: str
    why: str
    object: str | None = None
    oid: str | None = None
    tid: str | None = None


class VerifyReport(msgspec.Struct, kw_only=True):
    """The outcome of a verification.

    ``damage`` is content that the repository no longer has as it was stored. ``source`` are defects that the
    source already had when it was backed up: they were stored as they were, and are no damage.
    """

    id: str
    level: Level
    checked: dict[str, int] = {}
    damage: list[Finding] = []
    source: list[Finding] = []

    @property
    def scope(self) -> Scope:
        """Return what the damage is bound to, unless it is damaged objects."""
        return "content" if any(one.database for one in self.damage) else "metadata"

    @property
    def ok(self) -> bool:
        """Tell whether there is no damage."""
        return not self.damage

    def count(self, what: str, number: int = 1) -> None:
        """Add to the number of things that were checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    def add_damage(self, database: str | None, what: str, why: VaultError | str, **where: str) -> None:
        """Add damage; ``where`` names the object, OID or TID."""
        if isinstance(why, ObjectDamage):
            where["object"] = why.name
        text = why if isinstance(why, str) else why.message
        self.damage.append(Finding(database, what, text, **where))

    def add_source_defect(self, database: str, what: str, why: str, **where: str) -> None:
        """Add a defect of the source; ``where`` names the object, OID or TID."""
        self.source.append(Finding(database, what, why, **where))


class DatabaseReport:
    """The findings of a backend about one database: the ``CheckReport`` that backends write to."""

    def __init__(self, report: VerifyReport, database: str) -> None:
        self._report, self._database = report, database

    def count(self, what: str, number: int = 1) -> None:
        """Add to the number of things that were checked."""
        self._report.count(what, number)

    def damage(self, what: str, why: str, **where: str) -> None:
        """Add damage."""
        self._report.add_damage(self._database, what, why, **where)

    def source(self, what: str, why: str, **where: str) -> None:
        """Add a defect of the source, once if the same one is reported again and again."""
        if Finding(self._database, what, why, **where) not in self._report.source[-1:]:
            self._report.add_source_defect(self._database, what, why, **where)
