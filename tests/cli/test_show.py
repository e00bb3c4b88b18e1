"""``zodb-vault show``: text, the document, the ways to name a backup."""

from __future__ import annotations

import pytest
from command_line import Vault, keys_of, words

MANIFEST = words(
    "format id site repository created_at finished_at trigger contents how reason parent timeline requires "
    "recipients recovery status consistency "
    "source software seen databases added self_sha256 locked_until"
)


def test_the_latest_is_shown_when_none_is_named(stocked: Vault) -> None:
    printed = stocked.done("show").out
    assert printed == stocked.done("show", "latest").out == stocked.done("show", "two").out
    for text in (
        "name  two",
        "incremental: ",
        "trigger  scheduled",
        "10 transactions",
        "8 blobs",
        "restorable from 0x0405e70400000000 on",
    ):
        assert text in printed


def test_the_document_is_the_stored_manifest_and_the_labels(stocked: Vault) -> None:
    stocked.done("annotate", "two", "--note", "a\nnote")
    document = stocked.done("show", "two", "--json").document
    assert keys_of(document) == ["labels", "manifest"]
    assert keys_of(document["manifest"]) == MANIFEST
    assert [(label["fact"], label["value"]) for label in document["labels"]] == [
        ("name", "two"),
        ("note", "a\nnote"),
    ]
    assert all(keys_of(label) == words("fact value at") for label in document["labels"])


def test_an_id_a_unique_prefix_and_a_name_mean_a_backup(stocked: Vault) -> None:
    (two, one) = (row["id"] for row in stocked.done("list", "--json").document["backups"])
    for text in (one, one[:-1], "one"):
        assert stocked.done("show", text, "--json").document["manifest"]["id"] == one
    assert two != one


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [("2", 2, "usage"), ("", 2, "usage"), ("nope", 13, "no-such-backup"), ("One", 13, "no-such-backup")],
)
def test_what_means_several_or_none_is_an_error(stocked: Vault, text: str, status: int, kind: str) -> None:
    outcome = stocked("show", text, "--json")
    assert (outcome.status, outcome.error["kind"], outcome.out) == (status, kind, "")
    assert outcome.error["hint"]


def test_an_ambiguous_prefix_names_the_candidates(stocked: Vault) -> None:
    outcome = stocked("show", "2")
    ids = [row["id"] for row in stocked.done("list", "--json").document["backups"]]
    assert all(one in outcome.err for one in ids)


def test_a_whole_id_is_found_although_another_backup_is_damaged(stocked: Vault) -> None:
    from command_line import flip

    (two, one) = (row["id"] for row in stocked.done("list", "--json").document["backups"])
    flip(stocked.repository / "sites" / "default" / "backups" / f"{two}.json")
    assert stocked.done("show", one).out
    assert stocked("show", "latest").status == 4


def test_a_verification_and_a_pin_are_shown(stocked: Vault) -> None:
    stocked.done("verify", "one", "-q")
    stocked.done("annotate", "one", "--pin")
    printed = stocked.done("show", "one").out
    assert "records ok at" in printed
    assert "pinned  yes" in printed
