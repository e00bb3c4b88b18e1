"""Fixtures for tests that run commands: a clean environment, repositories, a clock."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import site_factory
from command_line import Vault, environment
from daily_backups import Calendar

from zodb_vault.runtime import clock


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what the machine of the tests is set to away from the commands."""
    for name in [name for name in os.environ if name.startswith("ZODB_VAULT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    monkeypatch.chdir(empty)


@pytest.fixture
def vault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Vault:
    """A site with nine transactions and seven blobs, packed in its middle, and an empty repository."""
    vault = Vault(tmp_path / "work", capsys)
    site_factory.populate(vault.files.data_fs.parent)
    vault.done("repository", "init")
    return vault


@pytest.fixture
def stocked(vault: Vault) -> Vault:
    """The same with two backups: ``one`` full, ``two`` with a transaction more."""
    vault.make("--name", "one")
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news="Third news", photo=site_factory.noise(4000, 9))
    vault.make("--name", "two")
    return vault


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user can enter."""
    directory = Path(tempfile.mkdtemp(prefix="vault-test-"))
    directory.chmod(0o755)
    yield directory
    for path in (directory, *directory.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(directory)


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    """Put a clock of the test in the place of the real one."""
    calendar = Calendar()
    monkeypatch.setattr(clock, "now", calendar)
    return calendar
