"""A package that adds a backend: every command works for it, and no file below src/ knows of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import transaction
from command_line import Outcome, Vault, flip
from msgpackstorage.storage import MsgpackStorage, transaction_files
from ZODB.DB import DB

from zodb_vault.config import backend_registry as backends

ROOT = Path(__file__).parents[2]


class Site:
    """A site on <msgpackstorage>, its repository, and the command line for them."""

    def __init__(self, directory: Path, vault: Vault) -> None:
        self.path, self.conf, self._vault = directory / "transactions", directory / "zope.conf", vault
        self.path.mkdir()
        self.conf.write_text(
            "%import msgpackstorage\n<zodb_db main>\n  mount-point /\n"
            f"  <msgpackstorage>\n    path {self.path}\n  </msgpackstorage>\n</zodb_db>\n"
        )
        self.put(title="first")
        vault.bare("--repository", vault.repository, "repository", "init")

    def put(self, **values: str) -> None:
        """Commit a transaction."""
        storage = MsgpackStorage(str(self.path))
        database = DB(storage)
        with database.transaction() as connection:
            connection.root().update(values)
        database.close()

    def root(self) -> dict[str, str]:
        """Return what the root object holds."""
        database = DB(MsgpackStorage(str(self.path)))
        with database.transaction() as connection:
            found = dict(connection.root())
        database.close()
        return found

    def files(self) -> dict[str, bytes]:
        """Return the files of the storage."""
        return {file.name: file.read_bytes() for file in transaction_files(self.path)}

    def __call__(self, *arguments: object) -> Outcome:
        """Run a command about this site."""
        return self._vault.bare("--repository", self._vault.repository, "--zope-conf", self.conf, *arguments)

    def done(self, *arguments: object) -> Outcome:
        """Run a command that has to succeed."""
        outcome = self(*arguments)
        assert outcome.status == 0, outcome
        return outcome


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    yield Site(tmp_path / "site", Vault(tmp_path, capsys))
    transaction.abort()


def test_no_file_of_zodb_vault_knows_it() -> None:
    assert not [
        path
        for path in (ROOT / "src" / "zodb_vault").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and b"msgpackstorage" in path.read_bytes()
    ]


def test_plan_says_what_is_copied(site: Site) -> None:
    (database,) = site.done("plan", "--json").document["databases"]
    assert (database["backend"], database["method"]) == ("msgpackstorage", "native")
    assert (database["how"], database["reason"]["code"]) == ("full", "first")
    assert [(step["what"], step["from"]) for step in database["steps"]] == [("storage", str(site.path))]
    assert database["warnings"] == []
    assert str(site.path) in site.done("plan").out


def test_full_and_incremental_backups(site: Site) -> None:
    first = site.done("create", "--json").document
    assert (first["status"], first["how"], first["reason"]["code"]) == ("complete", "full", "first")
    unchanged = site.done("create", "--json").document
    assert (unchanged["how"], unchanged["reason"]["code"]) == ("incremental", "unchanged")
    assert unchanged["databases"][0]["transactions_added"] == 0
    assert site.done("create", "--skip-unchanged", "--json").document["id"] == unchanged["id"]
    site.put(title="second")
    second = site.done("create", "--json").document
    assert (second["how"], second["reason"]["code"]) == ("incremental", "continued")
    assert second["databases"][0]["transactions_added"] == 1
    forced = site.done("create", "--full", "--json").document
    assert (forced["how"], forced["reason"]["code"]) == ("full", "forced")
    for file in transaction_files(site.path)[1:]:
        file.unlink()
    site.put(title="other")
    assert site.done("create", "--take-over", "--json").document["reason"]["code"] == "diverged"


def test_list_and_show(site: Site) -> None:
    made = site.done("create", "--name", "monday", "--json").document
    (listed,) = site.done("list", "--json").document["backups"]
    assert (listed["id"], listed["name"], listed["status"]) == (made["id"], "monday", "complete")
    manifest = site.done("show", "monday", "--json").document["manifest"]
    (database,) = manifest["databases"]
    assert (database["backend"], database["storage"]["kind"]) == ("msgpackstorage", "files")
    assert "files" in manifest["requires"]
    printed = site.done("show", "monday").out
    assert "msgpackstorage" in printed
    assert f"  {len(site.files())} files, {sum(map(len, site.files().values()))} B\n" in printed


@pytest.mark.parametrize("level", ["objects", "bytes", "records", "restore"])
def test_verify(site: Site, level: str) -> None:
    site.put(title="second")
    site.done("create")
    report = site.done("verify", "--level", level, "--json").document
    assert (report["ok"], report["damage"]) == (True, [])
    if level == "records":
        assert report["checked"]["transactions"] == len(site.files())
    if level == "restore":
        assert report["checked"]["objects loaded"] == 1


@pytest.mark.parametrize("level", ["bytes", "records", "restore"])
def test_verify_finds_damage(site: Site, tmp_path: Path, level: str) -> None:
    site.done("create")
    for path in (tmp_path / "repository" / "objects").rglob("*"):
        if path.is_file():
            flip(path)
    assert site("verify", "--level", level, "--json").status == 4


def test_restore_into_a_directory(site: Site, tmp_path: Path) -> None:
    site.put(title="second")
    site.done("create")
    output = tmp_path / "restored"
    site.done("restore", "--output", output, "--yes")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == site.files()


def test_recovery_by_hand_brings_the_files_back(site: Site, tmp_path: Path) -> None:
    site.done("create")
    site.put(title="second")
    backup = site.done("create", "--json").document["id"]
    text = (tmp_path / "repository" / "RECOVERY.md").read_text()
    first, *rest = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    output = tmp_path / "recovered"
    first = re.sub(r"^BACKUP=.*$", f"BACKUP={backup}", first, flags=re.MULTILINE)
    first = re.sub(r"^OUTPUT=.*$", f"OUTPUT={output}", first, flags=re.MULTILINE)
    subprocess.run(
        ["sh"],
        input="\n".join([first, *rest]),
        cwd=tmp_path / "repository",
        check=True,
        capture_output=True,
        text=True,
    )
    files = [path for path in output.iterdir() if path.is_file()]
    assert {path.name: path.read_bytes() for path in files} == site.files()


def test_a_salvage_writes_what_is_good_of_a_damaged_backup(site: Site, tmp_path: Path) -> None:
    for n in range(3):
        site.put(title=f"number {n}")
    site.done("create")
    part = site.done("show", "--json").document["manifest"]["databases"][0]["storage"]["tail"][1]
    flip(tmp_path / "repository" / "objects" / part["object"][:2] / part["object"])
    outcome = site("restore", "--salvage", "--output", tmp_path / "out", "--json")
    assert outcome.status == 4
    (lost,) = outcome.document["databases"][0]["files"]
    assert (Path(lost["path"]).suffix, lost["kept"]) == (".cut-off", 0)
    saved = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.msgpack")}
    assert len(saved) == len(site.files()) - 1
    assert saved.items() < site.files().items()


def test_restore_in_place(site: Site) -> None:
    first = site.done("create", "--json").document["id"]
    before = site.files()
    site.put(title="second")
    refused = site("restore", first, "--yes")
    assert refused.status == 1 and "--replace" in refused.err
    done = site.done("restore", first, "--replace", "--yes", "--json").document
    assert site.files() == before
    assert site.root() == {"title": "first"}
    (kept,) = done["kept"]
    assert len(transaction_files(Path(kept))) == len(before) + 1
    # what was replaced is in a safety backup as well
    assert "safety" in [one["trigger"] for one in site.done("list", "--json").document["backups"]]


def test_a_storage_that_is_open_is_not_replaced(site: Site) -> None:
    first = site.done("create", "--json").document["id"]
    storage = MsgpackStorage(str(site.path))
    assert site("restore", first, "--replace", "--yes").status == 11
    storage.close()


def test_doctor(site: Site) -> None:
    site.done("create")
    checks = {one["name"]: one for one in site.done("doctor", "--json").document["checks"]}
    assert checks["package msgpackstorage"]["ok"] and checks["source main"]["ok"]
    for file in transaction_files(site.path):
        file.unlink()
    site.path.rmdir()
    assert site("doctor", "--json").status == 1


def test_without_the_package_backups_are_listed_and_their_bytes_verified(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site.done("create", "--json").document["id"]
    files = site.files()
    monkeypatch.setattr(backends, "find_other", lambda name: None)
    assert site("create").status == 2  # a section that no package registers
    site.conf.write_text("<filestorage>\n  path /nowhere/Data.fs\n</filestorage>\n")
    assert [one["id"] for one in site.done("list", "--json").document["backups"]] == [made]
    site.done("show", made)
    site.done("verify", "--level", "bytes")
    unknown = site("verify", "--level", "records")
    assert unknown.status == 5
    assert "msgpackstorage, which is not known here" in unknown.err
    assert "zodb_vault.backends" in unknown.err
    site.done("restore", "--output", tmp_path / "restored", "--yes")
    assert {path.name: path.read_bytes() for path in (tmp_path / "restored").iterdir()} == files


def test_an_entry_point_that_is_no_backend_is_an_error_that_names_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site.done("create", "--json").document["id"]
    other = backends.Registered("other.package:THING", object(), ours=False)
    monkeypatch.setattr(backends, "find_other", lambda name: other)
    refused = site("verify", made)
    assert refused.status == 2
    assert (
        "other.package:THING, registered for msgpackstorage, is not a zodb_vault.strategies.backend.Backend"
        in (refused.err)
    )
