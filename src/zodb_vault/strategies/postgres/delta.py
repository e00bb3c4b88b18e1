"""What of a PostgreSQL database is new since an earlier snapshot, told by TIDs, and which keys are left; stored as ``COPY`` writes it.

A TID is chosen under a lock that is held until its transaction is committed, by RelStorage and by zodb-pgjsonb: who sees a transaction sees all
that have lower TIDs. So the last TID of a snapshot divides what it holds from what comes later. What is removed by a pack bears no mark:
sums over the keys tell that something is gone, and then the keys that are left are stored.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from ...errors import VaultError
from ...model import tid as tids
from ...model.manifest import Delta, Part, RowFile
from ...runtime import clock
from ..base import ContentSink, Sink
from ..sql.snapshot import PIECE
from .connection import quoted
from .snapshot import TABLES, Postgres
from .tables import Keyed, Layout, sum_of

TICK_SECONDS: Final = 2.0
# The clock of the server chooses TIDs; it may be ahead of ours.
SKEW: Final = timedelta(minutes=10)
# Content of a whole table that is not longer is compared with what the backup before has of it.
COMPARED: Final = 8 << 20
# The binary format of COPY: signature, flags, length of an extension; and what stands behind the last row.
HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER: Final = b"\xff\xff"
LARGE_OBJECTS: Final = "large_objects"
# A set of OIDs is stored as rows of a number and 1024 bits; so many rows are a file, which stays the same as long as no object comes or goes in it.
BITS: Final = 1024
SET_ROW: Final = struct.Struct(f">hiqii{BITS // 8}s")
SET_COLUMNS: Final = ("base", "bits")
ROWS_OF_FILE: Final = 4096
# Of objects with later revisions, the one that was current before.
SUPERSEDED: Final = """
SELECT {{columns}} FROM ONLY {{table}} WHERE tid > {after} UNION ALL
SELECT h.* FROM (SELECT zoid FROM ONLY {objects} WHERE tid > {after} UNION SELECT zoid FROM ONLY {{table}} WHERE tid > {after}) n
CROSS JOIN LATERAL (SELECT {{columns}} FROM ONLY {{table}} m WHERE m.zoid = n.zoid AND m.tid <= {after} ORDER BY m.tid DESC LIMIT 1) h
"""
COLUMNS: Final = """
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
SEQUENCES: Final = (
    "SELECT schemaname, sequencename, last_value, min_value, increment_by FROM pg_sequences ORDER BY 1, 2"
)
SCHEMA_OF: Final = "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('object_state')"
NEW_LARGE_OBJECTS: Final = """
SELECT DISTINCT n.chunk, m.oid IS NOT NULL FROM {table} n LEFT JOIN pg_largeobject_metadata m ON m.oid = n.chunk
WHERE n.tid > %s AND NOT EXISTS (SELECT FROM {table} o WHERE o.chunk = n.chunk AND o.tid <= %s) ORDER BY 1
"""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """By what the next run knows the database again, and what is left of it: the server and its past, the tables, sums over the keys.

    ``future``: the last TID was far ahead of the clock.
    """

    server: str
    database: str
    schema: str
    last_tid: str | None
    keys: dict[str, dict[str, str]]
    future: bool = False

    def unlike(self, earlier: State) -> str | None:
        """Return what is not as it was in an earlier state."""
        if (self.server, self.database) != (earlier.server, earlier.database):
            return "it is another database now, or its server was restored or replaced"
        return "the definitions of its tables have changed" if self.schema != earlier.schema else None


