"""How fast content passes."""

from __future__ import annotations

import pytest

from zodb_vault.config.keys import parse_rate
from zodb_vault.repository.pace import Pace


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_no_more_passes_than_the_rate_allows() -> None:
    time = Time()
    pace = Pace(1000, lambda: time.now, time.sleep)
    for _ in range(20):
        pace.passed(500)
    assert time.now - 100 == pytest.approx(10)
    time.now += 60
    pace.passed(500)
    assert time.now - 170 == pytest.approx(0.5), "what was not used is not saved up"


def test_without_a_rate_nothing_waits() -> None:
    Pace(None, sleep=lambda _seconds: pytest.fail("waits")).passed(10**12)


@pytest.mark.parametrize(("text", "rate"), [("500k", 500_000), ("10M", 10_000_000), ("1 GB/s", 10**9), ("42", 42), (" 3 M ", 3_000_000)])
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0", "-1k", "1.5M", "10m"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)
