"""The manifest of a backup and the documents that it references: repository format 1.

Sizes are in bytes. TIDs and OIDs are ``0x`` and 16 hex digits. Times are ISO 8601 in UTC. Readers ignore
unknown keys. No manifest is ever rewritten, so unknown keys are kept.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FORMAT = 1
Status = Literal["complete", "incomplete"]
Trigger = Literal["scheduled", "on-demand", "safety"]
How = Literal["full", "incremental"]
Codec = Literal["zstd", "zstd+age"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable object: ``raw`` bytes of content, ``stored`` bytes under ``objects/``.

    ``to`` is the file that the decoded content is appended to: ``<database>/Data.fs``, ``<database>/blobs``
    (tar), ``<database>/log``. ``codec`` is ``zstd``, or ``zstd+age`` when the zstd file is encrypted.
    """

    object: str
    raw: int
    stored: int
    to: str
    codec: Codec = "zstd"


class DocumentRef(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable document under ``meta/``."""

    meta: str
    stored: int


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes from ``start`` to ``end`` of a Data.fs, which end with a finished transaction.

    ``tail_digest`` is the digest of the last transaction (at ``tail_start``): its header, last 64 KiB and
    length. ``future``: TIDs were later than the clock of the capture, so they do not identify the content.
    """

    start: int
    end: int
    sha256: str
    transactions: int
    first_tid: str | None
    last_tid: str | None
    tail_start: int
    tail_digest: str
    parts: list[Part]
    tids: DocumentRef | None = None
    log: list[Part] = []
    future: bool = False

    @property
    def raw(self) -> int:
        """Return the length in bytes."""
        return self.end - self.start

    @property
    def stored(self) -> int:
        """Return the bytes of everything stored for it."""
        return sum(p.stored for p in (*self.parts, *self.log)) + (self.tids.stored if self.tids else 0)


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A tar of blobs.

    ``index`` lists the live blobs: ``count`` blobs with ``size`` bytes, the newest of ``last_tid``. They take
    ``live`` bytes of the tar, with their headers.
    """

    count: int
    size: int
    live: int
    last_tid: str
    index: DocumentRef
    parts: list[Part]
    future: bool = False

    @property
    def raw(self) -> int:
        """Return the length of the tar in bytes, dead blobs included."""
        return sum(p.raw for p in self.parts)

    @property
    def stored(self) -> int:
        """Return the bytes of everything stored for it."""
        return sum(p.stored for p in self.parts) + self.index.stored


class Transactions(msgspec.Struct, frozen=True, kw_only=True):
    """Some transactions of a database that is dumped, in ascending order.

    The rows are like those of a segment, but all positions are 0.
    """

    count: int
    first_tid: str
    last_tid: str
    tids: DocumentRef
    log: list[Part]

    @property
    def raw(self) -> int:
        """Return 0, because a restore writes no bytes of it."""
        return 0

    @property
    def stored(self) -> int:
        """Return the bytes of everything stored for it."""
        return self.tids.stored + sum(part.stored for part in self.log)


class ListRef(msgspec.Struct, frozen=True, kw_only=True):
    """A list document under ``meta/`` with ``count`` entries.

    It is never changed, and all manifests that contain the whole list share it.
    """

    list: str
    count: int
    stored: int
    raw: int


class DataFs(msgspec.Struct, frozen=True, kw_only=True, tag="datafs", tag_field="kind"):
    """The storage component of a FileStorage: segments from byte 0 to ``end``."""

    end: int
    transactions: int
    lists: list[ListRef]
    tail: list[Segment]

    @property
    def size(self) -> int:
        """Return the bytes that a restore writes."""
        return self.end


class _Dump(msgspec.Struct, frozen=True, kw_only=True):
    """The storage component of a database server, in the format of its own tool.

    It has ``size`` bytes, in the parts of the lists, then of the tail. ``tables`` are the numbers of rows of
    each table in the dumped snapshot. ``versions`` are those of the server and the tool. ``marks`` is a
    document with some objects and their TIDs; they show a later run whether the database is still the same
    one. If the database can be restored to a transaction, ``log_lists``, then ``log``, contain all
    transactions.
    """

    size: int
    lists: list[ListRef]
    tail: list[Part]
    tables: dict[str, int]
    versions: dict[str, str] = {}
    transactions: int | None = None
    marks: str | None = None
    log_lists: list[ListRef] = []
    log: list[Transactions] = []

    @property
    def requires(self) -> list[str]:
        """Return the features that a reader of the manifest has to know."""
        return ["dump"]

    def rows_of(self, table: str) -> int | None:
        """Return how many rows a table had in the snapshot, in any schema."""
        return next((rows for name, rows in self.tables.items() if name.rpartition(".")[2] == table), None)

    @property
    def documents(self) -> list[str]:
        """Return the names of its documents, without lists."""
        return [self.marks] if self.marks else []

    @property
    def files(self) -> list[Part]:
        """Return the parts of the other files that are stored with the dump."""
        return []


class PgDump(_Dump, frozen=True, kw_only=True, tag="pg_dump", tag_field="kind"):
    """An archive of ``pg_dump`` in the custom format.

    ``large_objects`` is their number in the snapshot. ``sequences`` are the last values of sequences.
    ``state`` is the document that the next run compares with, if the method is ``transactions``.
    """

    large_objects: int = 0
    sequences: dict[str, int] = {}
    state: str | None = None

    @property
    def documents(self) -> list[str]:
        """Return the names of its documents, without lists."""
        return [name for name in (self.marks, self.state) if name]


class RowFile(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of some columns of a table, in the format of ``COPY``. ``sha256`` is the digest of the raw bytes.

    For a file of keys, ``until`` is the TID up to which it contains all keys of the table.
    """

    table: str
    columns: list[str]
    rows: int
    sha256: str
    parts: list[Part]
    format: Literal["binary", "text"] = "binary"
    until: str | None = None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The rows and large objects that were committed after the TID ``after``, up to ``until``."""

    after: str | None
    until: str | None
    rows: list[RowFile]
    large_objects: RowFile | None = None

    @property
    def parts(self) -> list[Part]:
        """Return all parts."""
        return [
            part
            for file in (*self.rows, *([self.large_objects] if self.large_objects else []))
            for part in file.parts
        ]

    @property
    def raw(self) -> int:
        """Return the bytes of content."""
        return sum(part.raw for part in self.parts)

    @property
    def stored(self) -> int:
        """Return the bytes of everything stored for it."""
        return sum(part.stored for part in self.parts)


class DeltaBase(msgspec.Struct, frozen=True, kw_only=True):
    """The dump that deltas are applied to.

    ``id`` and ``created_at`` are those of its own backup; the other fields describe the snapshot of that
    dump.
    """

    id: str
    created_at: str
    last_tid: str | None
    stored: int
    tables: dict[str, int]
    large_objects: int
    versions: dict[str, str]


class PgTransactions(PgDump, frozen=True, kw_only=True, tag="pg_transactions", tag_field="kind"):
    """An archive of ``pg_dump``, the ``base``, and the transactions that were committed since.

    They are in ``delta_lists``, then ``deltas``. ``live`` are the keys of all existing rows; other rows of
    the base are deleted. ``whole`` tables are stored completely each time. ``derived`` tables, which a pack
    fills, are empty. ``keys`` are the number and sums of the keys of each table in the snapshot. ``encoding``
    is that of texts. ``script`` applies everything by hand.
    """

    base: DeltaBase
    delta_lists: list[ListRef]
    deltas: list[Delta]
    live: list[RowFile]
    whole: list[RowFile]
    derived: list[str]
    keys: dict[str, dict[str, str]]
    encoding: str
    script: list[Part]

    @property
    def requires(self) -> list[str]:
        """Return the features that a reader has to know."""
        return ["dump", "deltas"]

    @property
    def files(self) -> list[Part]:
        """Return the parts of the other files that are stored with the dump and the deltas."""
        return [*(part for file in (*self.live, *self.whole) for part in file.parts), *self.script]


class SqliteCopy(_Dump, frozen=True, kw_only=True, tag="sqlite", tag_field="kind"):
    """The files of a SQLite database, copied by its online backup; ``to`` of each part is the file."""


class MysqlDump(_Dump, frozen=True, kw_only=True, tag="mysqldump", tag_field="kind"):
    """An SQL script of ``mariadb-dump`` or ``mysqldump``."""


class StoredFiles(_Dump, frozen=True, kw_only=True, tag="files", tag_field="kind"):
    """Files that a backend of another package stores and reads.

    ``to`` of each part is the file that it belongs to; see ``chain.file_name``. The parts of a file follow
    each other.
    """

    tables: dict[str, int] = {}

    @property
    def requires(self) -> list[str]:
        """Return the features that a reader has to know."""
        return ["files"]


Dump = PgDump | PgTransactions | SqliteCopy | MysqlDump | StoredFiles


class MissingBlobs(msgspec.Struct, frozen=True, kw_only=True):
    """Blobs that the storage component references and the source no longer has."""

    count: int
    list: str | None


class Blobs(msgspec.Struct, frozen=True, kw_only=True):
    """The blob component: ``count`` blobs with ``size`` bytes in packs.

    If several packs have the same (OID, TID), the last one counts. ``sparse`` is the number of packs that are
    less than half live; a later run rewrites them. ``keys`` is the document of the objects in S3 whose key is
    not the usual one of their storage: OID, TID, key.
    """

    count: int
    size: int
    lists: list[ListRef]
    tail: list[Pack]
    missing: MissingBlobs
    sparse: int = 0
    keys: str | None = None


class DatabaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One database in a backup.

    Targets of a restore are its transactions from ``pack_tid`` (else ``first_tid``) on. ``ordered`` is False
    when the TIDs of the source do not ascend; then a time does not identify a state. ``experimental``: the
    method of the backup is new.
    """

    name: str
    folder: str
    mount_point: str | None
    backend: str
    method: Literal["native", "portable", "transactions"]
    history: bool | None
    blob_mode: str
    layout: str | None
    first_tid: str | None
    pack_tid: str | None
    last_tid: str | None
    last_time: str | None
    storage: DataFs | Dump | None
    blobs: Blobs | None
    ordered: bool = True
    transactions_added: int = 0
    blobs_added: int = 0
    warnings: list[str] = []
    experimental: bool = False

    @property
    def data_fs(self) -> DataFs | None:
        """Return the storage component if it is a Data.fs."""
        return self.storage if isinstance(self.storage, DataFs) else None

    @property
    def dump(self) -> Dump | None:
        """Return the storage component if it is a dump."""
        return None if isinstance(self.storage, DataFs) else self.storage


class Timeline(msgspec.Struct, frozen=True):
    """A timeline that a backup belongs to, named by the id of its first backup.

    The backup shares it up to ``until_tid`` (None: to its end).
    """

    id: str
    until_tid: str | None


class Reason(msgspec.Struct, frozen=True):
    """The reason for a full or incremental backup: a code, which the reference explains, and a sentence."""

    code: Literal[
        "first",
        "continued",
        "unchanged",
        "packed",
        "diverged",
        "new-history",
        "forced",
        "parent-missing",
        "resumed",
    ]
    text: str


class Origin(msgspec.Struct, frozen=True):
    """The machine, configuration file and storage paths that a backup was made from."""

    machine: str
    config: str | None
    paths: list[str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One finished backup.

    ``locked_until`` is the lock expiry of all its objects in its ``repository``, None when it is not known.
    """

    id: str
    site: str
    repository: str
    created_at: str
    finished_at: str
    trigger: Trigger
    contents: str | list[str]
    how: How
    reason: Reason
    parent: str | None
    timeline: list[Timeline]
    status: Status
    consistency: Literal["consistent", "uncoordinated"]
    source: Origin
    software: dict[str, str]
    seen: list[str]
    databases: list[DatabaseEntry]
    added: int
    recovery: str
    requires: list[str] = []
    recipients: list[str] = []
    locked_until: str | None = None
    format: int = FORMAT

    @property
    def whole(self) -> bool:
        """Return whether it contains every database of its site, storage and blobs."""
        return self.contents == "all"


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """A run in progress: the backups that it uses (``uses``), and what it ``stored`` so far by database.

    ``copied`` are lists of the objects that a copy has re-encrypted: the new object, and the name ``of`` the
    original. ``ended``: the run gave up and left what it stored to the next run.
    """

    run: str
    what: str
    host: str
    pid: int
    process: str
    started: str
    heartbeat: str
    uses: list[str] = []
    stored: list[StoredProgress] = []
    copied: list[ListRef] = []
    ended: bool = False


class StoredProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What an unfinished run has stored of one database.

    The chain is the first ``keep`` bytes of ``parent``, then these lists.
    """

    database: str
    parent: str | None
    keep: int
    segments: list[ListRef] = []
    packs: list[ListRef] = []


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about a backup.

    It is ``name``, ``note``, ``pinned``, ``verified``, ``restored``, ``accept-missing``, ``accept-history``
    or ``deleted``.
    """

    fact: str
    value: Any
    at: str


Proof = Literal["bytes", "records"]


class DamagedObject(msgspec.Struct, frozen=True):
    """One object or document that is known to be damaged.

    ``name`` is its name, the SHA-256 of its stored bytes. ``proof`` is what proves that it is good again:
    ``bytes`` (its bytes match its name), or ``records`` (it can be decoded as well).
    """

    name: str
    why: str
    proof: Proof = "bytes"


class DamageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The damaged objects that one run found: ``found_by`` is the command, ``at`` the time (ISO 8601)."""

    found_by: str
    at: str
    objects: list[DamagedObject]


class RemovedBackup(msgspec.Struct, frozen=True, kw_only=True):
    """The note that the backup ``id`` was removed permanently, and when."""

    id: str
    at: str


class PendingDeletions(msgspec.Struct, frozen=True, kw_only=True):
    """Pending deletions: ``rows`` of a key and the time since which nothing references it.

    ``seen`` are the known ids of backups by site.
    """

    rows: list[tuple[str, str]] = []
    seen: dict[str, list[str]] = {}


class DeadRun(msgspec.Struct, frozen=True, kw_only=True):
    """The note that the run of a ``marker`` was declared dead, and when."""

    at: str
    marker: str


class RepositoryInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The file ``repository.json``.

    ``recovery`` is the SHA-256 of RECOVERY.md. ``store`` is the result of the probe of its service.
    ``former`` are all earlier lists of ``recipients``, oldest first; a list is empty if content was not
    encrypted.
    """

    id: str
    created: str
    recovery: str
    requires: list[str] = []
    recipients: list[str] = []
    former: list[list[str]] = []
    store: dict[str, str | bool] = {}
    format: int = FORMAT