class Changes:
    """What a snapshot holds that an earlier one had not; ``tick`` is called while it is copied."""

    def __init__(
        self, server: Postgres, layout: Layout, last_tid: str | None, tick: Callable[[], None] = lambda: None
    ) -> None:
        self.server, self.layout, self.last_tid, self.tick = server, layout, last_tid, tick

    # what there is

    @cached_property
    def schema(self) -> str:
        """Return the schema that the tables are in."""
        return str(self.server.ask(SCHEMA_OF)[0][0])

    @cached_property
    def encoding(self) -> str:
        """Return how the database encodes texts."""
        return str(self.server.ask("SHOW server_encoding")[0][0])

    def name(self, table: str) -> str:
        """Return how counts call a table of the storage."""
        return f"{self.schema}.{table}"

    @cached_property
    def tables(self) -> list[str]:
        """Return all tables of the database."""
        return [f"{schema}.{table}" for schema, table in self.server.ask(TABLES)]

    @cached_property
    def whole(self) -> list[str]:
        """Return the tables that are copied whole: all that nobody knows."""
        known = {
            self.name(table) for table in (*(one.name for one in self.layout.keyed), *self.layout.derived)
        }
        return [table for table in self.tables if table not in known]

    @property
    def derived(self) -> list[str]:
        """Return the tables whose content a pack makes anew."""
        return [table for table in map(self.name, self.layout.derived) if table in self.tables]

    @cached_property
    def state(self) -> State:
        """Return what the next run compares with."""
        return State(
            server=self._server(),
            database=str(
                self.server.ask("SELECT oid FROM pg_database WHERE datname = current_database()")[0][0]
            ),
            schema=self._definitions(),
            last_tid=self.last_tid,
            keys={self.name(one.name): self._sums(one, None) for one in self.layout.keyed},
            future=self.last_tid is not None
            and tids.from_hex(self.last_tid) > tids.from_datetime(clock.now() + SKEW),
        )

    def _server(self) -> str:
        """Return which server it is and which past it has: a restore or a failover begins another timeline."""
        known = []
        for function, column in (
            ("pg_control_system", "system_identifier"),
            ("pg_control_checkpoint", "timeline_id"),
        ):
            allowed = self.server.ask(f"SELECT has_function_privilege('{function}()', 'EXECUTE')")[0][0]
            known.append(str(self.server.ask(f"SELECT {column} FROM {function}()")[0][0]) if allowed else "?")
        return "/".join(known)

    def _definitions(self) -> str:
        """Return a digest of everything that defines the database, as its own tool writes it; comments name versions and moments."""
        digest = hashlib.sha256()
        for line in self.server.definitions():
            if not line.startswith((b"--", b"\\", b"SET client_encoding")):
                digest.update(line + b"\n")
        return digest.hexdigest()

    def _sums(self, one: Keyed, after: str | None) -> dict[str, str]:
        """Return the number of rows and the sums of columns: of each column apart, so that an index is all that is read."""
        where, table = (f"WHERE tid > {int(after, 16)}" if after else ""), self._quoted(one.name)
        sums = {"rows": str(self.server.ask(f"SELECT count(*) FROM ONLY {table} {where}")[0][0])}
        for column in one.sums:
            sums[column] = str(self.server.ask(f"SELECT {sum_of(column)} FROM ONLY {table} {where}")[0][0])
        if one.name == "blob_chunk":
            sums["split"] = str(
                self.server.ask(f"SELECT count(*) FROM ONLY {table} WHERE chunk_num > 0")[0][0]
            )
        return sums

    def _quoted(self, table: str) -> str:
        return f"{quoted(self.schema)}.{quoted(table)}"

    def sequences(self) -> dict[str, int]:
        """Return the last value that each sequence has given; of one that was set to a value which it has not given yet, the one before."""
        found = {}
        for schema, name, last, least, step in self.server.ask(SEQUENCES):
            value = last
            if value is None:  # set, or not to be read, which is an error here
                ((value, given),) = self.server.ask(
                    f"SELECT last_value, is_called FROM {quoted(schema)}.{quoted(name)}"
                )
                value -= 0 if given else step
            if value >= least:
                found[f"{schema}.{name}"] = int(value)
        return found

    # compared with an earlier state

    def unsuited(self, earlier: State) -> str | None:
        """Return what no delta could bring."""
        chunks = self.name("blob_chunk")
        if any(state.keys.get(chunks, {}).get("split", "0") != "0" for state in (self.state, earlier)):
            return "blobs are in several large objects each, as an old RelStorage left them, and those are joined without a sign of it"
        client = self.server.ask("SHOW client_encoding")[0][0]
        if client != self.encoding:
            return f"texts would be copied as {client}, not as {self.encoding} like the database: see PGCLIENTENCODING and the settings of the role"
        there = {str(column) for (column,) in self.server.ask(COLUMNS, self._quoted("object_state"))}
        if self.layout.columns and (more := sorted(there - self.layout.columns)):
            return f"object_state has columns that may change without a transaction: {', '.join(more)}"
        if self._history and any(self.packed(one, earlier) for one in self.layout.keyed if one.kind != "set"):
            return "its history was packed"
        return None

    @property
    def _history(self) -> bool:
        return any(one.kind == "history" for one in self.layout.keyed)

    def added(self, earlier: State) -> str | None:
        """Return a table that has more rows with the TIDs of an earlier state than it had then."""
        for one in self.layout.keyed:
            now, then = self._older(one), self._then(one, earlier)
            differs = any(now[column] != then[column] for column in ("zoid", "tid") if column in now)
            if int(now["rows"]) > int(then["rows"]) or (now["rows"] == then["rows"] and differs):
                return self.name(one.name)
        return None

    def packed(self, one: Keyed, earlier: State) -> bool:
        """Tell whether rows of revisions are gone or changed since."""
        then = self._then(one, earlier)
        return any(value != then.get(column) for column, value in self._older(one).items())

    def _older(self, one: Keyed) -> dict[str, str]:
        """Return the sums over what has TIDs of the earlier state; current and former revisions are one, a commit brings them from here to there."""
        now, newer = self.state.keys[self.name(one.name)], self._newer[one.name]
        older = {
            column: str(int(value) - int(newer[column])) for column, value in now.items() if column != "split"
        }
        return _added_up(older, self._older(self._current)) if one.kind == "history" else older

    def _then(self, one: Keyed, earlier: State) -> dict[str, str]:
        then = earlier.keys[self.name(one.name)]
        return _added_up(then, self._then(self._current, earlier)) if one.kind == "history" else then

    @property
    def _current(self) -> Keyed:
        return next(one for one in self.layout.keyed if one.name == "object_state")

    @cached_property
    def _newer(self) -> dict[str, dict[str, str]]:
        return {one.name: self._sums(one, self._after) for one in self.layout.keyed}

    _after: str | None = None

    def since(self, earlier: State) -> Changes:
        """Compare with this state from now on."""
        self._after = earlier.last_tid
        return self

    # what is copied

    def delta(self, sink: Sink, folder: str) -> Delta:
        """Store the rows that are later than the earlier state, and the large objects that they brought."""
        until, after = self.last_tid or "none", int(self._after, 16) if self._after else -1
        files = []
        for one in self.layout.keyed:
            came = [one.name, *(["object_state"] if one.kind == "history" else [])]
            if any(self._newer[name]["rows"] != "0" for name in came):
                query = f"SELECT {{columns}} FROM ONLY {{table}} WHERE tid > {after}"
                if one.kind == "history":
                    query = SUPERSEDED.format(after=after, objects=self._quoted("object_state"))
                files.append(
                    self._rows(self.name(one.name), query, sink, f"{folder}/rows.{until}.{one.name}")
                )
        return Delta(
            after=self._after,
            until=self.last_tid,
            rows=files,
            large_objects=self._large_objects(sink, folder, until, after),
        )

    def keys_left(self, one: Keyed, sink: Sink, folder: str) -> list[RowFile]:
        """Store the keys of revisions, with the columns that a pack changes."""
        columns = [*one.key, *one.changed]
        query = f"SELECT {', '.join(columns)} FROM ONLY {{table}} ORDER BY {', '.join(reversed(one.key))}"
        file = self._rows(self.name(one.name), query, sink, f"{folder}/live.{one.name}", columns)
        return [msgspec.structs.replace(file, until=self.last_tid)]

    def objects_left(self, one: Keyed, sink: Sink, folder: str, known: list[RowFile]) -> list[RowFile]:
        """Store which objects a table has, as far as no earlier file says the same."""
        query = (
            f"COPY (SELECT zoid >> 10, bit_or(B'1'::bit({BITS}) >> (zoid & {BITS - 1})::integer) "
            f"FROM ONLY {self._quoted(one.name)} GROUP BY 1 ORDER BY 1) TO STDOUT (FORMAT binary)"
        )
        by_name = {file.parts[0].to: file for file in known}
        cutter = _SetCutter(
            lambda number, content: self._set_file(
                one, sink, f"{folder}/live.{one.name}.{number}", content, by_name
            ),
            self.tick,
        )
        self.server.copy_out(query, cutter)
        return cutter.finish()

    def _set_file(
        self, one: Keyed, sink: Sink, to: str, content: bytes, known: dict[str, RowFile]
    ) -> RowFile:
        whole, file = HEADER + content + TRAILER, known.get(to)
        digest = hashlib.sha256(whole).hexdigest()
        if file is not None and file.sha256 == digest:
            return file
        writer = sink.content(to)
        writer.write(whole)
        rows = len(content) // SET_ROW.size
        return RowFile(
            table=self.name(one.name),
            columns=list(SET_COLUMNS),
            rows=rows,
            sha256=digest,
            parts=writer.close(),
        )

    def copied_whole(self, sink: Sink, folder: str, known: list[RowFile]) -> list[RowFile]:
        """Store the tables that nobody knows, as text, which every type has; short ones only if the backup before has something else."""
        by_name = {file.table: file for file in known}
        files = []
        for table in self.whole:
            to = f"{folder}/whole.{quote(table, safe='')}"
            files.append(
                self._rows(
                    table,
                    "SELECT {columns} FROM ONLY {table}",
                    sink,
                    to,
                    format="text",
                    known=by_name.get(table),
                )
            )
        return files

    def _rows(
        self,
        table: str,
        query: str,
        sink: Sink,
        to: str,
        columns: list[str] | None = None,
        *,
        format: Literal["binary", "text"] = "binary",
        known: RowFile | None = None,
    ) -> RowFile:
        """Store the rows of a query over a table."""
        schema, _dot, name = table.partition(".")
        full = f"{quoted(schema)}.{quoted(name)}"
        columns = columns or [str(column) for (column,) in self.server.ask(COLUMNS, full)]
        selected = query.format(columns=", ".join(map(quoted, columns)), table=full)
        receiver = _Receiver(lambda: sink.content(to), self.tick, COMPARED if known else 0)
        rows = self.server.copy_out(f"COPY ({selected}) TO STDOUT (FORMAT {format})", receiver)
        if known is not None and known.columns == columns and receiver.same_as(known.sha256):
            return known
        digest = receiver.digest_of_all()
        parts = receiver.close()
        return RowFile(table=table, columns=columns, rows=rows, sha256=digest, parts=parts, format=format)

    def _large_objects(self, sink: Sink, folder: str, until: str, after: int) -> RowFile | None:
        """Store the content of large objects that only new rows name, as rows of number, place and bytes; those that are lost are told elsewhere."""
        if not any(one.name == "blob_chunk" and "chunk" in one.sums for one in self.layout.keyed):
            return None
        query = NEW_LARGE_OBJECTS.format(table=self._quoted("blob_chunk"))
        receiver = _Receiver(lambda: sink.content(f"{folder}/rows.{until}.{LARGE_OBJECTS}"), self.tick)
        rows = 0
        for number, there in self.server.stream(query, after, after):
            for position, data in self.server.large_object(number) if there else ():
                receiver.write(HEADER if rows == 0 else b"")
                receiver.write(struct.pack(">hiIiqi", 3, 4, number, 8, position, len(data)) + data)
                rows += 1
        if rows == 0:
            return None
        receiver.write(TRAILER)
        digest = receiver.digest_of_all()
        return RowFile(
            table=LARGE_OBJECTS,
            columns=["chunk", "place", "data"],
            rows=rows,
            sha256=digest,
            parts=receiver.close(),
        )


