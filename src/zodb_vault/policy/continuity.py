"""Decide whether a backup is full or incremental, why, and which line of states it stands on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..model.manifest import How, Reason, Timeline


class ContinuityFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one database file and of the backup it may continue. Sizes are bytes, TIDs hex digits.

    The chain is the list of segments of ``parent``, from 0 to ``chain_end``; ``matching_end`` of it still
    stand in the file, of older backups maybe more (``reused_end``), and ``interrupted_end`` bytes that an
    interrupted run stored do. The new backup reaches to ``cut_end``. ``common_tid`` is the newest TID of the
    parent that the file holds, None if it holds none; when the whole chain stands, it need not be looked for.
    ``pack_tid`` is the last packed transaction of the file. ``forced`` and ``parent_problem`` decide how much
    is stored, never the line: the other facts are wanted all the same.
    """

    parent: str | None
    cut_end: int
    forced: bool = False
    parent_problem: str | None = None
    matching_end: int = 0
    chain_end: int = 0
    reused_end: int = 0
    interrupted_end: int = 0
    parent_last_tid: str | None = None
    common_tid: str | None = None
    pack_tid: str | None = None

    @property
    def matches(self) -> bool:
        """Tell whether everything that the parent holds is still in its place.

        A chain of no bytes is that of an empty parent only.
        """
        known = self.chain_end > 0 or self.parent_last_tid is None
        return self.parent is not None and known and self.matching_end == self.chain_end

    @property
    def packed(self) -> bool:
        """Tell whether the parent's transactions are the file's past, some of them removed by a pack.

        A pack removes every transaction that later ones have superseded, often the parent's last one too: a
        missing TID says that the histories differ only where no pack has been.
        """
        if self.parent is None or self.common_tid is None or self.parent_last_tid is None:
            return False
        return self.common_tid == self.parent_last_tid or (
            self.pack_tid is not None and self.pack_tid >= self.parent_last_tid
        )

    @property
    def common(self) -> str | None:
        """Return the newest TID that parent and file share.

        None without a parent or with nothing in common.
        """
        if self.parent is None:
            return None
        return self.parent_last_tid if self.matches else self.common_tid


class Decision(msgspec.Struct, frozen=True):
    """How to back up one database.

    The first ``keep`` bytes are used again as the parent or an older backup has them.

    ``starts_timeline``: the state does not continue the parent's; what both share ends at ``common_tid``
    (None: nothing).
    """

    how: How
    reason: Reason
    keep: int
    common_tid: str | None
    starts_timeline: bool


def decide(facts: ContinuityFacts) -> Decision:
    """Decide between full and incremental, and give the reason as a sentence for administrators."""
    reason = _reason(facts)
    nothing_kept = facts.parent is None or reason.code in ("forced", "parent-missing", "new-history")
    keep = 0 if nothing_kept else max(facts.matching_end, facts.reused_end)
    return Decision(
        how="incremental" if keep or reason.code in ("unchanged", "continued") else "full",
        reason=reason,
        keep=keep,
        common_tid=facts.common,
        starts_timeline=not (facts.matches or facts.packed),
    )


def next_timeline(parent_line: Sequence[Timeline], own_id: str, decision: Decision) -> list[Timeline]:
    """Return the line of backup ``own_id``, oldest first, from its parent's (empty without a parent).

    It is the parent's, unless the decision starts one: then the parent's lines hold up to the common TID
    only, those that began later not at all, and a line named after the backup itself follows. With several
    databases, decide with the smallest common TID of those that start a line: what one of them abandoned must
    not be taken for the current line.
    """
    if not decision.starts_timeline:
        return list(parent_line)
    if decision.common_tid is None:
        return [Timeline(own_id, None)]
    kept: list[Timeline] = []
    for line in parent_line:
        kept.append(Timeline(line.id, _earlier(line.until_tid, decision.common_tid)))
        if line.until_tid is None or line.until_tid >= decision.common_tid:
            break
    return [*kept, Timeline(own_id, None)]


def _earlier(until: str | None, common: str) -> str:
    return common if until is None else min(until, common)


