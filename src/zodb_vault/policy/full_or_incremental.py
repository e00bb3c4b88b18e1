"""Decide whether a backup is full or incremental, why, and which timeline it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..model.manifest import How, Reason, Timeline


class ContinuityFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a database file and of the backup it may continue. Sizes are bytes, TIDs hex digits.

    The chain is the list of segments of ``parent``, from byte 0 to ``chain_end``. The first ``matching_end``
    bytes of it are unchanged in the file. The segments of older backups may match further (``reused_end``),
    and so may those of an interrupted run (``interrupted_end``). The new backup reaches to ``cut_end``.

    ``common_tid`` is the newest TID of the parent that the file contains, None without one; it is not needed
    when the whole chain matches. ``pack_tid`` is the last packed transaction of the file. ``forced`` and
    ``parent_problem`` decide how much is stored, never the timeline, so the other facts are needed with them,
    too.
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
        """Return whether the file still begins with all bytes of the parent.

        A chain without bytes matches only if the parent has no transaction.
        """
        known = self.chain_end > 0 or self.parent_last_tid is None
        return self.parent is not None and known and self.matching_end == self.chain_end

    @property
    def packed(self) -> bool:
        """Return whether the file continues the parent, and a pack removed some of its transactions.

        A pack removes every transaction whose records were replaced later, often also the parent's last one.
        So a missing TID proves a different history only if no pack could have removed it.
        """
        if self.parent is None or self.common_tid is None or self.parent_last_tid is None:
            return False
        return self.common_tid == self.parent_last_tid or (
            self.pack_tid is not None and self.pack_tid >= self.parent_last_tid
        )

    @property
    def common(self) -> str | None:
        """Return the newest TID that parent and file share, None without one."""
        if self.parent is None:
            return None
        return self.parent_last_tid if self.matches else self.common_tid


class Decision(msgspec.Struct, frozen=True):
    """How to back up one database.

    The first ``keep`` bytes are already stored by the parent or an older backup. ``starts_timeline``: the
    state does not continue the state of the parent; both share the transactions up to ``common_tid`` (None:
    none).
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


def next_timeline(parent: Sequence[Timeline], own_id: str, decision: Decision) -> list[Timeline]:
    """Return the timelines of backup ``own_id``, oldest first, from those of its parent (empty without one).

    They are those of the parent, unless the decision starts a new one. Then the timelines of the parent end
    at the common TID, those that began later are left out, and a timeline named after the backup follows.
    With several databases, pass the smallest common TID of those that start a timeline: transactions that one
    database abandoned must not count as part of the current timeline.
    """
    if not decision.starts_timeline:
        return list(parent)
    if decision.common_tid is None:
        return [Timeline(own_id, None)]
    kept: list[Timeline] = []
    for timeline in parent:
        kept.append(Timeline(timeline.id, _earlier(timeline.until_tid, decision.common_tid)))
        if timeline.until_tid is None or timeline.until_tid >= decision.common_tid:
            break
    return [*kept, Timeline(own_id, None)]


def _earlier(until: str | None, common: str) -> str:
    return common if until is None else min(until, common)


def _reason(facts: ContinuityFacts) -> Reason:
    """Return the first reason that applies, in the order of what an administrator can influence."""
    if facts.forced:
        return Reason("forced", "A full backup was requested.")
    if facts.parent is None:
        return (
            _resumed(facts)
            if facts.interrupted_end
            else Reason("first", "There is no backup yet that this one could continue.")
        )
    if facts.parent_problem is not None:
        return Reason(
            "parent-missing",
            f"Backup {facts.parent} cannot be continued, "
            f"because its lists cannot be read: {facts.parent_problem}.",
        )
    if facts.matches:
        return _grown(facts)
    return _resumed(facts) if facts.interrupted_end else _replaced(facts)


