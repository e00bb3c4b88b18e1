"""The backend of ``<pgjsonb>``.

A dump of one snapshot of its database, and the objects in S3 that the rows of the same snapshot name.

No storage of zodb-pgjsonb is ever opened here: it alters its tables whenever it is opened, and would wait for
the dump with every other session behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...blobs.refs import BlobSet
from ...config.conversion import Conversion
from ...errors import NothingToBackUp, NotProven
from ...model.manifest import DatabaseEntry, PgDump, PgTransactions
from ...model.requirements import Package, Requirements
from ...model.restore import DestinationOptions
from ...model.source import Database, Method, masked
from ...policy.scope import SNAPSHOT, Component, Scope, blobs_outside, in_bucket, shown_server
from ...runtime.progress import Progress
from ..backend import Backend, Opinion, Revision, Scratch
from ..base import CheckReport, Sink, SurveyContext
from ..destination import Destination
from ..postgres.requirements import DRIVERS, TOOLS
from .zope_conf import NAME, read_section

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings
    from ..sql.survey import SqlSurvey

CACHE_OPTION: Final = "blob-cache-dir"
PGJSONB: Final = Package("zodb_pgjsonb", ("zodb-pgjsonb",), "1.0", "pgjsonb", (3, 12))
LOSES_BLOBS: Final = (
    "DO NOT RELY ON THIS COPY: zodb-convert 1.0.0b12 loses every blob of a zodb-pgjsonb storage and "
    "reports success; "
    "save the database with pg_dump instead"
)
# The cache holds all blobs of the bucket, so no request ever goes to this address.
CONFIGURATION: Final = """
%import zodb_pgjsonb
<pgjsonb>
  dsn {dsn}
  history-preserving {history}
  cache-shared-mb 20
  cache-warm-pct 0
  blob-temp-dir {directory}/temporary
  {bucket}
</pgjsonb>
"""
BUCKET: Final = """
  s3-bucket-name nowhere
  s3-endpoint-url http://127.0.0.1:1
  s3-region nowhere
  s3-access-key none
  s3-secret-key none
  blob-cache-dir {cache}
  blob-cache-size 1048576GB
