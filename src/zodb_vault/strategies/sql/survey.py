"""Compare a SQL storage with its previous backup, and decide how the new one is made."""

from __future__ import annotations

from ...model.capture import PreviousBackup
from ...policy.full_or_incremental import Decision, DumpFacts, decide_dump, with_full_dump
from ...runtime.progress import Progress
from ..base import Checkpointer, Sink, SurveyContext
from .capture import SqlCapture, Surveyed
from .marks import Comparison, compare_marks
from .schema import StorageSchema


class SqlSurvey:
    """One snapshot of a database, compared with what its previous backup remembers; see ``Survey``."""

    def __init__(self, schema: StorageSchema, context: SurveyContext) -> None:
        self.schema, self.rows, self.database = schema, schema.rows, schema.database
        self.documents, self.options, self.now = context.documents, context.options, context.now
        self.interrupted = context.interrupted
        try:
            self.previous = next(filter(self._is_comparable, context.previous), None)
            self.state = schema.state()
        except BaseException:
            schema.close()
            raise

    def _is_comparable(self, backup: PreviousBackup) -> bool:
        return backup.entry.dump is not None and backup.entry.backend == self.database.backend

    def close(self) -> None:
        """Close the connections."""
        self.schema.close()

    @property
    def uses(self) -> list[PreviousBackup]:
        """Return the backup that the new one continues."""
        return [self.previous] if self.previous else []

    @property
    def commit_pending(self) -> bool:
        """Return False: what is not committed is not in the snapshot."""
        return False

    def extend(self) -> bool:
        """Take the snapshot again; tell whether there was a commit in between."""
        before = self.state.last_tid
        self.rows.snapshot()
        self.inspect()
        return self.state.last_tid != before

    def inspect(self) -> None:
        """Read the state again, after another snapshot was taken."""
        self.state = self.schema.state()

    def decide(self) -> Decision:
        """Return how this backup is made, and why."""
        return with_full_dump(self.continuity())

    def continuity(self) -> Decision:
        """Return whether the database continues the previous backup, and why."""
        entry = self.previous.entry if self.previous else None
        compared = self._compared()
        return decide_dump(
            DumpFacts(
                parent=self.previous.id if self.previous else None,
                last_tid=self.state.last_tid,
                parent_last_tid=entry.last_tid if entry else None,
                common_tid=compared.common_tid,
                backwards=compared.backwards,
                superseded=compared.superseded,
                restored=self.options.restored,
                forced=self.options.forced,
                reuses_blobs=bool(self.schema.blobs.are_outside and entry and entry.blobs),
            )
        )

    def _compared(self) -> Comparison:
        marks = self.previous.entry.dump.marks if self.previous and self.previous.entry.dump else None
        table, history = self.schema.current_table(self.state), self.state.history
        return compare_marks(self.rows, table, self.documents, marks, history=history)

    def begin(
        self, decision: Decision, sink: Sink, checkpointer: Checkpointer, progress: Progress
    ) -> SqlCapture:
        """Return what copies the database as it was decided.

        Raise ConfigurationError where blobs would be lost.
        """
        return SqlCapture(self._surveyed(decision), sink, checkpointer, progress)

    def _surveyed(self, decision: Decision) -> Surveyed:
        return Surveyed(
            schema=self.schema,
            options=self.options,
            state=self.state,
            decision=decision,
            previous=self.previous,
            interrupted=self.interrupted,
            survey_again=self._survey_again,
        )

    def _survey_again(self) -> Surveyed:
        self.inspect()
        return self._surveyed(self.decide())
