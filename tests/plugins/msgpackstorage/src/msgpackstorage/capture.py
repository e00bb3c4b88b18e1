"""Compare the directory with the previous backup, and copy the files that are new."""

from __future__ import annotations

from pathlib import Path

from zodb_vault.errors import SourceError
from zodb_vault.model import tid as tids
from zodb_vault.model.capture import PreviousBackup
from zodb_vault.model.chain import Chain, dump_of, file_name
from zodb_vault.model.manifest import DatabaseEntry, Part, Reason, StoredFiles, StoredProgress
from zodb_vault.model.source import Database
from zodb_vault.policy.full_or_incremental import Decision
from zodb_vault.runtime.progress import Progress
from zodb_vault.strategies.base import Captured, Checkpointer, Sink, SurveyContext, folder_of

from .storage import SUFFIX, transaction_files


def names_of(parts: Chain[Part]) -> list[str]:
    """Return the names of the files in a backup, oldest first."""
    return list(dict.fromkeys(map(file_name, parts)))


def tid_of(name: str) -> str:
    """Return the TID in the name of a file."""
    return f"0x{name.removesuffix(SUFFIX)}"


class MsgpackSurvey:
    """The directory, compared with the newest backup of it; see ``zodb_vault.strategies.base.Survey``."""

    commit_pending = False

    def __init__(self, database: Database, context: SurveyContext) -> None:
        self.database, self._forced = database, context.options.forced
        self._previous = next(filter(_is_ours, context.previous), None)
        self._stored = Chain(Part, context.documents)
        if self._previous is not None:
            self._stored = dump_of(self._previous.entry, context.documents)
        self._known = names_of(self._stored)
        self._names = _names_in(database)

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backup that the new one continues."""
        return [self._previous] if self._previous else []

    def extend(self) -> bool:
        """Look for files that were written since."""
        before, self._names = self._names, _names_in(self.database)
        return self._names != before

    def decide(self) -> Decision:
        """Return how the backup is made: incremental if all files of the previous backup are still there."""
        continues = self._previous is not None and self._names[: len(self._known)] == self._known
        common = max(set(self._names) & set(self._known), default=None)
        reason = self._reason(continues, common)
        return Decision(
            how="incremental" if reason.code in ("unchanged", "continued") else "full",
            reason=reason,
            keep=0,
            common_tid=tid_of(common) if common else None,
            starts_timeline=not continues,
        )

    def _reason(self, continues: bool, common: str | None) -> Reason:
        if self._forced:
            return Reason("forced", "A full backup was requested.")
        if self._previous is None:
            return Reason("first", "There is no backup yet that this one could continue.")
        new = len(self._names) - len(self._known)
        if continues and not new:
            return Reason("unchanged", f"There is no transaction after those of backup {self._previous.id}.")
        if continues:
            return Reason("continued", f"{new} transactions are new since backup {self._previous.id}.")
        if common is None:
            return Reason("new-history", f"No transaction of backup {self._previous.id} is there.")
        return Reason("diverged", f"Transactions of backup {self._previous.id} are gone.")

    def begin(
        self, decision: Decision, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> MsgpackCapture:
        """Return what copies the files that are not stored yet."""
        stored = self._stored if decision.how == "incremental" else Chain(Part, sink)
        return MsgpackCapture(
            self.database, decision, self._names, stored, bool(self._previous), sink, checkpointer, progress
        )

    def close(self) -> None:
        """Free nothing: no file is open."""


class MsgpackCapture:
    """Copies the files; see ``zodb_vault.strategies.base.Capture``."""

    expected = None

    def __init__(
        self,
        database: Database,
        decision: Decision,
        names: list[str],
        stored: Chain[Part],
        continues: bool,
        sink: Sink,
        checkpointer: Checkpointer,
        progress: Progress,
    ) -> None:
        self._database, self._decision, self._names, self._continues = database, decision, names, continues
        self._stored, self._added = stored, 0
        self._sink, self._checkpointer, self._progress = sink, checkpointer, progress

    def copy_storage(self) -> MsgpackCapture:
        """Store each new file as an object of its own."""
        folder, path = folder_of(self._database.name), Path(self._database.option("path"))
        new = self._names[len(names_of(self._stored)) :]
        parts: list[Part] = []
        for name in new:
            data = (path / name).read_bytes()
            writer = self._sink.content(f"{folder}/{name}")
            writer.write(data)
            parts += writer.close()
            self._progress.advance(len(data))
            self._checkpointer.heartbeat()
        self._stored, self._added = self._stored.extended(parts), len(new)
        return self

    def copy_blobs(self) -> Captured:
        """Return the result: there are no blobs."""
        return Captured(entry=self._entry(), decision=self._decision, continues=self._continues)

    def _entry(self) -> DatabaseEntry:
        last = tid_of(self._names[-1]) if self._names else None
        chain = self._stored.with_short_tail()
        return DatabaseEntry(
            name=self._database.name,
            folder=folder_of(self._database.name),
            mount_point=self._database.mount_point,
            backend=self._database.backend,
            method="native",
            history=True,
            blob_mode="none",
            layout=None,
            first_tid=tid_of(self._names[0]) if self._names else None,
            # only the last transaction of a backup is a target of a restore
            pack_tid=last,
            last_tid=last,
            last_time=tids.iso(tids.from_hex(last)) if last else None,
            storage=StoredFiles(
                size=chain.raw, lists=chain.lists, tail=chain.tail, transactions=len(self._names)
            ),
            blobs=None,
            transactions_added=self._added,
        )

    def stored(self) -> StoredProgress:
        """Return that the next run begins again when this one is interrupted."""
        return StoredProgress(database=self._database.name, parent=None, keep=0)

    def close(self) -> None:
        """Free nothing: no file is open."""


def _is_ours(backup: PreviousBackup) -> bool:
    return isinstance(backup.entry.storage, StoredFiles)


def _names_in(database: Database) -> list[str]:
    path = Path(database.option("path"))
    if not path.is_dir():
        raise SourceError(f"{path} is not a directory", "check the path of <msgpackstorage> in zope.conf")
    return [file.name for file in transaction_files(path)]
