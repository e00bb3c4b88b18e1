"""Resolve paths from a configuration or a command line; no file is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def absolute(text: str | Path, base: Path) -> str:
    """Return the absolute path without ``//``, ``/./`` and a trailing slash; symbolic links stay.

    ``..`` is removed only if the result is the same file, which it may not be after a symbolic link.
    """
    path = str(base / text)
    short = os.path.normpath(path)
    return short if short == path or os.path.realpath(short) == os.path.realpath(path) else path


def expand_home(text: str, environment: Mapping[str, str]) -> str:
    """Return the path with a leading ``~`` replaced by the home directory of that environment."""
    home = environment.get("HOME")
    if home and (text == "~" or text.startswith("~/")):
        return home + text[1:]
    return text
