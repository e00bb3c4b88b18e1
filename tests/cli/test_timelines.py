"""P1: after a restore in place, no command answers from one timeline when another one has an answer too."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import relstorage_sites
import transaction
from command_line import Outcome, Vault
from relstorage_sites import RelSite
from relstorage_vault import RelVault
from ZODB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, u64

SQLITE = "<sqlite3>\n      data-dir {path}\n    </sqlite3>"


def put(data_fs: Path, text: str) -> str:
    """Commit a text to a real Data.fs, with the TID of the clock, and return the TID."""
    storage = FileStorage(str(data_fs), blob_dir=str(data_fs.parent / "blobs"))
    db = DB(storage)
    with db.transaction(f"put {text}") as connection:
        connection.root()["text"] = text
    tid = storage.lastTransaction().hex()
    db.close()
    return f"0x{tid}"


def text_of(data_fs: Path) -> str:
    db = DB(FileStorage(str(data_fs), read_only=True))
    with db.transaction() as connection:
        found: str = connection.root()["text"]
    transaction.abort()
    db.close()
    return found


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class TooFarBack:
    """One who restored too far back, and wants the lost hour."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.vault = Vault(directory / "work", capsys)
        self.vault.files.data_fs.parent.mkdir(parents=True)
        self.vault.done("repository", "init")
        self.tids = {"one": self.put("one")}
        self.first = self.vault.make()
        self.after_one = now()
        self.tids["two"] = self.put("two")
        self.after_two = now()
        self.tids["three"] = self.put("three")
        self.abandoned = self.vault.make()
        self.vault.done("restore", "--at", self.after_one, "--yes")
        self.tids["four"] = self.put("four")
        self.current = self.vault.make()

    def put(self, text: str) -> str:
        return put(self.vault.files.data_fs, text)

    def restored(self, *arguments: object) -> str:
        output = self.vault.directory / f"output-{len(list(self.vault.directory.iterdir()))}"
        self.vault.done("restore", *arguments, "--output", output, "--yes")
        return text_of(output / "Data.fs")

    def before(self, text: str) -> str:
        return f"0x{p64(u64(bytes.fromhex(self.tids[text][2:])) - 1).hex()}"


@pytest.fixture
def back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> TooFarBack:
    return TooFarBack(tmp_path, capsys)


def refused(outcome: Outcome) -> str:
    assert outcome.status == 13, outcome
    assert outcome.error["kind"] == "ambiguous-target"
    return str(outcome.error["hint"])


def test_p1_the_lost_hour_is_not_answered_with_an_older_state(back: TooFarBack) -> None:
    output = back.vault.directory / "a"
    outcome = back.vault("restore", "--at", back.after_two, "--output", output, "--json")
    hint = refused(outcome)
    assert not output.exists()
    for backup, text in ((back.abandoned, "two"), (back.current, "one")):
        command = f"restore {backup} --at {back.after_two}"
        assert command in hint
        assert back.tids[text] in outcome.error["message"]
        assert back.restored(*command.split()[1:]) == text


@pytest.mark.parametrize("way", ["latest", "before-tid", "in place", "clone"])
def test_p1_every_way_to_ask_is_refused(back: TooFarBack, way: str) -> None:
    request = ["--at", back.after_two]
    where: list[object] = ["--output", back.vault.directory / "a"]
    if way == "latest":
        request = ["latest", *request]
    elif way == "before-tid":
        request = ["--before-tid", back.tids["three"]]
    elif way == "in place":
        where = ["--yes"]
    else:
        other = back.vault.directory / "clone"
        (other / "var").mkdir(parents=True)
        (other / "var" / "blobs").mkdir()
        storage = f"<filestorage>\npath {other}/var/Data.fs\nblob-dir {other}/var/blobs\n</filestorage>"
        (other / "zope.conf").write_text(f"<zodb_db main>\n{storage}\nmount-point /\n</zodb_db>\n")
        where = ["--target", other / "zope.conf", "--yes"]
        outcome = back.vault.bare(
            "--repository", back.vault.repository, "restore", *request, *where, "--json"
        )
        assert back.abandoned in refused(outcome)
        return
    assert back.abandoned in refused(back.vault("restore", *request, *where, "--json"))


def test_p1_what_one_timeline_alone_answers_or_all_agree_on_is_restored(back: TooFarBack) -> None:
    assert back.restored("latest") == "four"
    assert back.restored("--tid", back.tids["four"]) == "four"
    assert back.restored("--tid", back.tids["one"]) == "one"
    assert back.restored("--at", back.after_one) == "one"
    only = back.vault("restore", "--tid", back.tids["two"], "--output", back.vault.directory / "a", "--json")
    assert (only.status, only.error["kind"]) == (13, "no-such-target")
    assert f"restore {back.abandoned} --tid {back.tids['two']}" in only.error["hint"]


def test_p1_what_only_the_safety_backup_has_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back = TooFarBack(tmp_path, capsys)
    lost = back.put("five, in no backup")
    after = now()
    done = back.vault.done("restore", back.current, "--yes", "--json").document
    back.put("six")
    last = back.vault.make()
    hint = refused(back.vault("restore", "--at", after, "--output", tmp_path / "a", "--json"))
    assert f"restore {done['safety_backup']}" in hint
    assert f"restore {last} --at {after}" in hint
    assert back.restored(done["safety_backup"], "--tid", lost) == "five, in no backup"


def test_p1_relstorage_in_sqlite_is_asked_for_the_lost_hour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = RelSite(SQLITE.format(path=tmp_path / "data"), True, tmp_path / "blobs", True)
    vault = RelVault(tmp_path, capsys, site)

    def commit(text: str) -> None:
        with site.opened() as opened:
            opened.put(title=text)

    commit("one")
    vault.created()
    after_one = now()
    commit("two")
    after_two = now()
    commit("three")
    vault.created()
    vault.done("restore", "--at", after_one, "--replace", "--yes")
    assert relstorage_sites.state(site)["title"] == "one"
    commit("four")
    current = vault.created()["id"]
    hint = refused(vault("restore", "--at", after_two, "--replace", "--yes", "--json"))
    assert f"restore {current} --at {after_two}" in hint
    abandoned = next(backup for backup in vault.backups() if f"{backup} --at" in hint and backup != current)
    vault.done("restore", abandoned, "--at", after_two, "--replace", "--yes")
    assert relstorage_sites.state(site)["title"] == "two"