def _grown(facts: ContinuityFacts) -> Reason:
    if facts.cut_end == facts.chain_end:
        return Reason(
            "unchanged",
            f"The file still ends at byte {facts.cut_end}, "
            f"with the last transaction of backup {facts.parent}.",
        )
    new = facts.cut_end - facts.chain_end
    return Reason(
        "continued",
        f"The file continues backup {facts.parent}: {new} bytes are new, from byte {facts.chain_end} on.",
    )


def _resumed(facts: ContinuityFacts) -> Reason:
    return Reason(
        "resumed",
        f"An interrupted run has stored {facts.interrupted_end} of {facts.cut_end} bytes, which are reused.",
    )


def _replaced(facts: ContinuityFacts) -> Reason:
    kept = (
        f"{facts.matching_end} of its {facts.chain_end} bytes are unchanged"
        if facts.matching_end
        else "none of its bytes are unchanged"
    )
    if facts.packed:
        text = (
            f"The file was packed since backup {facts.parent} "
            f"(both contain transaction {facts.common_tid}); {kept}."
        )
        return Reason("packed", text)
    if facts.common_tid is None:
        return Reason(
            "new-history",
            f"The file contains no transaction of backup {facts.parent}: it is new, or another database.",
        )
    last = facts.parent_last_tid or "none"
    return Reason(
        "diverged",
        f"The file shares history with backup {facts.parent} only up to transaction {facts.common_tid}, "
        f"not up to its last one {last}: an older state was restored, and new transactions followed; {kept}.",
    )


class DumpFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a database that is dumped, and of the previous backup.

    The previous backup recorded some objects with their TIDs (marks). ``common_tid`` is the newest TID of
    those that are unchanged. ``backwards``: one of them has an earlier TID now. ``superseded``: all of them
    have later TIDs now. ``restored``: a restore was recorded since then.
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
        """Return whether the database continues the state of the previous backup."""
        known = self.common_tid is not None or self.superseded or self.parent_last_tid is None
        older = self.parent_last_tid is not None and (self.last_tid or "") < self.parent_last_tid
        return self.parent is not None and known and not (self.backwards or self.restored or older)


def decide_dump(facts: DumpFacts) -> Decision:
    """Decide whether a database continues the previous backup, and whether its blob files are reused.

    The storage component is not decided here: it is a full dump (``with_full_dump``) or a delta.
    """
    return Decision(
        how="incremental" if facts.reuses_blobs and not facts.forced else "full",
        reason=_dump_reason(facts),
        keep=0,
        common_tid=facts.parent_last_tid if facts.continues else facts.common_tid,
        starts_timeline=not facts.continues,
    )


def with_full_dump(decision: Decision) -> Decision:
    """Return a decision whose reason says that the dump is complete, although the database continues."""
    reason = decision.reason
    if reason.code not in ("unchanged", "continued"):
        return decision
    text = f"{reason.text} A dump is always complete."
    return msgspec.structs.replace(decision, reason=msgspec.structs.replace(reason, text=text))


def _dump_reason(facts: DumpFacts) -> Reason:
    if facts.forced:
        return Reason("forced", "A full backup was requested.")
    if facts.parent is None:
        return Reason("first", "There is no backup yet that this one could continue.")
    if facts.continues and facts.last_tid == facts.parent_last_tid:
        return Reason(
            "unchanged",
            f"The last transaction is still {facts.last_tid}, that of backup {facts.parent}.",
        )
    if facts.continues:
        return Reason(
            "continued",
            f"The database continues from the last transaction {facts.parent_last_tid} "
            f"of backup {facts.parent}.",
        )
    if facts.common_tid is None and not facts.restored:
        return Reason(
            "new-history",
            f"The database contains nothing of backup {facts.parent}: it is new, or another database.",
        )
    return Reason(
        "diverged",
        f"The database does not continue from the last transaction {facts.parent_last_tid} of backup "
        f"{facts.parent}: an older state was restored, and new transactions followed.",
    )
