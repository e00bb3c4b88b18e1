"""The backend of ``<relstorage>``.

A dump of one snapshot of its database, and the blobs that the rows of the same snapshot reference.

No RelStorage is ever opened here: it checks its schema when it is opened, and would wait for the dump with
every other session behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...blobs.refs import BlobSet
from ...config.conversion import Conversion
from ...config.convertconf import ONLY_CURRENT
from ...errors import NothingToBackUp, NotProven
from ...model.manifest import DatabaseEntry
from ...model.requirements import Package, Requirements
from ...model.restore import DestinationOptions
from ...model.source import Database, Method, masked
from ...policy.scope import SNAPSHOT, Component, Scope, blobs_outside
from ...runtime.progress import Progress
from ..backend import Backend, Opinion, Scratch, not_restorable, without_transactions
from ..base import CheckReport, Sink, SurveyContext
from ..destination import Destination
from .adapters import ADAPTERS, Adapter, dumping_of, dumping_that_reads
from .zope_conf import NAME, read_section

if TYPE_CHECKING:
    from ...config.sections import Section
    from ...config.storages import Surroundings
    from ..blobs.s3 import BlobBucket
    from ..sql.survey import SqlSurvey

CACHE_OPTION: Final = "cache-local-dir"
RELSTORAGE: Final = Package("relstorage", ("RelStorage",), "3.5", "relstorage")
WHY: Final = f"RelStorage keeps its objects in this database; {SNAPSHOT}"
WHY_PORTABLE: Final = (
    "Oracle has no dump that could be restored everywhere: its transactions are copied one by one into a "
    "FileStorage"
)
NO_BLOB_DIR: Final = (
    "blobs: no blob-dir is configured; those in the database, if there are any, are in its dump"
)
CONFIGURATION: Final = """
%import relstorage
<relstorage>
  keep-history {history}
  cache-local-mb 20
  blob-dir {blobs}
  shared-blob-dir {shared}
  {adapter}
