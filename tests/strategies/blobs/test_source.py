"""Blobs that are lost, unreadable or elsewhere: a complete backup, a clear report, or no backup."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import independent_reader
import pytest
import site_factory
from filestorage_vault import Vault, blob_paths, entry_of
from site_factory import Site, SiteFiles, noise

from zodb_vault.cli.main import run
from zodb_vault.errors import BlobsMissing, ConfigurationError, SourceError, TargetRefused
from zodb_vault.strategies.blobs import source


def many(directory: Path, count: int = 30) -> SiteFiles:
    """A site with a number of blobs in one transaction."""
    with Site(directory) as site:
        site.put(**{f"blob{number}": noise(200 + number, number) for number in range(count)})
        return site.files


def more(files: SiteFiles, name: str = "more") -> None:
    with Site(files.data_fs.parent) as site:
        site.put(**{name: noise(300, len(name))})


def rows(created: Any) -> set[tuple[str, str, str]]:
    """Return what a create named as missing: OID, TID and path."""
    return {(row.oid, row.tid, row.path) for row in created.missing["main"]}


def row_of(path: Path) -> tuple[str, str, str]:
    """Return what names the blob of a file in a bushy directory."""
    oid = "".join(part[2:] for part in path.parts[-9:-1])
    return "0x" + oid, path.stem, str(path)


def command(vault: Vault, *arguments: str) -> int:
    """Run a command on the repository and the site."""
    where = ["--repository", str(vault.directory / "repository"), "--site", "plone"]
    return run(
        [*arguments, *where, "--data-fs", str(vault.files.data_fs), "--blob-dir", str(vault.files.blob_dir)]
    )


# Lost blobs


def test_a_lost_blob_is_named_and_the_backup_incomplete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    lost = list(blob_paths(vault.files))[3]
    lost.unlink()
    created = vault.create()
    assert created.manifest.status == "incomplete"
    assert rows(created) == {row_of(lost)}
    blobs = entry_of(created.manifest).blobs
    assert blobs is not None
    assert (blobs.count, blobs.missing.count) == (29, 1)
    with pytest.raises(TargetRefused, match="incomplete"):
        vault.restore(created.manifest.id)
    restored = vault.restore(created.manifest.id, allow_incomplete=True)
    assert independent_reader.blob_files(*restored) == independent_reader.blob_files(*vault.files)
    assert command(vault, "create") == 3
    assert str(lost) in capsys.readouterr().err
    assert command(vault, "-q", "create") == 3
    assert str(lost) in capsys.readouterr().err


def test_what_is_missing_is_inherited_and_found_again(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    one, two = list(blob_paths(vault.files))[3:5]
    kept = one.rename(tmp_path / "kept")
    two.unlink()
    assert rows(vault.create()) == {row_of(one), row_of(two)}
    for name in ("more", "and more"):
        more(vault.files, name)
        created = vault.create()
        assert created.manifest.how == "incremental"
        assert created.manifest.status == "incomplete"
        assert rows(created) == {row_of(one), row_of(two)}
    assert vault.create().manifest.status == "incomplete"  # nothing changed, and it is still incomplete
    kept.rename(one)
    created = vault.create()
    assert rows(created) == {row_of(two)}
    assert entry_of(created.manifest).blobs_added == 1
    two.write_bytes(noise(204, 4))
    assert rows(vault.create()) == set()
    assert vault.newest.status == "complete"
    vault.assert_restores(vault.files)


def test_what_is_missing_and_was_packed_away_is_missing_no_more(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        site.put(kept="kept", picture=noise(100))
        site.put(logo=noise(200, 1))
        lost = list(blob_paths(site.files))[-1]
        vault = Vault(tmp_path, site.files)
        lost.unlink()
        assert rows(vault.create()) == {row_of(lost)}
        site.put(logo=noise(200, 2)) if lost.exists() else replace(site)
        site.pack()
        assert vault.create().manifest.status == "complete"
    vault.assert_restores(vault.files)


def replace(site: Site) -> None:
    """Put another blob in the place of one whose file is gone."""
    del site.root["logo"]
    site.put(logo=noise(200, 2))


def test_an_accepted_loss_is_reported_no_more_and_a_new_one_is(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    paths = list(blob_paths(vault.files))
    paths[3].unlink()
    vault.create()
    vault.label("accept-missing")
    vault.assert_restores(vault.files)
    for _ in range(2):
        more(vault.files, f"more{len(vault.ids)}")
        created = vault.create()
        assert created.manifest.status == "complete"
        assert rows(created) == {row_of(paths[3])}
    paths[5].unlink()
    assert vault.create().manifest.status == "complete"  # that one is in the repository
    vault.assert_restores(SiteFiles(vault.files.data_fs, vault.restore().blob_dir))
    more(vault.files, "new")
    new = max(blob_paths(vault.files), key=lambda path: path.name)
    new.unlink()
    created = vault.create()
    assert created.manifest.status == "incomplete"
    assert rows(created) == {row_of(paths[3]), row_of(new)}


# Limits


@pytest.mark.parametrize(
    ("count", "lost", "fails"),
    [(30, 20, False), (30, 21, True), (21, 21, True), (20, 20, False), (2300, 23, False), (2300, 24, True)],
)
def test_more_than_twenty_and_one_percent_are_a_mistake(
    tmp_path: Path, count: int, lost: int, fails: bool
) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site", count))
    for path in list(blob_paths(vault.files))[:lost]:
        path.unlink()
    if not fails:
        assert len(rows(vault.create())) == lost
        return
    with pytest.raises(BlobsMissing, match=f"{lost} of {count} blobs are missing") as caught:
        vault.create()
    assert "--allow-missing" in caught.value.hint
    assert vault.ids == []
    with pytest.raises(BlobsMissing):
        vault.create(allow_missing=lost - 1)
    assert vault.ids == []
    assert len(rows(vault.create(allow_missing=lost))) == lost


def test_none_may_be_missing_when_none_is_allowed(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    next(blob_paths(vault.files)).unlink()
    with pytest.raises(BlobsMissing):
        vault.create(allow_missing=0)


# Directories


def test_a_directory_that_is_not_there_is_an_error_before_anything_is_stored(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    before = sorted(vault.repository.store.list(""))
    vault.files.blob_dir.rename(tmp_path / "unmounted")
    with pytest.raises(ConfigurationError, match="does not exist"):
        vault.create()
    vault.files.blob_dir.touch()
    with pytest.raises(ConfigurationError, match="is not a directory"):
        vault.create()
    assert sorted(vault.repository.store.list("")) == before


def test_an_empty_mount_point_is_not_taken_for_the_blobs(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    away = vault.files.blob_dir.rename(tmp_path / "unmounted")
    vault.files.blob_dir.mkdir()
    with pytest.raises(BlobsMissing, match="30 of 30") as caught:
        vault.create()
    assert "mounted" in caught.value.hint
    vault.files.blob_dir.rmdir()
    away.rename(vault.files.blob_dir)
    vault.create()
    vault.assert_restores(vault.files)


@pytest.mark.parametrize("left", ["nothing", "an empty directory"])
def test_a_directory_that_goes_away_meanwhile_has_not_lost_its_blobs(tmp_path: Path, left: str) -> None:
    vault = Vault(tmp_path, site_factory.lawn(tmp_path / "site"))
    away = tmp_path / "unmounted"

    def unmount(what: str) -> None:
        if what == "blobs" and not away.exists():
            vault.files.blob_dir.rename(away)
            if left != "nothing":
                vault.files.blob_dir.mkdir()

    vault.progress.on_phase = unmount
    with pytest.raises(
        (ConfigurationError, SourceError),
        match="does not exist" if left == "nothing" else "not the same blob directory",
    ):
        vault.create()
    assert vault.ids == []


@pytest.mark.parametrize("layout", ["zeocache", "unknown"])
def test_a_cache_or_an_unknown_layout_is_refused(tmp_path: Path, layout: str) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    (vault.files.blob_dir / ".layout").write_text(layout)
    with pytest.raises(ConfigurationError, match="blob cache" if layout == "zeocache" else "unknown layout"):
        vault.create()
    assert vault.ids == []
    assert list(vault.repository.store.list("objects/")) == []


def test_a_new_layout_of_the_directory_is_followed(tmp_path: Path) -> None:
    files = site_factory.lawn(tmp_path / "site")
    vault = Vault(tmp_path, files)
    vault.create()
    bushy = site_factory.populate(tmp_path / "bushy")
    files.blob_dir.rename(tmp_path / "lawn")
    bushy.blob_dir.rename(files.blob_dir)  # the same blobs, migrated
    assert vault.code() == "unchanged"
    more(files)
    vault.create()
    vault.assert_restores(files)


def test_blobs_and_no_directory_are_an_error_before_anything_is_stored(tmp_path: Path) -> None:
    files = many(tmp_path / "site")
    vault = Vault(tmp_path, files, "none")
    before = sorted(vault.repository.store.list(""))
    with pytest.raises(ConfigurationError, match="no blob directory is configured") as caught:
        vault.create()
    assert "--only storage" in caught.value.hint
    assert [
        entry for entry in vault.repository.store.list("") if "objects" in entry.key or "meta" in entry.key
    ] == [entry for entry in before if "objects" in entry.key or "meta" in entry.key]
    created = vault.create(only="storage")
    assert (created.manifest.contents, entry_of(created.manifest).blobs) == ("storage", None)
    assert vault.ids == [created.manifest.id]


def test_without_blobs_no_directory_is_needed(tmp_path: Path) -> None:
    files = site_factory.only_root(tmp_path / "site")
    vault = Vault(tmp_path, files, "none")
    assert vault.create().manifest.status == "complete"
    assert vault.code() == "unchanged"
    # the first blob comes, and with it the need for a directory
    more(files)
    with pytest.raises(ConfigurationError, match="no blob directory is configured"):
        vault.create()
    vault.blob_dir = files.blob_dir
    assert vault.code() == "continued"
    vault.assert_restores(files)


def test_records_of_unknown_encoding_are_looked_for_when_a_directory_becomes_known(tmp_path: Path) -> None:
    """Without a directory nothing shows that such a record is a blob's: the first run that can checks all."""
    files = site_factory.opaque(tmp_path / "site")
    vault = Vault(tmp_path, files, "none")
    vault.create()
    vault.blob_dir = files.blob_dir
    created = vault.create()
    assert (created.manifest.reason.code, entry_of(created.manifest).blobs_added) == ("unchanged", 2)
    vault.assert_restores(files)
    assert entry_of(vault.create().manifest).blobs_added == 0
    vault.assert_restores(files)