def _added_up(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    return {column: str(int(value) + int(other[column])) for column, value in one.items()}


class _Receiver:
    """What ``COPY`` writes into; content of up to ``held`` bytes is held back until it is known whether it is wanted."""

    def __init__(self, begin: Callable[[], ContentSink], tick: Callable[[], None], held: int = 0) -> None:
        self._begin, self._tick, self._held = begin, tick, held
        self._content: ContentSink | None = None
        self._buffer = bytearray()
        self._next = time.monotonic() + TICK_SECONDS
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= max(PIECE, self._held):
            self._flush()
        return len(data)

    def _flush(self) -> None:
        self._held = 0
        self._content = self._content or self._begin()
        self.digest.update(self._buffer)
        self._content.write(bytes(self._buffer))
        self._buffer.clear()
        if time.monotonic() > self._next:
            self._tick()
            self._next = time.monotonic() + TICK_SECONDS

    def digest_of_all(self) -> str:
        """Return the digest of everything that was written."""
        self._flush()
        return self.digest.hexdigest()

    def same_as(self, digest: str) -> bool:
        """Tell whether everything was held back and has this digest."""
        return self._content is None and hashlib.sha256(self._buffer).hexdigest() == digest

    def close(self) -> list[Part]:
        self._flush()
        assert self._content is not None
        return self._content.close()


class _SetCutter:
    """Cuts the rows of a set, which all have the same length, into files by their numbers."""

    def __init__(self, store: Callable[[int, bytes], RowFile], tick: Callable[[], None]) -> None:
        self._store, self._tick = store, tick
        self._buffer = bytearray()
        self._begun = False
        self._file: tuple[int, bytearray] | None = None
        self._files: list[RowFile] = []

    def write(self, data: bytes) -> int:
        self._buffer += data
        if not self._begun and len(self._buffer) >= len(HEADER):
            self._begun = True
            del self._buffer[: len(HEADER)]
        while self._begun and len(self._buffer) >= SET_ROW.size:
            self._row(bytes(self._buffer[: SET_ROW.size]))
            del self._buffer[: SET_ROW.size]
        return len(data)

    def _row(self, row: bytes) -> None:
        number = int(SET_ROW.unpack(row)[2]) // ROWS_OF_FILE
        if self._file is not None and self._file[0] != number:
            self._end()
        if self._file is None:
            self._file = number, bytearray()
            self._tick()
        self._file[1].extend(row)

    def _end(self) -> None:
        if self._file is not None:
            self._files.append(self._store(self._file[0], bytes(self._file[1])))
        self._file = None

    def finish(self) -> list[RowFile]:
        """Return all files."""
        if bytes(self._buffer) != TRAILER:
            raise VaultError(
                "the server did not give the keys in the form that was asked for",
                "tell the developers of zodb-vault",
            )
        self._end()
        return self._files
