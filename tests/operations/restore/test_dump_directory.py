"""Restores of dumps into a directory, alone and beside a Data.fs: complete, or repeated until they are."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hostile_manifest
import pytest
import relstorage_sites
import site_factory
from command_line import Vault, flip, tree
from relstorage_sites import RelSite
from relstorage_vault import NOISE, RelVault

from zodb_vault.operations.restore.dump_directory import DumpDirectory, DumpFiles
from zodb_vault.strategies.blobs.directory_restore import BlobDirectoryWriter
from zodb_vault.strategies.filestorage.restore.phases import DataFsRestore

FILES = """
<zodb_db catalog>
  mount-point /catalog
  <filestorage>
    path {path}/Data.fs
    blob-dir {path}/blobs
  </filestorage>
</zodb_db>
"""
Make = Callable[..., RelVault]


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make and back up a site in SQLite with a shared blob directory, optionally with a Data.fs as well."""

    def make(*, mixed: bool = False) -> RelVault:
        adapter = f"<sqlite3>\n      data-dir {tmp_path / 'data'}\n    </sqlite3>"
        vault = RelVault(tmp_path, capsys, RelSite(adapter, True, tmp_path / "blobs", True))
        vault.fill()
        if mixed:
            site_factory.populate(vault.files.data_fs.parent)
            vault.conf.write_text(vault.conf.read_text() + FILES.format(path=vault.files.data_fs.parent))
        vault.created()
        return vault

    return make


def content(directory: Path) -> dict[str, str]:
    """Return every file with its digest, except the index, which a restore may leave to the first process."""
    files = (
        path for path in sorted(directory.rglob("*")) if path.is_file() and not path.name.endswith(".index")
    )
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def whole(vault: RelVault, name: str = "whole") -> dict[str, str]:
    """Restore without any trouble and return what there is."""
    vault.done("restore", "--output", vault.directory / name, "--yes")
    return content(vault.directory / name)