"""


class Pgjsonb(Backend):
    """The backend of zodb-pgjsonb; see ``Backend``."""

    name = NAME
    blob_modes = ("database", "database+s3")

    # what a configuration says

    def read_section(self, section: Section, around: Surroundings) -> Database:
        """Return a PGJsonb storage: blobs are in the database, large ones in S3 when a bucket is named."""
        return read_section(section, around)

    def conversion(self, section_type: str) -> Conversion:
        """Import its package."""
        return Conversion(packages={NAME: "zodb_pgjsonb"})

    def export_warnings(self, database: Database) -> list[str]:
        """Return that the copy has no blobs."""
        return [LOSES_BLOBS]

    # plan

    def scope(self, database: Database) -> Scope:
        """Return the database, then the large blobs in S3."""
        why = f"zodb-pgjsonb keeps its objects in this database; {SNAPSHOT}"
        storage = Component("storage", self.shown_location(database), "pg_dump", why)
        return Scope((storage,)).plus(_blobs(database))

    def shown_location(self, database: Database) -> str:
        """Return the database server and the database."""
        return shown_server("PostgreSQL", database, database.dsn_option)

    def require(self, database: Database, method: Method) -> None:
        """Raise NothingToBackUp for the portable method, and where another wrapper keeps the blobs.

        ConfigurationError without boto3.
        """
        if method == "portable":
            raise NothingToBackUp(
                f"the portable method cannot copy the database {database.name}: {NAME} gives no "
                "blobs to a program that reads its transactions",
                "save it with pg_dump, together with its S3 bucket if blobs are kept there",
            )
        super().require(database, "native")

    # create

    def location(self, database: Database) -> str:
        """Return which database it is."""
        from ..postgres.connection import where

        return where(database.dsn)

    def survey(self, database: Database, context: SurveyContext) -> SqlSurvey:
        """Log in and take a snapshot."""
        from ..postgres.transactions import TransactionsSurvey
        from ..sql.survey import SqlSurvey
        from .schema import PgjsonbSchema
        from .snapshot import open_rows
        from .tables import tables_of

        schema = PgjsonbSchema(database, open_rows)
        if database.method == "transactions":
            return TransactionsSurvey(schema, context, tables_of)
        return SqlSurvey(schema, context)

    # verify and restore

    def check(
        self,
        entry: DatabaseEntry,
        sink: Sink,
        refs: BlobSet,
        report: CheckReport,
        progress: Progress,
        workers: int,
    ) -> None:
        """Read the dump to its end.

        Note what its rows name in S3, and look whether the blobs in it are as long as they say.
        """
        from ..postgres.archive import check_dump
        from ..postgres.delta_check import check_deltas
        from ..sql.history import check_log
        from .tables import tables_of

        dump = entry.dump
        if not isinstance(dump, PgDump):
            return
        progress.begin("storage", dump.size)
        check = check_deltas if isinstance(dump, PgTransactions) else check_dump
        check(entry, tables_of(bool(entry.history)), sink, refs, report, progress)
        check_log(entry, sink, report)

    def destination(self, database: Database, options: DestinationOptions) -> Destination:
        """Return the database in PostgreSQL, with its bucket.

        Each blob goes under the key that its row names.
        """
        from ..postgres.empty_or_replace import plan_load, preflight
        from ..sql.local_caches import LocalCache
        from ..sql.restore import DumpDestination, DumpTarget
        from .objects import bucket_to_fill
        from .tables import tables_of

        # blobs in the cache are found by OID and TID, whatever is in the bucket by now
        cache = LocalCache(
            CACHE_OPTION, database.option(CACHE_OPTION), pattern="[0-9a-f]*/[0-9a-f]*.blob", each=False
        )
        target = DumpTarget(
            location=self.location(database),
            plan=partial(plan_load, database.dsn, tables_of),
            preflight=lambda request: preflight(database.dsn, request, options.role),
            bucket=lambda source: bucket_to_fill(database, source.entry, source.objects),
            blob_option="s3-bucket-name",
            caches=(cache,),
        )
        return DumpDestination(database, options, target)

    @contextlib.contextmanager
    def scratch(
        self, entry: DatabaseEntry, directory: Path, server: str | None, note: Callable[[str], None]
    ) -> Iterator[Scratch]:
        """Give an empty database, the configuration of a zodb-pgjsonb in it, and a cache for blobs in S3."""
        import importlib.util

        from ..postgres.scratch import scratch_database

        if importlib.util.find_spec("zodb_pgjsonb") is None:
            raise NotProven(
                f"the level restore opens {entry.name} with zodb-pgjsonb, which is not installed here",
                PGJSONB.how_to_install,
            )
        cache = directory / "blobs" if entry.blob_mode == "database+s3" else None
        with scratch_database(directory, server, note) as dsn:
            database = Database(
                name=entry.name,
                backend=NAME,
                adapter="postgresql",
                dsn_option="dsn",
                blob_mode="database",
                history=entry.history,
                options={"dsn": dsn},
            )
            configuration = CONFIGURATION.format(
                # ZConfig takes a $ for the beginning of a name
                dsn=dsn.replace("$", "$$"),
                history=str(entry.history).lower(),
                directory=directory,
                bucket=BUCKET.format(cache=cache) if cache else "",
            )
            objects = entry.dump.rows_of("object_state") if entry.dump else None
            yield Scratch(database, configuration, cache, objects, {"dsn": dsn})

    def objects(self, storage: Any, settings: dict[str, str]) -> Iterator[Revision]:
        """Yield what the rows list, as the storage loads it: it does not list its objects itself."""
        from ZODB.POSException import POSKeyError

        for oid, tid in _listed(settings["dsn"], "SELECT zoid, tid FROM object_state"):
            try:
                yield oid, tid, storage.load(oid)[0]
            except POSKeyError:
                yield oid, tid, None

    def former_blobs(self, storage: Any, settings: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the blobs of former revisions."""
        current = "SELECT 1 FROM object_state o WHERE (o.zoid, o.tid) = (b.zoid, b.tid)"
        query = f"SELECT zoid, tid FROM blob_state b WHERE NOT EXISTS ({current})"
        return _listed(settings["dsn"], query)

    # doctor

    def requirements(self, database: Database) -> Requirements:
        """Return zodb-pgjsonb, the driver and the tools of PostgreSQL."""
        return Requirements((PGJSONB,), DRIVERS, TOOLS)

    def missing_for_proof(self, database: Database) -> list[str] | None:
        """Return the package, and the programs of a server for an empty database."""
        from ..postgres.scratch import missing_programs

        return [*(super().missing_for_proof(database) or []), *missing_programs()]

    def second_opinion(self, database: Database) -> Opinion | None:
        """Ask the tables where the blobs are."""
        from ..postgres.probe import connected
        from ..sql.probe import opinion_of
        from .probe import judge

        return opinion_of(database, connected, judge)


def _blobs(database: Database) -> Scope:
    if database.blob_mode == "database+s3":
        why = "small blobs are in the dump, large ones are objects in this bucket"
        return in_bucket(database, why, "blob-cache-dir")
    if outside := blobs_outside(database, "the blobs are in this directory"):
        return outside
    cache = masked(database.options).get("blob-cache-dir")
    where = f"{cache}: " if cache else ""
    return Scope((), (f"{where}zodb-pgjsonb keeps blobs in rows of the database, so they are in its dump",))


def _listed(dsn: str, query: str) -> Iterator[tuple[bytes, bytes]]:
    from ..postgres.snapshot import Postgres

    with contextlib.closing(Postgres(dsn)) as rows:
        for zoid, tid in rows.stream(query):
            yield int(zoid).to_bytes(8), int(tid).to_bytes(8)


BACKEND: Final = Pgjsonb()
