"""``zodb-vault convert config``: files for zodb-convert, readable by their owner only."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import independent_reader
import pytest
import site_factory
from command_line import DEADLINE, Vault, environment, keys_of, process_as_nobody, tree, words

SECRET = "hunter2"
# Not where it is used: the type checker assumes Python 3.11, and would take what follows for unreachable.
TOO_OLD = sys.version_info < (3, 12)
PGJSONB = (
    f"<zodb_db main>\nmount-point /\n<pgjsonb>\ndsn dbname=zodb password={SECRET}\n</pgjsonb>\n</zodb_db>\n"
)
TWO = """
<zodb_db main>
mount-point /
<filestorage>
path Data.fs
</filestorage>
</zodb_db>
<zodb_db a/b>
mount-point /b
<filestorage>
path B.fs
</filestorage>
</zodb_db>
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def convert(file: Path) -> None:
    """Run zodb-convert itself."""
    if TOO_OLD:
        pytest.skip("zodb-convert needs Python 3.12")
    script = "import sys; from zodb_convert.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def content(transactions: list[independent_reader.Transaction]) -> list[object]:
    """Return what a RelStorage keeps of transactions: neither the order of records nor traces of a pack."""
    return [(one.tid, one.user, one.description, sorted(one.records)) for one in transactions]


def test_a_running_site_goes_into_a_file_storage_and_from_there_into_a_relstorage_and_back(
    vault: Vault, tmp_path: Path
) -> None:
    with site_factory.Site(vault.files.data_fs.parent):  # a writer has it open
        before = tree(vault.files.data_fs.parent)
        exported = vault.done("convert", "config", "--export", "--directory", "out").out.strip()
        assert exported == str(Path.cwd() / "convert-export.conf")
        convert(Path(exported))
        assert tree(vault.files.data_fs.parent) == before
    expected = independent_reader.transactions(vault.files.data_fs, vault.files.blob_dir)
    assert independent_reader.transactions(Path("out/Data.fs"), Path("out/blobs")) == expected
    assert sum(record.blob is not None for one in expected for record in one.records) == 7

    (tmp_path / "rs").mkdir()
    storage = (
        f"<relstorage>\nblob-dir {tmp_path}/rs/blobs\n<sqlite3>\ndata_dir {tmp_path}/rs\n</sqlite3>\n"
        "</relstorage>"
    )
    conf = write(
        tmp_path / "zope.conf", f"%import relstorage\n<zodb_db main>\nmount-point /\n{storage}\n</zodb_db>\n"
    )
    imported = vault.bare(
        "--zope-conf", conf, "convert", "config", "--import", "--directory", "out", "--json"
    )
    assert (imported.status, imported.err) == (0, "")
    assert keys_of(imported.document) == ["files"]
    (file,) = imported.document["files"]
    assert keys_of(file) == words("database direction path directory warnings")
    convert(Path(file["path"]))
    back = vault.bare(
        "--zope-conf", conf, "convert", "config", "--export", "--directory", "back", "--output", "back.conf"
    )
    assert back.status == 0
    convert(Path("back.conf"))
    assert content(independent_reader.transactions(Path("back/Data.fs"), Path("back/blobs"))) == content(
        expected
    )


