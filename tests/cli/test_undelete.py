"""``zodb-vault undelete``."""

from __future__ import annotations

from command_line import Vault


def test_what_is_not_in_the_trash_is_an_error_that_names_the_next_command(stocked: Vault) -> None:
    outcome = stocked("undelete", "20200101T000000Z-aaaaaa")
    assert outcome.status == 13
    assert "the trash is empty" in outcome.err
    stocked.done("delete", "one", "--yes")
    outcome = stocked("undelete", "20200101T000000Z-aaaaaa")
    assert outcome.status == 13
    assert "`zodb-vault list --trash`" in outcome.err


def test_it_says_so_and_nothing_when_quiet(stocked: Vault) -> None:
    deleted = stocked.done("delete", "one", "--yes").err.split()[0]
    outcome = stocked.done("undelete", deleted)
    assert (outcome.out, outcome.err) == ("", f"{deleted} is back in the list of backups\n")
    stocked.done("delete", deleted, "--yes")
    assert stocked("undelete", deleted, "-q") == (0, "", "")


def test_an_id_that_is_no_id_is_an_error(stocked: Vault) -> None:
    for text in ("", "../../../repository", "a b", "x\ny"):
        outcome = stocked("undelete", text)
        assert outcome.status in (2, 13), outcome
        assert "internal error" not in outcome.err
