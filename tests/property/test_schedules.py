"""Random schedules of concurrent operations; when a rule of the protocol is broken, the test must find it.

``ZODB_VAULT_SCHEDULES=20000 pytest -n 2 tests/property/test_schedules.py`` runs that many;
``ZODB_VAULT_SCHEDULES_FIRST`` is the first seed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_schedules import Lost, Schedules

from zodb_vault.errors import Damage
from zodb_vault.operations.copy import coordination
from zodb_vault.operations.prune import due, sweep
from zodb_vault.operations.prune.candidates import Candidates
from zodb_vault.operations.prune.due import Due
from zodb_vault.operations.prune.scan import Scan, scan_repository
from zodb_vault.operations.prune.sweep import Sweep
from zodb_vault.repository.markers import RunMarker
from zodb_vault.repository.repository import Repository

COUNT = int(os.environ.get("ZODB_VAULT_SCHEDULES", "200"))
FIRST = int(os.environ.get("ZODB_VAULT_SCHEDULES_FIRST", "0"))
PARTS = 2
MOST = 500


@pytest.mark.parametrize("part", range(PARTS))
def test_no_backup_ever_loses_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    schedules, happened = Schedules(tmp_path, monkeypatch), Counter[str]()
    for seed in range(FIRST + part, FIRST + COUNT, PARTS):
        happened.update(schedules.run(seed))
    print(f"seeds {FIRST + part} to {FIRST + COUNT - 1}, every {PARTS}.: {dict(sorted(happened.items()))}")
    assert {
        "create: done",
        "prune: done",
        "restore: done",
        "undelete: done",
        "delete: done",
    } <= happened.keys()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_backup_misses_an_object_where_others_are_copied_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    schedules, happened = Schedules(tmp_path, monkeypatch), Counter[str]()
    for seed in range(FIRST + part, FIRST + COUNT // 2, PARTS):
        happened.update(schedules.run(seed, copies=True))
    print(
        f"seeds {FIRST + part} to {FIRST + COUNT // 2 - 1}, every {PARTS}.: {dict(sorted(happened.items()))}"
    )
    assert {
        "copy: done",
        "copy: InUse",
        "another copy: done",
        "prune there: done",
        "restore there: done",
        "create there: done",
    } <= happened.keys()


def test_no_backup_misses_an_object_where_others_are_re_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules, happened = Schedules(tmp_path, monkeypatch, reencrypted=True), Counter[str]()
    for seed in range(FIRST, FIRST + COUNT // 4):
        happened.update(schedules.run(seed, copies=True))
    print(f"seeds {FIRST} to {FIRST + COUNT // 4 - 1}: {dict(sorted(happened.items()))}")
    assert {"copy: done", "copy: InUse", "prune there: done", "restore there: done"} <= happened.keys()


def without_the_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sweep, "needed_after_all", lambda *_: set())


def test_a_backup_that_is_due_comes_back_at_every_call_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules = Schedules(tmp_path, monkeypatch)
    outcomes = schedules.undelete_at_every_call_of_a_prune()
    assert outcomes == {"inner done", "inner BackupMissing", "outer done"}
    without_the_second_look(monkeypatch)
    with pytest.raises(Lost):
        schedules.undelete_at_every_call_of_a_prune()


def test_a_backup_is_swept_at_every_call_of_its_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules = Schedules(tmp_path, monkeypatch)
    outcomes = schedules.prunes_at_every_call_of_a_restore()
    assert outcomes == {"inner done", "outer done", "outer BackupMissing"}
    without_uses(monkeypatch)
    with pytest.raises(Damage):
        schedules.prunes_at_every_call_of_a_restore()


def test_an_interrupted_run_is_forgotten_at_every_call_of_the_create_that_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts over without it, or learns that it counts as dead. Once seeds 13, 1207 and 1636.

    What was swept by the rules is no damage.
    """
    outcomes = Schedules(tmp_path, monkeypatch).forgotten_at_every_call_of_a_create()
    assert outcomes == {"inner done", "outer done", "outer InUse"}


