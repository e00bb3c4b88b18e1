"""Decide which steps of an interrupted restore are left, from its journal and from the files in place."""

from __future__ import annotations

import os
from typing import NamedTuple

from ....errors import TargetRefused
from . import journal as journals
from .journal import Journal
from .paths import DataFsPaths


def resume(paths: DataFsPaths, journal: Journal) -> Journal:
    """Return the journal with the phase that the files show, and write it if the phase is another one.

    Raise TargetRefused when the files show no phase. The caller holds the lock.

    If the rename has not happened, everything is built again. The site may have been used since, and a pack
    may have removed blobs that the interrupted run had already compared.
    """
    if journal.phase == "aborting" or (journal.phase == "switching" and paths.is_new(journal)):
        return journals.advance(paths.data_fs, journal, phase="switched")
    if journal.phase != "switching":
        return journal
    if paths.building(journal).exists():
        return journals.advance(paths.data_fs, journal, phase="building", new_inode=0)
    if _was_packed(paths, journal):
        return journals.advance(paths.data_fs, journal, phase="switched")
    raise TargetRefused(
        f"{paths.data_fs} is not the file that the restore {journal.restore} built, and {journal.building} "
        "does not exist any more",
        "`restore --abort` puts the old state back",
    )


def _was_packed(paths: DataFsPaths, journal: Journal) -> bool:
    """Tell whether the restored file was valid and a pack has replaced it.

    Then the old file is kept, and the file in place is neither the old nor the restored one.
    """
    replaced = paths.replaced(journal)
    if replaced is None or not replaced.exists() or not paths.data_fs.exists():
        return False
    return not os.path.samefile(paths.data_fs, replaced)


class Identity(NamedTuple):
    """The facts that identify a restore; it is resumed only if all of them are equal."""

    backup: str
    end: int
    last_tid: str | None
    only: str | None
    blobs: str | None


def identity_of(journal: Journal) -> Identity:
    """Return the identity of the restore that wrote a journal."""
    blobs = journal.bucket or journal.blob_dir
    return Identity(journal.backup, journal.end, journal.last_tid, journal.only, blobs)


def require_same(paths: DataFsPaths, journal: Journal, wanted: Identity) -> None:
    """Raise TargetRefused when another restore, or the undo of a restore, was interrupted here."""
    aborting = journal.phase == "aborting" and not paths.is_new(journal)
    if aborting or identity_of(journal) != wanted:
        raise TargetRefused(
            f"a restore of backup {journal.backup} up to {journal.last_tid} into {paths.data_fs} was "
            "interrupted",
            "run `restore --abort` again to put the old state back"
            if aborting
            else "run that restore again to finish it, or `restore --abort` to put the old state back",
        )


def left_in_directory(paths: DataFsPaths, wanted: Identity) -> Journal | None:
    """Return the record of the same restore, if a directory contains exactly what that restore made.

    A finished restore into a directory removes its record at the end. So a record means that the restore was
    interrupted while it removed its temporary files.
    """
    for restore in journals.records(paths.data_fs):
        record = journals.read_record(paths.data_fs, restore)
        if record is None or identity_of(record) != wanted:
            continue
        if record.only == "blobs" or paths.is_as_restored(record):
            return record
    return None
