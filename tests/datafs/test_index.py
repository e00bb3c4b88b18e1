"""Our index is the one that FileStorage writes; FileStorage opens the file with it, without a scan."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import random_histories
import site_factory
from ZODB.FileStorage import FileStorage
from ZODB.fsIndex import fsIndex

from zodb_vault.datafs.index import END, READ, write_index
from zodb_vault.datafs.records import INDEX_ENTRY, Scanner

WHOLE = {
    **site_factory.BUILDERS,
    **{name: site_factory.UNUSUAL[name] for name in ("without_transactions", "unordered_tids", "equal_tids")},
}


def theirs(data_fs: Path) -> tuple[int, dict[bytes, int]]:
    """Let FileStorage scan the file and return what it saves."""
    index = data_fs.with_suffix(".fs.index")
    index.unlink(missing_ok=True)
    FileStorage(str(data_fs)).close()
    return loaded(index)


def entries(data_fs: Path, *, chunk: int = 1 << 20) -> bytes:
    """Return the input of the process that writes the index."""
    found = bytearray()
    scanner, data = Scanner(0, lambda _transaction: None, entries=found), data_fs.read_bytes()
    for start in range(0, len(data), chunk):
        scanner.feed(data[start : start + chunk])
    scanner.finish()
    return bytes(found) + INDEX_ENTRY.pack(END, len(data))


def write(data_fs: Path, index: Path, *, chunk: int = 1 << 20) -> int:
    """Write an index."""
    return write_index(io.BytesIO(entries(data_fs, chunk=chunk)), index)


def loaded(index: Path) -> tuple[int, dict[bytes, int]]:
    """Return end and content of an index file."""
    info = fsIndex.load(str(index))
    return info["pos"], dict(info["index"].items())


@pytest.mark.parametrize("name", WHOLE)
def test_the_index_is_what_zodb_writes(tmp_path: Path, name: str) -> None:
    data_fs = WHOLE[name](tmp_path).data_fs
    index = tmp_path / "ours.index"
    count = write(data_fs, index)
    ours = loaded(index)
    assert count == len(ours[1])
    assert ours == theirs(data_fs)


@pytest.mark.parametrize("seed", range(10))
def test_the_index_of_a_random_history_is_what_zodb_writes(tmp_path: Path, seed: int) -> None:
    with random_histories.History(tmp_path, seed) as history:
        for _ in range(15):
            history.step()
    index = tmp_path / "ours.index"
    write(history.data_fs, index, chunk=97)
    assert loaded(index) == theirs(history.data_fs)


def test_an_undone_transaction_of_ancient_versions_is_left_out(tmp_path: Path) -> None:
    data_fs = site_factory.populate(tmp_path).data_fs
    with data_fs.open("ab") as stream:
        stream.write(
            site_factory.pending_bytes(
                site_factory.tid_at(site_factory.START + 1000 * site_factory.MINUTE),
                data_fs.stat().st_size,
                b"u",
            )
        )
    write(data_fs, tmp_path / "ours.index")
    assert loaded(tmp_path / "ours.index") == theirs(data_fs)


def test_filestorage_opens_with_it_and_does_not_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = site_factory.populate(tmp_path)
    Path(f"{files.data_fs}.index").unlink()
    command = [sys.executable, "-m", "zodb_vault.datafs.index", f"{files.data_fs}.index"]
    done = subprocess.run(command, input=entries(files.data_fs), check=False)
    assert done.returncode == 0
    starts: list[object] = []
    module = sys.modules[FileStorage.__module__]
    original = module.read_index

    def read_index(*arguments: object, **options: object) -> object:
        starts.append(options.get("start"))
        return original(*arguments, **options)

    monkeypatch.setattr(module, "read_index", read_index)
    FileStorage(str(files.data_fs), read_only=True).close()
    assert starts == [files.data_fs.stat().st_size]


def test_an_index_that_is_there_is_replaced(tmp_path: Path) -> None:
    data_fs = site_factory.only_root(tmp_path).data_fs
    index = tmp_path / "ours.index"
    index.write_bytes(b"something old")
    assert write(data_fs, index) == 1


def test_later_entries_count_and_none_is_lost_between_reads(tmp_path: Path) -> None:
    count = 3 * READ // INDEX_ENTRY.size + 5
    old, new = (
        [(number.to_bytes(8, "big"), place + number) for number in range(count)] for place in (4, 10**12)
    )
    data = b"".join(INDEX_ENTRY.pack(*one) for one in [*old, *new]) + INDEX_ENTRY.pack(END, 10**13)
    assert write_index(io.BytesIO(data), tmp_path / "ours.index") == count
    assert loaded(tmp_path / "ours.index") == (10**13, dict(new))


@pytest.mark.parametrize("left", [0, 1, INDEX_ENTRY.size, -INDEX_ENTRY.size, -1])
def test_of_entries_that_end_early_no_index_is_made(tmp_path: Path, left: int) -> None:
    """Their parent was killed: the next run makes one of the same name."""
    data_fs = site_factory.populate(tmp_path).data_fs
    data = entries(data_fs)
    command = [sys.executable, "-m", "zodb_vault.datafs.index", str(tmp_path / "ours.index")]
    done = subprocess.run(command, input=data[: left % len(data)], check=False, capture_output=True)
    assert done.returncode
    assert not (tmp_path / "ours.index").exists()
