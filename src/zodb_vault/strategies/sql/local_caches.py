"""Caches of a SQL storage on this machine that survive a restart: a restore removes them."""

from __future__ import annotations

import glob
import os
from typing import NamedTuple


class LocalCache(NamedTuple):
    """One cache.

    ``option`` of zope.conf names its ``directory`` (empty: there is none). Its files match ``pattern``.

    ``each``: every file is named to the user; otherwise the directory as a whole is.
    """

    option: str
    directory: str
    pattern: str
    each: bool


def missing(cache: LocalCache) -> list[str]:
    """Return a sentence about a cache that is configured and was not found."""
    if not cache.directory or os.path.isdir(cache.directory):
        return []
    return [f"{cache.option} {cache.directory} was not found on this machine"]


class Removed(NamedTuple):
    """What was removed, and what the user has to know about the rest."""

    paths: list[str]
    notes: list[str]


def remove_local_cache(cache: LocalCache) -> Removed:
    """Remove the files of a cache.

    One that cannot be removed is no error, because the database itself is restored.
    """
    removed = Removed([], [])
    if not cache.directory:
        return removed
    for path in glob.glob(f"{glob.escape(cache.directory)}/{cache.pattern}"):
        shown = path if cache.each else cache.directory
        try:
            os.unlink(path)
        except OSError as error:
            removed.notes.append(
                f"the cache {shown} could not be removed ({error.strerror}): remove it before the "
                "application starts"
            )
            if not cache.each:  # the other files fail in the same way
                break
        else:
            removed.paths.append(shown)
    if not os.path.isdir(cache.directory):
        removed.notes.append(
            f"{cache.option} {cache.directory} is not on this machine: remove it where the application runs"
        )
    return Removed(list(dict.fromkeys(removed.paths)), removed.notes)
