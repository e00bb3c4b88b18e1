"""The start of every crash test: nothing waits for a disk, and options configure the commands completely."""

from __future__ import annotations

import os

import fault_injection
import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what runs here quick, and keep what the machine of the tests is set to away."""
    for name in [name for name in os.environ if name.startswith("ZODB_VAULT")]:
        monkeypatch.delenv(name)
    fault_injection.tame(monkeypatch)
