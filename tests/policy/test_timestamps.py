"""Timestamps on the command line: strict, never guessed (F9, F9b, F9c)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.errors import UsageError
from zodb_vault.model.tid import from_datetime, precise_iso, to_hex, typed_iso
from zodb_vault.policy.timestamps import in_utc, parse_timestamp

VIENNA = ZoneInfo("Europe/Vienna")


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T10:15", utc(2026, 11, 20, 9, 15)),
        ("2026-07-20T10:15", utc(2026, 7, 20, 8, 15)),
        ("2026-11-20 10:15:30", utc(2026, 11, 20, 9, 15, 30)),
        ("  2026-11-20T10:15Z ", utc(2026, 11, 20, 10, 15)),
        ("2026-11-20T10:15:30.5Z", utc(2026, 11, 20, 10, 15, 30, 500_000)),
        ("2026-11-20T10:15:30,000001Z", utc(2026, 11, 20, 10, 15, 30, 1)),
        ("2026-11-20T10:15:30.25", utc(2026, 11, 20, 9, 15, 30, 250_000)),
        ("2026-11-20T10:15+05:30", utc(2026, 11, 20, 4, 45)),
        ("2026-11-20T10:15-0330", utc(2026, 11, 20, 13, 45)),
        ("2026-11-20T00:15+01", utc(2026, 11, 19, 23, 15)),
        ("2024-02-29T12:00Z", utc(2024, 2, 29, 12)),
    ],
)
def test_accepted_spellings(text: str, expected: datetime) -> None:
    found = parse_timestamp(text, VIENNA).time
    assert found == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "now",
        "2026/03/02",
        "2026-13-45",
        "2099-13-45",
        "2099-01",
        "2026-3-2",
        "2026-3-2T10:15",
        "2026-03-01-12",
        "2026-03-01T12",
        "2026-03-01T1:15",
        "2026-03-01T24:00",
        "2026-03-01T10:60",
        "2026-03-01T10:15:60",
        "2026-02-29T10:15",
        "2026-02-30",
        "2026-13-45T10:15Z",
        "2026-03-01T10:15.5",
        "2026-03-01T10:15:30.",
        "2026-03-01T10:15:30.1234567Z",
        "2026-03-01T10:15:30 Z",
        "2026-03-01T10:15 UTC",
        "2026-03-01T10:15+24:00",
        "2026-03-01T10:15+01:60",
        "2026-03-01T10:15+1",
        "2026-03-01T10:15Z+01:00",
        "2026-03-01\n10:15",
        "20260301T101500Z",
        "2026-W10-1T10:15",
        "٢٠٢٦-03-01T10:15",
        "--dry-run",
        "1700000000",
        "0001-01-01T00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "9950-01-01T00:00Z",
        "1899-12-31T23:59Z",
    ],
)
def test_everything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_timestamp(text, UTC)
    assert "2026-11-20T10:15" in caught.value.hint


def test_a_day_alone_asks_for_start_or_end() -> None:
    with pytest.raises(UsageError) as caught:
        parse_timestamp("2026-03-01", VIENNA)
    assert "a day without a time" in caught.value.message
    start, end = "2026-03-01T00:00", "2026-03-01T23:59:59.999999"
    assert f"{start} for its start" in caught.value.hint
    assert f"{end} for its end" in caught.value.hint
    between = parse_timestamp(end, VIENNA).time - parse_timestamp(start, VIENNA).time
    assert between == timedelta(days=1, microseconds=-1)


@pytest.mark.parametrize(
    ("text", "why", "early", "late"),
    [
        ("2026-10-25T02:30", "twice", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
        ("2026-03-29T02:30", "skipped", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"),
    ],
)
def test_a_local_time_around_a_clock_change_is_refused_with_both_meanings(
    text: str, why: str, early: str, late: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_timestamp(text, VIENNA)
    assert why in caught.value.message
    assert f"{early} or {late}" in caught.value.message
    for candidate in (early, late):
        assert in_utc(parse_timestamp(candidate, VIENNA).time) == candidate


@pytest.mark.parametrize(
    "text",
    ["2026-10-25T01:59:59.999999", "2026-10-25T03:00", "2026-03-29T01:59:59.999999", "2026-03-29T03:00"],
)
def test_local_times_beside_a_clock_change_are_accepted(text: str) -> None:
    assert parse_timestamp(text, VIENNA).time.astimezone(VIENNA).isoformat().startswith(text)


def test_u7_a_whole_second_includes_its_transactions_and_no_others() -> None:
    for text, second in (("2026-11-20T10:15:30Z", 30), ("2026-11-20T10:15Z", 0)):
        found = parse_timestamp(text, UTC)
        assert found.time == utc(2026, 11, 20, 10, 15, second)
        assert to_hex(from_datetime(utc(2026, 11, 20, 10, 15, second, 999_999))) == found.last_tid
        assert to_hex(from_datetime(utc(2026, 11, 20, 10, 15, second + 1))) > found.last_tid


@pytest.mark.parametrize("text", ["2026-11-20T10:15:00.000000Z", "2026-11-20T10:15:00.000Z"])
def test_u7_a_fraction_is_exact(text: str) -> None:
    found = parse_timestamp(text, UTC)
    assert found.last_tid == to_hex(from_datetime(utc(2026, 11, 20, 10, 15)))


RAW = st.builds(
    lambda moment, units: from_datetime(moment)[:4] + units.to_bytes(4, "big"),
    st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(9900, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(0, 2**32 - 1),
)


@given(RAW)
def test_u7_nine_digits_name_one_tid(raw: bytes) -> None:
    assert parse_timestamp(precise_iso(raw), VIENNA).last_tid == to_hex(raw)


@given(RAW, st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_u7_a_printed_time_means_its_row_when_it_is_typed(raw: bytes, steps: list[int]) -> None:
    numbers = [int.from_bytes(raw, "big")]
    for step in steps:
        numbers.append(numbers[-1] + step)
    tids = [number.to_bytes(8, "big") for number in numbers]
    for one, later in zip(tids, [*tids[1:], None], strict=True):
        text = typed_iso(one, later)
        last = bytes.fromhex(parse_timestamp(text, VIENNA).last_tid[2:])
        assert max(tid for tid in tids if tid <= last) == one, text


FIRST, LAST = datetime(1900, 1, 2), datetime(9916, 12, 30)  # noqa: DTZ001
MOMENTS = st.datetimes(min_value=FIRST, max_value=LAST, timezones=st.just(UTC))
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(MOMENTS, OFFSETS, st.sampled_from("T "))
def test_any_offset_names_the_same_instant(moment: datetime, zone: timezone, between: str) -> None:
    text = moment.astimezone(zone).isoformat(sep=between)
    assert parse_timestamp(text, VIENNA).time == moment
    assert parse_timestamp(in_utc(moment), VIENNA).time == moment
    from_datetime(moment)


@given(
    st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(2037, 1, 1)),  # noqa: DTZ001
    st.sampled_from(["Europe/Vienna", "America/New_York", "Australia/Lord_Howe"]),
)
def test_a_local_time_is_refused_or_reads_back_as_itself(naive: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    try:
        found = parse_timestamp(naive.isoformat(), zone).time
    except UsageError:
        aware = naive.replace(tzinfo=zone)
        assert aware.utcoffset() != aware.replace(fold=1).utcoffset()
    else:
        assert found.astimezone(zone).replace(tzinfo=None) == naive


@given(st.text(max_size=30))
def test_no_text_escapes_as_another_error(text: str) -> None:
    try:
        parse_timestamp(text, VIENNA)
    except UsageError as error:
        assert error.hint
