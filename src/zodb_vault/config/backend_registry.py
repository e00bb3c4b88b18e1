"""Find the backend of a storage section, or of a database in a backup.

Backends are registered as entry points of the group ``zodb_vault.backends``. The name of an entry point is
the type of a section in lower case, its object is the backend. A backend whose own name is not the type of
its section is registered under both names. Our own backends are registered in the same way, but also listed
in a table, which is read first: reading all entry points of an environment takes tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Final, NamedTuple

from ..errors import ConfigurationError

ENTRY_POINTS: Final = "zodb_vault.backends"
# The section type of ``--data-fs``, and of the mirrors of the portable method.
DATA_FS: Final = "filestorage"
OURS: Final[Mapping[str, str]] = {
    "filestorage": "zodb_vault.strategies.filestorage.backend:BACKEND",
    "zeo": "zodb_vault.strategies.zeoclient.backend:BACKEND",
    "zeoclient": "zodb_vault.strategies.zeoclient.backend:BACKEND",
    "clientstorage": "zodb_vault.strategies.zeoclient.backend:BACKEND",
    "relstorage": "zodb_vault.strategies.relstorage.backend:BACKEND",
    "pgjsonb": "zodb_vault.strategies.pgjsonb.backend:BACKEND",
}


class Registered(NamedTuple):
    """The object of an entry point; ``source`` is the ``module:attribute`` that it was imported from."""

    source: str
    backend: object
    ours: bool


def find_backend(name: str) -> Registered | None:
    """Return the backend that is registered under a section type or its own name, None without one.

    Raise ConfigurationError when it cannot be imported.
    """
    if source := OURS.get(name):
        module, _, attribute = source.partition(":")
        return Registered(source, getattr(import_module(module), attribute), ours=True)
    return find_other(name)


@cache
def find_other(name: str) -> Registered | None:
    """Return the backend that another package registers under a name, None without one."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            return Registered(entry.value, entry.load(), ours=False)
        except Exception as error:  # noqa: BLE001  the import of a foreign module may raise anything
            raise ConfigurationError(
                [f"{entry.value}, registered for <{name}>, cannot be imported ({type(error).__name__})"]
            ) from None
    return None
