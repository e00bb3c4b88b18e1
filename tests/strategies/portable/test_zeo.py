"""The portable method through ZEO: real servers and clients, compared with the server's own Data.fs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import filestorage_vault
import filestorage_writer
import independent_reader
import pytest
import site_factory
import transaction
import zeo_writer
from command_line import environment, tree
from persistent.mapping import PersistentMapping
from portable_vault import Portable
from services.zeo import ZeoServer
from site_factory import Site, SiteFiles, noise
from ZODB import DB
from ZODB.blob import Blob

from zodb_vault.errors import (
    ConfigurationError,
    InUse,
    NothingToBackUp,
    SourceChanged,
    SourceError,
    TargetRefused,
    UsageError,
    VaultError,
    WrongSource,
)
from zodb_vault.model.source import Database
from zodb_vault.operations.create import mirrors
from zodb_vault.strategies.portable import mirror, reader, sync
from zodb_vault.strategies.portable.mirror import Mirror

Serve = Callable[[SiteFiles], ZeoServer]


def content(files: SiteFiles) -> list[independent_reader.Transaction]:
    return independent_reader.transactions(files.data_fs, files.blob_dir)


def put(server: ZeoServer, **values: bytes) -> None:
    """Commit blobs and texts through a client with a blob cache."""
    with server.storage() as storage:
        db = DB(storage)
        manager = transaction.TransactionManager()
        root = db.open(manager).root()
        for key, value in values.items():
            if key not in root:
                root[key] = Blob(value)
            else:
                with root[key].open("w") as stream:
                    stream.write(value)
        root["text"] = PersistentMapping({"text": "through ZEO"})
        manager.get().note("through ZEO")
        manager.commit()
        db.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Note which transactions were copied, and which blobs the source was asked for."""
    found: dict[str, list[Any]] = {"copied": [], "blobs": []}
    take, blob = sync.Copy.take, reader.Source.blob

    def noting_take(self: Any, header: Any, records: Any) -> None:
        found["copied"].append(header.tid)
        take(self, header, records)

    def noting_blob(self: Any, oid: bytes, tid: bytes) -> Path | None:
        found["blobs"].append((oid, tid))
        return blob(self, oid, tid)

    monkeypatch.setattr(sync.Copy, "take", noting_take)
    monkeypatch.setattr(reader.Source, "blob", noting_blob)
    return found


def test_a_client_backs_up_what_the_server_has_byte_for_byte(serve: Serve, tmp_path: Path) -> None:
    files = site_factory.populate(tmp_path / "server")
    server = serve(files)
    put(
        server, picture=noise(3000, 7), logo=noise(2000, 8)
    )  # a client with a cache writes the record of a blob twice
    twice = [one for one in content(files) if len({(r.oid, one.tid) for r in one.records}) < len(one.records)]
    assert twice
    site = Portable(tmp_path, server.zope_conf)
    before = tree(files.data_fs.parent)
    made = site.create()
    assert tree(files.data_fs.parent) == before
    (entry,) = made.manifest.databases
    assert (made.manifest.status, entry.backend, entry.method, entry.history) == (
        "complete",
        "zeo",
        "portable",
        True,
    )
    assert made.manifest.source.paths == [f"storage 1 of the ZEO server {server.socket}"]
    output = site.restored()
    assert (output / "Data.fs").read_bytes() == files.data_fs.read_bytes()
    assert independent_reader.transactions(output / "Data.fs", output / "blobs") == content(files)
    assert site.verify(made.manifest.id).ok
    assert not (site.mirror / "cache").exists()


def test_an_incremental_asks_for_new_transactions_and_blobs_only(
    serve: Serve, tmp_path: Path, asked: dict[str, list[Any]]
) -> None:
    files = site_factory.populate(tmp_path / "server")
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    assert site.code() == "unchanged"
    asked["copied"].clear()
    asked["blobs"].clear()
    put(server, logo=noise(5000, 1))
    put(server, new=noise(100, 2))
    made = site.create().manifest
    assert (made.reason.code, made.databases[0].transactions_added, made.databases[0].blobs_added) == (
        "continued",
        2,
        2,
    )
    assert (len(asked["copied"]), len(asked["blobs"])) == (2, 2)
    assert site.transactions() == content(files)


