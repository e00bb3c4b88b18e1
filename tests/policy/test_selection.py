"""Which backup an ID on the command line means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.errors import BackupMissing, UsageError
from zodb_vault.policy.selection import SelectableBackup, select

OLD, MIDDLE, NEW = "20261118T040000Z-aaaaaa", "20261119T040000Z-bbbbbb", "20261120T040000Z-cccccc"


def backup(
    id: str, name: str | None = None, status: str = "complete", whole: bool = True, trigger: str = "scheduled"
) -> SelectableBackup:
    return SelectableBackup(id, name, status, whole, trigger)  # type: ignore[arg-type]


THREE = [backup(MIDDLE), backup(NEW), backup(OLD, "before upgrade")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIDDLE, MIDDLE),
        ("20261119", MIDDLE),
        ("before upgrade", OLD),
        ("latest", NEW),
        ("20261118T040000Z-a", OLD),
    ],
)
def test_ids_prefixes_names_and_latest(text: str, expected: str) -> None:
    assert select(text, THREE) == expected


@pytest.mark.parametrize("spoiled", [{"status": "incomplete"}, {"whole": False}, {"trigger": "safety"}])
def test_latest_is_complete_whole_and_not_a_safety_backup(spoiled: dict[str, str]) -> None:
    newest = backup(NEW, **spoiled)  # type: ignore[arg-type]
    assert select("latest", [newest, *THREE[2:], backup(MIDDLE)]) == MIDDLE
    with pytest.raises(BackupMissing) as caught:
        select("latest", [newest])
    assert NEW in caught.value.hint
    assert select(NEW, [newest, backup(MIDDLE)]) == NEW


def test_latest_is_the_greatest_id_whatever_the_order_of_the_list() -> None:
    assert select("latest", [backup(NEW), backup(OLD)]) == select("latest", [backup(OLD), backup(NEW)]) == NEW


def test_a_backup_named_latest_does_not_replace_the_word() -> None:
    assert select("latest", [backup(OLD, "latest"), backup(NEW)]) == NEW


def test_an_exact_id_wins_over_a_name() -> None:
    assert select(OLD, [backup(OLD), backup(NEW, OLD)]) == OLD


def test_a_name_wins_over_a_prefix() -> None:
    assert select("2026", [backup(OLD), backup(NEW), backup(MIDDLE, "2026")]) == MIDDLE


def test_an_ambiguous_prefix_names_the_candidates() -> None:
    with pytest.raises(UsageError) as caught:
        select("2026111", THREE)
    assert caught.value.exit_code == 2
    assert MIDDLE in caught.value.message
    assert f"{OLD} ('before upgrade')" in caught.value.message
    assert NEW not in caught.value.message


def test_two_backups_of_one_name_are_ambiguous_even_if_one_is_newer() -> None:
    with pytest.raises(UsageError, match="2 backups") as caught:
        select("nightly", [backup(OLD, "nightly"), backup(NEW, "nightly")])
    assert OLD in caught.value.message
    assert NEW in caught.value.message


def test_a_long_list_of_candidates_is_shortened() -> None:
    many = [backup(f"202611{day:02}T040000Z-aaaaaa") for day in range(1, 21)]
    with pytest.raises(UsageError, match="20 backups.* and 15 more"):
        select("2026", many)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("before-upgrade", "before upgrade"), ("20261119T040000Z-bbbbbc", MIDDLE), ("xyz", NEW)],
)
def test_an_unknown_id_names_the_closest_or_the_newest(text: str, hint: str) -> None:
    with pytest.raises(BackupMissing) as caught:
        select(text, THREE)
    assert caught.value.exit_code == 13
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["latest", OLD, "any"])
def test_an_empty_repository_is_said(text: str) -> None:
    with pytest.raises(BackupMissing, match="no backups yet") as caught:
        select(text, [])
    assert "create" in caught.value.hint


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_id_is_not_the_prefix_of_everything(text: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        select(text, [backup(NEW)])


IDS = st.lists(st.text("0123", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)


@given(IDS, st.text("0123", min_size=1, max_size=4))
def test_a_prefix_is_accepted_exactly_when_it_is_unique(ids: list[str], text: str) -> None:
    matching = [one for one in ids if one.startswith(text)]
    backups = [backup(one) for one in ids]
    if text in ids:
        assert select(text, backups) == text
    elif len(matching) == 1:
        assert select(text, backups) == matching[0]
    else:
        with pytest.raises(UsageError if matching else BackupMissing):
            select(text, backups)
