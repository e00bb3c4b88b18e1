"""Random histories with copies for other recipients, some of them killed: copy and source restore the same.

Once from plain to encrypted, once to another key, once to plain. ``ZODB_VAULT_COPIED_HISTORIES=300`` runs
more. A failure names its seed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import independent_reader
import key_pairs
import pytest
from history_with_backups import SITE, Killed, Mortal, Vaulted

from zodb_vault.cli.progress import Silent
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.copy import coordination
from zodb_vault.operations.copy.options import CopyOptions
from zodb_vault.operations.copy.run import copy
from zodb_vault.operations.restore import run as restore
from zodb_vault.operations.verify.options import VerifyOptions
from zodb_vault.operations.verify.run import verify
from zodb_vault.repository import encryption
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore

HISTORIES = int(os.environ.get("ZODB_VAULT_COPIED_HISTORIES", "9"))
STEPS = 25
Key = tuple[str, Path]


def opened(store: object, key: Key | None) -> Repository:
    """Open a repository with its key, or make it."""
    try:
        repository = Repository.open(store)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  there is none yet
        repository = Repository.create(store, [key[0]] if key else [])  # type: ignore[arg-type]
    repository.configure([key[0]] if key else [], lambda: [key[1].read_text().splitlines()[1]] if key else [])
    return repository


def copied(vaulted: Vaulted, store: LocalStore, key: Key | None, chance: random.Random) -> bool:
    """Copy, or be killed at some call of the target's store."""
    opened(store, key)
    killed = chance.random() < 0.5
    place = Mortal(store, chance.randrange(1, 40), chance.random() < 0.5, once=False) if killed else store
    target = opened(store, key)
    target.store = place
    try:
        copy(vaulted.repository, target, SITE, Silent(), CopyOptions(decrypt=not key, workers=1))
        return True
    except Killed:
        return False
    finally:
        vaulted.process += 1
        vaulted.clock.seconds += 2


def content_of(
    repository: Repository, backup: str, output: Path
) -> tuple[bytes, dict[tuple[bytes, bytes], str]]:
    """Return what a backup gives back."""
    options = restore.RestoreOptions(backup=backup, output=output, allow_incomplete=True)
    restore.execute(repository, restore.plan(repository, SITE, None, options), SITE, Silent())
    return (output / "Data.fs").read_bytes(), independent_reader.blob_files(
        output / "Data.fs", output / "blobs"
    )


def require_recipient(directory: Path, key: Key | None) -> None:
    """Require every object to be encrypted for this key and no other, or not at all."""
    import pyrage

    identity = pyrage.x25519.Identity.from_str(key[1].read_text().splitlines()[1]) if key else None
    for path in (path for path in (directory / "objects").rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert data.startswith(encryption.MAGIC) == bool(key), path
        if identity:
            assert data.count(b"\n-> X25519 ") == 1
            assert pyrage.decrypt(data, [identity])


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_copy_gives_back_what_its_source_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    key_pairs.inside(monkeypatch)
    monkeypatch.setattr(coordination, "NOTE_BYTES", 1)
    before, after = key_pairs.x25519(tmp_path / "before"), key_pairs.x25519(tmp_path / "after")
    ours, theirs = [(None, after), (before, after), (before, None)][seed % 3]
    chance, store = random.Random(f"copied {seed}"), LocalStore(tmp_path / "target")
    with Vaulted(tmp_path / "work", seed, monkeypatch) as vaulted:
        vaulted.store = LocalStore(tmp_path / "source")
        vaulted.repository = opened(vaulted.store, ours)
        vaulted.interrupted = lambda: None  # type: ignore[method-assign]  # has tests of its own
        vaulted.log.append("first")
        vaulted.backup()
        for _ in range(STEPS):
            vaulted.step()
            if chance.random() < 0.25:
                copied(vaulted, store, theirs, chance)
        while not copied(vaulted, store, theirs, chance):
            pass
        target = opened(store, theirs)
        known = Catalog(vaulted.repository, SITE).listing.backups
        assert Catalog(target, SITE).listing.backups == known
        for number, backup in enumerate(known):
            for level in ("bytes", "records"):
                report = verify(
                    target,
                    SITE,
                    Catalog(target, SITE).backup(backup),
                    VerifyOptions(level=level),
                    Silent(),
                )
                assert report.ok, (backup, report.damage)
            wanted = content_of(vaulted.repository, backup, tmp_path / f"of-source-{number}")
            assert content_of(target, backup, tmp_path / f"of-copy-{number}") == wanted, backup
        require_recipient(tmp_path / "target", theirs)
