"""What every test of a command starts from."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def environment_of_commands(clean_environment: None) -> None:
    """Keep the settings of this machine away from every test here."""