def _reason(facts: ContinuityFacts) -> Reason:
    """Return the first reason that applies.

    The order is the order of what an administrator can do about it.
    """
    if facts.forced:
        return Reason("forced", "A full backup was asked for.")
    if facts.parent is None:
        return (
            _resumed(facts)
            if facts.interrupted_end
            else Reason("first", "There is no backup yet that this one could continue.")
        )
    if facts.parent_problem is not None:
        return Reason(
            "parent-missing",
            f"Backup {facts.parent} cannot be continued, its lists cannot be read: {facts.parent_problem}.",
        )
    if facts.matches:
        return _grown(facts)
    return _resumed(facts) if facts.interrupted_end else _replaced(facts)


def _grown(facts: ContinuityFacts) -> Reason:
    if facts.cut_end == facts.chain_end:
        return Reason(
            "unchanged",
            f"The file still ends at byte {facts.cut_end}, with the last transaction of backup "
            f"{facts.parent}.",
        )
    new = facts.cut_end - facts.chain_end
    return Reason(
        "continued",
        f"The file continues backup {facts.parent}: {new} bytes are new, from byte {facts.chain_end} on.",
    )


def _resumed(facts: ContinuityFacts) -> Reason:
    return Reason(
        "resumed",
        f"An interrupted run has stored {facts.interrupted_end} of {facts.cut_end} bytes, which are used "
        "again.",
    )


def _replaced(facts: ContinuityFacts) -> Reason:
    kept = (
        f"{facts.matching_end} of its {facts.chain_end} bytes are still in place"
        if facts.matching_end
        else "nothing of it is in place"
    )
    if facts.packed:
        text = (
            f"The file was packed since backup {facts.parent} (it holds transaction {facts.common_tid} "
            f"of it); {kept}."
        )
        return Reason("packed", text)
    if facts.common_tid is None:
        return Reason(
            "new-history",
            f"The file holds no transaction of backup {facts.parent}: it is new, or another database.",
        )
    last = facts.parent_last_tid or "none"
    return Reason(
        "diverged",
        f"The file shares history with backup {facts.parent} up to transaction {facts.common_tid} only, "
        f"not to its last one {last}: "
        f"an older state was restored and went on; {kept}.",
    )


class DumpFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a database that is dumped, and of the backup before.

    The backup remembers some objects with their TIDs: ``common_tid`` is the newest TID at which one of them
    still is, ``backwards`` tells that one of them has an earlier TID now. ``superseded``: none is where it
    was, and none went back. ``restored``: a restore was noted since.
    """

    parent: str | None
    last_tid: str | None
    parent_last_tid: str | None = None
    common_tid: str | None = None
    backwards: bool = False
    superseded: bool = False
    restored: bool = False
    forced: bool = False
    reuses_blobs: bool = False

    @property
    def continues(self) -> bool:
        """Tell whether the database is the future of what the backup holds."""
        known = self.common_tid is not None or self.superseded or self.parent_last_tid is None
        behind = self.parent_last_tid is not None and (self.last_tid or "") < self.parent_last_tid
        return self.parent is not None and known and not (self.backwards or self.restored or behind)


def decide_dump(facts: DumpFacts) -> Decision:
    """Return why a dump is made as it is.

    The storage half is always whole, blob files that the backup before has are used again.
    """
    return Decision(
        how="incremental" if facts.reuses_blobs and not facts.forced else "full",
        reason=_dump_reason(facts),
        keep=0,
        common_tid=facts.parent_last_tid if facts.continues else facts.common_tid,
        starts_timeline=not facts.continues,
    )


def _dump_reason(facts: DumpFacts) -> Reason:
    if facts.forced:
        return Reason("forced", "A full backup was asked for.")
    if facts.parent is None:
        return Reason("first", "There is no backup yet that this one could continue.")
    if facts.continues and facts.last_tid == facts.parent_last_tid:
        return Reason(
            "unchanged",
            f"The last transaction is still {facts.last_tid}, that of backup {facts.parent}; a dump is "
            "always whole.",
        )
    if facts.continues:
        return Reason(
            "continued",
            f"It goes on from the last transaction {facts.parent_last_tid} of backup {facts.parent}; a "
            "dump is always whole.",
        )
    if facts.common_tid is None and not facts.restored:
        return Reason(
            "new-history",
            f"The database holds nothing of backup {facts.parent}: it is new, or another database.",
        )
    return Reason(
        "diverged",
        f"The database does not go on from the last transaction {facts.parent_last_tid} of backup "
        f"{facts.parent}: "
        "an older state was restored and went on.",
    )
