"""``repository copy`` is killed, or a call of it fails, at every moment; listed backups stay complete.

Once objects are copied as they are stored, once encoded again. Then only objects that were being written are
stored twice, although they would get another name.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import fault_injection
import filestorage_vault
import key_pairs
import pytest
from site_factory import Site, SiteFiles, noise

from zodb_vault.model import chain
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.copy import coordination
from zodb_vault.operations.copy.options import CopyOptions
from zodb_vault.operations.copy.run import copy
from zodb_vault.operations.verify import run as verifying
from zodb_vault.operations.verify.options import VerifyOptions
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore


def opened(directory: Path) -> Repository:
    """Open a repository whose private key is beside it, if it is encrypted."""
    repository = Repository.open(LocalStore(directory))
    identity = directory.with_name("identity")
    repository.configure(
        repository.info.recipients,
        lambda: [identity.read_text().splitlines()[1]] if identity.exists() else [],
    )
    return repository


def copying_in(directory: Path) -> fault_injection.Operation:
    def operation() -> None:
        source, target = (opened(directory / name) for name in ("repository", "target"))
        copy(source, target, filestorage_vault.SITE, filestorage_vault.Quiet(), CopyOptions(workers=1))

    return operation


@pytest.fixture(params=["as it is", "reencrypted"])
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three backups, of which the target has one."""
    monkeypatch.setattr(chain, "TAIL_LIMIT", 1)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    monkeypatch.setattr(coordination, "NOTE_BYTES", 1)
    key_pairs.inside(monkeypatch)
    directory = tmp_path / "base"
    made = filestorage_vault.Vault(
        directory, SiteFiles(directory / "site" / "Data.fs", directory / "site" / "blobs")
    )
    Repository.create(
        LocalStore(directory / "target"),
        [key_pairs.x25519(directory / "identity")[0]] if request.param == "reencrypted" else [],
    )
    for number in range(3):
        with Site(directory / "site") as site:
            site.put(text=f"number {number}", blob=noise(900, number))
        made.create(name=f"number {number}")
        if number == 0:
            copying_in(directory)()
    return directory


def judge(directory: Path) -> int:
    """Require all listed backups to be complete, and return their number."""
    target = opened(directory / "target")
    catalog = Catalog(target, filestorage_vault.SITE)
    for backup in catalog.listing.backups:
        report = verifying.verify(
            target,
            filestorage_vault.SITE,
            catalog.backup(backup),
            VerifyOptions(level="records"),
            filestorage_vault.Quiet(),
        )
        assert report.ok, (backup, report.damage)
    return len(catalog.listing.backups)


def go_on(directory: Path) -> None:
    """Copy again; only what one worker was writing and the object after it may be stored twice."""
    copying_in(directory)()
    assert judge(directory) == 3
    source, target = LocalStore(directory / "repository"), LocalStore(directory / "target")
    if opened(directory / "target").info.recipients:
        assert 0 <= len([*target.list("objects/")]) - len([*source.list("objects/")]) <= 2
    else:
        for prefix in ("objects/", "meta/"):
            assert [*source.list(prefix)] == [*target.list(prefix)]
    for store in (source, target):
        assert not [*store.list(f"sites/{filestorage_vault.SITE}/running/")]


def test_killed_at_any_moment(scene: Path, tmp_path: Path) -> None:
    points = list(
        fault_injection.points(
            fault_injection.calls_of(copying_in(Path(shutil.copytree(scene, tmp_path / "trace"))), tmp_path)
        )
    )
    assert len(points) > 30
    found = set()
    reencrypted = bool(opened(scene / "target").info.recipients)
    # Names are random then, and so is the number of new directories: a late call may come after the last one.
    for point in fault_injection.named(points)[:-12:3] if reencrypted else points:
        case = Path(shutil.copytree(scene, tmp_path / "case"))
        try:
            fault_injection.kill(copying_in(case), point)
            found.add(judge(case))
            go_on(case)
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
        shutil.rmtree(case)
    assert found == ({1, 2} if reencrypted else {1, 2, 3})


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_any_call_fails(scene: Path, tmp_path: Path, error: int) -> None:
    calls = fault_injection.calls_of(copying_in(Path(shutil.copytree(scene, tmp_path / "trace"))), tmp_path)
    reencrypted = bool(opened(scene / "target").info.recipients)
    for number in (
        fault_injection.some(calls, ("write", "link"))
        if reencrypted
        else fault_injection.each(calls, fault_injection.ALLOCATING)
    ):
        case = Path(shutil.copytree(scene, tmp_path / "case"))
        try:
            fault_injection.through(
                fault_injection.Failing(number, error, lasting=error == errno.ENOSPC), copying_in(case)
            )
            judge(case)
            go_on(case)
        except Exception as failure:
            raise AssertionError(
                f"{errno.errorcode[error]} at call {number}: {calls[number - 1]}"
            ) from failure
        shutil.rmtree(case)