def test_the_file_can_be_read_by_its_owner_only_and_is_the_only_place_of_a_secret(
    vault: Vault, tmp_path: Path
) -> None:
    conf = write(tmp_path / "zope.conf", PGJSONB)
    old = os.umask(0)
    try:
        for arguments in (
            [],
            ["--force"],
            ["--json", "--force"],
            ["-v", "--force"],
            ["--output", "other.conf"],
        ):
            outcome = vault.bare("--zope-conf", conf, "convert", "config", "--export", *arguments)
            assert outcome.status == 0
            assert SECRET not in outcome.out + outcome.err
    finally:
        os.umask(old)
    for name in ("convert-export.conf", "other.conf"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600
        assert f"  dsn dbname=zodb password={SECRET}\n" in Path(name).read_text()
    assert stat.S_IMODE(Path("converted").stat().st_mode) == 0o700
    assert sorted(path.name for path in Path().iterdir()) == [
        "convert-export.conf",
        "converted",
        "other.conf",
    ]


def test_it_is_printed_where_that_is_asked_for_and_nothing_is_written(vault: Vault, tmp_path: Path) -> None:
    conf = write(tmp_path / "zope.conf", PGJSONB)
    outcome = vault.bare("--zope-conf", conf, "convert", "config", "--export", "--output", "-")
    assert outcome.status == 0
    assert f"password={SECRET}" in outcome.out
    assert outcome.out.endswith("</filestorage>\n")
    assert SECRET not in outcome.err
    assert list(Path().iterdir()) == []
    assert (
        vault.bare("--zope-conf", conf, "convert", "config", "--export", "--output", "-", "--json").status
        == 2
    )


def test_what_zodb_convert_loses_is_said_also_when_quiet(vault: Vault, tmp_path: Path) -> None:
    conf = write(tmp_path / "zope.conf", PGJSONB)
    outcome = vault.bare("--zope-conf", conf, "convert", "config", "--export", "-q", "--json")
    assert "loses every blob" in outcome.err
    assert "loses every blob" in outcome.document["files"][0]["warnings"][0]
    assert "loses every blob" in Path("convert-export.conf").read_text()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory"])
def test_existing_files_are_replaced_only_on_request(vault: Vault, kind: str) -> None:
    path, other = Path("convert-import.conf"), Path("other")
    if kind == "file":
        write(path, "mine")
        path.chmod(0o644)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(other)
        if kind == "link":
            write(other, "mine")
    before = tree(Path())
    outcome = vault("convert", "config", "--import", "--json")
    assert (outcome.status, outcome.error["kind"]) == (1, "target-refused")
    assert "--force" in outcome.error["hint"]
    assert tree(Path()) == before
    forced = vault("convert", "config", "--import", "--force")
    if kind == "directory":
        assert forced.status == 1
        assert tree(Path()) == before
        return
    assert forced.status == 0
    assert "<filestorage source>" in path.read_text()
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not other.exists() or other.read_text() == "mine"


def test_a_location_that_is_not_writable_is_an_error_that_leaves_nothing(
    vault: Vault, reachable: Path
) -> None:
    reachable.chmod(0o555)
    outcome = process_as_nobody(
        "--data-fs",
        "/x/Data.fs",
        "convert",
        "config",
        "--import",
        "--output",
        reachable / "out.conf",
        "--json",
    )
    assert outcome.status == 1
    assert "Permission denied" in outcome.error["message"]
    assert list(reachable.iterdir()) == []
    assert vault("convert", "config", "--import", "--output", "nowhere/out.conf").status == 1


def test_every_database_has_a_file_of_its_own_unless_one_is_chosen(vault: Vault, tmp_path: Path) -> None:
    conf = write(tmp_path / "zope.conf", TWO)

    def files(*arguments: object) -> list[tuple[str, str, str]]:
        made = vault.bare(
            "--zope-conf", conf, "convert", "config", "--export", "--force", "--json", *arguments
        ).document["files"]
        return [
            (one["database"], Path(one["path"]).name, str(Path(one["directory"]).relative_to(Path.cwd())))
            for one in made
        ]

    main, other = (
        ("main", "convert-export-main.conf", "converted/main"),
        ("a/b", "convert-export-a%2Fb.conf", "converted/a%2Fb"),
    )
    assert files() == [main, other]
    assert Path("converted/a%2Fb").is_dir()
    assert files("--database", "a/b") == [other]
    assert files("--database", "a/b", "--output", "x.conf") == [("a/b", "x.conf", "converted/a%2Fb")]
    assert "B.fs" in Path("x.conf").read_text()
    for arguments in (["--output", "y.conf"], ["--output", "-"], ["--database", "c"]):
        outcome = vault.bare("--zope-conf", conf, "convert", "config", "--export", *arguments)
        assert (outcome.status, outcome.out) == (2, "")


def test_which_way_to_copy_has_to_be_said_once(vault: Vault) -> None:
    for arguments in ([], ["--export", "--import"]):
        outcome = vault("convert", "config", *arguments)
        assert outcome.status == 2
        assert "--export or --import" in outcome.err


def test_the_site_is_never_copied_onto_itself(vault: Vault) -> None:
    link = Path("link")
    link.symlink_to(vault.files.data_fs.parent)
    for directory in (vault.files.data_fs.parent, link):
        for direction in ("--export", "--import"):
            outcome = vault("convert", "config", direction, "--directory", directory)
            assert outcome.status == 2
            assert "belongs to the site itself" in outcome.err


def test_a_file_storage_that_is_there_is_a_warning_for_an_export_and_one_that_is_missing_for_an_import(
    vault: Vault,
) -> None:
    assert "there is no Data.fs" in vault.done("convert", "config", "--import").err
    assert vault.done("convert", "config", "--export").err == ""
    write(Path("converted/Data.fs"), "")
    assert "--incremental" in vault.done("convert", "config", "--export", "--force").err
    assert vault.done("convert", "config", "--import", "--force").err == ""


def test_a_site_without_anything_persistent_is_refused(vault: Vault, tmp_path: Path) -> None:
    conf = write(tmp_path / "zope.conf", "<zodb_db main>\nmount-point /\n<mappingstorage/>\n</zodb_db>\n")
    outcome = vault.bare("--zope-conf", conf, "convert", "config", "--export", "--json")
    assert (outcome.status, outcome.error["kind"]) == (2, "nothing-to-back-up")


def test_notes_about_the_configuration_are_details(vault: Vault, tmp_path: Path) -> None:
    conf = write(tmp_path / "zope.conf", TWO)
    assert "relative path" not in vault.bare("--zope-conf", conf, "convert", "config", "--export").err
    assert (
        "relative path"
        in vault.bare("--zope-conf", conf, "convert", "config", "--export", "--force", "-v").err
    )
