"""Decide which backup an ID on the command line means.

An id, a name, a unique prefix of an id, or ``latest``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import msgspec

from ..errors import BackupMissing, UsageError
from ..model.manifest import Status, Trigger

LATEST = "latest"
NAMED = 5


class SelectableBackup(msgspec.Struct, frozen=True):
    """The facts of a backup that the selection needs; ``name`` is the newest name in its labels."""

    id: str
    name: str | None
    status: Status
    whole: bool
    trigger: Trigger

    @property
    def eligible(self) -> bool:
        """Return whether it can be ``latest``: complete, whole and not a safety backup."""
        return self.status == "complete" and self.whole and self.trigger != "safety"


def select(text: str, backups: Sequence[SelectableBackup]) -> str:
    """Return the id of the backup that ``text`` means; ``backups`` are all backups of the site, in any order.

    ``latest`` is always the newest eligible one. Otherwise an id wins over a name, and a name over a prefix
    of an id. Raise UsageError with the candidates when several match, BackupMissing with the nearest or
    newest one when none matches.
    """
    if not text.strip():
        raise UsageError("the ID is empty", "give an id, the beginning of one, a name, or latest")
    if not backups:
        raise BackupMissing("there are no backups yet", "make the first one with: zodb-vault create")
    if text == LATEST:
        return _latest(backups)
    named = [b for b in backups if b.name == text]
    for matches in (
        [b for b in backups if b.id == text],
        named,
        [b for b in backups if b.id.startswith(text)],
    ):
        if matches:
            return _only(text, matches)
    raise BackupMissing(f"no backup has the id, prefix or name {text!r}", _nearest(text, backups))


def select_deleted(text: str, names: Mapping[str, str | None]) -> str:
    """Return the id of the backup in the trash that ``text`` means; ``names`` are all ids there with names.

    Raise UsageError with the candidates when several match, BackupMissing when none matches.
    """
    if not text.strip():
        raise UsageError("the ID is empty", "give an id, the beginning of one, or a name")
    matches = matching_deleted(text, names)
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(matches[:NAMED])
        more = f" and {len(matches) - NAMED} more" if len(matches) > NAMED else ""
        raise UsageError(
            f"{text!r} can mean {len(matches)} backups in the trash: {listed}{more}", "give the whole id"
        )
    if not names:
        raise BackupMissing("the trash is empty", "`zodb-vault list` shows the backups that exist")
    raise BackupMissing(
        f"no backup in the trash has the id, prefix or name {text!r}",
        "`zodb-vault list --trash` shows what is in the trash",
    )


def matching_deleted(text: str, names: Mapping[str, str | None]) -> list[str]:
    """Return the ids of the backups in the trash that are named ``text``, or else begin with it."""
    named = [one for one, name in names.items() if name == text]
    return sorted(named or [one for one in names if one.startswith(text)], reverse=True)


def _latest(backups: Sequence[SelectableBackup]) -> str:
    eligible = [b.id for b in backups if b.eligible]
    if eligible:
        return max(eligible)
    newest = max(backups, key=lambda b: b.id)
    raise BackupMissing(
        f"there is no latest backup: none of {len(backups)} is complete, whole and not a safety backup",
        f"the newest of any kind is {_spoken(newest)}; to use it nevertheless, give its id",
    )


def _only(text: str, matches: Sequence[SelectableBackup]) -> str:
    if len(matches) == 1:
        return matches[0].id
    newest = sorted(matches, key=lambda b: b.id, reverse=True)
    listed = ", ".join(_spoken(b) for b in newest[:NAMED])
    more = f" and {len(newest) - NAMED} more" if len(newest) > NAMED else ""
    raise UsageError(f"{text!r} can mean {len(newest)} backups: {listed}{more}", "give the whole id")


def _nearest(text: str, backups: Sequence[SelectableBackup]) -> str:
    known = {b.id: b for b in backups} | {b.name: b for b in backups if b.name}
    close = get_close_matches(text, list(known), n=1, cutoff=0.7)
    if close:
        return f"the closest is {_spoken(known[close[0]])}"
    return f"the newest is {_spoken(max(backups, key=lambda b: b.id))}"


def _spoken(backup: SelectableBackup) -> str:
    return f"{backup.id} ({backup.name!r})" if backup.name else backup.id
