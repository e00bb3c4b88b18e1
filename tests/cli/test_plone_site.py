"""A real Plone site is backed up, verified and restored with the commands that an administrator would use."""

from __future__ import annotations

import independent_reader
import pytest
from command_line import Vault
from site_factory import RawRecord, Site, SiteFiles

from zodb_vault.operations.verify import load as loading


@pytest.fixture
def plone(vault: Vault, plone_site: SiteFiles) -> Vault:
    vault.files = plone_site
    return vault


def test_the_site_is_backed_up_proven_and_restored(plone: Vault) -> None:
    made = plone.done("create", "--json").document
    assert (made["status"], made["how"]) == ("complete", "full")
    assert made["databases"][0]["blobs"] == {"added": 28, "count": 28}
    assert made["stored"] < made["raw"] / 4
    proof = plone.done("verify", "--level", "restore", "--json").document
    assert (proof["ok"], proof["damage"]) == (True, [])
    assert proof["checked"]["transactions"] == 40
    assert proof["checked"]["blobs opened"] == 28
    assert proof["checked"]["objects loaded"] == 10797
    # classes that are not installed here are no defect of the site
    assert proof["source"] == []
    assert proof["checked"]["objects of missing classes"] > 7000
    plone.done("restore", "--output", plone.directory / "out", "--yes")
    assert (plone.directory / "out" / "Data.fs").read_bytes() == plone.files.data_fs.read_bytes()
    for path in plone.files.blob_dir.rglob("*.blob"):
        assert (
            plone.directory / "out" / "blobs" / path.relative_to(plone.files.blob_dir)
        ).read_bytes() == path.read_bytes()


def test_an_earlier_transaction_is_restored_with_its_blobs(plone: Vault) -> None:
    plone.make()
    rows = plone.done("log", "--json").document["transactions"]
    chosen = next(row for row in rows if row["description"] == "add folder 10")
    plone.done("restore", "--tid", chosen["tid"], "--output", plone.directory / "out", "--yes")
    wanted = [
        one for one in independent_reader.transactions(*plone.files) if "0x" + one.tid.hex() <= chosen["tid"]
    ]
    found = independent_reader.transactions(
        plone.directory / "out" / "Data.fs", plone.directory / "out" / "blobs"
    )
    assert found == wanted
    assert not any(record.blob == independent_reader.MISSING for one in found for record in one.records)


def test_an_object_that_cannot_be_loaded_is_reported_as_a_defect_of_the_source(vault: Vault) -> None:
    class_record = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00."
    with Site(vault.files.data_fs.parent) as site:
        # a torn state; no pickle at all; a state that the class, which is installed, does not take
        records = [
            class_record + b"\x80\x03}q\x01X\xff\xff\xff\x7f.",
            b"no pickle at all",
            class_record + b"\x80\x03K\x05.",
        ]
        site.write([RawRecord(number, record) for number, record in enumerate(records, 500)])
    vault.make()
    document = vault.done("verify", "--level", "restore", "--json").document
    assert document["ok"] is True
    assert [(one["what"], one["oid"]) for one in document["source"]] == [
        ("object", f"0x{number:016x}") for number in (500, 501, 502)
    ]
    assert all(one["why"].rstrip(": ") != "StateLoadError" for one in document["source"])


def test_long_findings_are_shortened_in_text_and_complete_in_the_document(vault: Vault) -> None:
    with Site(vault.files.data_fs.parent) as site:
        site.write([RawRecord(number, b"no pickle at all") for number in range(500, 530)])
    vault.make()
    printed = vault.done("verify", "--level", "restore").out
    assert printed.count("source: main object") == 20
    assert "and 10 more; --json lists all" in printed
    assert len(vault.done("verify", "--level", "restore", "--json").document["source"]) == 30


def test_a_process_that_dies_while_it_loads_is_an_error_and_no_damage(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.make("--name", "good")
    monkeypatch.setattr(loading, "module_command", lambda *_arguments: ["false"])
    outcome = vault("verify", "--level", "restore", "--json")
    (unproven,) = outcome.document["unproven"]
    assert (outcome.status, outcome.document["damage"]) == (5, [])
    assert "died" in unproven["why"]
    verified = vault.done("list", "--json").document["backups"][0]["verified"]
    assert [(one["level"], one["ok"]) for one in verified] == [("records", True)]
