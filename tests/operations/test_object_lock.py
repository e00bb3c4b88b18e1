"""Object lock: all objects of the newest backup, also old ones, are locked for the retention period."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filestorage_vault
import msgspec
import pytest
import site_factory
from memory_store import MemoryStore
from s3_vault import Remote
from services.s3 import Service
from services.s3_requests import Denied, Unlocking, behind, counted

from zodb_vault.operations.object_lock import Locks
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock

pytestmark = pytest.mark.usefixtures("clean_environment")

KEPT = timedelta(days=30)
PLACE = "some/place/"


@pytest.fixture
def locked(
    moto: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Remote:
    return lockable(moto, tmp_path, monkeypatch, capsys, ObjectLockEnabledForBucket=True)


def lockable(
    service: Service,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **bucket: bool,
) -> Remote:
    remote = Remote(service, directory / "work", monkeypatch, capsys, **bucket)
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK", "compliance")
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK_FOR", "30d")
    return remote


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many days have gone by since the test began."""

    def go_on(days: int) -> None:
        monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + timedelta(days=days))

    return go_on


def change(remote: Remote, number: int) -> None:
    with site_factory.Site(remote.files.data_fs.parent) as site:
        site.put(news=f"News {number}", photo=site_factory.noise(4000, number))


def needed(remote: Remote) -> list[str]:
    """Return the keys in the bucket of what the newest backup needs."""
    shown = remote.done("show", "latest", "--json").out
    names = set(re.findall(r'"(?:object|meta|list)": "([0-9a-f]{64})"', shown))
    keys = [key for key in remote.stored() if key.rpartition("/")[2] in names]
    newest = remote.done("show", "latest", "--json").document["manifest"]["id"]
    assert len(keys) >= 5
    return [
        *keys,
        f"{PLACE}repository.json",
        f"{PLACE}RECOVERY.md",
        f"{PLACE}sites/default/backups/{newest}.json",
    ]


def shortest(remote: Remote) -> timedelta:
    """Return for how long at least everything is locked that the newest backup needs."""
    client = remote.service.client()
    return min(
        client.head_object(Bucket=remote.bucket, Key=key)["ObjectLockRetainUntilDate"] - clock.now()
        for key in needed(remote)
    )


def test_what_earlier_backups_have_stored_stays_locked_for_the_newest_one(
    locked: Remote, later: Callable[[int], None]
) -> None:
    locked.done("repository", "init")
    renewals = []
    for day in range(0, 28, 4):
        later(day)
        change(locked, day)
        with counted() as counts:
            locked.done("create")
        renewals.append(counts["PutObjectRetention"])
        # compared to the second in which the service wrote it down
        assert shortest(locked) > KEPT - timedelta(minutes=5), day
    assert [bool(count) for count in renewals] == [False, False, True, False, True, False, True], (
        "a lock is a quarter longer than it has to be"
    )
    with counted() as counts:
        locked.done("create")
    # one of them lists the sites of the repository: the same source may also be backed up as another one
    assert counts.total() <= 7, counts


def test_a_lock_that_lasts_longer_stays_so(
    locked: Remote, later: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked.done("repository", "init")
    locked.done("create")
    client, long = locked.service.client(), datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)
    key, other = needed(locked)[:2]
    client.put_object_retention(
        Bucket=locked.bucket, Key=key, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": long}
    )
    later(20)
    change(locked, 1)
    # stricter than what is asked for now: it is made longer, and stays as strict
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_S3_OBJECT_LOCK", "governance")
    with behind(Unlocking()):
        locked.done("create")
    assert client.head_object(Bucket=locked.bucket, Key=key)["ObjectLockRetainUntilDate"] == long
    assert (
        client.head_object(Bucket=locked.bucket, Key=other)["ObjectLockRetainUntilDate"] - clock.now() > KEPT
    )


