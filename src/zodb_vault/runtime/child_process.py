"""Run a module of zodb-vault in a process of its own.

Work that needs memory for every object returns it at its end, and a crash does not end the main process.
"""

from __future__ import annotations

import os
import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module; it imports nothing from the working directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Return an environment in which a child process imports from the same places as this one.

    A script of zc.buildout changes ``sys.path``, which a child does not inherit.
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
