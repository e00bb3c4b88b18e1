"""Check the files in a backup: each one is the transaction that its name says, and they ascend."""

from __future__ import annotations

from itertools import groupby

import msgspec

from zodb_vault.model.chain import dump_of, file_name
from zodb_vault.model.manifest import DatabaseEntry, StoredFiles
from zodb_vault.runtime.progress import Progress
from zodb_vault.strategies.base import CheckReport, Sink

from .capture import tid_of
from .storage import read_transaction


def check_transactions(entry: DatabaseEntry, sink: Sink, report: CheckReport, progress: Progress) -> None:
    """Read every transaction; raise Damage when the bytes of one cannot be read."""
    if not isinstance(entry.storage, StoredFiles):
        return
    progress.begin("storage", entry.storage.size)
    for name, parts in groupby(dump_of(entry, sink), file_name):
        data = b"".join(sink.read(parts))
        progress.advance(len(data))
        _check_transaction(name, data, report)


def _check_transaction(name: str, data: bytes, report: CheckReport) -> None:
    try:
        transaction = read_transaction(data)
    except msgspec.DecodeError as error:
        report.damage("transaction", f"{name} cannot be read: {error}", tid=tid_of(name))
        return
    if f"0x{transaction.tid.hex()}" != tid_of(name):
        report.damage("transaction", f"{name} holds transaction 0x{transaction.tid.hex()}", tid=tid_of(name))
    report.count("transactions")
    report.count("records", len(transaction.records))
