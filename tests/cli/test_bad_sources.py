"""Unusable sources and repositories: a clear error with its next step and status; nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import site_factory
from command_line import (
    Outcome,
    Vault,
    flip,
    give_to_nobody,
    process,
    process_as_nobody,
    stored,
    take_from_nobody,
    tree,
)

from zodb_vault.model import canonical


def refused(vault: Vault, outcome: Outcome, status: int, kind: str, *named: object) -> None:
    """Check an error that was asked for as JSON."""
    assert outcome.status == status, outcome
    assert outcome.out == ""
    error = outcome.error
    assert (error["code"], error["kind"]) == (status, kind)
    for text in named:
        assert str(text) in error["message"]
    assert error["hint"]


def a_directory(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def nothing(path: Path) -> None:
    """Make nothing."""


def empty(path: Path) -> None:
    path.touch()


def short(path: Path) -> None:
    path.write_bytes(b"FS3")


def text(path: Path) -> None:
    path.write_text("this is a letter and no database, although it is long enough to be one\n" * 50)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def python_2(path: Path) -> None:
    path.write_bytes(site_factory.python_2(path.parent / "old").data_fs.read_bytes())


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (nothing, "source", "does not exist"),
        (a_directory, "source", "is a directory"),
        (a_dangling_link, "source", "does not exist"),
        (empty, "source", "is empty"),
        (short, "source", "is not a Data.fs"),
        (text, "source", "is not a Data.fs"),
        (a_pipe, "source", "not a regular file"),
        (python_2, "source", "Python 2"),
    ],
)
@pytest.mark.parametrize("place", ["plain", "with blanks, 'quotes' and ü\n日本"])
def test_what_is_no_data_fs(
    vault: Vault, make: Callable[[Path], None], kind: str, says: str, place: str
) -> None:
    directory = vault.directory / place
    directory.mkdir()
    path = directory / "Data.fs"
    make(path)
    before = tree(vault.directory)
    options = [
        "--repository",
        vault.repository,
        "--data-fs",
        path,
        "--blob-dir",
        vault.files.blob_dir,
        "create",
    ]
    outcome = vault.bare(*options, "--json")
    assert outcome.error["kind"].startswith(kind)
    refused(vault, outcome, 1, outcome.error["kind"], path, says)
    if place != "plain" and says != "does not exist":
        assert len(vault.bare(*options).err.splitlines()) == 2, "the path stays on its line"
    assert tree(vault.directory) == before


def test_a_link_to_a_data_fs_is_one(vault: Vault) -> None:
    link = vault.directory / "link to Data.fs"
    link.symlink_to(vault.files.data_fs)
    outcome = vault.bare(
        "--repository",
        vault.repository,
        "--data-fs",
        link,
        "--blob-dir",
        vault.files.blob_dir,
        "create",
        "--json",
    )
    assert outcome.document["databases"][0]["transactions"] == 9


def test_paths_that_are_no_utf_8_are_backed_up_and_restored(vault: Vault) -> None:
    place = Path(os.fsdecode(os.fsencode(vault.directory) + b"/caf\xe9"))
    vault.files.data_fs.parent.rename(place)
    options = [
        "--repository",
        vault.repository,
        "--data-fs",
        place / "Data.fs",
        "--blob-dir",
        place / "blobs",
    ]
    assert process(*options, "create", "--json").status == 0
    assert vault.bare(*options, "create", "--json").document["reason"]["code"] == "unchanged"
    for arguments in (["plan"], ["plan", "--json"], ["restore", "--yes"], ["restore", "--yes", "--json"]):
        outcome = process(*options, *arguments)
        assert outcome.status == 0, outcome
    gone = vault.bare(*options[:3], place / "nothing", *options[4:], "create", "--json")
    refused(vault, gone, 1, "source", "caf\\udce9")


def wrong_blob_directory(vault: Vault, which: str) -> Path:
    directory = vault.directory / "wrong"
    if which == "file":
        directory.touch()
    elif which != "missing":
        directory.mkdir()
        (directory / ".layout").write_text(which)
    return directory


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("missing", "does not exist"),
        ("file", "is not a directory"),
        ("zeocache", "zeocache"),
        ("funny", "funny"),
    ],
)
def test_what_is_no_blob_directory(vault: Vault, which: str, says: str) -> None:
    directory = wrong_blob_directory(vault, which)
    before = tree(vault.directory)
    outcome = vault.bare(*vault.options[:4], "--blob-dir", directory, "create", "--json")
    refused(vault, outcome, 2, "configuration", directory, says)
    assert tree(vault.directory) == before


def test_blobs_without_a_blob_directory_are_an_error_unless_only_the_storage_is_wanted(vault: Vault) -> None:
    before = stored(vault.directory)
    outcome = vault.bare(*vault.options[:4], "create", "--json")
    refused(vault, outcome, 2, "configuration", "refers to blobs")
    assert "--only storage" in outcome.error["hint"]
    assert stored(vault.directory) == before
    assert vault.bare(*vault.options[:4], "create", "--only", "storage").status == 0


@pytest.mark.parametrize("where", ["inside", "around", "same"])
def test_the_repository_and_the_blob_directory_must_not_lie_in_each_other(vault: Vault, where: str) -> None:
    places = {
        "inside": vault.files.blob_dir / "backups",
        "around": vault.files.data_fs.parent.parent / "around",
        "same": vault.directory / "both",
    }
    repository = places[where]
    blobs = {"inside": vault.files.blob_dir, "around": repository / "blobs", "same": repository}[where]
    assert vault.bare("--repository", repository, "repository", "init").status == 0
    blobs.mkdir(exist_ok=True)
    (blobs / ".layout").write_text("bushy")
    before = tree(vault.directory)
    outcome = vault.bare(
        "--repository", repository, "--data-fs", vault.files.data_fs, "--blob-dir", blobs, "create", "--json"
    )
    refused(vault, outcome, 2, "configuration", repository, blobs)
    assert tree(vault.directory) == before


def test_a_link_does_not_hide_that_the_repository_lies_in_the_blob_directory(vault: Vault) -> None:
    inside, link = vault.files.blob_dir / "backups", vault.directory / "link"
    vault.bare("--repository", inside, "repository", "init")
    link.symlink_to(inside)
    refused(vault, vault("create", "--repository", link, "--json"), 2, "configuration", inside)


def rewrite(vault: Vault, **changes: object) -> None:
    path = vault.repository / "repository.json"
    document = msgspec.json.decode(path.read_bytes()) | changes
    del document["self_sha256"]
    path.chmod(0o600)
    path.write_bytes(canonical.with_digest(document))


COMMANDS: list[list[str]] = [
    ["create"],
    ["list"],
    ["show"],
    ["log"],
    ["verify"],
    ["restore", "--yes"],
    ["annotate", "one", "--pin"],
    ["delete", "one", "--yes"],
    ["undelete", "20260101T000000Z-aaaaaa"],
    ["repository", "info"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize(
    "change", [{"format": 2}, {"requires": ["teleportation"]}], ids=["format", "requires"]
)
def test_a_repository_of_a_newer_version_is_left_alone(
    stocked: Vault, arguments: list[str], change: dict[str, object]
) -> None:
    rewrite(stocked, **change)
    before = tree(stocked.directory)
    outcome = stocked.bare(
        *stocked.options, *arguments, *(["--json"] if arguments[0] in ("create", "list", "verify") else [])
    )
    assert outcome.status == 1
    assert outcome.out == ""
    assert "install a newer zodb-vault" in outcome.err
    assert tree(stocked.directory) == before


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_damaged_repository_file_is_the_status_4(stocked: Vault, arguments: list[str]) -> None:
    flip(stocked.repository / "repository.json")
    before = tree(stocked.directory)
    outcome = stocked(*arguments)
    assert outcome.status == 4
    assert "repository.json is damaged" in outcome.err
    assert "-> " in outcome.err
    assert tree(stocked.directory) == before


@pytest.mark.parametrize("kind", ["show", "log", "verify", "restore", "annotate", "delete"])
def test_an_empty_repository_is_the_status_13_and_says_how_to_begin(vault: Vault, kind: str) -> None:
    arguments = next(one for one in COMMANDS if one[0] == kind)
    before = tree(vault.directory)
    outcome = vault(*arguments)
    assert outcome.status == 13
    assert "there are no backups yet" in outcome.err
    assert "zodb-vault create" in outcome.err
    assert tree(vault.directory) == before


def movable(vault: Vault, reachable: Path) -> Vault:
    """Move everything to where another user can come."""
    vault.directory.rename(reachable / "work")
    vault.directory = reachable / "work"
    vault.repository = vault.directory / "repository"
    vault.files = site_factory.SiteFiles(
        vault.directory / "site" / "Data.fs", vault.directory / "site" / "blobs"
    )
    vault.directory.chmod(0o755)
    give_to_nobody(vault.directory)
    return vault


def test_a_data_fs_that_may_not_be_read(vault: Vault, reachable: Path) -> None:
    movable(vault, reachable)
    take_from_nobody(vault.files.data_fs)
    before = stored(vault.repository)
    refused(
        vault,
        process_as_nobody(*vault.options, "create", "--json"),
        1,
        "source",
        vault.files.data_fs,
        "may not be read",
    )
    assert stored(vault.repository) == before
    planned = process_as_nobody(*vault.options, "plan")
    assert planned.status == 0
    assert "may not be read" in planned.out


@pytest.mark.parametrize("which", ["directory", "file"])
def test_blobs_that_may_not_be_read_are_an_error_and_never_taken_for_lost(
    vault: Vault, reachable: Path, which: str
) -> None:
    movable(vault, reachable)
    path = vault.files.blob_dir if which == "directory" else next(vault.files.blob_dir.rglob("*.blob"))
    take_from_nobody(path)
    outcome = process_as_nobody(*vault.options, "create", "--json")
    assert outcome.status in (1, 2), outcome
    assert outcome.out == ""
    assert str(path) in outcome.error["message"]
    assert outcome.error["hint"]
    assert "internal error" not in outcome.err
    assert not list((vault.repository / "sites").rglob("backups/*.json"))


@pytest.mark.parametrize(
    "arguments",
    [["create", "--full"], ["annotate", "one", "--pin"], ["delete", "one", "--yes"], ["repository", "init"]],
    ids=lambda arguments: arguments[0],
)
def test_a_repository_that_may_not_be_written_to(
    stocked: Vault, reachable: Path, arguments: list[str]
) -> None:
    movable(stocked, reachable)
    for path in (stocked.repository, *stocked.repository.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(stocked.directory)
    outcome = process_as_nobody(*stocked.options, *arguments)
    assert outcome.status == 1
    assert str(stocked.repository) in outcome.err
    assert "-> " in outcome.err
    assert tree(stocked.directory) == before


def test_a_read_only_repository_can_be_listed_verified_and_restored_from(
    stocked: Vault, reachable: Path
) -> None:
    movable(stocked, reachable)
    for path in (stocked.repository, *stocked.repository.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(stocked.repository)
    for arguments in (
        ["list"],
        ["show"],
        ["log"],
        ["verify"],
        ["restore", "--yes", "--output", str(stocked.directory / "out")],
    ):
        outcome = process_as_nobody(*stocked.options, *arguments)
        assert outcome.status == 0, outcome
    assert (stocked.directory / "out" / "Data.fs").read_bytes() == stocked.files.data_fs.read_bytes()
    assert tree(stocked.repository) == before


def test_a_repository_that_may_not_be_read(stocked: Vault, reachable: Path) -> None:
    movable(stocked, reachable)
    take_from_nobody(stocked.repository)
    outcome = process_as_nobody(*stocked.options, "list", "--json")
    refused(stocked, outcome, 1, "store", stocked.repository, "Permission denied")


def test_a_working_directory_that_may_not_be_entered_holds_no_configuration(
    stocked: Vault, reachable: Path
) -> None:
    movable(stocked, reachable)
    home = reachable / "home of somebody else"
    home.mkdir()
    take_from_nobody(home)
    if os.geteuid() != 0:
        pytest.skip("only root can start a process there")
    assert process_as_nobody(*stocked.options, "list", cwd=home).status == 0


def test_all_configuration_errors_are_reported_at_once_with_file_and_key_but_no_value(
    vault: Vault, tmp_path: Path
) -> None:
    config = tmp_path / "zodb-vault.toml"
    config.write_text(
        "[repository]\nlocaton = 'geheim'\n[retention]\ngrace = 'soon geheim'\n[retention.scheduled]\n"
        "daily = -1\n"
        "[site.Plone]\nzope_conf = 'x'\n[site.b]\n[shedule]\nat = 'geheim'\n"
    )
    outcome = vault.bare("--config", config, "list", "--json")
    refused(vault, outcome, 2, "configuration")
    lines = outcome.error["message"].splitlines()
    for key in (
        "repository.localeton",
        "retention.grace",
        "retention.scheduled.daily",
        "site.Plone",
        "site.b",
        "shedule",
    ):
        key = key.replace("localeton", "locaton")
        assert any(line.startswith(f"{config}: {key}") for line in lines), (key, lines)
    assert "did you mean location?" in outcome.error["message"]
    assert "did you mean schedule?" in outcome.error["message"]
    assert "geheim" not in outcome.err
    missing = vault.bare("--config", tmp_path / "none.toml", "list", "--json")
    refused(vault, missing, 2, "configuration", tmp_path / "none.toml")


def test_nothing_says_what_to_back_up(vault: Vault) -> None:
    refused(
        vault,
        vault.bare("--repository", vault.repository, "create", "--json"),
        2,
        "usage",
        "no site is given or configured",
    )
    both = vault.bare(
        "--repository", vault.repository, "--data-fs", "a", "--zope-conf", "b", "create", "--json"
    )
    refused(vault, both, 2, "usage", "--zope-conf", "--data-fs")
    refused(
        vault,
        vault.bare("--repository", vault.repository, "--blob-dir", "a", "create", "--json"),
        2,
        "usage",
        "--blob-dir",
    )
    for option in ("--data-fs", "--blob-dir", "--zope-conf", "--config", "--repository"):
        assert vault.bare(*vault.options, "create", option, "").status == 2
