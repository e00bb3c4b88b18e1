"""``zodb-vault restore``: targets, destinations, questions, refusals."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import independent_reader
import pytest
import site_factory
from command_line import Vault, flip, keys_of, on_terminal, stored, tree, words
from ZODB.FileStorage import FileStorage

DOCUMENT = words("id target databases kept caches safety_backup notes")
LAST_OF_ONE = "0x0405e70900000000"
LAST_OF_TWO = "0x0405e70a00000000"


def out(vault: Vault, name: str = "out") -> Path:
    return vault.directory / name


def same(vault: Vault, directory: Path, until: str) -> None:
    """Compare a restored directory with the site, read by ZODB's own iterator, up to a transaction."""
    wanted = [one for one in independent_reader.transactions(*vault.files) if "0x" + one.tid.hex() <= until]
    assert independent_reader.transactions(directory / "Data.fs", directory / "blobs") == wanted
    assert "0x" + wanted[-1].tid.hex() == until


def test_the_latest_into_a_directory(stocked: Vault) -> None:
    outcome = stocked.done("restore", "--output", out(stocked), "--yes")
    assert outcome.out == ""
    same(stocked, out(stocked), LAST_OF_TWO)
    assert sorted(path.name for path in out(stocked).iterdir()) == ["Data.fs", "Data.fs.index", "blobs"]
    assert (out(stocked) / "Data.fs").read_bytes() == stocked.files.data_fs.read_bytes()


def test_the_document_has_exactly_the_keys_that_are_promised(stocked: Vault) -> None:
    document = stocked.done("restore", "one", "--output", out(stocked), "--yes", "--json").document
    assert keys_of(document) == DOCUMENT
    assert document["databases"] == [{"name": "main", "last_tid": LAST_OF_ONE, "dropped_transactions": 0}]
    assert (document["target"], document["kept"], document["caches"], document["safety_backup"]) == (
        str(out(stocked)),
        [],
        [],
        None,
    )


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["one"], LAST_OF_ONE),
        (["latest"], LAST_OF_TWO),
        (["--tid", LAST_OF_ONE], LAST_OF_ONE),
        (["--tid", LAST_OF_ONE[2:]], LAST_OF_ONE),
        (["two", "--tid", "0x0405e70600000000"], "0x0405e70600000000"),
        (["--before-tid", LAST_OF_ONE], "0x0405e70800000000"),
        (["--at", "2026-01-01T00:06:30Z"], "0x0405e70600000000"),
        (["--at", "2026-01-01 00:06"], "0x0405e70600000000"),
        (["--at", "2026-01-01T05:06+05:00"], "0x0405e70600000000"),
    ],
)
def test_every_way_to_say_until_when(stocked: Vault, arguments: list[str], last: str) -> None:
    stocked.done("restore", *arguments, "--output", out(stocked), "--yes", "-q")
    same(stocked, out(stocked), last)