def test_without_the_right_to_renew_the_backup_is_made_and_the_failure_is_loud(
    locked: Remote, later: Callable[[int], None]
) -> None:
    locked.done("repository", "init")
    locked.done("create")
    later(10)
    reading = [("GET", PLACE + r"(repository\.json|sites/|meta/)"), ("LIST", PLACE + "sites/")]
    policy = [*reading, ("PUT", PLACE), ("DELETE", PLACE + "sites/[^/]+/running/")]
    with behind(Denied(locked.bucket, policy)):
        outcome = locked("create", "--json")
    assert (outcome.status, outcome.document["locked_until"]) == (1, None)
    assert (
        "was made, but the objects that it shares with earlier backups are not locked long enough"
        in outcome.err
        and "AccessDenied" in outcome.err
    )
    assert len(locked.done("list", "--json").document["backups"]) == 2
    with behind(Denied(locked.bucket, [*policy, ("RETAIN", PLACE)])):
        # also where a backup of which nothing has changed is not made as a rule
        assert locked.done("create", "--skip-unchanged", "--json").document["locked_until"]
    assert shortest(locked) > KEPT
    assert not [key for key in locked.stored() if "/running/" in key]
    assert locked.done("create", "--skip-unchanged", "--json").document["status"] == "skipped"


def test_what_a_copy_finds_in_its_target_stays_locked(
    locked: Remote, later: Callable[[int], None], tmp_path: Path
) -> None:
    local = tmp_path / "local"
    locked.done("--repository", local, "repository", "init")
    locked.done("repository", "init")
    renewals = []
    for day in (0, 4, 12, 14):
        later(day)
        change(locked, day)
        locked.done("--repository", local, "create")
        with counted() as counts:
            locked.done("--repository", local, "repository", "copy", locked.location)
        renewals.append(counts["PutObjectRetention"])
        assert shortest(locked) > KEPT - timedelta(minutes=5), day
    assert [bool(count) for count in renewals] == [False, False, True, False]


def test_what_is_copied_from_a_bucket_with_locks_says_nothing_of_locks(
    locked: Remote, tmp_path: Path
) -> None:
    locked.done("repository", "init")
    assert locked.done("create", "--json").document["locked_until"]
    locked.done("--repository", tmp_path / "local", "repository", "init")
    locked.done("repository", "copy", tmp_path / "local")
    assert (
        locked.done("--repository", tmp_path / "local", "show", "latest", "--json").document["manifest"][
            "locked_until"
        ]
        is None
    )


def test_what_a_manifest_says_of_another_repository_does_not_count(tmp_path: Path) -> None:
    """One that is signed is copied as it is."""

    class Locked(MemoryStore):
        retention = KEPT

        def retain(self, key: str, until: datetime) -> None:
            raise AssertionError

    made = filestorage_vault.Vault(tmp_path, site_factory.populate(tmp_path / "site")).create().manifest
    repository, now = Repository.create(Locked()), clock.now()
    said = msgspec.structs.replace(made, locked_until=clock.iso(now + 2 * KEPT))
    locks = Locks(repository, "trial", now, filestorage_vault.Quiet())
    assert locks.lasting([said]) is None
    ours = msgspec.structs.replace(said, repository=repository.info.id)
    assert locks.lasting([ours]) == locks.until
    assert locks.lasting([ours, said]) is None


def test_check_says_whether_locks_can_be_renewed(locked: Remote) -> None:
    checks = locked.done("repository", "check", "--json").document["checks"]
    assert next(check for check in checks if check["name"] == "object lock")["ok"]
    with behind(Denied(locked.bucket, [(method, "") for method in ("GET", "LIST", "PUT", "DELETE")])):
        outcome = locked("repository", "check")
    assert outcome.status == 1
    assert "locks cannot be renewed" in outcome.out and "AccessDenied" in outcome.out


def test_a_service_that_takes_a_lock_for_content_harms_nothing(
    rclone: Service,
    later: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    remote = lockable(rclone, tmp_path, monkeypatch, capsys)
    assert "has no object lock" in remote("repository", "check").out
    remote.done("repository", "init")
    remote.done("create")
    later(20)
    outcome = remote("create")
    assert outcome.status == 1 and "has no object lock" in outcome.err
    remote.done("verify", "--all", "--level", "bytes")
