"""Cost follows change: what a run reads and opens is counted, on sites of very different sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import site_factory
from filestorage_vault import SITE, Vault
from site_factory import MINUTE, RECORD, START, TRANSACTION, Site, SiteFiles, noise, tid_at
from ZODB.utils import p64

from zodb_vault.blobs.refs import BlobSet
from zodb_vault.model import chain
from zodb_vault.model.blob import BlobRef
from zodb_vault.strategies.blobs import packer
from zodb_vault.strategies.filestorage import cut, segments

COUNTING = """
import json, os, sys

counts = {"reads": 0, "bytes": 0, "source": [], "blob_dirs": 0, "repository": 0, "indexes": 0}
data_fs, blob_dir, repository, *arguments = sys.argv[1:]

def audit(event, parameters):
    if event == "open" and isinstance(parameters[0], str):
        path = parameters[0]
        # open() reports it twice
        if (path == data_fs or path.startswith(blob_dir)) and counts["source"][-1:] != [path]:
            counts["source"].append(path)
        elif path.startswith(repository):
            counts["repository"] += 1
        counts["indexes"] += path.endswith(".index")
    elif event in ("os.listdir", "os.scandir") and str(parameters[0]).startswith(blob_dir):
        counts["blob_dirs"] += 1

pread = os.pread

def counted(fd, length, pos):
    data = pread(fd, length, pos)
    counts["reads"] += 1
    counts["bytes"] += len(data)
    return data

os.pread = counted
sys.addaudithook(audit)
from zodb_vault.cli.main import run
from zodb_vault.strategies.blobs import compaction
compaction.NEIGHBOURS = 10_000
files = ["--data-fs", data_fs, "--blob-dir", blob_dir]
status = run(["create", "-q", "--repository", repository, *files, "--site", %r, *arguments])
print(json.dumps({**counts, "status": status}))
"""


class Cost(NamedTuple):
    """Calls and bytes of preads of Data.fs, opened files of the source, listed blob directories, ..."""

    reads: int
    bytes: int
    source: list[str]
    blob_dirs: int
    repository: int
    indexes: int
    status: int


def cost(vault: Vault, *arguments: str) -> Cost:
    """Make a backup in another process and return what it cost."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            COUNTING % SITE,
            str(vault.files.data_fs),
            str(vault.files.blob_dir),
            str(vault.directory / "repository"),
            *arguments,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def site_of(directory: Path, transactions: int) -> SiteFiles:
    with Site(directory) as site:
        site.put(news="old", other="old", report=noise(100))
        for number in range(transactions):
            site.put(text=noise(2000, number).hex(), **{f"blob{number % 50}": noise(300, number)})
        return site.files


@pytest.fixture(scope="module")
def vaults(tmp_path_factory: pytest.TempPathFactory) -> list[Vault]:
    """A small site and one of twenty times its size, both with many segments, packs and lists, backed up."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "SEGMENT_LIMIT", 20_000)
        patch.setattr(packer, "PACK_LIMIT", 3_000)
        patch.setattr(chain, "LIST_LIMIT", 10)
        patch.setattr("zodb_vault.strategies.blobs.compaction.NEIGHBOURS", 10_000)
        for transactions in (15, 300):
            directory = tmp_path_factory.mktemp(f"site-{transactions}")
            vault = Vault(directory, site_of(directory / "site", transactions))
            vault.create()
            found.append(vault)
    assert len(found[1].segments()) > 60
    assert len(found[1].packs()) > 100
    return found


def test_an_unchanged_run_costs_a_few_calls_whatever_the_size(vaults: list[Vault]) -> None:
    small, large = (cost(vault) for vault in vaults)
    for one, vault in zip((small, large), vaults, strict=True):
        assert one.status == 0
        assert one.source == [str(vault.files.blob_dir / ".layout"), str(vault.files.data_fs)]
        assert (one.blob_dirs, one.indexes) == (0, 0)
        assert one.reads <= 8
        assert one.bytes <= 2 * (64 * 1024 + 100)
    assert large.reads == small.reads
    assert large.repository == small.repository


def test_an_unchanged_run_that_is_skipped_opens_no_more(vaults: list[Vault]) -> None:
    assert cost(vaults[1], "--skip-unchanged").repository < cost(vaults[1]).repository


def test_an_increment_reads_what_is_new_and_what_new_back_pointers_name(vaults: list[Vault]) -> None:
    costs = []
    for vault in vaults:
        before = vault.files.data_fs.stat().st_size
        with Site(vault.files.data_fs.parent) as site:
            undone = site.put(news=noise(20_000, 1).hex(), report=noise(5000, 2))
            site.put(other="other")
            site.undo(undone)
        new = vault.files.data_fs.stat().st_size - before
        one = cost(vault)
        costs.append(one)
        assert one.status == 0
        assert (one.blob_dirs, one.indexes) == (0, 0)
        # The headers once, the content once, the ends of the last and this segment, records of two pointers.
        assert one.bytes <= new + 3 * (64 * 1024 + 100)
        assert one.reads <= 30
        assert (
            len([path for path in one.source if path.endswith(".blob")]) == 2
        )  # the new one, and what undoing it made of the old one
    assert costs[1].reads == costs[0].reads
    # a list that is full is read when the next one begins, never all of them
    assert costs[1].repository <= costs[0].repository + 4


def test_records_that_may_all_be_blobs_are_handed_over_chunk_by_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = site_factory.opaque(tmp_path / "site")
    start, tid = files.data_fs.stat().st_size, tid_at(START + 100 * MINUTE)
    records = [
        RECORD.pack(p64(number), tid, 0, start, 0, 102) + b".e" + noise(100, number)
        for number in range(500, 700)
    ]
    length = TRANSACTION.size + sum(map(len, records))
    with files.data_fs.open("ab") as stream:
        stream.write(TRANSACTION.pack(tid, length, b" ", 0, 0, 0) + b"".join(records) + p64(length))
    vault = Vault(tmp_path, files)
    most, add = [], BlobSet.add

    def watched(refs: BlobSet, blobs: Iterable[BlobRef]) -> None:
        rows = list(blobs)
        most.append(len(rows))
        add(refs, rows)

    monkeypatch.setattr(segments, "CHUNK", 4096)
    monkeypatch.setattr(BlobSet, "add", watched)
    assert vault.create().manifest.status == "complete"
    assert sum(most) >= 200
    assert max(most) <= 4096 // (42 + 25)
    vault.assert_restores(files)


def test_memory_is_bounded_by_chunks_and_not_by_the_size_of_a_site(tmp_path: Path) -> None:
    """75 MB in few records against 5 MB of the same."""
    peaks = []
    for count in (1, 15):
        directory = tmp_path / str(count)
        with Site(directory / "site") as site:
            for number in range(count):
                site.put(
                    **{f"text{number}": noise(2_500_000, number).hex()},
                    **{f"blob{number}": noise(2_500_000, 50 + number)},
                )
        vault = Vault(directory, site.files)
        code = COUNTING % SITE + (
            "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                code,
                str(site.files.data_fs),
                str(site.files.blob_dir),
                str(directory / "repository"),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout.splitlines()[-2])["status"] == 0
        peaks.append(int(done.stdout.splitlines()[-1]))
        assert vault.newest.status == "complete"
    assert peaks[1] < 200_000
