"""TIDs as text and as timestamps, compared with ``persistent.TimeStamp``, which defines them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from persistent.TimeStamp import TimeStamp

from zodb_vault.model import tid as tids

RAW = st.binary(min_size=8, max_size=8)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
UNIT = timedelta(microseconds=1)


@given(RAW)
def test_text_and_back(raw: bytes) -> None:
    text = tids.to_hex(raw)
    assert (len(text), text[:2]) == (18, "0x")
    assert tids.from_hex(text) == tids.from_hex(text[2:].upper()) == tids.from_hex(f" {text}\n") == raw


@given(st.lists(RAW, max_size=6))
def test_texts_sort_as_tids_do(raws: list[bytes]) -> None:
    assert [tids.to_hex(raw) for raw in sorted(raws)] == sorted(tids.to_hex(raw) for raw in raws)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "latest",
        "0x123",
        "0x" + "0" * 17,
        "0X" + "0" * 16,
        "0x" + "g" * 16,
        "-0x" + "0" * 16,
        "٣" * 16,
    ],
)
def test_what_is_no_tid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a TID"):
        tids.from_hex(text)


@given(MOMENTS)
def test_a_timestamp_is_what_persistent_says(moment: datetime) -> None:
    stamp = TimeStamp(
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second + moment.microsecond / 1e6,
    )
    assert abs(tids.to_datetime(stamp.raw()) - datetime.fromtimestamp(stamp.timeTime(), UTC)) <= UNIT


@given(MOMENTS)
def test_the_tid_of_a_time_is_the_last_one_in_its_microsecond(moment: datetime) -> None:
    raw = tids.from_datetime(moment)
    following = (int.from_bytes(raw, "big") + 1).to_bytes(8, "big")
    assert tids.to_datetime(raw) <= moment + UNIT
    exact = (int.from_bytes(raw[4:], "big") * 60_000_000) // 2**32
    assert exact == moment.second * 1_000_000 + moment.microsecond
    if int.from_bytes(raw[4:], "big") != 2**32 - 1:
        assert (int.from_bytes(following[4:], "big") * 60_000_000) // 2**32 == exact + 1


@given(MOMENTS, MOMENTS)
def test_later_times_have_greater_tids(one: datetime, other: datetime) -> None:
    if one < other:
        assert tids.from_datetime(one) < tids.from_datetime(other)


def test_the_zone_does_not_count() -> None:
    moment = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert tids.from_datetime(
        moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
    ) == tids.from_datetime(moment)


@given(RAW)
def test_every_tid_has_a_time_and_these_ascend_within_a_minute(raw: bytes) -> None:
    assert tids.to_datetime(raw).tzinfo == UTC
    assert tids.to_datetime(raw) >= tids.to_datetime(raw[:4] + bytes(4))
    assert tids.iso(raw).endswith("Z")