def test_what_was_understood_of_a_time_is_echoed_in_utc(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Vienna")
    outcome = stocked.done("restore", "--at", "2026-01-01T01:06:30", "--output", out(stocked), "--dry-run")
    assert outcome.err == "2026-01-01T01:06:30 is 2026-01-01T00:06:30Z\n"
    assert "up to transaction 0x0405e70600000000 (2026-01-01T00:06:00.000000Z)" in outcome.out


@pytest.mark.parametrize(
    ("zone", "text", "understood"),
    [
        (":Europe/Vienna", "2026-01-01T01:06", "2026-01-01T00:06:00Z"),
        (":/usr/share/zoneinfo/Europe/Vienna", "2026-01-01T01:06", "2026-01-01T00:06:00Z"),
        ("", "2026-01-01T00:06", "2026-01-01T00:06:00Z"),
        ("CET-1CEST", "2026-01-01T00:06Z", "2026-01-01T00:06:00Z"),
    ],
)
def test_every_common_form_of_tz(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch, zone: str, text: str, understood: str
) -> None:
    if "/usr" in zone and not Path(zone[1:]).exists():
        pytest.skip("no zone files here")
    monkeypatch.setenv("TZ", zone)
    assert (
        f"{text} is {understood}"
        in stocked.done("restore", "--at", text, "--output", out(stocked), "--dry-run").err
    )


def test_a_zone_that_is_not_known_is_an_error_when_it_is_needed(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Nowhere/Land")
    outcome = stocked("restore", "--at", "2026-01-01T00:06", "--output", out(stocked), "--dry-run", "--json")
    assert (outcome.status, outcome.error["kind"]) == (2, "configuration")
    assert "Z" in outcome.error["hint"]


def test_dry_run_prints_the_plan_as_data_and_changes_nothing(stocked: Vault) -> None:
    before = tree(stocked.directory)
    outcome = stocked.done("restore", "one", "--dry-run")
    assert outcome.err == ""
    for text in (
        f"up to transaction {LAST_OF_ONE}",
        f"replaces the file in place (last transaction {LAST_OF_TWO}), 1 transaction of it dropped",
        "of free space, and space for blobs that are no longer there",
        str(stocked.files.data_fs),
    ):
        assert text in outcome.out
    document = stocked.done("restore", "one", "--dry-run", "--json").document
    assert keys_of(document) == DOCUMENT
    assert document["databases"] == [{"name": "main", "last_tid": LAST_OF_ONE, "dropped_transactions": 1}]
    assert tree(stocked.directory) == before


def test_into_the_site_the_old_state_is_saved_and_kept(stocked: Vault) -> None:
    old = stocked.files.data_fs.read_bytes()
    document = stocked.done("restore", "one", "--yes", "--json").document
    same(stocked, stocked.files.data_fs.parent, LAST_OF_ONE)
    safety = stocked.done("list", "--json").document["backups"][0]
    assert (safety["id"], safety["trigger"]) == (document["safety_backup"], "safety")
    replaced, blobs = map(Path, document["kept"][:2])
    assert replaced.read_bytes() == old
    assert [path.stat().st_size for path in blobs.rglob("*.blob")] == [4000]
    stocked.done("restore", document["safety_backup"], "--output", out(stocked), "--yes")
    assert (out(stocked) / "Data.fs").read_bytes() == old


def test_text_says_what_was_kept_and_what_to_restart(stocked: Vault) -> None:
    outcome = stocked.done("restore", "one", "--yes")
    for text in ("saving the present state first", "safety backup", "kept: ", "restart every process"):
        assert text in outcome.err
    assert outcome.out == ""


def test_discard_kept_frees_what_was_kept(stocked: Vault) -> None:
    kept = [Path(path) for path in stocked.done("restore", "one", "--yes", "--json").document["kept"]]
    assert {path.name.partition("kept-")[0] for path in kept[1:]} == {
        ".zodb-vault-",
        "Data.fs.old.",
        "Data.fs.tmp.",
    }
    restore = kept[1].name.rpartition("kept-")[2]
    document = stocked.done("restore", "--discard-kept", restore, "--yes", "--json").document
    assert keys_of(document) == ["aborted", "removed"]
    assert sorted(document["removed"]) == sorted(str(path) for path in kept)
    assert not any(path.exists() for path in kept)
    same(stocked, stocked.files.data_fs.parent, LAST_OF_ONE)
    again = stocked("restore", "--discard-kept", restore)
    assert again.status == 13


def test_U10_what_was_kept_is_only_removed_by_its_whole_id_and_after_a_question(stocked: Vault) -> None:
    for backup in ("one", "two"):
        stocked.done("restore", backup, "--yes", "--no-safety-backup")
    site = stocked.files.data_fs.parent
    kept = sorted(path.name.removeprefix("Data.fs.replaced-") for path in site.glob("Data.fs.replaced-*"))
    before = tree(site)
    for prefix in (kept[0][:4], kept[0][:-1], "earliest"):
        refused = stocked("restore", "--discard-kept", prefix, "--yes")
        assert (refused.status, f"{kept[0]}, {kept[1]}" in refused.err) == (13, True)
    unasked = stocked.process("restore", "--discard-kept", "latest")
    assert (unasked.status, "give --yes" in unasked.err) == (2, True)
    answered = on_terminal(*stocked.options, "restore", "--discard-kept", kept[0], answer="n")
    assert answered.status == 1
    assert f"removes {site}/Data.fs.replaced-{kept[0]}" in answered.screen.replace("\r\n", "")
    planned = stocked.done("restore", "--discard-kept", "latest", "--dry-run", "--json").document["removed"]
    assert f"{site}/Data.fs.replaced-{kept[1]}" in planned
    assert tree(site) == before
    removed = stocked.done("restore", "--discard-kept", "latest", "--yes", "--json").document["removed"]
    assert removed == planned
    assert [path.name for path in site.glob("Data.fs.replaced-*")] == [f"Data.fs.replaced-{kept[0]}"]
    assert on_terminal(*stocked.options, "restore", "--discard-kept", kept[0], answer="y").status == 0
    assert not list(site.glob("Data.fs.replaced-*"))


def test_U10_an_abort_asks_and_a_dry_run_changes_nothing(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.strategies.filestorage.restore.phases import DataFsRestore

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/a/disk")

    with monkeypatch.context() as patched:
        patched.setattr(DataFsRestore, "put_aside", fail)
        assert stocked("restore", "one", "--yes", "--no-safety-backup").status == 1
    site = stocked.files.data_fs.parent
    before = tree(site)
    assert stocked.process("restore", "--abort").status == 2
    assert on_terminal(*stocked.options, "restore", "--abort", answer="n").status == 1
    planned = stocked.done("restore", "--abort", "--dry-run").out
    assert f"and removes what was restored to {stocked.files.data_fs}" in planned
    assert tree(site) == before
    stocked.done("restore", "--abort", "--yes")
    same(stocked, site, LAST_OF_TWO)


def test_no_safety_backup_makes_none(stocked: Vault) -> None:
    document = stocked.done("restore", "one", "--yes", "--no-safety-backup", "--json").document
    assert document["safety_backup"] is None
    assert len(stocked.done("list", "--json").document["backups"]) == 2
    assert Path(document["kept"][0]).name.startswith("Data.fs.replaced-")


def test_a_site_in_use_is_refused_with_the_status_11(stocked: Vault) -> None:
    storage = FileStorage(str(stocked.files.data_fs), blob_dir=str(stocked.files.blob_dir))
    try:
        before = tree(stocked.directory)
        outcome = stocked("restore", "one", "--yes", "--json")
        assert (outcome.status, outcome.error["kind"], outcome.out) == (11, "in-use", "")
        assert tree(stocked.directory) == before
    finally:
        storage.close()


def test_without_a_terminal_and_without_yes_it_is_refused(stocked: Vault) -> None:
    before = tree(stocked.directory)
    for arguments in (["one"], ["--output", str(out(stocked))]):
        outcome = stocked.process("restore", *arguments)
        assert outcome.status == 2
        assert "--yes" in outcome.err
    assert tree(stocked.directory) == before


def test_on_a_terminal_the_plan_is_shown_and_no_is_the_status_1(stocked: Vault) -> None:
    before = tree(stocked.directory)
    declined = on_terminal(*stocked.options, "restore", "one", answer="n")
    assert declined.status == 1
    assert "1 transaction of it dropped" in declined.screen
    assert "nothing was restored" in declined.screen
    assert tree(stocked.directory) == before
    assert on_terminal(*stocked.options, "restore", "one", answer="y").status == 0
    same(stocked, stocked.files.data_fs.parent, LAST_OF_ONE)


def test_only_the_storage_leaves_the_blobs_alone(stocked: Vault) -> None:
    stocked.done("restore", "one", "--only", "storage", "--output", out(stocked), "--yes")
    assert not (out(stocked) / "blobs").exists()
    before = tree(stocked.files.blob_dir)
    stocked.done("restore", "one", "--only", "storage", "--yes")
    assert tree(stocked.files.blob_dir) == before


def test_only_the_blobs_leaves_the_storage_alone(stocked: Vault) -> None:
    lost = max(stocked.files.blob_dir.rglob("*.blob"), key=lambda path: path.name)
    content, data_fs = lost.read_bytes(), stocked.files.data_fs.read_bytes()
    lost.unlink()
    stocked.done("restore", "two", "--only", "blobs", "--yes", "--no-safety-backup")
    assert lost.read_bytes() == content
    assert stocked.files.data_fs.read_bytes() == data_fs


def test_an_incomplete_backup_needs_to_be_allowed(vault: Vault) -> None:
    max(vault.files.blob_dir.rglob("*.blob"), key=lambda path: path.name).unlink()
    assert vault("create", "--name", "lossy").status == 3
    refused = vault("restore", "lossy", "--output", out(vault), "--yes", "--json")
    assert (refused.status, refused.error["kind"]) == (1, "target-refused")
    assert "--allow-incomplete" in refused.error["hint"]
    assert not out(vault).exists()
    outcome = vault.done("restore", "lossy", "--output", out(vault), "--yes", "--allow-incomplete")
    assert "1 blobs were missing" in outcome.err


def test_the_blobs_of_another_site_are_not_replaced_unless_that_is_meant(stocked: Vault) -> None:
    with site_factory.Site(
        stocked.directory / "other", start=site_factory.START + timedelta(days=100)
    ) as site:
        site.put(text="of another site", blob=site_factory.noise(100))
        other = site.files
    before = tree(stocked.directory / "other")
    options = [
        "--repository",
        stocked.repository,
        "--data-fs",
        other.data_fs,
        "--blob-dir",
        other.blob_dir,
        "restore",
        "one",
        "--yes",
    ]
    refused = stocked.bare(*options, "--json")
    assert (refused.status, refused.error["kind"]) == (1, "target-refused")
    assert "--replace-blobs" in refused.error["hint"]
    assert tree(stocked.directory / "other") == before
    assert stocked.bare(*options, "--replace-blobs", "--no-safety-backup").status == 0
    same(stocked, stocked.directory / "other", LAST_OF_ONE)


def test_target_is_the_site_of_another_zope_conf(stocked: Vault) -> None:
    place = stocked.directory / "other place"
    place.mkdir()
    config = place / "zope.conf"
    config.write_text(
        f"<zodb_db main>\nmount-point /\n<filestorage>\npath {place}/Data.fs\nblob-dir {place}/blobs\n"
        "</filestorage>\n</zodb_db>\n"
    )
    assert (
        stocked.bare("--repository", stocked.repository, "restore", "one", "--target", config, "--yes").status
        == 0
    )
    same(stocked, place, LAST_OF_ONE)
    assert stocked("restore", "one", "--target", place / "nothing.conf", "--yes").status == 2


def test_database_chooses_one(stocked: Vault) -> None:
    stocked.done("restore", "--database", "main", "--output", out(stocked), "--yes")
    unknown = stocked("restore", "--database", "nope", "--output", out(stocked, "other"), "--yes")
    assert unknown.status == 2
    assert "it has main" in unknown.err


def test_abort_without_an_interrupted_restore_is_the_status_13_and_changes_nothing(stocked: Vault) -> None:
    before = tree(stocked.directory)
    outcome = stocked("restore", "--abort")
    assert outcome.status == 13
    assert tree(stocked.directory) == before
    assert not (stocked.files.data_fs.parent / "Data.fs.lock.new").exists()


def test_an_interrupted_restore_is_aborted_and_says_so(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.strategies.filestorage.restore.phases import DataFsRestore

    class Cut(BaseException):
        pass

    def cut(*_arguments: object) -> None:
        raise Cut

    before = stocked.files.data_fs.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(DataFsRestore, "make_valid", cut)
        with pytest.raises(Cut):
            stocked("restore", "one", "--yes", "--no-safety-backup")
    other = stocked("restore", "two", "--yes")
    assert other.status == 1
    assert "--abort" in other.err
    document = stocked.done("restore", "--abort", "--yes", "--json").document
    assert len(document["aborted"]) == 1
    assert stocked.files.data_fs.read_bytes() == before
    stocked.done("restore", "two", "--yes")


def test_a_restore_that_has_filled_the_disk_is_aborted_without_any_room(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.runtime import durable
    from zodb_vault.strategies.filestorage.restore.build import DataFsBuilder

    site, write_all = stocked.files.data_fs.parent, durable.write_all
    before = stored(site)

    def full(*arguments: Any) -> Any:
        if list(site.glob("Data.fs.restoring-*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_all(*arguments)

    monkeypatch.setattr(DataFsBuilder, "restore_blobs", lambda *_arguments: full(0, []))
    stopped = stocked("restore", "one", "--yes", "--no-safety-backup", "--json")
    assert stopped.status == 1
    assert f"{stocked.files.data_fs}: {os.strerror(errno.ENOSPC)}" in stopped.error["message"]
    assert "run the same restore again" in stopped.error["hint"] and "--abort" in stopped.error["hint"]
    monkeypatch.setattr(durable, "write_all", full)
    stocked.done("restore", "--abort", "--yes")
    assert stored(site) == before


@pytest.mark.parametrize("where", ["repository", "repository/objects/x", "site/blobs", "site/blobs/0x00/x"])
@pytest.mark.parametrize("only", [[], ["--only", "storage"], ["--only", "blobs"]])
def test_no_restore_goes_into_a_repository_or_a_blob_directory(
    stocked: Vault, where: str, only: list[str]
) -> None:
    before = tree(stocked.directory)
    outcome = stocked("restore", "one", "--output", stocked.directory / where, *only, "--yes", "--json")
    assert (outcome.status, outcome.error["kind"]) == (1, "target-refused")
    assert "lies in the" in outcome.error["message"]
    assert tree(stocked.directory) == before


def test_a_site_is_no_directory_to_restore_into_although_something_was_restored_there(stocked: Vault) -> None:
    stocked.done("restore", "one", "--yes")
    with site_factory.Site(stocked.files.data_fs.parent) as site:
        site.put(more="more")
    for backup in ("one", "two"):
        outcome = stocked("restore", backup, "--output", stocked.files.data_fs.parent, "--yes")
        assert outcome.status == 1
        assert f"{stocked.files.data_fs} exists already" in outcome.err


def test_a_directory_that_was_used_since_is_not_taken_for_restored(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.strategies.filestorage.restore.phases import DataFsRestore

    with monkeypatch.context() as patched:
        patched.setattr(DataFsRestore, "tidy_directory", _fail)
        assert stocked("restore", "one", "--output", out(stocked), "--yes").status == 1
    with site_factory.Site(out(stocked)) as site:
        site.put(more="more")
    outcome = stocked("restore", "one", "--output", out(stocked), "--yes")
    assert outcome.status == 1
    assert "exists already" in outcome.err


def _fail(*_arguments: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_blobs_alone_are_said_to_be_that(stocked: Vault) -> None:
    assert (
        f"restored to {out(stocked) / 'blobs'}, blobs only"
        in stocked.done("restore", "--only", "blobs", "--output", out(stocked), "--yes").err
    )


def test_an_abort_that_fails_says_where_and_how_to_go_on(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.strategies.filestorage.restore.abort import DataFsUndo
    from zodb_vault.strategies.filestorage.restore.phases import DataFsRestore

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/a/disk")

    monkeypatch.setattr(DataFsRestore, "make_valid", fail)
    assert stocked("restore", "one", "--yes", "--no-safety-backup").status == 1
    monkeypatch.setattr(DataFsUndo, "put_back", fail)
    failed = stocked("restore", "--abort", "--yes", "--json")
    assert failed.status == 1
    assert "/a/disk" in failed.error["message"]
    assert "`restore --abort` again" in failed.error["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tid", LAST_OF_ONE, "--at", "2026-01-01T00:06Z"],
        ["--tid", LAST_OF_ONE, "--before-tid", LAST_OF_ONE],
        ["--output", "x", "--target", "y"],
        ["--abort", "--output", "x"],
        ["--abort", "--discard-kept", "20260101T000000Z-aaaaaa"],
        ["one", "--abort"],
        # the result of an unset variable in a script: never the complete site up to the latest
        ["--tid", ""],
        ["--before-tid", ""],
        ["--at", ""],
        ["--discard-kept", ""],
        ["--output", ""],
        ["--target", ""],
        [""],
        ["--tid", "xyz"],
        ["--tid", "0x12"],
        ["--before-tid", "0x12"],
        ["--only", "nothing"],
        ["--at", "yesterday"],
        ["--at", "2026-01-01"],
        ["--at", "2026-02-30T10:00"],
        ["--at", "2026-01-01T25:00"],
        ["--at", "10:15"],
        ["--at", "0000-00-00T00:00"],
        ["--at", "2026-01-01T00:00+99:00"],
        ["--at", "1700000000"],
    ],
)
def test_what_cannot_be_meant_changes_nothing(stocked: Vault, arguments: list[str]) -> None:
    before = tree(stocked.directory)
    outcome = stocked("restore", *arguments, "--yes", "--json")
    assert (outcome.status, outcome.out) == (2, ""), outcome
    assert outcome.error["kind"] in ("usage", "configuration")
    assert outcome.error["hint"]
    assert tree(stocked.directory) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tid", "0x0405e70900000001"], LAST_OF_TWO),
        (["--tid", "0x0405e70300000000"], "0x0405e70400000000"),
        (["--at", "2026-01-01T00:02Z"], "0x0405e70400000000"),
        (["--at", "2099-01-01T00:00Z"], LAST_OF_TWO),
        (["--before-tid", "0x0405e70400000000"], "0x0405e70400000000"),
        (["nope"], "two"),
    ],
)
def test_what_is_not_there_is_the_status_13_and_names_the_nearest(
    stocked: Vault, arguments: list[str], named: str
) -> None:
    before = tree(stocked.directory)
    outcome = stocked("restore", *arguments, "--yes", "--json")
    assert (outcome.status, outcome.out) == (13, "")
    assert named in outcome.error["message"] + outcome.error["hint"]
    assert tree(stocked.directory) == before


def test_an_output_that_holds_something_is_refused(stocked: Vault) -> None:
    site = stocked.files.data_fs.parent
    before = tree(stocked.directory)
    refused = stocked("restore", "--output", site, "--yes")
    assert refused.status == 1
    assert "empty directory" in refused.err
    a_file = stocked("restore", "--output", stocked.files.data_fs, "--yes")
    assert a_file.status == 2
    below = stocked("restore", "--output", stocked.files.data_fs / "below", "--yes")
    assert below.status == 1
    assert "Not a directory" in below.err
    assert tree(stocked.directory) == before


def test_damage_is_the_status_4_and_nothing_is_left_that_could_be_taken_for_a_site(stocked: Vault) -> None:
    for path in (stocked.repository / "objects").rglob("*"):
        if path.is_file():
            flip(path)
    before = tree(stocked.files.data_fs.parent)
    outcome = stocked("restore", "--output", out(stocked), "--yes", "--json")
    assert (outcome.status, outcome.error["kind"], outcome.out) == (4, "damage", "")
    assert outcome.error["hint"]
    assert not (out(stocked) / "Data.fs").exists()
    assert stocked("restore", "--yes", "--no-safety-backup").status == 4
    assert stocked.files.data_fs.read_bytes()
    after = {path: entry for path, entry in tree(stocked.files.data_fs.parent).items() if path in before}
    assert after == before


def test_paths_with_blanks_and_quotes(stocked: Vault) -> None:
    place = stocked.directory / 'it\'s "the" place ü 日本'
    stocked.done("restore", "--output", place, "--yes", "-q")
    same(stocked, place, LAST_OF_TWO)
    assert stocked.files.data_fs.exists()


def test_the_repository_is_the_same_after_a_restore_into_a_directory(stocked: Vault) -> None:
    before = stored(stocked.repository)
    stocked.done("restore", "--output", out(stocked), "--yes")
    assert stored(stocked.repository) == before


# Components


def refused(vault: Vault, said: str, hint: str, *arguments: object) -> None:
    """Require a restore to be refused, and nothing to be made."""
    outcome = vault("restore", *arguments, "--output", out(vault), "--yes")
    assert outcome.status == 1, outcome
    assert said in outcome.err
    assert hint in outcome.err
    assert not out(vault).exists()


def test_a_backup_of_the_storage_is_restored_as_that_only(stocked: Vault) -> None:
    stocked.done("create", "--only", "storage", "--name", "half")
    refused(stocked, "the backup holds no blobs of main", "--only storage", "half")
    stocked.done("restore", "half", "--only", "storage", "--output", out(stocked), "--yes")
    assert not (out(stocked) / "blobs").exists()


def test_a_backup_of_the_blobs_is_no_site(stocked: Vault) -> None:
    stocked.done("create", "--only", "blobs", "--name", "half")
    refused(stocked, "the backup holds no storage of main, only blobs", "choose a whole backup", "half")


def test_blobs_need_a_directory_in_the_site(stocked: Vault) -> None:
    before = stocked.files.data_fs.read_bytes()
    bare = ["--repository", stocked.repository, "--data-fs", stocked.files.data_fs]
    outcome = stocked.bare(*bare, "restore", "one", "--yes", "--no-safety-backup")
    assert outcome.status == 1, outcome
    assert "the site has no blob directory for main" in outcome.err
    assert "name it with --blob-dir" in outcome.err
    assert stocked.files.data_fs.read_bytes() == before
    stocked.done("restore", "one", "--only", "storage", "--yes", "--no-safety-backup")
