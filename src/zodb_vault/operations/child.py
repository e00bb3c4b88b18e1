"""Run a module of ours in a process of its own: what needs memory for every object gives it back, and cannot take us with it."""

from __future__ import annotations

import os
import subprocess
import sys


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end; it imports from where this process does, also when a script has set ``sys.path`` as zc.buildout does."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        capture_output=True, check=False, stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
