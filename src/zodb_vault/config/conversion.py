"""How a storage section is changed before another program opens the storage to copy it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Conversion(NamedTuple):
    """What to change in a storage section before another program opens it.

    ``packages`` are the packages to ``%import`` for its type and the types of the sections in it, None where
    ZODB defines the type. A type without an entry needs all imports of the configuration of the site.
    ``read_only``: the section has the key ``read-only``. The keys in ``dropped`` are left out for
    zodb-convert: they belong to the process of the site, or would empty the storage. When zodb-vault opens
    the storage itself, the keys in ``not_copied`` are left out, too, and ``added`` is written.
    """

    packages: Mapping[str, str | None] = {}
    read_only: bool = False
    dropped: frozenset[str] = frozenset()
    not_copied: frozenset[str] = frozenset()
    added: tuple[tuple[str, str], ...] = ()
