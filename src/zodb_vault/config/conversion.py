"""How a storage section is rewritten when another program opens the storage to copy it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Conversion(NamedTuple):
    """What to change in a storage section before another program opens it.

    ``packages`` are the packages to ``%import`` for its type and for those of the sections in it, None where
    ZODB knows the type; a type that is missing here needs whatever the configuration of the site imports.
    ``read_only``: it takes ``read-only true``. ``dropped`` keys are left out for zodb-convert: they belong to
    the process of the site, or would empty the storage. ``not_copied`` are left out in addition when
    zodb-vault opens the storage itself, and ``added`` is written then.
    """

    packages: Mapping[str, str | None] = {}
    read_only: bool = False
    dropped: frozenset[str] = frozenset()
    not_copied: frozenset[str] = frozenset()
    added: tuple[tuple[str, str], ...] = ()
