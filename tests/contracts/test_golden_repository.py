"""A repository from the start of format 1: every version must read, verify, restore and continue it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import independent_reader
import pytest
import site_factory
from command_line import Vault, tree

GOLDEN: Final = Path(__file__).parent.parent / "data" / "golden-v1"
EXPECTED: Final[list[dict[str, Any]]] = json.loads((GOLDEN / "expected.json").read_text())
EACH = pytest.mark.parametrize("number", range(len(EXPECTED)))


@pytest.fixture
def vault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Vault:
    """The command line for a copy of the golden repository; its site does not exist any more."""
    vault = Vault(tmp_path, capsys)
    shutil.copytree(GOLDEN / "repository", vault.repository)
    return vault


def content(files: site_factory.SiteFiles) -> dict[str, Any]:
    data = files.data_fs.read_bytes()
    blobs = {
        f"{oid.hex()} {tid.hex()}": digest
        for (oid, tid), digest in independent_reader.blob_files(*files).items()
    }
    return {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "blobs": blobs,
        "last": independent_reader.headers(files.data_fs)[-1].tid.hex(),
    }


def test_it_is_listed(vault: Vault) -> None:
    rows = vault.done("list", "--json").document["backups"]
    found = [
        (row["name"], row["note"], row["pinned"], row["how"], row["status"], row["last_tid"])
        for row in reversed(rows)
    ]
    assert found == [
        (
            f"golden-{number}",
            "Ünïcödé",
            number == 1,
            "incremental" if number else "full",
            "complete",
            "0x" + EXPECTED[number]["last"],
        )
        for number in range(3)
    ]


@EACH
def test_it_is_shown(vault: Vault, number: int) -> None:
    document = vault.done("show", f"golden-{number}", "--json").document
    assert document["manifest"]["format"] == 1
    assert document["manifest"]["databases"][0]["storage"]["end"] == EXPECTED[number]["size"]
    assert {label["fact"] for label in document["labels"]} == {
        "name",
        "note",
        *(["pinned"] if number == 1 else []),
    }


def test_its_transactions_are_listed(vault: Vault) -> None:
    rows = vault.done("log", "golden-2", "--json").document["transactions"]
    assert [rows[0]["tid"], rows[0]["description"], rows[0]["user"]] == [
        "0x" + EXPECTED[2]["last"],
        "put news, photo-2",
        "editor",
    ]
    assert rows[-1]["restorable"] is False
    assert "Ädmin Ümlaut" in {row["user"] for row in rows}


@pytest.mark.parametrize("level", ["objects", "bytes", "records", "restore"])
def test_it_is_verified(vault: Vault, level: str) -> None:
    reports = vault.done("verify", "--all", "--level", level, "--json").document["reports"]
    assert [(report["ok"], report["damage"], report["source"]) for report in reports] == [(True, [], [])] * 3


@EACH
def test_it_is_restored(vault: Vault, tmp_path: Path, number: int) -> None:
    output = tmp_path / "output"
    vault.done("restore", f"golden-{number}", "--output", output, "--yes")
    restored = site_factory.SiteFiles(output / "Data.fs", output / "blobs")
    assert content(restored) == EXPECTED[number]
    assert len(independent_reader.transactions(*restored)) == len(
        independent_reader.headers(restored.data_fs)
    )


def test_each_of_its_transactions_is_restored(vault: Vault, tmp_path: Path) -> None:
    rows = [
        row for row in vault.done("log", "golden-2", "--json").document["transactions"] if row["restorable"]
    ]
    assert len(rows) > 3
    for row in rows:
        output = tmp_path / row["tid"]
        vault.done("restore", "--tid", row["tid"], "--output", output, "--only", "storage", "--yes")
        assert independent_reader.headers(output / "Data.fs")[-1].tid.hex() == row["tid"].removeprefix("0x")


def test_it_is_continued_where_the_site_lives_on(vault: Vault, tmp_path: Path) -> None:
    vault.done("restore", "golden-2", "--output", tmp_path / "site", "--yes")
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news="The site lives on")
    made = vault.done("create", "--take-over", "--json").document
    assert (made["how"], made["reason"]["code"], made["databases"][0]["transactions_added"]) == (
        "incremental",
        "continued",
        1,
    )
    vault.done("verify", "--level", "records")


def test_nothing_that_was_there_is_changed_by_going_on(vault: Vault, tmp_path: Path) -> None:
    before = tree(vault.repository)
    vault.done("verify", "--all")
    vault.done("annotate", "golden-0", "--name", "renamed")
    after = tree(vault.repository)
    assert {path: entry for path, entry in after.items() if path in before and "/labels" not in path} == {
        path: entry for path, entry in before.items() if "/labels" not in path
    }
