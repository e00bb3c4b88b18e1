"""The demo succeeds, removes its directory, and fails when a restored image differs from the original."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import zodb_vault

DEMO = Path(__file__).parents[2] / "demo" / "demo.py"
DEADLINE = 200.0


def begin(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    directory.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(Path(zodb_vault.__file__).parent.parent),
        "TMPDIR": str(directory),
    }
    return subprocess.Popen(
        [sys.executable, DEMO, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_demo_succeeds_and_notices_a_changed_byte(tmp_path: Path) -> None:
    whole, broken = begin(tmp_path / "whole dir"), begin(tmp_path / "broken", "--break")
    out, _ = whole.communicate(timeout=DEADLINE)
    assert whole.returncode == 0, out
    assert "Everything that was restored is what was written" in out
    assert "was removed" in out
    assert list((tmp_path / "whole dir").iterdir()) == []
    out, _ = broken.communicate(timeout=DEADLINE)
    assert broken.returncode == 1, out
    assert "earlier differs from what was written at 0x" in out
    assert "Everything is left in" in out
    (left,) = (tmp_path / "broken").iterdir()
    assert {"backups", "newest", "earlier", "site"} <= {path.name for path in left.iterdir()}
