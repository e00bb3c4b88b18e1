"""Extract the rows that were committed since an earlier snapshot, and the keys of the rows that are left.

They are stored in the format of ``COPY``.

RelStorage and zodb-pgjsonb choose a TID under a lock, and hold the lock until the transaction is committed.
So a snapshot that shows one transaction shows all transactions with lower TIDs, and every later commit has a
higher TID than the last one of the snapshot. That is why ``tid > last TID`` finds all new rows.

A pack and a deletion leave no such sign. So the keys of all rows that are left are stored too: a restore
deletes the other rows.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from functools import cached_property
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from ...model.manifest import Delta, RowFile
from ..base import Sink
from .copy_out import (
    BITS,
    HEADER,
    SET_COLUMNS,
    SET_ROW,
    TRAILER,
    RowReceiver,
    SetReceiver,
)
from .delta_state import DatabaseState, SnapshotTables
from .names import TableName, quoted
from .tables import CHUNK, OBJECTS, Keyed

# The content of a whole table up to this length is kept in memory, and not stored when the previous backup
# has the same content.
COMPARED: Final = 8 << 20
LARGE_OBJECTS: Final = "large_objects"
# A commit moves the current revision of an object to the table of former ones, with its old TID. So a delta
# needs the new rows of that table and, of each object with a later revision, the newest of the older rows.
SUPERSEDED: Final = """
SELECT {{columns}} FROM ONLY {{table}} WHERE tid > {after} UNION ALL
SELECT h.* FROM (
  SELECT zoid FROM ONLY {objects} WHERE tid > {after}
  UNION SELECT zoid FROM ONLY {{table}} WHERE tid > {after}
) n CROSS JOIN LATERAL (
  SELECT {{columns}} FROM ONLY {{table}} m
  WHERE m.zoid = n.zoid AND m.tid <= {after} ORDER BY m.tid DESC LIMIT 1
) h
"""
COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
NEW_LARGE_OBJECTS: Final = """
SELECT DISTINCT n.chunk, m.oid IS NOT NULL
FROM {table} n LEFT JOIN pg_largeobject_metadata m ON m.oid = n.chunk
WHERE n.tid > %s AND NOT EXISTS (SELECT FROM {table} o WHERE o.chunk = n.chunk AND o.tid <= %s) ORDER BY 1
"""


class Changes:
    """Compare a snapshot with an earlier state of the same database."""

    def __init__(self, tables: SnapshotTables, before: DatabaseState) -> None:
        self.tables, self.before = tables, before

    def unsuited(self) -> str | None:
        """Return why no delta can hold the changes, None when one can."""
        return (
            self._split_blobs() or self._other_encoding() or self._other_columns() or self._packed_history()
        )

    def _split_blobs(self) -> str | None:
        # RelStorage joins the large objects of such a blob when it opens the database, and changes no TID
        if self.tables.storage.chunks is None:
            return None
        chunks = self.tables.name(self.tables.storage.chunks)
        states = (self.tables.state, self.before)
        if all(state.keys.get(chunks, {}).get("split", "0") == "0" for state in states):
            return None
        return (
            "blobs are in several large objects each, as an old RelStorage left them, and RelStorage joins "
            "them without a sign of it"
        )

    def _other_encoding(self) -> str | None:
        client, ours = self.tables.server.query("SHOW client_encoding")[0][0], self.tables.encoding
        if client == ours:
            return None
        return (
            f"texts would be copied as {client}, not as {ours} like the database: see PGCLIENTENCODING "
            "and the settings of the role"
        )

    def _other_columns(self) -> str | None:
        table, known = self.tables.quoted(OBJECTS), self.tables.storage.columns
        there = {str(column) for (column,) in self.tables.server.query(COLUMNS, table)}
        more = sorted(there - known)
        if not known or not more:
            return None
        return f"{OBJECTS} has columns that may change without a transaction: {', '.join(more)}"

    def _packed_history(self) -> str | None:
        keyed = self.tables.storage.keyed
        if not any(one.kind == "history" for one in keyed):
            return None
        packed = any(self.packed(one) for one in keyed if one.kind != "set")
        return "its history was packed" if packed else None

    def added(self) -> str | None:
        """Return a table that has got rows with TIDs of the earlier state since, None for no such table.

        No delta would have these rows.
        """
        for one in self.tables.storage.keyed:
            now, then = self._older(one), self._then(one)
            differs = any(now[column] != then[column] for column in ("zoid", "tid") if column in now)
            if int(now["rows"]) > int(then["rows"]) or (now["rows"] == then["rows"] and differs):
                return self.tables.name(one.name)
        return None

    def packed(self, one: Keyed) -> bool:
        """Tell whether a pack has removed or changed rows of the earlier state."""
        then = self._then(one)
        return any(value != then.get(column) for column, value in self._older(one).items())

    def _older(self, one: Keyed) -> dict[str, str]:
        """Return the sums over the rows with TIDs of the earlier state.

        A commit moves a row from the current to the former revisions. So the sums of both tables are added.
        """
        now, newer = self.tables.state.keys[self.tables.name(one.name)], self.newer[one.name]
        older = {
            column: str(int(value) - int(newer[column])) for column, value in now.items() if column != "split"
        }
        return _added_up(older, self._older(self._current)) if one.kind == "history" else older

    def _then(self, one: Keyed) -> dict[str, str]:
        then = self.before.keys[self.tables.name(one.name)]
        return _added_up(then, self._then(self._current)) if one.kind == "history" else then

    @property
    def _current(self) -> Keyed:
        return next(one for one in self.tables.storage.keyed if one.name == OBJECTS)

    @cached_property
    def newer(self) -> dict[str, dict[str, str]]:
        """Return the sums over rows that are later than the earlier state, by table."""
        after = self.before.last_tid
        return {one.name: self.tables.sums(one, after) for one in self.tables.storage.keyed}


class DeltaWriter:
    """Store changes as files of rows; ``heartbeat`` is called every few seconds while rows are copied."""

    def __init__(self, changes: Changes, sink: Sink, folder: str, heartbeat: Callable[[], None]) -> None:
        self._changes, self._tables, self._server = changes, changes.tables, changes.tables.server
        self._sink, self._folder, self._heartbeat = sink, folder, heartbeat

    def delta(self) -> Delta:
        """Store the rows that are later than the earlier state, and the large objects that only they name."""
        before, last = self._changes.before.last_tid, self._tables.last_tid
        until, after = last or "none", int(before, 16) if before else -1
        files = []
        for one in self._tables.storage.keyed:
            sources = [one.name, *([OBJECTS] if one.kind == "history" else [])]
            if any(self._changes.newer[name]["rows"] != "0" for name in sources):
                query = f"SELECT {{columns}} FROM ONLY {{table}} WHERE tid > {after}"
                if one.kind == "history":
                    query = SUPERSEDED.format(after=after, objects=self._tables.quoted(OBJECTS))
                to = f"{self._folder}/rows.{until}.{one.name}"
                files.append(self.store_rows(self._tables.table(one.name), query, to))
        large_objects = self._large_objects(until, after)
        return Delta(after=before, until=last, rows=files, large_objects=large_objects)

    def keys_left(self, one: Keyed) -> list[RowFile]:
        """Store the keys of all revisions, with the columns that a pack changes."""
        columns = [*one.key, *one.changed]
        query = f"SELECT {', '.join(columns)} FROM ONLY {{table}} ORDER BY {', '.join(reversed(one.key))}"
        to = f"{self._folder}/live.{one.name}"
        file = self.store_rows(self._tables.table(one.name), query, to, columns)
        return [msgspec.structs.replace(file, until=self._tables.last_tid)]

    def objects_left(self, one: Keyed, known: list[RowFile]) -> list[RowFile]:
        """Store which objects a table has, as one bit for each OID.

        A file of the previous backup with the same content is used again.
        """
        query = (
            f"COPY (SELECT zoid >> 10, bit_or(B'1'::bit({BITS}) >> (zoid & {BITS - 1})::integer) "
            f"FROM ONLY {self._tables.quoted(one.name)} GROUP BY 1 ORDER BY 1) TO STDOUT (FORMAT binary)"
        )
        by_name = {file.parts[0].to: file for file in known}

        def store(number: int, content: bytes) -> RowFile:
            to = f"{self._folder}/live.{one.name}.{number}"
            return self._set_file(self._tables.name(one.name), to, content, by_name.get(to))

        receiver = SetReceiver(store, self._heartbeat)
        self._server.copy_out(query, receiver)
        return receiver.finish()

    def _set_file(self, table: str, to: str, content: bytes, known: RowFile | None) -> RowFile:
        whole = HEADER + content + TRAILER
        digest = hashlib.sha256(whole).hexdigest()
        if known is not None and known.sha256 == digest:
            return known
        writer = self._sink.content(to)
        writer.write(whole)
        rows, columns = len(content) // SET_ROW.size, list(SET_COLUMNS)
        return RowFile(table=table, columns=columns, rows=rows, sha256=digest, parts=writer.close())

    def copied_whole(self, known: list[RowFile]) -> list[RowFile]:
        """Store the other tables completely, as text, because not every type has a binary format.

        A short table is stored only when the previous backup has another content.
        """
        by_name = {file.table: file for file in known}
        query = "SELECT {columns} FROM ONLY {table}"
        files = []
        for table in self._tables.whole:
            name = str(table)
            to = f"{self._folder}/whole.{quote(name, safe='')}"
            files.append(self.store_rows(table, query, to, format="text", known=by_name.get(name)))
        return files

    def store_rows(
        self,
        table: TableName,
        query: str,
        to: str,
        columns: list[str] | None = None,
        *,
        format: Literal["binary", "text"] = "binary",
        known: RowFile | None = None,
    ) -> RowFile:
        """Store the rows of a query over a table."""
        columns = columns or [str(column) for (column,) in self._server.query(COLUMNS, table.quoted)]
        selected = query.format(columns=", ".join(map(quoted, columns)), table=table.quoted)
        receiver = RowReceiver(lambda: self._sink.content(to), self._heartbeat, COMPARED if known else 0)
        rows = self._server.copy_out(f"COPY ({selected}) TO STDOUT (FORMAT {format})", receiver)
        if known is not None and known.columns == columns and receiver.same_as(known.sha256):
            return known
        digest = receiver.digest_of_all()
        parts = receiver.close()
        return RowFile(
            table=str(table), columns=columns, rows=rows, sha256=digest, parts=parts, format=format
        )

    def _large_objects(self, until: str, after: int) -> RowFile | None:
        """Store the content of large objects that only new rows name, as rows of OID, position and bytes.

        A large object that the database has lost is not in it; ``large_objects_named`` reports it.
        """
        if self._tables.storage.chunks is None:
            return None
        query = NEW_LARGE_OBJECTS.format(table=self._tables.quoted(self._tables.storage.chunks))
        to = f"{self._folder}/rows.{until}.{LARGE_OBJECTS}"
        receiver = RowReceiver(lambda: self._sink.content(to), self._heartbeat)
        rows = 0
        for number, there in self._server.stream(query, after, after):
            for position, data in self._server.large_object(number) if there else ():
                receiver.write(HEADER if rows == 0 else b"")
                receiver.write(struct.pack(">hiIiqi", 3, 4, number, 8, position, len(data)) + data)
                rows += 1
        if rows == 0:
            return None
        receiver.write(TRAILER)
        digest, parts = receiver.digest_of_all(), receiver.close()
        columns = [CHUNK, "place", "data"]
        return RowFile(table=LARGE_OBJECTS, columns=columns, rows=rows, sha256=digest, parts=parts)


def _added_up(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    return {column: str(int(value) + int(other[column])) for column, value in one.items()}
