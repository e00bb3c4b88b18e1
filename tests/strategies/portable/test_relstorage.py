"""The portable method on RelStorage: on SQLite, with and without history, with both kinds of blobs."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import independent_reader
import pytest
import random_histories
import transaction
import ZODB.config
from command_line import process
from portable_vault import Portable
from services.postgres import Cluster
from site_factory import noise, set_value
from ZODB import DB
from ZODB.blob import is_blob_record
from ZODB.config import storageFromString

from zodb_vault.errors import NothingToBackUp, SourceError
from zodb_vault.policy.recovery import ToTid
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.portable import sync as strategy

Keys = dict[tuple[bytes, bytes], tuple[bytes | None, str | None]]


class RelSite:
    """A RelStorage that is open for writing beside the backups."""

    def __init__(self, directory: Path, *, history: bool, shared: bool, adapter: str = "") -> None:
        (directory / "data").mkdir(parents=True)
        adapter = adapter or f"<sqlite3>\ndata-dir {directory}/data\n</sqlite3>"
        self.directory, self.zope_conf = directory, directory / "zope.conf"
        self.section = (
            f"<relstorage>\nkeep-history {history}\nblob-dir {directory}/blobs\nshared-blob-dir {shared}\n"
            f"{adapter}\n</relstorage>\n"
        )
        self.zope_conf.write_text(
            f"%import relstorage\n<zodb_db main>\nmount-point /\n{self.section}</zodb_db>\n"
        )
        self.storage = self.open()
        self.db = DB(self.storage)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)

    def open(self) -> Any:
        return storageFromString(f"%import relstorage\n{self.section}")

    def put(self, **values: str | bytes | None) -> None:
        root = self.connection.root()
        for key, value in values.items():
            set_value(root, key, value)
        self.manager.get().note(f"put {', '.join(values)}")
        self.manager.get().user = "Ädmin"
        self.manager.get().setExtendedInfo("keys", sorted(values))
        self.manager.commit()

    def undo(self) -> None:
        self.manager.begin()
        self.db.undo(self.db.undoLog(0, 1)[0]["id"], self.manager.get())
        self.manager.commit()
        self.manager.begin()

    def pack(self) -> None:
        time.sleep(0.01)
        self.db.pack(time.time())

    def transactions(self) -> list[independent_reader.Transaction]:
        """Return what RelStorage itself shows, through a connection of its own."""
        with contextlib.closing(self.open()) as storage:
            return independent_reader.transactions_of(storage.iterator(), partial(_blob, storage))

    def close(self) -> None:
        self.manager.abort()
        self.connection.close()
        self.db.close()


def _blob(storage: Any, record: Any) -> str | None:
    if record.data is None or not is_blob_record(record.data):
        return None
    return independent_reader.sha256(Path(storage.loadBlob(record.oid, record.tid)))


@pytest.fixture(params=[False, True], ids=["blobs in the database", "shared directory"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@contextlib.contextmanager
def opened(
    tmp_path: Path, *, history: bool, shared: bool, adapter: str = ""
) -> Iterator[tuple[RelSite, Portable]]:
    site = RelSite(tmp_path / "rs", history=history, shared=shared, adapter=adapter)
    try:
        site.put(a="one", blob=noise(3000, 1), gone=noise(500, 2))
        site.put(a="two", blob=noise(4000, 3))
        yield site, Portable(tmp_path, site.zope_conf)
    finally:
        site.close()


def test_with_history_every_transaction_comes_over(tmp_path: Path, shared: bool) -> None:
    with opened(tmp_path, history=True, shared=shared) as (site, vault):
        made = vault.create().manifest
        (entry,) = made.databases
        assert (made.status, entry.backend, entry.method, entry.history, entry.last_tid) == (
            "complete",
            "relstorage",
            "portable",
            True,
            f"0x{site.storage.lastTransaction().hex()}",
        )
        assert vault.transactions() == site.transactions()
        assert vault.verify(made.id).ok
        site.put(new=noise(100, 4), a="three")
        site.put(blob=noise(200, 5))
        site.undo()
        assert vault.code() == "continued"
        assert vault.transactions() == site.transactions()
        site.put(gone=None)
        site.pack()
        site.put(a="four")
        assert vault.code() == "packed"
        assert vault.transactions() == site.transactions()
        assert vault.code() == "unchanged"
        first = site.transactions()[-2]
        assert vault.transactions(request=ToTid(f"0x{first.tid.hex()}")) == site.transactions()[:-1]


def current(transactions: list[independent_reader.Transaction]) -> Keys:
    """Return the last revision of each object."""
    found = {
        record.oid: ((record.oid, one.tid), (record.data, record.blob))
        for one in transactions
        for record in one.records
    }
    return dict(found.values())


def test_without_history_current_revisions_come_over(tmp_path: Path, shared: bool) -> None:
    with opened(tmp_path, history=False, shared=shared) as (site, vault):
        first = vault.create().manifest
        expected_first = site.transactions()
        assert first.databases[0].history is False
        assert any("current revision" in warning for warning in first.databases[0].warnings)
        assert vault.transactions() == expected_first
        assert {one.status for one in expected_first} == {"p"}
        site.put(new=noise(100, 4), a="three", blob=noise(50, 6))
        site.put(blob=noise(200, 5))
        assert vault.code() == "continued"
        assert current(vault.transactions()) == current(site.transactions())
        assert vault.transactions(first.id) == expected_first
        assert vault.code() == "unchanged"
        site.put(gone=None)
        site.pack()
        assert vault.code() == "continued"
        mine = current(vault.transactions())
        assert current(site.transactions()).items() < mine.items()  # what is gone there is garbage here
        vault.create(full=True)
        assert vault.transactions() == site.transactions()
        assert vault.verify(vault.create().manifest.id).ok


@pytest.mark.parametrize("history", [False, True], ids=["without history", "with history"])
def test_commits_and_packs_meanwhile_in_postgresql(tmp_path: Path, postgres: Cluster, history: bool) -> None:
    adapter = f"<postgresql>\ndsn {postgres.database().dsn}\n</postgresql>"
    with opened(tmp_path, history=history, shared=False, adapter=adapter) as (site, vault):
        stop, failed = threading.Event(), []

        def write() -> None:
            try:
                for number in itertools.count():
                    if stop.is_set():
                        return
                    site.put(
                        a=f"text {number}",
                        blob=noise(2000, number),
                        **{f"new{number % 7}": noise(300, number)},
                    )
                    if number % 60 == 59:
                        site.pack()
            except Exception as error:  # noqa: BLE001  reported below
                failed.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            made = [vault.create().manifest for _ in range(3)]
        finally:
            stop.set()
            thread.join()
        made.append(vault.create().manifest)
        assert not failed
        assert {one.status for one in made} == {"complete"}
        assert all(vault.verify(one.id).ok for one in made)
        # a root that is in a backup has every object that it refers to
        for one in made:
            output = vault.restored(one.id)
            random_histories.assert_all_references_resolve(output / "Data.fs", output / "blobs")
        if history:
            assert vault.transactions() == site.transactions()
        else:
            assert current(site.transactions()).items() <= current(vault.transactions()).items()


def test_dumps_and_mirrors_follow_each_other(tmp_path: Path, postgres: Cluster) -> None:
    adapter = f"<postgresql>\ndsn {postgres.database().dsn}\n</postgresql>"
    with opened(tmp_path, history=True, shared=True, adapter=adapter) as (site, vault):
        for number, method in enumerate(("native", "portable", "native", "portable", "portable")):
            site.put(a=f"text {number}", blob=noise(300, number))
            made = vault.create(method=method).manifest
            assert (made.status, made.databases[0].method) == ("complete", method)
            assert vault.verify(made.id).ok
        assert vault.transactions(made.id) == site.transactions()
        assert made.reason.code == "continued"


def test_without_history_superseded_revisions_do_not_gather_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "FEW_RECORDS", 5)
    with opened(tmp_path, history=False, shared=False) as (site, vault):
        codes = []
        for number in range(8):
            site.put(a=f"text {number}", blob=noise(100, number))
            codes.append(vault.code())
        assert "packed" in codes
        assert current(vault.transactions()) == current(site.transactions())
        assert (
            sum(len(one.records) for one in vault.transactions()) <= 2 * len(current(site.transactions())) + 2
        )


@pytest.mark.parametrize("seen", [False, True], ids=["never seen before", "seen before"])
def test_without_history_an_older_state_is_noticed(tmp_path: Path, seen: bool) -> None:
    import shutil

    with opened(tmp_path, history=False, shared=False) as (site, vault):
        if seen:
            vault.create()
        site.close()
        shutil.copytree(site.directory / "data", tmp_path / "older")
        reopened = site.open()
        site.storage, site.db = reopened, DB(reopened)
        site.connection = site.db.open(site.manager)
        site.put(a="lost", blob=noise(10, 1))
        vault.create()
        site.close()
        shutil.rmtree(site.directory / "data")
        shutil.copytree(tmp_path / "older", site.directory / "data")
        reopened = site.open()
        site.storage, site.db = reopened, DB(reopened)
        site.connection = site.db.open(site.manager)
        site.put(other="state")
        vault.create()
        assert vault.transactions() == site.transactions()


def test_what_the_portable_method_cannot_copy_is_refused(tmp_path: Path) -> None:
    vault = Portable(tmp_path, tmp_path / "zope.conf")
    vault.zope_conf.write_text(
        "<zodb_db main>\nmount-point /\n<pgjsonb>\ndsn dbname=zodb password=hunter2\n</pgjsonb>\n</zodb_db>\n"
    )
    with pytest.raises(NothingToBackUp, match="portable method cannot copy .*pgjsonb") as caught:
        vault.create()
    assert "hunter2" not in str(caught.value) + caught.value.hint
    assert not vault.root.exists()


def test_no_word_of_a_secret_is_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Portable(tmp_path, tmp_path / "zope.conf")
    dsn = "dbname=zodb host=/nowhere user=zodb password=hunter2 hunter3"
    vault.zope_conf.write_text(
        f"<zodb_db main>\nmount-point /\n<relstorage>\n<postgresql>\ndsn {dsn}\n</postgresql>\n"
        "</relstorage>\n</zodb_db>\n"
    )
    with pytest.raises(SourceError, match="cannot be read") as caught:
        vault.create()
    assert "hunter" not in str(caught.value) + caught.value.hint

    def failing(_text: str) -> None:
        raise ValueError('missing "=" after "hunter3" in connection info string')

    monkeypatch.setattr(ZODB.config, "storageFromString", failing)
    with pytest.raises(SourceError, match="cannot be read: ValueError$"):
        vault.create()


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    conf = tmp_path / "zope.conf"
    dsn = "dbname=zodb host=/nowhere user=zodb password=hunter2"
    section = f"<relstorage>\n<postgresql>\ndsn {dsn}\n</postgresql>\n</relstorage>"
    conf.write_text(f"%import relstorage\n<zodb_db main>\nmount-point /\n{section}\n</zodb_db>\n")
    Repository.create(LocalStore(tmp_path / "repository"))
    outcome = process(
        "--repository",
        tmp_path / "repository",
        "--zope-conf",
        conf,
        "create",
        "--method",
        "portable",
        "--mirror",
        tmp_path / "mirror",
    )
    assert (outcome.status, outcome.out) == (1, "")
    message, hint = outcome.err.splitlines()
    assert "No such file or directory" in message and hint.startswith("  -> ")
    assert "hunter2" not in outcome.err
