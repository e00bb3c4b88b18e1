"""Random histories with backups, restores and killed runs, compared with a model of plain dictionaries.

``ZODB_VAULT_HISTORIES=5000 pytest tests/property`` runs that many. ``python tests/property/run_histories.py``
reports all failures, not only the first. A failure names its seed and every step. To run it again: ``python
tests/property/run_histories.py --first SEED --count 1``.
"""

from __future__ import annotations

import os
from pathlib import Path

import history_with_backups
import pytest

HISTORIES = int(os.environ.get("ZODB_VAULT_HISTORIES", "300"))
PER_TEST = 5


@pytest.mark.parametrize("first", range(0, HISTORIES, PER_TEST))
def test_everything_backed_up_is_restored_as_the_model_says(tmp_path: Path, first: int) -> None:
    for seed in range(first, min(first + PER_TEST, HISTORIES)):
        history_with_backups.run(tmp_path / str(seed), seed)


def test_everything_that_is_to_happen_does(tmp_path: Path) -> None:
    happened: set[str] = set()
    for seed in range(10):
        happened |= {
            event
            for event, count in history_with_backups.run(tmp_path / str(seed), seed, steps=30).items()
            if count
        }
    reasons = {"first", "continued", "unchanged", "packed", "diverged", "forced"}
    assert happened >= {
        *reasons,
        "killed",
        "left",
        "returned",
        "refused",
        "restored",
        "lists",
        "joined",
        "parts",
        "rewritten",
    }
