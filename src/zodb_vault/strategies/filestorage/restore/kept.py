"""Where a restore keeps the Data.fs that it replaces, and the files beside it that only the old state needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .paths import DataFsPaths

LEFTOVERS: Final = (".old", ".pack", ".tmp")


def replaced_name(data_fs: Path, restore: str) -> str:
    """Return the name under which a restore keeps the file that it replaces."""
    return f"{data_fs.name}.replaced-{restore}"


def leftovers(place: DataFsPaths, kept: str) -> list[Path]:
    """Return what packs and torn tails of the old state left beside it, or was renamed so with the suffix ``kept``.

    A later start must not take it for its own. FileStorage writes it beside the configured name.
    """
    found = set()
    for base in {place.data_fs, place.locked.parent.resolve() / place.locked.name}:
        for entry in base.parent.iterdir():
            suffix = entry.name.removeprefix(base.name).removesuffix(kept)
            torn = suffix.startswith(".tr") and suffix[3:].isdigit()
            if (
                entry.name.startswith(base.name)
                and entry.name.endswith(kept)
                and (suffix in LEFTOVERS or torn)
            ):
                found.add(entry)
    return sorted(found)
