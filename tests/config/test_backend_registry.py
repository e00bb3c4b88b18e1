"""The table of our own backends: the same as the entry points, and every object in it is a backend."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from zodb_vault.config import backend_registry as backends
from zodb_vault.config.backend_registry import DATA_FS, ENTRY_POINTS, OURS, find_backend
from zodb_vault.strategies.backend import Backend
from zodb_vault.strategies.backend_lookup import backend_named

SETUP = Path(__file__).parents[2] / "setup.cfg"


def test_our_backends_are_registered_like_those_of_other_packages() -> None:
    setup = ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    lines = setup["options.entry_points"][ENTRY_POINTS].strip().splitlines()
    assert {
        name.strip(): source.strip() for name, _, source in (line.partition("=") for line in lines)
    } == OURS


@pytest.mark.parametrize("name", OURS)
def test_a_backend_is_found_by_its_section_and_by_its_name(name: str) -> None:
    backend = backend_named(name)
    assert isinstance(backend, Backend)
    assert backend_named(backend.name) is backend


def test_a_data_fs_on_the_command_line_has_a_backend() -> None:
    assert backend_named(DATA_FS).name == DATA_FS


def test_entry_points_are_read_for_unknown_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[str] = []
    monkeypatch.setattr(backends, "find_other", looked_for.append)
    assert all(find_backend(name) for name in OURS)
    assert looked_for == []
    assert find_backend("neo") is None
    assert looked_for == ["neo"]
