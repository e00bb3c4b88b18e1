"""Decide whether a copy needs re-encryption, and whether that is what the user wants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ...errors import BackupMissing, UsageError
from ...repository.encryption import FEATURE
from ...repository.repository import Repository


def can_stay_as_stored(source: Repository, target: Repository, site: str, new: Iterable[str]) -> bool:
    """Tell whether all content of the source is encrypted for recipients that the target has or had.

    Content may be older than the present recipients of the source, so its former recipients count, and so do
    those that the manifests of the new backups name.
    """
    ours, theirs = source.info, target.info
    written_for = {frozenset(ours.recipients), *map(frozenset, ours.former)}
    for backup in new:
        with contextlib.suppress(BackupMissing):
            document = source.manifest_document(site, backup)
            written_for.add(frozenset(document.get("recipients", ())))
    accepted = {frozenset(theirs.recipients), *map(frozenset, theirs.former)}
    return set(ours.recipients) == set(theirs.recipients) and written_for <= accepted


def require_intended(source: Repository, target: Repository, *, decrypt: bool) -> None:
    """Raise UsageError unless it is certain that everyone who can read the target may read the backups."""
    where = target.store.location
    if target.info.recipients:
        if decrypt:
            raise UsageError(
                f"{where} is encrypted, and --decrypt is for a repository that is not encrypted",
                "leave out --decrypt, or use another target",
            )
        target.require_recipients()
    elif FEATURE in source.info.requires and not decrypt:
        raise UsageError(
            f"{where} is not encrypted: "
            f"everyone who can read it could read what is encrypted in {source.store.location}",
            "create the target with recipients; if it shall not be encrypted, give --decrypt",
        )