def without_care_for_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scan, "copy_is_running", False)


def without_care_for_prunes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(coordination, "marker_states", lambda _target: [])


@pytest.mark.parametrize(
    ("outer_copies", "broken", "outcomes"),
    [
        (True, without_care_for_copies, {"inner done", "outer done"}),
        (False, without_care_for_prunes, {"inner done", "inner InUse", "outer done"}),
    ],
    ids=["a prune within a copy", "a copy within a prune"],
)
def test_all_is_swept_at_every_call_of_a_copy_and_copied_at_every_call_of_a_sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outer_copies: bool,
    broken: Callable[[pytest.MonkeyPatch], None],
    outcomes: set[str],
) -> None:
    """Encoded again, after an interrupted copy: it relies on the trash and on a dead run's marker."""
    schedules = Schedules(tmp_path, monkeypatch, reencrypted=True)
    world = schedules.worlds[1]
    assert schedules.copies_and_prunes_at_every_call_of_the_other(world, copying=outer_copies) == outcomes
    broken(monkeypatch)
    with pytest.raises((Lost, Damage)):
        schedules.copies_and_prunes_at_every_call_of_the_other(world, copying=outer_copies)


def without_grace(patch: pytest.MonkeyPatch) -> None:
    def find_due(_found: Scan, candidates: Candidates, *_: object) -> Due:
        return Due(sorted(candidates.sizes), candidates.expired)

    patch.setattr(sweep, "find_due", find_due)


def without_uses(patch: pytest.MonkeyPatch) -> None:
    start = RunMarker.start.__func__  # type: ignore[attr-defined]
    patch.setattr(
        RunMarker,
        "start",
        classmethod(
            lambda cls, store, site, what, run, _uses, adopted=None: start(
                cls, store, site, what, run, [], adopted
            )
        ),
    )


def without_care_for_what_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(due, "WRITING", ())


def without_the_trashed_manifest_first(patch: pytest.MonkeyPatch) -> None:
    """Look, then remove the manifest: an undelete in between is not seen."""

    def delete(self: Any, due: Due, first: Scan) -> list[str]:
        needed = self.needed_after_all(due, first) or set()
        done = [key for key in due.keys if key.rpartition("/")[2] not in needed]
        for key in done:
            self.remove(key)
        return done

    patch.setattr(Sweep, "delete_due", delete)


def without_looking_at_markers(patch: pytest.MonkeyPatch) -> None:
    def blind(repository: Repository) -> Scan:
        return scan_repository(repository)._replace(markers={})

    patch.setattr(sweep, "scan_repository", blind)


def without_an_undelete_marker(patch: pytest.MonkeyPatch) -> None:
    start = RunMarker.start.__func__  # type: ignore[attr-defined]

    def started(
        cls: Any, store: Any, site: str, what: str, run: str, uses: list[str], adopted: Any = None
    ) -> Any:
        return start(cls, store, site, what, run, [] if what in ("undelete", "delete") else uses, adopted)

    patch.setattr(RunMarker, "start", classmethod(started))


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, ...]] = {
    # with the operations of one rule, as few of all schedules would show it
    without_grace: (),
    without_care_for_what_is_not_noted: (),
    without_the_trashed_manifest_first: (),
    without_looking_at_markers: (),
    without_an_undelete_marker: ("undelete", "prune", "another prune"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_rule_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    schedules = Schedules(tmp_path, monkeypatch)
    mutant(monkeypatch)
    for seed in range(MOST):
        try:
            schedules.run(seed, MUTANTS[mutant])
        except AssertionError as error:
            assert "Lost" in str(error) or "Damage" in str(error), error
            print(f"found with seed {seed}: {error}")
            return
    pytest.fail("no schedule has found it")