</relstorage>
"""


class RelStorage(Backend):
    """The backend of RelStorage on any of its ``adapters``; see ``Backend``."""

    name = NAME
    blob_modes = ("database", "directory", "none", "s3")
    # indexes and blobs count too
    exact_size = False

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = adapters

    # what a configuration says

    def read_section(self, section: Section, around: Surroundings) -> Database:
        """Return a RelStorage: blobs are in the database unless its directory is shared."""
        return read_section(section, around, self._adapters)

    def config_warnings(self, database: Database) -> list[str]:
        """Return a warning when the configuration does not say where the blobs are.

        A configuration for zodbpack does not.
        """
        if database.blob_mode != "none":
            return []
        return ["<relstorage> says no blob-dir: blobs in a shared directory, if there is one, are not known"]

    def conversion(self, section_type: str) -> Conversion:
        """Open it for reading only, without its caches, and without changing its schema."""
        return Conversion(
            packages=dict.fromkeys((NAME, "pragmas", *self._adapters), "relstorage"),
            read_only=True,
            dropped=frozenset({"read-only"}),
            not_copied=frozenset({"cache-local-dir", "create-schema"}),
            added=(("create-schema", "false"),),
        )

    def export_warnings(self, database: Database) -> list[str]:
        """Return a warning about a storage without history."""
        return [] if database.history else [ONLY_CURRENT]

    # plan

    def scope(self, database: Database) -> Scope:
        """Return the database, then the blobs that are outside of it."""
        adapter = self._adapters[database.adapter or ""]
        cache = masked(database.options).get("cache-local-dir")
        storage = Component(
            "storage",
            self.shown_location(database),
            adapter.tool,
            WHY if adapter.dumping else WHY_PORTABLE,
        )
        return Scope(
            (storage,),
            (f"{cache}: cache-local-dir is a cache of objects that are in the database",) if cache else (),
            portable=adapter.dumping is None,
        ).plus(_blobs(database))

    def shown_location(self, database: Database) -> str:
        """Return the database server and the database."""
        return self._adapters[database.adapter or ""].shown_location(database)

    def require(self, database: Database, method: Method) -> None:
        """Raise NothingToBackUp for Oracle, and where another wrapper keeps the blobs.

        Raise ConfigurationError when their bucket cannot be read.
        """
        if method != "portable" and self._adapters[database.adapter or ""].dumping is None:
            raise NothingToBackUp(
                f"RelStorage on {database.adapter} has no dump that could be restored: the database "
                f"{database.name}",
                "copy it into a FileStorage with the configuration of `zodb-vault convert config "
                "--export`, and back that up",
            )
        super().require(database, "native" if method == "transactions" else method)
        if method == "transactions" and database.dsn_option is None:
            raise without_transactions(database)

    # create

    def location(self, database: Database) -> str:
        """Return which database it is."""
        return dumping_of(self._adapters, database).location(database)

    def survey(self, database: Database, context: SurveyContext) -> SqlSurvey:
        """Log in and take a snapshot."""
        from ..sql.survey import SqlSurvey
        from .schema import RelStorageSchema

        schema = RelStorageSchema(database, dumping_of(self._adapters, database).open_rows)
        if database.method == "transactions":
            from ..postgres.transactions import TransactionsSurvey
            from .tables import tables_of

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
        """Read the dump as its own tool does."""
        from ..sql.history import check_log

        if entry.dump is None:
            return
        kind = _kind_of(entry)
        check = dumping_that_reads(self._adapters, kind)[1].checks[kind]
        progress.begin("storage", entry.dump.size)
        check(entry, sink, refs, report, progress)
        check_log(entry, sink, report)

    def destination(self, database: Database, options: DestinationOptions) -> Destination:
        """Return the database of a RelStorage, and what it keeps on this machine."""
        from ..sql.local_caches import LocalCache
        from ..sql.restore import DumpDestination, DumpTarget

        dumping = self._adapters[database.adapter or ""].dumping
        if dumping is None:
            raise not_restorable(database)
        cache = LocalCache(
            CACHE_OPTION, database.option(CACHE_OPTION), pattern="relstorage-cache*", each=True
        )
        target = DumpTarget(
            location=dumping.location(database),
            plan=partial(dumping.plan_load, database),
            preflight=lambda request: dumping.preflight(database, request, options.role),
            files=tuple(dumping.files(database)) if dumping.files else (),
            bucket=lambda _source: _wrapper_bucket(database),
            blob_option="shared-blob-dir",
            caches=(cache,) if dumping.persistent_cache else (),
        )
        return DumpDestination(database, options, target)

    @contextlib.contextmanager
    def scratch(
        self, entry: DatabaseEntry, directory: Path, server: str | None, note: Callable[[str], None]
    ) -> Iterator[Scratch]:
        """Give an empty database, and the configuration of a RelStorage in it."""
        adapter, dumping = dumping_that_reads(self._adapters, _kind_of(entry))
        if dumping.scratch is None:
            raise NotProven(
                f"the level restore needs a MySQL 8 of its own for {entry.name}, "
                "and this version cannot make one",
                "use the level records, or restore into an empty database of a server of yours",
            )
        blobs, shared = directory / "blobs", entry.blob_mode in ("directory", "s3")
        with dumping.scratch(directory, server, note) as options:
            database = Database(
                name=entry.name,
                backend=NAME,
                adapter=adapter,
                dsn_option=self._adapters[adapter].dsn_option,
                blob_dir=str(blobs),
                blob_mode="directory" if shared else "database",
                history=entry.history,
                options=dict(options),
            )
            configuration = CONFIGURATION.format(
                history=str(entry.history).lower(),
                blobs=blobs,
                shared=str(shared).lower(),
                adapter=_section(adapter, options),
            )
            table = "current_object" if entry.history else "object_state"
            objects = entry.dump.rows_of(table) if entry.dump else None
            yield Scratch(database, configuration, objects=objects)

    # doctor

    def requirements(self, database: Database) -> Requirements:
        """Return RelStorage, the driver and the tools of the database."""
        adapter = self._adapters[database.adapter or ""]
        return Requirements((RELSTORAGE,), adapter.drivers, adapter.tools)

    def missing_for_proof(self, database: Database) -> list[str] | None:
        """Return the packages, and what an empty database of the same kind needs."""
        missing = super().missing_for_proof(database) or []
        dumping = dumping_of(self._adapters, database)
        if dumping.scratch is None:
            return [*missing, f"another machine: this version makes no {database.adapter} server for it"]
        if database.dsn_option is not None:
            from ..postgres.scratch import missing_programs

            missing += missing_programs()
        return missing

    def second_opinion(self, database: Database) -> Opinion | None:
        """Ask the tables where the blobs are."""
        from ..sql.probe import opinion_of
        from .probe import judge

        dumping = self._adapters[database.adapter or ""].dumping
        return opinion_of(database, dumping.connect, judge) if dumping and dumping.connect else None


def _kind_of(entry: DatabaseEntry) -> str:
    """Return the kind of storage as a manifest names it."""
    return str(type(entry.storage).__struct_config__.tag) if entry.storage else ""


def _section(adapter: str, options: Mapping[str, str]) -> str:
    """Return the section of an adapter with these options."""
    # ZConfig takes a $ for the beginning of a name
    lines = [
        f"    {key.removeprefix(f'{adapter}.')} {value.replace('$', '$$')}" for key, value in options.items()
    ]
    return "\n".join([f"<{adapter}>", *lines, f"  </{adapter}>"])


def _blobs(database: Database) -> Scope:
    outside = blobs_outside(
        database, "shared-blob-dir is on: the blobs are in this directory, and nowhere else"
    )
    if outside is not None:
        return outside
    if database.blob_mode == "none":
        return Scope((), (NO_BLOB_DIR,))
    off = (
        "shared-blob-dir is off, so this directory is a cache: the blobs are in the database, and in its dump"
    )
    return Scope((), (f"{database.blob_dir}: {off}",))


def _wrapper_bucket(database: Database) -> BlobBucket:
    from ..blobs.s3 import BlobBucket, wrapper_key

    return BlobBucket(database, wrapper_key)


BACKEND: Final = RelStorage(ADAPTERS)