def test_undo_creation_undone_and_texts_come_over(serve: Serve, tmp_path: Path) -> None:
    builders = (
        site_factory.undone_undo,
        site_factory.uncreated,
        site_factory.recreated,
        site_factory.undone_into_packed,
        site_factory.twice_in_one_transaction,
        site_factory.empty_transactions,
        site_factory.long_texts,
    )
    for builder in builders:
        files = builder(tmp_path / builder.__name__ / "server")
        server = serve(files)
        site = Portable(tmp_path / builder.__name__, server.zope_conf)
        site.create()
        assert site.transactions() == content(files), builder.__name__
        server.stop()


def test_the_backup_goes_back_into_the_site_of_the_server(serve: Serve, tmp_path: Path) -> None:
    files = site_factory.populate(tmp_path / "server")
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    expected = content(files)
    put(server, logo=noise(900, 9))
    server.stop()
    local = filestorage_vault.Vault.__new__(filestorage_vault.Vault)
    local.files, local.blob_dir, local.repository, local.progress = (
        files,
        files.blob_dir,
        site.repository,
        filestorage_vault.Quiet(),
    )
    plan = filestorage_vault.restoring.plan(
        site.repository,
        filestorage_vault.SITE,
        local.site,
        filestorage_vault.restoring.RestoreOptions(safety_backup=False),
    )
    filestorage_vault.restoring.execute(site.repository, plan, filestorage_vault.SITE, local.progress)
    assert content(files) == expected
    server.start()
    assert site.code() == "unchanged"  # and what was copied before is what is there again


@pytest.mark.parametrize("lines", [("shared-blob-dir true", "blob-dir {blobs}"), ("blob-dir {cache}",)])
def test_the_directories_of_the_site_are_left_alone(
    serve: Serve, tmp_path: Path, lines: tuple[str, ...]
) -> None:
    files = site_factory.populate(tmp_path / "server")
    server = serve(files)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ".layout").write_text("zeocache")
    server.client(
        *(line.format(blobs=files.blob_dir, cache=cache) for line in lines), "client site", f"var {tmp_path}"
    )
    site = Portable(tmp_path, server.zope_conf)
    before = tree(files.data_fs.parent), tree(cache)
    site.create()
    assert (tree(files.data_fs.parent), tree(cache)) == before
    assert list(tmp_path.glob("*.zec")) == []
    assert site.transactions() == content(files)


def test_records_that_are_compressed_are_copied_as_they_are_stored(serve: Serve, tmp_path: Path) -> None:
    files = site_factory.zlib_wrapped(tmp_path / "server")
    server = serve(files)
    server.client(wrapper="zlibstorage")
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    assert (site.restored() / "Data.fs").read_bytes() == files.data_fs.read_bytes()


# packs and other changes of the past


def pack(server: ZeoServer, until: bytes | None = None) -> None:
    with server.stopped(), Site(server.files.data_fs.parent) as site:
        site.pack(until)


def test_after_a_pack_the_backup_is_what_the_pack_left_and_known_blobs_are_not_fetched_again(
    serve: Serve, tmp_path: Path, asked: dict[str, list[Any]]
) -> None:
    with Site(tmp_path / "server") as writing:
        writing.put(kept=noise(3000, 1), gone=noise(4000, 2), text="one")
        writing.put(kept=noise(3000, 3))
        del writing.root["gone"]
        until = writing.commit("remove")
        writing.put(text="two")
        files = writing.files
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    first = site.create().manifest
    expected_first = content(files)
    pack(server, until)
    put(server, later=noise(100, 4))
    asked["blobs"].clear()
    second = site.create().manifest
    assert second.reason.code == "packed"
    assert site.transactions() == content(files)
    assert [oid for oid, _tid in asked["blobs"]] == [
        max(record.oid for one in content(files) for record in one.records if record.blob)
    ]
    assert second.databases[0].blobs is not None
    assert second.databases[0].blobs.count == 2  # the removed one and the old revision are gone
    assert sorted(path.name for path in site.mirror.iterdir() if path.name.startswith("blobs")) == ["blobs"]
    assert site.transactions(first.id) == expected_first
    assert site.code() == "unchanged"


