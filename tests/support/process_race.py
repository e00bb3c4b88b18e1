"""Two processes that do the same at the same time."""

from __future__ import annotations

import subprocess
import sys


def race(code: str, directory: str) -> list[str]:
    """Run code in two processes, which begin together, and return what each printed.

    Their arguments are the directory and a name. They print ``ready``, and wait for a line of standard input.
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, directory, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return [child.communicate()[0] for child in children]
