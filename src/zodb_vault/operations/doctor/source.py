"""Checks of the data of the site: the Data.fs, the database server and the blobs can be read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...blobs.layout import TEMPORARY, detect
from ...errors import StoreError
from ...model import tid as tids
from ...model.source import Database
from ...strategies.backend_lookup import backend_of
from ...strategies.blobs.s3 import BlobBucket, wrapper_key
from ..create.eligibility import refused
from ..create.mirrors import opened
from .check import CheckResult
from .inputs import CheckInputs


def check_source(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Check that a database can be backed up by the configured method, and that it can be read."""
    with inputs.answer_of(database):
        yield from _check_source(inputs, database)


def _check_source(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    name, method = f"source {database.name}", inputs.method_of(database)
    if refusal := refused(database, method):
        inputs.unanswered.add(database.name)
        yield CheckResult(name, False, refusal.message, refusal.hint)
        return
    if method == "portable":
        if database.name in inputs.unanswered:  # a package that opens it is missing
            return
        yield from _check_portable(inputs, database)
        return
    found = backend_of(database).inspect_source(database)
    if found is not None and not found.ok:
        inputs.unanswered.add(database.name)
    if found is not None:  # a database server has a check of its own, see check_database
        yield CheckResult(name, *found)


def _check_portable(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Open the storage with ZODB as the portable method does, for reading only."""
    name = f"source {database.name}"
    with tempfile.TemporaryDirectory(prefix="zodb-vault-doctor-") as cache, contextlib.ExitStack() as stack:
        source = stack.enter_context(opened(inputs.site, database, Path(cache)))
        last = tids.to_hex(source.last_tid())
        yield CheckResult(name, True, f"{source.place} can be read, last transaction {last}")


def check_database(inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Check that a database server answers, and that it holds the blobs where the configuration says."""
    if database.name in inputs.unanswered:
        return
    opinion = backend_of(database).second_opinion(database)
    if opinion is None:
        return
    if not opinion.answered:
        inputs.unanswered.add(database.name)
    yield CheckResult(
        f"database {database.name}",
        opinion.answered,
        "; ".join(opinion.warnings) or "the database answers, and its blobs are where the configuration says",
        "start the database server, and run this as the user and on the machine that make the backups; "
        "that user needs permission to read the database",
    )


def check_blobs(_inputs: CheckInputs, database: Database) -> Iterator[CheckResult]:
    """Check that the blobs can be read: one file of a directory, or the list of a bucket."""
    if "s3" in database.blob_mode:
        yield _check_bucket(database)
    if database.blob_mode != "directory" or database.blob_dir is None:
        return
    name, path = f"blobs {database.name}", Path(database.blob_dir)
    layout = detect(path)
    sample = next(blob_files(path), None)
    if sample is None:
        yield CheckResult(name, True, f"{path}: layout {layout}, no blobs")
        return
    with sample.open("rb") as file:
        file.read(1)
    yield CheckResult(name, True, f"{path}: layout {layout}, can be read")


def _check_bucket(database: Database) -> CheckResult:
    name, bucket = f"blobs {database.name}", BlobBucket(database, wrapper_key)
    try:
        used = bucket.is_used()
    except StoreError as error:
        return CheckResult(name, False, error.message, error.hint)
    return CheckResult(name, True, f"{bucket.root}: {'there are blobs' if used else 'no blobs'}")


def blob_files(path: Path) -> Iterator[Path]:
    """Yield the blob files of a directory in no order; raise OSError when a folder cannot be read."""

    def on_error(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a pack of the site removes folders while this runs
            raise error

    for folder, folders, names in os.walk(path, onerror=on_error):
        if Path(folder) == path:
            folders[:] = [one for one in folders if one != TEMPORARY and one.startswith("0x")]
        yield from (Path(folder, one) for one in names if one.endswith(".blob"))