def broken(patch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> None:
    """Let a method fail at the nth call, after its work."""
    method, calls = getattr(owner, name), [0]

    def failing(*arguments: Any, **named: Any) -> Any:
        done = method(*arguments, **named)
        calls[0] += 1
        if calls[0] == at:
            raise OSError(28, "No space left on device", str(vault_path(arguments)))
        return done

    patch.setattr(owner, name, failing)


def vault_path(arguments: tuple[Any, ...]) -> object:
    return getattr(arguments[0], "restore_id", "somewhere")


WHERE = [
    (DumpDirectory, "_begin", 1),
    (BlobDirectoryWriter, "_put", 1),
    (BlobDirectoryWriter, "_put", 3),
    (DumpFiles, "_place_blobs", 1),
    (DumpFiles, "_write_files", 1),
]


@pytest.mark.parametrize(("owner", "name", "at"), WHERE)
def test_an_interrupted_one_is_finished_by_running_it_again(
    make: Make, owner: Any, name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make()
    (first,) = vault.backups()
    wanted = whole(vault)
    with vault.site.opened() as opened:
        opened.put(title="later", logo=NOISE[4])
    vault.created()
    out = vault.directory / "out"
    with monkeypatch.context() as patch:
        broken(patch, owner, name, at)
        stopped = vault("restore", first, "--output", out, "--yes", "--json")
    assert stopped.status == 1 and "run the same restore again" in stopped.error["hint"]
    if name == "_put":  # a crash leaves less of it
        for path in out.rglob("*.blob"):
            path.chmod(0o600)
            flip(path, 10)
    for another in (("latest",), (first, "--only", "storage")):
        refused = vault("restore", *another, "--output", out, "--yes", "--json")
        assert (refused.status, refused.error["kind"]) == (1, "target-refused") and first in refused.error[
            "message"
        ]
    vault.done("restore", first, "--output", out, "--yes")
    assert content(out) == wanted
    refused = vault("restore", first, "--output", out, "--yes", "--json")
    assert refused.status == 1 and "not empty" in refused.error["message"]


def test_a_directory_of_another_user_is_left_alone(make: Make) -> None:
    vault = make()
    out = vault.directory / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    assert vault("restore", "--output", out, "--yes").status == 1
    assert content(out).keys() == {"precious"}


BOTH = [
    (DumpDirectory, "_begin", 1),
    (DataFsRestore, "build", 1),
    (DataFsRestore, "make_valid", 1),
    (DataFsRestore, "tidy", 1),
    (DumpFiles, "_place_blobs", 1),
    (DumpFiles, "_write_files", 1),
]


@pytest.mark.parametrize(("owner", "name", "at"), BOTH)
def test_a_data_fs_and_a_dump_are_one_command(
    make: Make, owner: Any, name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make(mixed=True)
    wanted = whole(vault)
    assert {"catalog/Data.fs", "main/main.sqlite3", "main/oids.sqlite3"} <= set(wanted) and len(
        {one.split("/")[1] for one in wanted}
    ) == 4
    out = vault.directory / "out"
    with monkeypatch.context() as patch:
        broken(patch, owner, name, at)
        assert vault("restore", "--output", out, "--yes").status == 1
    vault.done("restore", "--output", out, "--yes")
    assert content(out) == wanted
    shutil.copytree(out / "main", vault.directory / "data-again", ignore=shutil.ignore_patterns("blobs"))
    site = vault.site._replace(
        adapter=vault.site.adapter.replace("/data\n", "/data-again\n"), blob_dir=out / "main" / "blobs"
    )
    assert relstorage_sites.state(site) == relstorage_sites.state(vault.site)
    refused = vault("restore", "--replace", "--yes", "--json")
    assert refused.status == 1 and "--output" in refused.error["hint"]


UNSAFE = [
    "main/../escaped",
    "main/../../escaped",
    "main//escaped",
    "main/sub/escaped",
    "main/..",
    "main/.",
    "main/",
    "main",
    "",
    "main/.profile",
    "main/-rf",
    "main/a b",
    "main/a\n",
    "main/a\x00b",
    "main/ü",
]


def test_a_file_with_an_unsafe_name_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vault = Vault(tmp_path, capsys)
    vault.done("repository", "init")
    site_factory.only_root(vault.files.data_fs.parent)
    backup = vault.make()
    manifest = vault.repository / f"sites/default/backups/{backup}.json"
    original = manifest.read_bytes()
    for number, name in enumerate(UNSAFE):
        manifest.chmod(0o600)
        manifest.write_bytes(original)
        hostile_manifest.rewrite(
            vault.repository,
            backup,
            partial(hostile_manifest.name_files, names=["main/first.dump", name]),
        )
        before, output = tree(tmp_path), tmp_path / f"deep-{number}" / "output"
        refused = vault("restore", "--output", output, "--yes", "--json")
        assert (refused.status, refused.error["kind"]) == (4, "damage"), name
        after = tree(tmp_path).items()
        assert {path: entry for path, entry in after if not path.startswith(f"deep-{number}")} == before
        assert [path.name for path in output.parent.iterdir()] == ["output"]
        assert [path.name for path in output.rglob("*") if not path.name.startswith(".")] == []
        report = vault("verify", "--level", "objects", "--json")
        assert report.status == 4
        assert {found["what"] for found in report.document["damage"]} == {"name"}, name


def test_the_file_names_of_all_dumps_are_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Data.fs", "database.dump", "deltas.sql", "rows.0x03f.blob_chunk", "whole.public.a%C3%BC~b"]
    vault = Vault(tmp_path, capsys)
    vault.done("repository", "init")
    site_factory.only_root(vault.files.data_fs.parent)
    hostile_manifest.rewrite(
        vault.repository,
        vault.make(),
        lambda document: hostile_manifest.name_files(document, [f"main/{name}" for name in names]),
    )
    vault.done("restore", "--output", tmp_path / "output", "--yes")
    assert sorted(path.name for path in (tmp_path / "output").iterdir() if path.is_file()) == sorted(names)