def test_an_opaque_site_finds_its_blobs_by_their_files(tmp_path: Path) -> None:
    files = site_factory.opaque(tmp_path / "site")
    vault = Vault(tmp_path, files)
    created = vault.create()
    assert created.manifest.status == "complete"
    assert entry_of(created.manifest).blobs.count == len(independent_reader.blob_files(*files)) == 2  # type: ignore[union-attr]
    vault.assert_restores(files)
    assert vault.code() == "unchanged"


# Files


def test_an_empty_blob_is_a_warning_with_its_path(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    emptied = list(blob_paths(vault.files))[7]
    emptied.chmod(0o644)
    emptied.write_bytes(b"")
    created = vault.create()
    assert entry_of(created.manifest).warnings == [f"{emptied} is empty"]
    assert created.manifest.status == "complete"
    vault.assert_restores(vault.files)


def test_of_many_empty_blobs_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    for path in blob_paths(vault.files):
        path.chmod(0o644)
        path.write_bytes(b"")
    warnings = entry_of(vault.create().manifest).warnings
    assert len(warnings) == 21
    assert warnings[-1] == "10 more blobs are empty"
    vault.assert_restores(vault.files)


def test_a_directory_in_the_place_of_a_blob_is_an_error_that_names_it(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    path = list(blob_paths(vault.files))[7]
    path.unlink()
    path.mkdir()
    with pytest.raises(SourceError, match="Is a directory") as caught:
        vault.create()
    assert str(path) in caught.value.message
    assert vault.ids == []


def test_a_file_in_the_place_of_a_directory_of_blobs_is_a_loss(tmp_path: Path) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    path = list(blob_paths(vault.files))[7]
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    assert rows(vault.create()) == {row_of(path)}


def failing(number: int, victim: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a system call that fails for one file."""

    def fail(what: Any, *arguments: Any, **options: Any) -> Any:
        there = (
            what if isinstance(what, (str, bytes, os.PathLike)) else Path(f"/proc/self/fd/{what}").readlink()
        )
        if Path(os.fsdecode(there)) == victim:
            raise OSError(number, os.strerror(number))
        return call(what, *arguments, **options)

    return fail


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "read"])
def test_a_blob_that_cannot_be_read_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """The tests run as root, whom no mode stops, and on a disk that does not fail."""
    vault = Vault(tmp_path, many(tmp_path / "site"))
    victim = list(blob_paths(vault.files))[7]
    with monkeypatch.context() as patch:
        patch.setattr(source.os, call, failing(number, victim, getattr(os, call)))
        with pytest.raises(SourceError, match=os.strerror(number)) as caught:
            vault.create(allow_missing=30)
    assert str(victim) in caught.value.message
    assert vault.ids == []
    assert vault.create().manifest.status == "complete"
    vault.assert_restores(vault.files)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_data_fs_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    vault = Vault(tmp_path, many(tmp_path / "site"))
    for call in ("open", "pread"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number, vault.files.data_fs, getattr(os, call)))
            with pytest.raises((SourceError, OSError)) as caught:
                vault.create()
        assert str(vault.files.data_fs) in str(caught.value) or call == "open"
    assert vault.ids == []


def test_a_blob_that_changes_its_length_while_it_is_read_makes_it_start_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZODB never does that; a copy that is still going on looks like it."""
    vault = Vault(tmp_path, many(tmp_path / "site"))
    victim = list(blob_paths(vault.files))[7]
    whole, reads = victim.read_bytes(), 0
    victim.chmod(0o644)
    victim.write_bytes(whole[:10])
    read = os.read

    def growing(fd: int, length: int) -> bytes:
        nonlocal reads
        if Path(f"/proc/self/fd/{fd}").readlink() == victim:
            reads += 1
            if reads == 1:
                victim.write_bytes(whole)
        return read(fd, length)

    monkeypatch.setattr(source.os, "read", growing)
    assert vault.create().manifest.status == "complete"
    assert any("starting over" in note for note in vault.progress.notes)
    vault.assert_restores(vault.files)


def test_only_blobs_copies_no_storage(tmp_path: Path) -> None:
    files = many(tmp_path / "site")
    vault = Vault(tmp_path, files)
    created = vault.create(only="blobs")
    assert entry_of(created.manifest).storage is None
    assert entry_of(created.manifest).blobs.count == 30  # type: ignore[union-attr]
    assert vault.create().manifest.reason.code == "first"  # a backup of one component is no parent
    vault.assert_restores(files)
