"""Restore: hold all destinations, save the present state, then take each step for all databases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...model.restore import RemovedCache
from ...repository.ids import new_id
from ...repository.repository import Repository
from ...runtime import clock
from ...runtime.progress import Progress
from ...strategies.destination import DatabaseRestore, Destination, RestoreContext, RestoreSource
from ..damage import damage_recorded
from .options import RestoreOptions
from .plan import RestorePlan, plan
from .preflight import require_space
from .safeguards import marked, note_restored, safety_backup

__all__ = ["RestoreOptions", "RestorePlan", "Restored", "execute", "plan", "restore_alone"]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did.

    ``safety_backup`` is an id. ``kept`` is what was kept of the old state, ``caches`` are the caches that
    were removed.
    """

    plan: RestorePlan
    safety_backup: str | None
    kept: list[str]
    caches: list[RemovedCache]
    notes: list[str]


def execute(repository: Repository, plan: RestorePlan, site_name: str, progress: Progress) -> Restored:
    """Do what the plan says, while all destinations are held.

    Raise InUse when one is in use, SafetyBackupFailed, Damage, StoreError, OSError: the old state is whole
    then, or a note beside it says how to go on.
    """
    restore_id = next((one.state.resumed for one in plan.steps if one.state.resumed), None)
    restore_id = restore_id or new_id([], clock.now())
    with contextlib.ExitStack() as stack:
        stack.enter_context(damage_recorded(repository, site_name, "restore", progress.note))
        _hold(plan, stack)
        require_space([need for step in plan.steps for need in step.state.needs])
        heartbeat = stack.enter_context(marked(repository, site_name, plan, restore_id, progress))
        safety = safety_backup(repository, plan, progress)
        context = RestoreContext(restore_id, site_name, progress, heartbeat)
        restores = []
        for step in plan.steps:
            restore = step.planned.begin(context)
            stack.callback(restore.close)
            restores.append(restore)
        noted: list[str] = []
        caches = _carry_out(
            restores, lambda: noted.extend(note_restored(repository, site_name, plan, restore_id))
        )
    return Restored(
        plan=plan,
        safety_backup=safety,
        kept=[path for restore in restores for path in restore.kept],
        caches=caches,
        notes=noted + [note for restore in restores for note in restore.notes],
    )


def _hold(plan: RestorePlan, stack: contextlib.ExitStack) -> None:
    """Keep every other process out of all destinations, and look again: the plan was made without that."""
    for step in plan.steps:
        step.chosen.destination.require_stopped()
    for step in plan.steps:
        step.planned.require_unused()
    for step in plan.steps:
        stack.enter_context(step.chosen.destination.hold())
    for step in plan.steps:
        step.planned.require_unchanged()


def _carry_out(restores: Sequence[DatabaseRestore], note: Callable[[], object]) -> list[RemovedCache]:
    """Bring all databases from each step to the next one together, and return the caches that were removed.

    The order makes it safe to be killed at any point:

    * No database is valid before everything is built for all of them.
    * The caches go before that. The new state must never be valid beside them, and the old one works without
      them.
    * Several databases are barred from the first rename to the last one, so that no process finds some old
      and some new.
    * The repository knows that the site went back before any database counts as done: a run that goes on
      notes it again.
    * The notes of the restores go last. As long as one is there, a run knows what belongs to the restore.
    """
    for restore in restores:
        restore.build()
    caches = [cache for restore in restores for cache in restore.remove_caches()]
    for restore in restores if len(restores) > 1 else ():
        restore.bar()
    for restore in restores:
        restore.make_valid()
    for restore in restores:
        restore.unbar()
    note()
    for restore in restores:
        restore.put_aside()
    for restore in restores:
        restore.finish()
    for restore in restores:
        restore.tidy()
    for restore in restores:
        restore.unmark()
    return caches


def restore_alone(destination: Destination, source: RestoreSource, context: RestoreContext) -> None:
    """Restore one database to a destination that is used for nothing else, such as a scratch database.

    No safety backup is made, and nothing is written to the repository.
    """
    planned = destination.inspect(source, [])
    assert planned is not None  # no restore was interrupted
    with destination.hold(), contextlib.ExitStack() as stack:
        restore = planned.begin(context)
        stack.callback(restore.close)
        _carry_out([restore], lambda: None)
