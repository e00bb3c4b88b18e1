"""P7, U13: numbers, words and suggestions of messages are right."""

from __future__ import annotations

import pytest
from command_line import Vault

from zodb_vault.cli.output import counted


def test_p7_labels_are_no_files_of_the_backup(stocked: Vault) -> None:
    first = stocked.done("verify", "one", "--json").document["checked"]
    stocked.done("annotate", "one", "--note", "a note")
    assert stocked.done("verify", "one", "--json").document["checked"] == first
    assert first["files"] == 3


@pytest.mark.parametrize(
    ("number", "things", "text"),
    [
        (1, "deltas", "1 delta"),
        (2, "deltas", "2 deltas"),
        (0, "files", "0 files"),
        (1, "large objects", "1 large object"),
        (1, "objects of missing classes", "1 object of missing classes"),
        (1234, "rows", "1,234 rows"),
    ],
)
def test_p7_one_thing_is_no_plural(number: int, things: str, text: str) -> None:
    assert counted(number, things) == text


@pytest.mark.parametrize(
    ("word", "meant"),
    [("backup", "create"), ("snapshots", "list"), ("init", "repository init"), ("creat", "create")],
)
def test_u13_the_names_of_other_tools_get_a_suggestion(vault: Vault, word: str, meant: str) -> None:
    outcome = vault.bare(word)
    assert outcome.status == 2
    assert f"there is no command '{word}', did you mean {meant}?" in outcome.err


def test_u13_a_suggestion_is_a_command_of_the_group(vault: Vault) -> None:
    assert "did you mean" not in vault.bare("repository", "snapshots").err
