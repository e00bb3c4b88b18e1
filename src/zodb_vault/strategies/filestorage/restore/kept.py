"""Where a restore keeps the Data.fs that it replaces, and what only the old state needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .journal import Journal
from .paths import DataFsPaths

# What FileStorage itself leaves beside a Data.fs: the state before a pack, and files of a pack that was
# interrupted.
LEFTOVERS: Final = (".old", ".pack", ".tmp")


def replaced_name(data_fs: Path, restore: str) -> str:
    """Return the name under which a restore keeps the file that it replaces."""
    return f"{data_fs.name}.replaced-{restore}"


def kept_suffix(restore: str) -> str:
    """Return what is added to the names of files that only the old state needs."""
    return f".kept-{restore}"


def leftovers(paths: DataFsPaths, kept: str = "") -> list[Path]:
    """Return the files that FileStorage left beside the old state, or those with the suffix ``kept``.

    FileStorage must not take them for files of the new state. It writes them beside the configured name.
    """
    found = set()
    for base in {paths.data_fs, paths.configured.parent.resolve() / paths.configured.name}:
        for entry in base.parent.iterdir():
            if entry.name.startswith(base.name) and entry.name.endswith(kept):
                suffix = entry.name.removeprefix(base.name).removesuffix(kept)
                if suffix in LEFTOVERS or _is_truncated_end(suffix):
                    found.add(entry)
    return sorted(found)


def _is_truncated_end(suffix: str) -> bool:
    """Tell whether a suffix is that of a damaged end which FileStorage cut off, such as ``.tr0``."""
    return suffix.startswith(".tr") and suffix[3:].isdigit()


def blob_dir_of(paths: DataFsPaths, journal: Journal) -> Path | None:
    """Return the blob directory that a restore works in.

    It is the configured one, unless the command line of this run does not name it.
    """
    noted = Path(journal.blob_dir) if journal.blob_dir else None
    if paths.blob_dir is not None and (noted is None or (paths.blob_dir / journal.kept_dir).exists()):
        return paths.blob_dir
    return noted


def kept_paths(paths: DataFsPaths, journal: Journal) -> list[Path]:
    """Return where a restore keeps what it replaced; not all of these need to exist."""
    replaced = paths.replaced(journal)
    found = [replaced] if replaced is not None else []
    blob_dir = blob_dir_of(paths, journal)
    if blob_dir is not None:
        # a pack that keeps its old blobs makes hard links of the whole directory, and so of what a restore
        # kept in it
        found += [blob_dir / journal.kept_dir, Path(f"{blob_dir}.old") / journal.kept_dir]
    return found + leftovers(paths, kept_suffix(journal.restore))