def test_a_pack_without_later_commits_is_seen_too(serve: Serve, tmp_path: Path) -> None:
    with Site(tmp_path / "server") as writing:
        for number in range(30):
            writing.put(text=f"{number}", blob=noise(100, number))
        files = writing.files
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    pack(server)
    assert site.code() == "packed"
    assert site.transactions() == content(files)
    with server.stopped(), Site(files.data_fs.parent) as writing:
        for number in range(30):
            until = writing.put(text=f"more {number}", blob=noise(100, number))
        writing.put(text="last")
    pack(server, until)  # all copied ones are older than the pack, and all new ones except one
    site.create()
    assert site.transactions() == content(files)


def test_a_pack_long_before_the_newest_transactions_is_seen(serve: Serve, tmp_path: Path) -> None:
    with Site(tmp_path / "server") as writing:
        tids = [writing.put(**{f"key{number}": "one"}) for number in range(sync.COMPARED + 10)]
        writing.put(key0="two")
        files = writing.files
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    pack(server, tids[5])
    assert site.code() == "packed"
    assert site.transactions() == content(files)
    pack(server)
    assert site.code() == "packed"
    # Everything is packed now. The next pack removes something old, and nothing of the newest transactions.
    with server.stopped(), Site(files.data_fs.parent) as writing:
        until = writing.put(key1="two")
        writing.put(key2="two")
    pack(server, until)
    assert site.code() == "packed"
    assert site.transactions() == content(files)


def older(files: SiteFiles, tmp_path: Path) -> SiteFiles:
    """Keep a copy of a site that is not open."""
    copy = SiteFiles(tmp_path / "older" / "Data.fs", tmp_path / "older" / "blobs")
    shutil.copytree(files.data_fs.parent, copy.data_fs.parent)
    return copy


@pytest.mark.parametrize("goes_on", [None, 30, 0])
def test_a_source_that_was_put_back_starts_another_timeline(
    serve: Serve, tmp_path: Path, goes_on: int | None
) -> None:
    files = site_factory.populate(tmp_path / "server")
    copy = older(files, tmp_path)
    with Site(files.data_fs.parent) as writing:
        writing.put(lost=noise(700, 1), logo=noise(800, 2))
        writing.put(text="lost")
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    with server.stopped():
        shutil.rmtree(files.data_fs.parent)
        shutil.copytree(copy.data_fs.parent, files.data_fs.parent)
        if goes_on is not None:
            with Site(files.data_fs.parent) as writing:  # the same OIDs, other content
                writing.storage.next_moment += timedelta(seconds=goes_on)
                writing.put(other=noise(900, 3), logo=noise(1000, 4))
                writing.put(text="other")
                writing.put(text="and more")
    code = site.code()
    assert independent_reader.transactions(site.mirror / "Data.fs", site.mirror / "blobs") == content(
        files
    )  # also where the same TIDs come again
    assert code == "diverged" or goes_on == 0
    assert site.transactions() == content(files) or goes_on == 0
    assert site.code() == "unchanged"


def test_full_copies_everything_again(serve: Serve, tmp_path: Path, asked: dict[str, list[Any]]) -> None:
    files = site_factory.populate(tmp_path / "server")
    site = Portable(tmp_path, serve(files).zope_conf)
    site.create()
    one = next(path for path in site.mirror.rglob("*.blob"))
    one.chmod(0o600)
    one.write_bytes(b"rotten")
    asked["blobs"].clear()
    assert site.code(full=True) == "forced"
    assert len(asked["blobs"]) == 7
    assert site.transactions() == content(files)


