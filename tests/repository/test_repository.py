"""A repository: ids, what is listed, what is refused, and unknown content that is kept."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.cli.main import run
from zodb_vault.errors import (
    BackupMissing,
    Damage,
    KeyExists,
    RepositoryMissing,
    TargetRefused,
    UnsupportedRepository,
)
from zodb_vault.model import canonical
from zodb_vault.model.manifest import DatabaseEntry, Manifest, Origin, Reason, Timeline
from zodb_vault.repository.ids import new_id
from zodb_vault.repository.info import recovery_text
from zodb_vault.repository.layout import INFO_KEY, RECOVERY_KEY, manifest_key
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStore

SITE = "default"
ID = "20260101T000000Z-abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHAPE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}\Z")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "repository")


@pytest.fixture
def repository(store: LocalStore) -> Repository:
    return Repository.create(store)


def manifest(backup: str = ID, **changes: Any) -> Manifest:
    known: dict[str, Any] = {
        "id": backup,
        "site": SITE,
        "repository": "r",
        "created_at": clock.iso(NOW),
        "finished_at": clock.iso(NOW),
        "trigger": "on-demand",
        "contents": "all",
        "how": "full",
        "reason": Reason("first", "there is no earlier backup"),
        "parent": None,
        "timeline": [Timeline(backup, None)],
        "status": "complete",
        "consistency": "consistent",
        "source": Origin("machine", None, ["/data"]),
        "software": {},
        "seen": [],
        "databases": list[DatabaseEntry](),
        "added": 0,
        "recovery": "",
    }
    return Manifest(**known | changes)


def overwrite(store: LocalStore, key: str, content: bytes) -> None:
    path = store.path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


# Ids


@given(st.lists(st.integers(-100_000, 100_000), max_size=20))
def test_ids_ascend_however_the_clock_steps(steps: list[int]) -> None:
    now, ids = NOW, list[str]()
    for step in steps:
        now += timedelta(seconds=step)
        ids.append(new_id(ids, now))
    assert ids == sorted(ids)
    assert len({one.partition("-")[0] for one in ids}) == len(ids)
    assert all(SHAPE.match(one) for one in ids)


def test_an_id_has_the_time_of_the_clock_when_that_is_later() -> None:
    assert new_id([ID], NOW + timedelta(days=1, microseconds=5)).startswith("20260102T000000Z-")
    assert new_id([ID], NOW).startswith("20260101T000001Z-")
    assert new_id([], NOW).startswith("20260101T000000Z-")


def test_the_order_of_the_existing_ids_does_not_count() -> None:
    ids = ["20270101T000000Z-aaaaaa", "20260101T000000Z-ffffff"]
    assert new_id(ids, NOW)[:16] == new_id(ids[::-1], NOW)[:16] == "20270101T000001Z"


@pytest.mark.parametrize(
    "strange", ["", "latest", "99999999T999999Z-abcdef", "20260101T000000Z", "20260101T000000Z-abcdef.json"]
)
def test_what_is_no_id_does_not_count(strange: str) -> None:
    assert new_id([strange], NOW).startswith("20260101T000000Z-")


def test_labels_are_ordered_after_existing_ones_when_the_clock_steps_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(manifest())
    for hours, name in ((5, "first"), (0, "second"), (-9, "third")):
        monkeypatch.setattr(clock, "now", lambda hours=hours: NOW + timedelta(hours=hours))
        repository.labels.add(SITE, ID, "name", name, repository.listing(SITE))
    assert repository.labels.facts(repository.listing(SITE), ID).name == "third"


# Making and opening


def test_a_new_repository_says_what_it_is(store: LocalStore, repository: Repository) -> None:
    document = msgspec.json.decode(canonical.check_digest(store.get(INFO_KEY), INFO_KEY))
    assert (document["format"], document["requires"], document["recipients"]) == (1, [], [])
    assert document["recovery"] == hashlib.sha256(store.get(RECOVERY_KEY)).hexdigest()
    assert Repository.open(store).info == repository.info


def test_two_repositories_have_two_ids(tmp_path: Path) -> None:
    assert (
        Repository.create(LocalStore(tmp_path / "a")).info.id
        != Repository.create(LocalStore(tmp_path / "b")).info.id
    )


def test_a_location_with_something_in_it_is_refused(store: LocalStore, repository: Repository) -> None:
    before = store.get(INFO_KEY)
    with pytest.raises(TargetRefused, match="a repository"):
        Repository.create(store)
    assert store.get(INFO_KEY) == before


def test_a_location_with_other_files_is_refused(store: LocalStore) -> None:
    store.put("Data.fs", [b"x"])
    with pytest.raises(TargetRefused, match=r"Data\.fs"):
        Repository.create(store)


def test_an_interrupted_making_is_finished_by_the_next(store: LocalStore) -> None:
    store.put(RECOVERY_KEY, [recovery_text()])
    Repository.create(store)
    Repository.open(store)


def test_nothing_is_no_repository(store: LocalStore) -> None:
    with pytest.raises(RepositoryMissing):
        Repository.open(store)


@pytest.mark.parametrize("version", [2, 10, "1", None])
def test_a_newer_format_is_refused(store: LocalStore, repository: Repository, version: object) -> None:
    document = msgspec.to_builtins(repository.info) | {"format": version, "id": ["a", "changed", "type"]}
    overwrite(store, INFO_KEY, canonical.with_digest(document))
    with pytest.raises(UnsupportedRepository, match="format"):
        Repository.open(store)


def test_an_unknown_requirement_is_refused(store: LocalStore, repository: Repository) -> None:
    overwrite(
        store,
        INFO_KEY,
        canonical.with_digest(msgspec.structs.replace(repository.info, requires=["time-travel"])),
    )
    with pytest.raises(UnsupportedRepository, match="time-travel"):
        Repository.open(store)


def test_a_later_version_may_add_keys(store: LocalStore, repository: Repository) -> None:
    overwrite(
        store, INFO_KEY, canonical.with_digest({**msgspec.to_builtins(repository.info), "later": {"keys": 1}})
    )
    assert Repository.open(store).info == repository.info


def test_every_changed_byte_of_the_description_is_damage(store: LocalStore, repository: Repository) -> None:
    data = store.get(INFO_KEY)
    for n in range(len(data)):
        overwrite(store, INFO_KEY, data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :])
        with pytest.raises(Damage):
            Repository.open(store)


# Manifests


def test_a_backup_exists_when_its_manifest_does(repository: Repository) -> None:
    assert repository.listing(SITE).backups == []
    repository.commit(manifest())
    assert repository.listing(SITE).backups == [ID]
    assert repository.manifest(SITE, ID) == manifest()
    assert repository.sites() == [SITE]


def test_a_manifest_is_never_rewritten(repository: Repository) -> None:
    repository.commit(manifest())
    repository.commit(manifest())
    with pytest.raises(KeyExists):
        repository.commit(manifest(added=1))
    assert repository.manifest(SITE, ID).added == 0


def test_a_backup_that_is_not_there_is_missing(repository: Repository) -> None:
    with pytest.raises(BackupMissing, match=ID):
        repository.manifest(SITE, ID)


@pytest.mark.parametrize(
    ("changes", "named"), [({"format": 2}, "format 2"), ({"requires": ["teleportation"]}, "teleportation")]
)
def test_a_backup_that_needs_more_than_we_know_is_refused(
    store: LocalStore, repository: Repository, changes: dict[str, Any], named: str
) -> None:
    document = msgspec.to_builtins(manifest()) | changes | {"databases": "of another type"}
    overwrite(store, manifest_key(SITE, ID), canonical.with_digest(document))
    with pytest.raises(UnsupportedRepository, match=named):
        repository.manifest(SITE, ID)


def test_a_manifest_of_another_form_is_damage(store: LocalStore, repository: Repository) -> None:
    overwrite(store, manifest_key(SITE, ID), canonical.with_digest({"format": 1, "id": ID}))
    with pytest.raises(Damage, match=ID):
        repository.manifest(SITE, ID)


def test_lists_nested_a_hundred_thousand_times_are_damage(store: LocalStore, repository: Repository) -> None:
    body = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b",\n"
    digest = hashlib.sha256(body).hexdigest().encode()
    overwrite(store, manifest_key(SITE, ID), body + b'"self_sha256":"%s"}\n' % digest)
    with pytest.raises(Damage, match=ID):
        repository.manifest(SITE, ID)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not json", b"\xff\xfe", canonical.with_digest({"x": 1})[:-2]]
)
def test_what_is_no_manifest_is_damage(store: LocalStore, repository: Repository, content: bytes) -> None:
    overwrite(store, manifest_key(SITE, ID), content)
    with pytest.raises(Damage, match=ID):
        repository.manifest(SITE, ID)


@pytest.mark.parametrize(
    "key", ["sites/default/backups/20260101T000000Z-000000.json", f"sites/other/backups/{ID}.json"]
)
def test_a_manifest_under_the_name_of_another_backup_is_damage(
    store: LocalStore, repository: Repository, key: str
) -> None:
    """Otherwise ``delete`` of the copy would take the backup that it is a copy of."""
    repository.commit(manifest())
    store.put(key, [store.get(manifest_key(SITE, ID))])
    _sites, site, _backups, name = key.split("/")
    with pytest.raises(Damage, match=ID):
        repository.manifest(site, name.removesuffix(".json"))
    assert repository.manifest(SITE, ID) == manifest()


def test_keys_of_a_later_version_are_kept_in_what_is_shown(
    store: LocalStore, repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        **msgspec.to_builtins(manifest()),
        "later": {"keys": [1, 2]},
        "source": {"machine": "m", "config": None, "paths": [], "kernel": "7"},
    }
    store.put(manifest_key(SITE, ID), [canonical.with_digest(document)])
    store.put(
        f"sites/{SITE}/labels/{ID}/{ID}.json",
        [canonical.with_digest({"fact": "mood", "value": "good", "at": clock.iso(NOW)})],
    )
    assert run(["--repository", str(store.root), "show", ID, "--json"]) == 0
    shown = msgspec.json.decode(capsys.readouterr().out)
    assert {key: shown["manifest"][key] for key in document} == document
    assert [label["fact"] for label in shown["labels"]] == ["mood"]
    assert run(["--repository", str(store.root), "show", ID]) == 0
    assert run(["--repository", str(store.root), "list"]) == 0


# Other files in the directory


@pytest.mark.parametrize(
    "stray",
    [
        "notes.json",
        "20260101T000000Z-abcdef (copy).json",
        "20260101T000000Z-abcdef.json.bak",
        "20260101T000000Z-abcdef.sig",
        "~lock",
        "99999999T999999Z-abcdef.json",
        "20260102T000000Z-ABCDEF.json",
        "caf\udce9.json",
        "deep/20260102T000000Z-abcdef.json",
    ],
)
@pytest.mark.parametrize(
    "where",
    [
        f"sites/{SITE}/backups",
        f"sites/{SITE}/labels/{ID}",
        f"sites/{SITE}/running",
        f"trash/{SITE}",
        f"sites/{SITE}",
    ],
)
def test_stray_files_are_not_taken_for_ours(
    store: LocalStore, repository: Repository, where: str, stray: str
) -> None:
    """F29: a stray file was picked up as data."""
    repository.commit(manifest())
    path = store.root / where / stray
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"stray")
    listing = repository.listing(SITE)
    assert (listing.backups, listing.labels) == ([ID], {})
    assert repository.trash.backups(SITE) == []
    repository.labels.add(SITE, ID, "name", "a name", listing)
    assert repository.labels.facts(repository.listing(SITE), ID).name == "a name"
    assert run(["-q", "--repository", str(store.root), "list"]) == 0


def test_backups_are_listed_oldest_first(repository: Repository) -> None:
    ids = [f"2026010{day}T000000Z-{'fa'[day % 2] * 6}" for day in (3, 1, 2)]
    for one in ids:
        repository.commit(manifest(one))
    assert repository.listing(SITE).backups == sorted(ids)


def test_two_sites_do_not_see_each_other(repository: Repository) -> None:
    repository.commit(manifest())
    repository.commit(manifest(ID, site="default-2"))
    repository.labels.add("default-2", ID, "name", "other", repository.listing("default-2"))
    assert repository.listing(SITE).labels == {}
    assert repository.listing("default-2").backups == [ID]
    assert repository.sites() == [SITE, "default-2"]


def test_a_damaged_label_is_damage(store: LocalStore, repository: Repository) -> None:
    repository.commit(manifest())
    listing = repository.listing(SITE)
    repository.labels.add(SITE, ID, "name", "a name", listing)
    (key,) = listing.labels[ID]
    overwrite(store, key, store.get(key).replace(b"a name", b"b name"))
    with pytest.raises(Damage, match="labels"):
        repository.labels.facts(listing, ID)
