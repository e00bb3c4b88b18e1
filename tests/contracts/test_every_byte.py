"""Every byte of a small repository is flipped, each file truncated, each file removed.

The repository is copied into memory, where breaking and verifying it some ten thousand times takes seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import independent_reader
import pytest
import site_factory
from command_line import Outcome
from memory_store import MemoryStore

from zodb_vault.cli.main import run
from zodb_vault.stores import registry
from zodb_vault.strategies.blobs import directory_restore

FILES: Final = (
    "repository.json",
    "RECOVERY.md",
    "sites/default/backups/",
    "sites/default/labels/",
    "meta/",
    "objects/",
)
DAMAGE, NO_REPOSITORY = 4, 10
RESTORES_PER_FILE = 8
FLIP = 0x20


class Broken(NamedTuple):
    """A repository in memory, its intact content, and the site as its newest backup must restore it."""

    store: MemoryStore
    whole: dict[str, bytes]
    source: site_factory.SiteFiles
    ids: list[str]
    capsys: pytest.CaptureFixture[str]

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.whole if key.startswith(prefix)]

    def hold(self, changes: dict[str, bytes | None]) -> None:
        """Hold the complete repository with these changes; None means: removed."""
        self.store.content.clear()
        self.store.content.update(
            {key: data for key, data in (self.whole | changes).items() if data is not None}
        )

    def __call__(self, *arguments: object) -> Outcome:
        status = run(["-q", "--repository", "/memory", *map(str, arguments)])
        return Outcome(status, *self.capsys.readouterr())

    def verify(self, level: str) -> Outcome:
        return self("verify", "--all", "--level", level)

    def verify_owner(self, key: str) -> Outcome:
        """Verify the backup of a file, or the newest one for a common file: that takes half the time."""
        return self("verify", next((one for one in self.ids if one in key), self.ids[-1]), "--level", "bytes")


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, bytes], site_factory.SiteFiles, list[str]]:
    """A full and an incremental backup of a site with two blobs, and a label."""
    directory = tmp_path_factory.mktemp("every-byte")
    site, repository = directory / "site", directory / "repository"
    source = site_factory.SiteFiles(site / "Data.fs", site / "blobs")
    options = [
        "-q",
        "--repository",
        str(repository),
        "--data-fs",
        str(source.data_fs),
        "--blob-dir",
        str(source.blob_dir),
    ]
    with site_factory.Site(site) as opened:
        opened.put(text="one", blob=site_factory.noise(60, 1))
    assert run([*options, "repository", "init"]) == 0
    assert run([*options, "create", "--name", "first"]) == 0
    with site_factory.Site(site) as opened:
        opened.put(blob=site_factory.noise(50, 2))
    assert run([*options, "create"]) == 0
    store = MemoryStore.of(repository)
    ids = [key.rsplit("/", 1)[1].removesuffix(".json") for key in sorted(store.content) if "/backups/" in key]
    return store.content, source, ids


@pytest.fixture
def broken(
    built: tuple[dict[str, bytes], site_factory.SiteFiles, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Broken:
    whole, source, ids = built
    store = MemoryStore(dict(whole))
    monkeypatch.setattr(registry, "open_store", lambda *_: store)
    capsys.readouterr()
    return Broken(store, whole, source, ids, capsys)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ FLIP]) + data[position + 1 :]


def lengths(data: bytes) -> list[int]:
    """Return lengths to cut a file to: a few, with the likely ones."""
    return sorted(
        {0, 1, len(data) // 2, len(data) - 70, len(data) - 2, len(data) - 1} & set(range(len(data)))
    )


def assert_said(outcome: Outcome, what: object, status: int = DAMAGE) -> None:
    assert outcome.status == status, (what, outcome)
    assert "internal error" not in outcome.err, (what, outcome)
    assert outcome.out or outcome.err, (what, "said nothing")


def test_the_repository_is_small_and_whole(broken: Broken) -> None:
    assert sum(map(len, broken.whole.values())) < 16 << 10
    assert all(broken.keys(prefix) for prefix in FILES)
    for level in ("objects", "bytes", "records"):
        broken.hold({})
        assert broken.verify(level) == Outcome(0, "", "")


@pytest.mark.parametrize("prefix", FILES)
def test_every_flipped_byte_is_found_by_bytes(broken: Broken, prefix: str) -> None:
    for key in broken.keys(prefix):
        for position in range(len(broken.whole[key])):
            broken.hold({key: flipped(broken.whole[key], position)})
            assert_said(
                broken.verify("bytes") if prefix in ("meta/", "objects/") else broken.verify_owner(key),
                (key, position),
            )


@pytest.mark.parametrize("prefix", ["meta/", "objects/"])
def test_every_flipped_byte_of_content_is_found_by_records(broken: Broken, prefix: str) -> None:
    for key in broken.keys(prefix):
        for position in range(len(broken.whole[key])):
            broken.hold({key: flipped(broken.whole[key], position)})
            assert_said(broken.verify("records"), (key, position))


@pytest.mark.parametrize("level", ["bytes", "records"])
@pytest.mark.parametrize("prefix", FILES)
def test_every_file_that_was_truncated_or_grew_is_found(broken: Broken, prefix: str, level: str) -> None:
    for key in broken.keys(prefix):
        data = broken.whole[key]
        for changed in [*(data[:length] for length in lengths(data)), data + b"\n", data + data]:
            broken.hold({key: changed})
            assert_said(broken.verify(level), (key, len(changed)))


@pytest.mark.parametrize("level", ["objects", "bytes", "records"])
@pytest.mark.parametrize("prefix", ["meta/", "objects/"])
def test_every_removed_object_is_found_and_named(broken: Broken, prefix: str, level: str) -> None:
    for key in broken.keys(prefix):
        broken.hold({key: None})
        outcome = broken.verify(level)
        assert_said(outcome, key)
        assert f"{key} is missing" in outcome.out


@pytest.mark.parametrize("level", ["bytes", "records"])
def test_a_removed_description_is_found(broken: Broken, level: str) -> None:
    broken.hold({"RECOVERY.md": None})
    assert_said(broken.verify(level), "RECOVERY.md")
    broken.hold({"repository.json": None})
    assert_said(broken.verify(level), "repository.json", NO_REPOSITORY)


def test_a_removed_manifest_is_no_longer_listed(broken: Broken) -> None:
    for gone in broken.ids:
        broken.hold({f"sites/default/backups/{gone}.json": None})
        outcome = broken("list", "--json")
        assert [row["id"] for row in outcome.document["backups"]] == [
            one for one in broken.ids if one != gone
        ]
        assert broken("verify", gone).status == 13
        assert broken.verify("bytes").status == 0


def test_a_removed_label_is_a_fact_no_longer(broken: Broken) -> None:
    (key,) = broken.keys("sites/default/labels/")
    broken.hold({key: None})
    assert [row["name"] for row in broken("list", "--json").document["backups"]] == [None, None]
    assert broken.verify("bytes").status == 0


def test_an_object_with_the_content_of_another_is_found(broken: Broken) -> None:
    keys = [*broken.keys("objects/"), *broken.keys("meta/")]
    for key, other in zip(keys, [*keys[1:], keys[0]], strict=True):
        broken.hold({key: broken.whole[other]})
        for level in ("bytes", "records"):
            assert_said(broken.verify(level), (key, other))


def test_a_manifest_with_the_content_of_another_is_found(broken: Broken) -> None:
    one, other = (f"sites/default/backups/{backup}.json" for backup in broken.ids)
    broken.hold({one: broken.whole[other]})
    assert_said(broken.verify("bytes"), "two manifests of one backup")


def damages(data: bytes) -> Iterator[bytes | None]:
    """Yield the ways in which a file is damaged before a restore."""
    step = max(1, len(data) // RESTORES_PER_FILE)
    yield from (flipped(data, position) for position in range(step // 2, len(data), step))
    yield from (data[: len(data) // 2], b"", data[:-1], None)


@pytest.mark.parametrize("prefix", FILES)
def test_restore_gives_the_right_bytes_or_an_error(
    broken: Broken, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in ((os, "fsync"), (directory_restore, "sync_file_system")):
        if hasattr(place, name):
            monkeypatch.setattr(
                place, name, lambda _what: None
            )  # what is durable is proved elsewhere, and takes most of the time
    wanted = independent_reader.transactions(*broken.source)
    output, ends = tmp_path / "output", set()
    for key in broken.keys(prefix):
        for changed in damages(broken.whole[key]):
            broken.hold({key: changed})
            outcome = broken("restore", broken.ids[-1], "--output", output, "--yes")
            ends.add(outcome.status)
            restored = site_factory.SiteFiles(output / "Data.fs", output / "blobs")
            if outcome.status:
                assert outcome.status in (DAMAGE, NO_REPOSITORY, 13), (key, outcome)
                assert "internal error" not in outcome.err
                assert not restored.data_fs.exists()
            else:
                assert restored.data_fs.read_bytes() == broken.source.data_fs.read_bytes(), key
                assert independent_reader.transactions(*restored) == wanted, key
            shutil.rmtree(output, ignore_errors=True)
    assert ends != {0} or prefix in ("RECOVERY.md", "sites/default/labels/")
