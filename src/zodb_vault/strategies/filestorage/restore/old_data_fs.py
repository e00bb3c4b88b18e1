"""Where the old Data.fs goes: the names under which a restore keeps it, and files that only it needs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from ....errors import TargetRefused
from ....runtime import durable
from .journal import Journal
from .paths import DataFsPaths

# The files that FileStorage itself leaves beside a Data.fs: the file before a pack, and files of an
# interrupted pack.
LEFTOVERS: Final = (".old", ".pack", ".tmp")


def replaced_name(data_fs: Path, restore: str) -> str:
    """Return the name under which a restore keeps the file that it replaces."""
    return f"{data_fs.name}.replaced-{restore}"


def keep_old_data_fs(data_fs: Path, replaced: Path) -> None:
    """Give the old Data.fs its second name, durably; raise TargetRefused when another file has that name."""
    with contextlib.suppress(FileExistsError):
        os.link(data_fs, replaced)
    if not os.path.samefile(data_fs, replaced):
        raise TargetRefused(
            f"{replaced} exists already, and is another file than {data_fs}",
            "move it away and run the restore again",
        )
    # The second name has to be durable first: the rename takes the other name from the old file.
    durable.sync_directory(replaced.parent)


def kept_suffix(restore: str) -> str:
    """Return the suffix for names of files that only the old state needs."""
    return f".kept-{restore}"


def leftovers(paths: DataFsPaths, kept: str = "") -> list[Path]:
    """Return the files that FileStorage left beside the old state, or those with the suffix ``kept``.

    FileStorage writes them beside the configured name. It must not use them for the new state.
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
    """Tell whether a suffix is like ``.tr0``: there FileStorage saves a damaged end before it removes it."""
    return suffix.startswith(".tr") and suffix[3:].isdigit()


def blob_dir_of(paths: DataFsPaths, journal: Journal) -> Path | None:
    """Return the blob directory of a restore.

    It is the configured one; the journal names it for a run whose command line does not.
    """
    noted = Path(journal.blob_dir) if journal.blob_dir else None
    if paths.blob_dir is not None and (noted is None or (paths.blob_dir / journal.kept_dir).exists()):
        return paths.blob_dir
    return noted


def kept_paths(paths: DataFsPaths, journal: Journal) -> list[Path]:
    """Return the paths where a restore keeps what it replaced; some of them may not exist."""
    replaced = paths.replaced(journal)
    found = [replaced] if replaced is not None else []
    blob_dir = blob_dir_of(paths, journal)
    if blob_dir is not None:
        # A pack with ``pack-keep-old`` links the whole blob directory to ``.old``, with the kept blobs in it.
        found += [blob_dir / journal.kept_dir, Path(f"{blob_dir}.old") / journal.kept_dir]
    return found + leftovers(paths, kept_suffix(journal.restore))
