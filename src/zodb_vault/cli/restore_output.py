"""What ``zodb-vault restore`` prints: the plan, the outcome, and the JSON document of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .context import Context
from .output import count, printable, size

if TYPE_CHECKING:
    from ..model.restore import StaleCache, TargetState
    from ..operations.restore.plan import RestorePlan, RestoreStep
    from ..operations.restore.run import Restored


def plan_lines(wanted: RestorePlan) -> list[str]:
    """Return the plan of a restore for a reader."""
    manifest = wanted.target.backup.manifest
    lines = [f"backup {manifest.id} of {manifest.created_at}"]
    for step in wanted.steps:
        lines += _step_lines(step, blobs_only=wanted.options.only == "blobs")
    for cache in wanted.caches:
        lines += _cache_lines(cache)
    lines += [f"not found: {printable(text)}" for text in wanted.missing_caches]
    return lines + [printable(note) for note in wanted.notes]


def _step_lines(step: RestoreStep, *, blobs_only: bool) -> list[str]:
    from ..model import tid as tids

    cut, state = step.cut, step.state
    when = f" ({tids.iso(tids.from_hex(cut.last_tid))})" if cut.last_tid else ""
    what = "blobs only" if blobs_only else f"{size(cut.end)} of {state.content}"
    lines = [
        f"{printable(cut.entry.name)}: "
        f"up to transaction {cut.last_tid}{when}, {what}, to {printable(state.where)}"
    ]
    lines += [f"  {line}" for line in _change_lines(step)]
    lines += [f"  {printable(detail)}" for detail in state.details]
    if state.needs:
        rest = ", and space for blobs that are no longer there" if state.more_for_blobs else ""
        lines.append(f"  needs {size(sum(need.size for need in state.needs))} of free space{rest}")
    return lines


def _change_lines(step: RestoreStep) -> list[str]:
    """Return what a restore leaves out of the backup, and what it does to the state in place."""
    state, left_out = step.state, step.cut.left_out
    if state.resumed:
        return [f"continues the interrupted restore {state.resumed}"]
    lines = []
    if left_out and state.lost is None:
        lines.append(f"leaves out {count(left_out, 'later transaction')} of the backup")
    if state.way:
        lines.append(state.way + _replaced_words(state))
    return lines


def _replaced_words(state: TargetState) -> str:
    if not state.exists:
        return ""
    dropped = f", {count(state.lost, 'transaction')} of it dropped" if state.lost is not None else ""
    return f" (last transaction {state.last_tid}){dropped}"


def _cache_lines(cache: StaleCache) -> list[str]:
    lines = [f"removes {printable(str(path))}, a cache of {printable(cache.owner)}" for path in cache.files]
    if cache.blobs:
        lines.append("removes " + _blobs_words(len(cache.blobs), str(cache.blob_dir)))
    return lines


def _blobs_words(number: int, directory: str) -> str:
    return f"{count(number, 'blob')} of the replaced state from {printable(directory)}"


def print_restored(context: Context, done: Restored) -> None:
    """Print what a restore did, and at the end what has to be done after it."""
    for step in done.plan.steps:
        state = step.state
        what = f"{state.where}, last transaction {step.cut.last_tid}"
        if done.plan.options.only == "blobs":
            what = f"{state.blobs}, blobs only"
        context.say(f"{printable(step.cut.entry.name)}: restored to {printable(what)}")
    if done.safety_backup:
        context.say(f"the state before is the safety backup {done.safety_backup}")
    for cache in done.caches:
        if cache.blob_cache is not None and not context.verbose:
            context.say(f"removed: {_blobs_words(len(cache.paths), cache.blob_cache)}")
        else:
            for path in cache.paths:
                context.say(f"removed: {printable(path)}")
    for path in done.kept:
        context.say(f"kept: {printable(path)}")
    for note in done.notes:
        click.echo(f"zodb-vault: {printable(note)}", err=True)
    for line in dict.fromkeys(line for step in done.plan.steps for line in step.state.next_steps):
        context.say(printable(line))


def restore_document(wanted: RestorePlan, done: Restored | None = None) -> dict[str, Any]:
    """Return the document of a restore, or of its plan when nothing was done yet."""
    return {
        "id": wanted.target.backup.manifest.id,
        "target": _target(wanted),
        "databases": [
            {
                "name": step.cut.entry.name,
                "last_tid": step.cut.last_tid,
                "dropped_transactions": step.cut.left_out if step.state.lost is None else step.state.lost,
            }
            for step in wanted.steps
        ],
        "kept": done.kept if done else [],
        "caches": _cache_paths(wanted, done),
        "safety_backup": done.safety_backup if done else None,
        "notes": wanted.missing_caches + wanted.notes + (done.notes if done else []),
    }


def _cache_paths(wanted: RestorePlan, done: Restored | None) -> list[str]:
    """Return the files that were removed from caches, or are going to be; two clients may share a cache."""
    if done is not None:
        return [path for cache in done.caches for path in cache.paths]
    return list(dict.fromkeys(str(path) for cache in wanted.caches for path in cache.paths))


def _target(wanted: RestorePlan) -> str | None:
    """Return the directory that was named, else what the first database was restored to."""
    if wanted.options.output is not None:
        return str(wanted.options.output.absolute())
    return wanted.steps[0].state.location if wanted.steps else None
