"""What a verification finds: damage of the repository, and defects that the source already had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from ...errors import Damage, VaultError
from ...repository.labels import Level, Scope

# How many parts of a module's name are the name of its package, where it is more than one.
NAMESPACES: Final[Mapping[str, int]] = {
    "Products": 2,
    "collective": 2,
    "five": 2,
    "plone": 2,
    "plonetheme": 2,
    "repoze": 2,
    "z3c": 2,
    "zc": 2,
    "zope": 2,
}


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One problem: in which database, in what, and why; with the object, OID or TID where that is known."""

    database: str | None
    what: str
    why: str
    object: str | None = None
    oid: str | None = None
    tid: str | None = None


class Unproven(msgspec.Struct, frozen=True):
    """What could not be checked on this machine: of which database (None: of all), why, and what to do."""

    database: str | None
    why: str
    hint: str


class VerifyReport(msgspec.Struct, kw_only=True):
    """The outcome of a verification.

    ``damage`` is content that the repository no longer has as it was stored. ``source`` are defects that the
    source already had when it was backed up: they were stored as they were, and are no damage. ``unproven``
    is what could not be checked on this machine, each with what it lacks and how to get it.
    ``missing_packages`` is how many objects need each package that is not installed here.
    """

    id: str
    level: Level
    checked: dict[str, int] = {}
    damage: list[Finding] = []
    source: list[Finding] = []
    unproven: list[Unproven] = []
    missing_packages: dict[str, int] = {}

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

    def count_missing(self, modules: Mapping[str, int]) -> None:
        """Add to the numbers of objects that need a missing package; a module is shown by its package."""
        for module, number in modules.items():
            package = package_of(module)
            self.missing_packages[package] = self.missing_packages.get(package, 0) + number

    def add_damage(self, database: str | None, what: str, why: VaultError | str, **where: str) -> None:
        """Add damage; ``where`` names the object, OID or TID."""
        if isinstance(why, Damage) and why.object_name:
            where["object"] = why.object_name
        text = why if isinstance(why, str) else why.message
        self.damage.append(Finding(database, what, text, **where))

    def add_unproven(self, database: str | None, error: VaultError) -> None:
        """Add what could not be checked on this machine."""
        self.unproven.append(Unproven(database, error.message, error.hint))

    def add_source_defect(self, database: str, what: str, why: str, **where: str) -> None:
        """Add a defect of the source; ``where`` names the object, OID or TID."""
        self.source.append(Finding(database, what, why, **where))


def package_of(module: str) -> str:
    """Return the package that provides a module: of a namespace such as ``plone.app``, the longer name."""
    parts = module.split(".")
    depth = NAMESPACES.get(parts[0], 1)
    if parts[:2] == ["plone", "app"]:
        depth = 3
    return ".".join(parts[:depth]) or "others"


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