# what is missing


def test_a_blob_that_the_server_lost_is_named_and_looked_for_again(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = site_factory.populate(tmp_path / "server")
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    (oid, tid), _digest = sorted(independent_reader.blob_files(*files).items())[-1]
    lost = independent_reader.blob_path(files.blob_dir, oid, tid)
    lost.rename(tmp_path / "lost")
    for number in range(3):
        if number == 1:
            with monkeypatch.context() as patch:  # the connection is lost just when it is looked for again
                patch.setattr(reader.Source, "has", lambda *_: (_ for _ in ()).throw(SourceError("lost")))
                put(server, more=noise(10))
                with pytest.raises(SourceError, match="lost"):
                    site.create()
        made = site.create()
        assert made.manifest.status == "incomplete"
        assert [(row.oid, row.tid) for row in made.missing["main"]] == [(f"0x{oid.hex()}", f"0x{tid.hex()}")]
    (tmp_path / "lost").rename(lost)
    assert site.create().manifest.status == "complete"
    assert site.transactions() == content(files)


def test_blobs_that_a_pack_took_away_meanwhile_are_not_missing(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(tmp_path / "server", keep_old=False) as writing:
        writing.put(kept=noise(3000, 1), gone=noise(4000, 2))
        writing.put(kept=noise(3000, 3))
        del writing.root["gone"]
        writing.commit("remove")
        files = writing.files
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    blob = reader.Source.blob
    packed: list[bytes] = []

    def packing_blob(self: Any, oid: bytes, tid: bytes) -> Path | None:
        if not packed:
            packed.append(tid)
            with server.storage() as storage:
                storage.pack(time.time(), None, wait=1)
        return blob(self, oid, tid)

    monkeypatch.setattr(reader.Source, "blob", packing_blob)
    made = site.create().manifest
    assert made.status == "complete"
    assert any("starting over" in note for note in site.progress.notes)
    assert site.transactions() == content(files)


def test_a_missing_blob_of_garbage_is_forgotten_with_it(serve: Serve, tmp_path: Path) -> None:
    with Site(tmp_path / "server", keep_old=False) as writing:
        writing.put(kept=noise(3000, 1), gone=noise(4000, 2))
        del writing.root["gone"]
        until = writing.commit("remove")
        writing.pack(until, gc=False)
        for number in range(sync.COMPARED + 1):
            writing.put(text=f"later {number}")
        files = writing.files
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    lost = next(path for path in files.blob_dir.rglob("*.blob") if path.stat().st_size == 4000)
    lost.unlink()
    assert site.create().manifest.status == "incomplete"
    pack(server, until)  # collects garbage and nothing else: no transaction shows it
    made = site.create().manifest
    assert (made.status, made.reason.code) == ("complete", "packed")
    assert site.transactions() == content(files)


def test_a_transaction_that_is_just_being_written_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    server = serve(site_factory.populate(tmp_path / "server"))
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    put(server, more=noise(100, 1))
    whole = server.files.data_fs.stat().st_size
    with server.files.data_fs.open("ab") as file:
        file.write(server.files.data_fs.read_bytes()[4:70])
    timer = threading.Timer(0.3, os.truncate, (server.files.data_fs, whole))
    timer.start()
    made = site.create().manifest
    timer.join()
    assert made.reason.code == "continued"
    assert site.transactions() == content(server.files)


# the mirror


def killed(site: Portable, at: int, moment: str) -> None:
    """Run a create in a process that kills itself at its n-th transaction or checking."""
    script = (
        "import os, sys; sys.path.insert(0, {support!r}); from pathlib import Path\n"
        "from zodb_vault.strategies.portable import mirror, sync as portable\n"
        "from zodb_vault.operations.create.options import CreateOptions; from "
        "zodb_vault.operations.create.run import create\n"
        "from zodb_vault.repository.repository import Repository; from zodb_vault.stores.local import "
        "LocalStore\n"
        "from zodb_vault.config.zopeconf import read_site; import filestorage_vault as vault\n"
        "owner = portable.Copy if hasattr(portable.Copy, {moment!r}) else mirror.Mirror\n"
        "portable.BATCH_BYTES = 1; real, n = getattr(owner, {moment!r}), [0]\n"
        "def dying(*a, **k):\n"
        "    n[0] += 1\n"
        "    if n[0] == {at}: os.kill(os.getpid(), 9)\n"
        "    return real(*a, **k)\n"
        "setattr(owner, {moment!r}, dying)\n"
        "options = CreateOptions(method='portable', mirror=Path({root!r}))\n"
        "create(Repository.open(LocalStore(Path({repository!r}))), read_site(Path({conf!r}), vault.SITE, "
        "{{}}), options, vault.Quiet())\n"
    ).format(
        support=str(Path(filestorage_vault.__file__).parent),
        moment=moment,
        at=at,
        root=str(site.root),
        conf=str(site.zope_conf),
        repository=str(site.directory / "repository"),
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, env=environment()).returncode == -9


@pytest.mark.parametrize(
    ("at", "moment"),
    [(1, "take"), (4, "take"), (1, "compare"), (5, "advanced"), (9, "advanced"), (3, "blob")],
)
def test_a_killed_run_is_continued_without_unchecked_data(
    serve: Serve, tmp_path: Path, at: int, moment: str, asked: dict[str, list[Any]]
) -> None:
    files = site_factory.populate(tmp_path / "server")
    site = Portable(tmp_path, serve(files).zope_conf)
    killed(site, at, moment)
    checked = json.loads((site.mirror / "mirror.json").read_text())
    # as a power failure leaves it: what was written last is there in part, and not what it should be
    if (site.mirror / "Data.fs").exists():
        with (site.mirror / "Data.fs").open("ab") as file:
            file.write(b"\0" * 100)
    for path in site.mirror.rglob("*.blob"):
        if checked["last_tid"] is None or f"0x{int(path.stem, 16):016x}" > checked["last_tid"]:
            path.chmod(0o600)
            path.write_bytes(b"")
    site.create()
    assert site.transactions() == content(files)
    assert len(asked["copied"]) == sum(
        checked["last_tid"] is None or f"0x{one.tid.hex()}" > checked["last_tid"] for one in content(files)
    )


@pytest.mark.parametrize(
    ("at", "moment"), [(1, "take"), (3, "advanced"), (2, "blob"), (1, "put_aside"), (1, "forget_kept")]
)
def test_a_new_mirror_in_progress_is_finished_with_its_old_blobs(
    serve: Serve, tmp_path: Path, at: int, moment: str, asked: dict[str, list[Any]]
) -> None:
    with Site(tmp_path / "server") as writing:
        for number in range(4):
            writing.put(text=f"{number}", **{f"blob{number}": noise(1000, number)})
        until = writing.put(text="until")
        writing.put(text="last")
        files = writing.files
    server = serve(files)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    pack(server, until)
    killed(site, at, moment)
    asked["blobs"].clear()
    assert site.code() == "packed"
    assert site.transactions() == content(files)
    assert len(asked["blobs"]) <= 1  # the one that was in the hand that died
    assert not site.mirror.joinpath("blobs.kept").exists()


def test_a_changed_mirror_is_made_again(serve: Serve, tmp_path: Path) -> None:
    files = site_factory.populate(tmp_path / "server")
    site = Portable(tmp_path, serve(files).zope_conf)
    site.create()
    data = bytearray((site.mirror / "Data.fs").read_bytes())
    for broken in (data[:-1], data[:-30] + b"x" + data[-29:], b""):
        (site.mirror / "Data.fs").write_bytes(broken)
        assert site.code() == "unchanged"
        assert (site.mirror / "Data.fs").read_bytes() == files.data_fs.read_bytes()
    (site.mirror / "Data.fs").unlink()
    assert site.code() == "unchanged"
    marker = site.mirror / "mirror.json"
    marker.write_text(marker.read_text().replace('"end":', '"end":1'))
    with pytest.raises(VaultError, match=r"mirror\.json is damaged"):
        site.create()


def test_what_was_written_is_read_back_before_it_counts(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ZODB.FileStorage import FileStorage

    files = site_factory.populate(tmp_path / "server")
    site = Portable(tmp_path, serve(files).zope_conf)
    restore, done = FileStorage.restore, []

    def failing(self: Any, oid: bytes, serial: bytes, data: bytes | None, *rest: Any) -> None:
        done.append(oid)
        restore(self, oid, serial, data[:-1] + b"!" if data and len(done) == 30 else data, *rest)

    monkeypatch.setattr(FileStorage, "restore", failing)
    with pytest.raises(VaultError, match="does not have what was written"):
        site.create()
    assert site.repository.listing(filestorage_vault.SITE).backups == []
    monkeypatch.undo()
    site.create()
    assert site.transactions() == content(files)


def test_a_blob_file_is_looked_at_before_it_counts(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ZODB.FileStorage import FileStorage

    files = site_factory.populate(tmp_path / "server")
    site = Portable(tmp_path, serve(files).zope_conf)
    restore = FileStorage.restoreBlob

    def failing(self: Any, oid: bytes, serial: bytes, *rest: Any) -> None:
        restore(self, oid, serial, *rest)
        path = Path(self.fshelper.getBlobFilename(oid, serial))
        path.chmod(0o600)
        os.truncate(path, 10)

    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "restoreBlob", failing)
        with pytest.raises(VaultError, match="is not there, or has another size"):
            site.create()
    assert site.create().manifest.status == "complete"
    assert site.transactions() == content(files)


def test_the_directory_is_private_and_one_run_has_it(serve: Serve, tmp_path: Path) -> None:
    site = Portable(tmp_path, serve(site_factory.populate(tmp_path / "server")).zope_conf)
    old = os.umask(0)
    try:
        site.create()
    finally:
        os.umask(old)
    for path in (site.root, site.mirror):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((site.mirror / "mirror.json").stat().st_mode) == 0o600
    site.mirror.chmod(0o755)
    with mirror.held(site.mirror):
        with pytest.raises(InUse, match="another run"):
            site.create()
        assert stat.S_IMODE(site.mirror.stat().st_mode) == 0o700
    assert site.code() == "unchanged"


def test_a_directory_that_is_no_mirror_is_refused(serve: Serve, tmp_path: Path) -> None:
    files = site_factory.populate(tmp_path / "server")
    site = Portable(tmp_path, serve(files).zope_conf)
    foreign = tmp_path / "foreign" / "main"
    foreign.mkdir(parents=True)
    (foreign / "Data.fs").write_bytes(b"precious")
    with pytest.raises(TargetRefused, match="not a mirror"):
        site.create(mirror=foreign.parent)
    assert (foreign / "Data.fs").read_bytes() == b"precious"
    assert [path.name for path in foreign.iterdir()] == ["Data.fs"]


@pytest.mark.parametrize("place", ["repository", "repository/inside", "blobs/inside", "", "."])
def test_a_location_in_the_repository_or_in_the_blobs_is_refused(
    serve: Serve, tmp_path: Path, place: str
) -> None:
    files = site_factory.populate(tmp_path / "server")
    server = serve(files)
    server.client("shared-blob-dir true", f"blob-dir {files.blob_dir}")
    site = Portable(tmp_path, server.zope_conf)
    where = files.blob_dir / "inside" if place.startswith("blobs") else tmp_path / place
    if place == ".":
        where = files.blob_dir.parent
        (where / "main").symlink_to(where)
    if place == "":
        (tmp_path / "main").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="contains the other"):
        site.create(mirror=where)


def test_a_mirror_of_another_storage_is_refused_and_left_as_it_is(serve: Serve, tmp_path: Path) -> None:
    with Site(tmp_path / "two", start=site_factory.START + timedelta(days=1)) as writing:
        writing.put(text="other", blob=noise(1000))
    one, two = serve(site_factory.populate(tmp_path / "one")), serve(writing.files)
    site = Portable(tmp_path, one.zope_conf)
    site.create()
    before = tree(site.mirror)
    site.zope_conf = two.zope_conf
    for options in ({}, {"full": True}):
        with pytest.raises(WrongSource, match="does not continue"):
            site.create(**options)
    assert tree(site.mirror) == before
    made = site.create(take_over=True).manifest
    assert made.reason.code == "new-history"
    assert site.transactions(made.id) == content(two.files)


def test_the_same_storage_under_another_address_continues(serve: Serve, tmp_path: Path) -> None:
    one = serve(site_factory.populate(tmp_path / "server"))
    site = Portable(tmp_path, one.zope_conf)
    site.create()
    one.stop()
    site.zope_conf = serve(one.files).zope_conf
    assert site.code() == "unchanged"
    assert any("the site moved" in note for note in site.progress.notes)


# what prevents it


def test_a_server_that_is_not_there_is_an_error_and_nothing_is_made(serve: Serve, tmp_path: Path) -> None:
    server = serve(site_factory.populate(tmp_path / "server"))
    server.client(package=True)
    site = Portable(tmp_path, server.zope_conf)
    site.create()
    server.stop()
    before = tree(site.mirror)
    with pytest.raises(SourceError, match="the ZEO server .* cannot be read"):
        site.create()
    assert tree(site.mirror) == before
    assert len(site.repository.listing(filestorage_vault.SITE).backups) == 1


def test_a_connection_that_is_lost_leaves_what_was_copied(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    server = serve(site_factory.populate(tmp_path / "server"))
    server.client(package=True)
    site = Portable(tmp_path, server.zope_conf)
    blob = reader.Source.blob

    def losing(self: Any, oid: bytes, tid: bytes) -> Path | None:
        if len(asked["blobs"]) == 5:
            server.stop()
        return blob(self, oid, tid)

    with monkeypatch.context() as patch:
        patch.setattr(reader.Source, "blob", losing)
        with pytest.raises(SourceError, match="cannot be read"):
            site.create()
    assert site.repository.listing(filestorage_vault.SITE).backups == []
    known = len(asked["copied"]) - 1
    assert known > 3
    server.start()
    asked["copied"].clear()
    site.create()
    assert len(asked["copied"]) == len(content(server.files)) - known
    assert site.transactions() == content(server.files)


def test_a_full_disk_is_reported_before_anything_is_copied(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Portable(tmp_path, serve(site_factory.populate(tmp_path / "server")).zope_conf)
    full = shutil.disk_usage(tmp_path)._replace(free=sync.RESERVE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    with pytest.raises(VaultError, match="may need .* more bytes"):
        site.create()
    assert not (site.mirror / "Data.fs").exists()


def test_a_package_that_is_missing_is_named_with_its_extra(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Portable(tmp_path, serve(site_factory.populate(tmp_path / "server")).zope_conf)
    monkeypatch.setitem(sys.modules, "ZEO", None)
    with pytest.raises(ConfigurationError, match="needs the package ZEO") as caught:
        site.create()
    assert "zodb-vault[zeo]" in caught.value.hint


def test_a_section_that_zodb_refuses_is_an_error_of_the_configuration(serve: Serve, tmp_path: Path) -> None:
    server = serve(site_factory.populate(tmp_path / "server"))
    server.client("cache-size huge")
    with pytest.raises(ConfigurationError, match="main cannot be opened with its configuration"):
        Portable(tmp_path, server.zope_conf).create()


def test_a_client_holds_nothing_authoritative(serve: Serve, tmp_path: Path) -> None:
    site = Portable(tmp_path, serve(site_factory.populate(tmp_path / "server")).zope_conf)
    with pytest.raises(NothingToBackUp, match="no data are on this machine") as caught:
        site.create(method="native")
    assert "--method portable" in caught.value.hint
    assert "--zeo-conf" in caught.value.hint
    with pytest.raises(UsageError, match="--cold"):
        site.create(cold=True)
    with pytest.raises(UsageError, match="no directory is given for the mirror"):
        site.create(mirror=None)


def beside(server: ZeoServer, local: SiteFiles) -> None:
    """Give the client a second database, in a FileStorage of its own."""
    section = f"<filestorage>\npath {local.data_fs}\nblob-dir {local.blob_dir}\n</filestorage>"
    with server.zope_conf.open("a") as file:
        file.write(f"<zodb_db local>\nmount-point /local\n{section}\n</zodb_db>\n")


def test_a_file_storage_beside_it_is_backed_up_and_all_cut_points_are_consistent(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(site_factory.populate(tmp_path / "server"))
    local = site_factory.populate(tmp_path / "local")
    beside(server, local)
    site = Portable(tmp_path, server.zope_conf)
    made = site.create().manifest
    how = [(entry.name, entry.backend, entry.method) for entry in made.databases]
    assert how == [("main", "zeo", "portable"), ("local", "filestorage", "native")]
    assert made.consistency == "consistent"
    assert not (site.root / "local").exists()
    output = site.restored()
    for name, files in (("main", server.files), ("local", local)):
        assert independent_reader.transactions(output / name / "Data.fs", output / name / "blobs") == content(
            files
        )


def test_a_source_that_goes_on_meanwhile_is_noticed(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(site_factory.populate(tmp_path / "server"))
    local = site_factory.populate(tmp_path / "local")
    beside(server, local)
    site = Portable(tmp_path, server.zope_conf)
    as_mirrored, seen = mirrors.as_mirrored, list[str]()

    def commit_before(database: Database, mirror: Mirror) -> Database:
        if not seen:  # all mirrors are up to date then
            put(server, more=noise(100, 1))
        seen.append(database.name)
        return as_mirrored(database, mirror)

    monkeypatch.setattr(mirrors, "as_mirrored", commit_before)
    assert site.create().manifest.consistency == "uncoordinated"


# with writers


def test_backups_beside_a_client_that_writes_undoes_and_packs(serve: Serve, tmp_path: Path) -> None:
    with Site(tmp_path / "server", keep_old=False) as opened:
        files = opened.files
    server = serve(files)
    log, stop = tmp_path / "log", tmp_path / "stop"
    command = [sys.executable, zeo_writer.__file__, server.socket, tmp_path / "cache", log, stop, "2.5"]
    process = subprocess.Popen(list(map(str, command)), env=environment())
    made: list[Any] = []
    site = Portable(tmp_path, server.zope_conf)
    try:
        end = time.monotonic() + 150
        while not (log.exists() and len(filestorage_writer.read_log(log)) > 10):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        while len(made) < 4 or made[-1].reason.code != "packed":
            assert time.monotonic() < end
            with contextlib.suppress(
                SourceChanged
            ):  # on a machine with other work, packs may follow each other too fast
                made.append(site.create().manifest)
            time.sleep(0.5)
        stop.touch()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    made.append(site.create().manifest)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("packed" in line for line in lines)
    assert sum(line.get("undone", 0) for line in lines) > 0
    states = filestorage_writer.read_log(log)
    assert {one.status for one in made} == {"complete"}
    assert {one.reason.code for one in made} >= {"first", "packed"}
    for one in made:
        output = site.restored(one.id)
        last = bytes.fromhex((one.databases[0].last_tid or "")[2:])
        assert filestorage_writer.digests(output / "Data.fs", output / "blobs") == states[last]
    server.stop()
    assert site.transactions() == content(files)
