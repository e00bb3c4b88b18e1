"""How many bytes a second a text is."""

from __future__ import annotations

import pytest

from zodb_vault.config.rates import parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10M", 10_000_000),
        ("10MB", 10_000_000),
        ("500k", 500_000),
        (" 1.5 m ", 1_500_000),
        ("1G/s", 10**9),
        ("2MiB/s", 2 << 20),
        ("10K", 10_000),
    ],
)
def test_a_number_and_a_unit(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "10", "M", "-1M", "10 apples", "1e3M", "10Mbit", "9k", "0M", "10 M B"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_rate(text)
