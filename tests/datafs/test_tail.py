"""Where a Data.fs ends while a process writes: torn tails, pending transactions, aborts while we read.

Damage must never be taken for a tail.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import independent_reader
import pytest
import site_factory
from site_factory import START, TAILS, TRANSACTION, Site, tid_at
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64

from zodb_vault.datafs import tail as tail_module
from zodb_vault.datafs.tail import (
    Tail,
    TransactionSpan,
    TransactionWalker,
    backwards,
    check_magic,
    tail_digest,
)
from zodb_vault.errors import SourceDamaged, SourceError
from zodb_vault.strategies.filestorage.datafile import DataFile

WHOLE = {
    **site_factory.BUILDERS,
    **{name: site_factory.UNUSUAL[name] for name in ("without_transactions", "unordered_tids", "equal_tids")},
}


def hop(data_fs: Path, start: int = 0) -> tuple[list[TransactionSpan], Tail]:
    """Return all hops and the tail."""
    with data_fs.open("rb") as stream:
        hops: list[TransactionSpan] = []
        tail = TransactionWalker(stream.fileno(), str(data_fs)).walk(start, hops.append)
        return hops, tail


def size_for_zodb(data_fs: Path) -> int:
    """Return where FileStorage says that the file ends."""
    storage = FileStorage(str(data_fs), read_only=True)
    try:
        return int(storage.getSize())
    finally:
        storage.close()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The Data.fs of the site of ``populate``."""
    return site_factory.populate(tmp_path_factory.mktemp("populate")).data_fs.read_bytes()


@pytest.fixture
def data_fs(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "Data.fs").write_bytes(content)
    return tmp_path / "Data.fs"


@pytest.mark.parametrize("name", WHOLE)
def test_every_finished_transaction_is_walked_over(tmp_path: Path, name: str) -> None:
    data_fs = WHOLE[name](tmp_path).data_fs
    hops, tail = hop(data_fs)
    assert [(h.tid, h.pos, h.end, h.status.decode()) for h in hops] == [
        (h.tid, h.start, h.end, h.status) for h in independent_reader.headers(data_fs)
    ]
    assert tail == (data_fs.stat().st_size, "clean")


@pytest.mark.parametrize("name", WHOLE)
def test_backwards_is_the_same_walk_from_the_end(tmp_path: Path, name: str) -> None:
    data_fs = WHOLE[name](tmp_path).data_fs
    hops, tail = hop(data_fs)
    with data_fs.open("rb") as stream:
        assert list(backwards(stream.fileno(), tail.end)) == hops[::-1]
        if hops:
            assert list(backwards(stream.fileno(), hops[-1].pos)) == hops[-2::-1]


@pytest.mark.parametrize("tail", TAILS)
def test_an_unfinished_tail_ends_the_walk_where_zodb_ends_it(data_fs: Path, tail: str) -> None:
    end = site_factory.tear(data_fs, tail)
    hops, found = hop(data_fs)
    # FileStorage cannot be asked about a header that is cut off: it logs and truncates, at the same place
    assert hops[-1].end == end == found.end == size_for_zodb(data_fs)
    assert found.state == ("torn" if tail in ("header", "short") else "pending")


@pytest.mark.parametrize("length", [1, 22, 23, 24, 60, 90])
def test_a_tail_of_any_length_is_torn(data_fs: Path, length: int) -> None:
    end = data_fs.stat().st_size
    with data_fs.open("ab") as stream:
        stream.write(site_factory.pending_bytes(tid_at(START), end, b" ")[:length])
    assert hop(data_fs)[1] == (end, "torn")


@pytest.mark.parametrize("size", [1, 23, 24, 100, 10_000, 3 << 20])
def test_a_tail_of_zeros_was_allocated_and_never_written(data_fs: Path, size: int) -> None:
    end = data_fs.stat().st_size
    with data_fs.open("ab") as stream:
        stream.truncate(end + size)
    assert hop(data_fs)[1] == (end, "torn")


@pytest.mark.parametrize("kept", [1, 8, 15, 20, 23, 30, 60, 75, 80, 120])
def test_zeros_after_the_start_of_a_transaction_were_never_written(data_fs: Path, kept: int) -> None:
    end = data_fs.stat().st_size
    transaction = site_factory.pending_bytes(tid_at(START), end, b" ")
    with data_fs.open("ab") as stream:
        stream.write(transaction[:kept])
        stream.truncate(end + len(transaction) - 1)
    hops, tail = hop(data_fs)
    assert (hops[-1].end, tail) == (end, Tail(end, "torn"))


def test_zeros_where_a_finished_transaction_says_that_it_is_are_damage(data_fs: Path) -> None:
    """ZODB does not open such a file either."""
    end = data_fs.stat().st_size
    with data_fs.open("ab") as stream:
        stream.write(site_factory.pending_bytes(tid_at(START), end, b" ")[:60])
        stream.truncate(end + 10_000)
    with pytest.raises(SourceDamaged, match=f"position {end} does not repeat"):
        hop(data_fs)


def test_something_after_zeros_is_damage(data_fs: Path) -> None:
    end = data_fs.stat().st_size
    with data_fs.open("ab") as stream:
        stream.truncate(end + 5000)
        stream.seek(end + 5000)
        stream.write(b"x")
    with pytest.raises(SourceDamaged, match=f"position {end} has an impossible header"):
        hop(data_fs)


def test_a_wrong_closing_length_is_damage(data_fs: Path) -> None:
    end = site_factory.tear(data_fs, "closing")
    with pytest.raises(SourceDamaged, match=f"position {end} does not repeat its length") as caught:
        hop(data_fs)
    assert "fstest" in caught.value.hint


def overwrite(data_fs: Path, pos: int, data: bytes) -> None:
    with data_fs.open("r+b") as stream:
        stream.seek(pos)
        stream.write(data)


LENGTHS: dict[str, Callable[[int], int]] = {
    "a bit more": lambda length: length + 1,
    "a bit less": lambda length: length - 1,
    "much more": lambda length: length + 2**40,
    "behind the end": lambda length: length + 10_000_000,
    "nothing": lambda _length: 0,
    "the most": lambda _length: 2**64 - 1,
    "less than a header": lambda _length: 22,
}


@pytest.mark.parametrize("which", [0, 1, -3, -2, -1])
@pytest.mark.parametrize("change", LENGTHS)
def test_a_corrupted_length_is_damage_and_drops_nothing(data_fs: Path, which: int, change: str) -> None:
    victim = independent_reader.headers(data_fs)[which]
    overwrite(data_fs, victim.start + 8, p64(LENGTHS[change](victim.end - victim.start - 8)))
    with pytest.raises(SourceDamaged, match=f"position {victim.start} ") as caught:
        hop(data_fs)
    assert str(data_fs.stat().st_size - victim.start) in caught.value.message


@pytest.mark.parametrize("name", ["empty_transactions", "uncreated", "opaque"])
@pytest.mark.parametrize("change", LENGTHS)
def test_a_corrupted_length_is_damage_in_any_transaction(tmp_path: Path, name: str, change: str) -> None:
    original = site_factory.BUILDERS[name](tmp_path).data_fs
    for victim in independent_reader.headers(original):
        data_fs = Path(shutil.copy(original, tmp_path / "copy"))
        overwrite(data_fs, victim.start + 8, p64(LENGTHS[change](victim.end - victim.start - 8)))
        with pytest.raises(SourceDamaged):
            hop(data_fs)


def test_a_hole_in_the_middle_is_damage(data_fs: Path) -> None:
    """A lost page, filled with zeros, with complete transactions after it."""
    victim = independent_reader.headers(data_fs)[2]
    overwrite(data_fs, victim.start, bytes(23))
    with pytest.raises(SourceDamaged):
        hop(data_fs)


@pytest.mark.parametrize("which", [0, 1, -3, -2])
@pytest.mark.parametrize("writing", [False, True])
def test_an_unfinished_transaction_that_others_follow_is_damage_and_drops_nothing(
    data_fs: Path, which: int, writing: bool
) -> None:
    """A process with an index of such a file does not notice it, and continues."""
    victim = independent_reader.headers(data_fs)[which]
    overwrite(data_fs, victim.start + 16, b"c")
    if writing:
        site_factory.tear(data_fs, "short")
    with pytest.raises(SourceDamaged, match=f"position {victim.start} looks unfinished") as caught:
        hop(data_fs)
    assert str(data_fs.stat().st_size - victim.start) in caught.value.message


@pytest.mark.parametrize(
    ("which", "garbage"),
    [*itertools.product([-4, -3, -2], [b"\xff" * 23, b"\x7e" * 23, b"c" * 23]), (-1, b"\xff" * 23)],
)
def test_a_header_of_garbage_among_the_last_ones_is_damage(data_fs: Path, which: int, garbage: bytes) -> None:
    """Its texts may seem to reach past the end of the file, so that no record of it can be read."""
    victim = independent_reader.headers(data_fs)[which]
    overwrite(data_fs, victim.start, garbage)
    with pytest.raises(SourceDamaged, match=f"position {victim.start} "):
        hop(data_fs)


def test_zeros_after_a_pending_transaction_were_allocated_and_never_written(data_fs: Path) -> None:
    end = site_factory.tear(data_fs, "pending")
    os.truncate(data_fs, data_fs.stat().st_size + 5000)
    assert hop(data_fs)[1] == (end, "pending")


# Beside a writer


READS = 8  # a walk over the file of ``populate`` makes at least as many


class Writing:
    """Does something to the file right before the n-th read of a walk; counts the reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], object]) -> None:
        self.reads, self.at, self.act = 0, at, act
        self.pread = os.pread
        monkeypatch.setattr(tail_module.os, "pread", self.read)

    def read(self, fd: int, length: int, pos: int) -> bytes:
        self.reads += 1
        if self.reads == self.at:
            self.act()
        return self.pread(fd, length, pos)


@pytest.mark.parametrize("at", range(1, READS + 1))
def test_an_abort_that_truncates_while_we_read_is_no_damage(
    data_fs: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    end = data_fs.stat().st_size
    site_factory.tear(data_fs, "pending")
    writing = Writing(monkeypatch, at, lambda: os.truncate(data_fs, end))
    hops, tail = hop(data_fs)
    assert (hops[-1].end, tail.end) == (end, end)
    assert writing.reads >= at


@pytest.mark.parametrize("at", range(1, READS + 1))
@pytest.mark.parametrize("commits", [1, 2, 5])
@pytest.mark.parametrize("before", ["", "header", "head", "length", "pending"])
def test_commits_while_we_read_are_no_damage(
    data_fs: Path, monkeypatch: pytest.MonkeyPatch, at: int, commits: int, before: str
) -> None:
    """The walk began with a file that was shorter, maybe with a part of the first of these transactions."""
    end = data_fs.stat().st_size
    if before:
        site_factory.tear(data_fs, before)

    def commit() -> None:
        pos = end
        with data_fs.open("r+b") as stream:
            for number in range(commits):
                stream.seek(pos)
                pos += stream.write(
                    site_factory.pending_bytes(
                        tid_at(START + (1000 + number) * site_factory.MINUTE), pos, b" "
                    )
                )

    writing = Writing(monkeypatch, at, commit)
    hops, tail = hop(data_fs)
    assert writing.reads >= at
    assert [h.end for h in hops if h.end <= end][-1] == end
    assert tail.end == hops[-1].end
    monkeypatch.undo()
    more, tail = hop(data_fs, tail.end)  # and the next walk finds the rest
    assert tail.state == "clean"
    assert len(more) + len(hops) == len(independent_reader.headers(data_fs))


def test_a_writer_that_aborts_and_commits_is_followed(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for number in range(30):
            site.put(text=f"text {number}", blob=site_factory.noise(100, number))
            site.root["text"]["text"] = "never"
            site.manager.abort()
            hops, tail = hop(site.files.data_fs)
            assert (tail.end, hops[-1].tid) == (site.storage.getSize(), site.storage.lastTransaction())


# Digests


def test_the_digest_of_a_tail_is_that_of_header_last_bytes_and_length(tmp_path: Path) -> None:
    data_fs = site_factory.big_transaction(tmp_path).data_fs
    big = max(independent_reader.headers(data_fs), key=lambda header: header.end - header.start)
    with data_fs.open("rb") as stream:
        before = tail_digest(stream.fileno(), big.start, big.end)
    for pos, differs in [
        (big.start, True),
        (big.start + 22, True),
        (big.start + 5000, False),
        (big.end - 65536, True),
        (big.end - 65537, False),
    ]:
        data = data_fs.read_bytes()
        overwrite(data_fs, pos, bytes([data[pos] ^ 1]))
        with data_fs.open("rb") as stream:
            assert (tail_digest(stream.fileno(), big.start, big.end) != before) is differs
        data_fs.write_bytes(data)


def test_two_transactions_never_share_a_digest(data_fs: Path) -> None:
    hops, _tail = hop(data_fs)
    with data_fs.open("rb") as stream:
        digests = [tail_digest(stream.fileno(), h.pos, h.end) for h in hops] + [
            tail_digest(stream.fileno(), 4, 4)
        ]
    assert len(set(digests)) == len(digests)


def test_the_digest_of_a_transaction_changes_when_it_is_packed(tmp_path: Path) -> None:
    """A pack that removes nothing before a transaction leaves it in its place, but not as it was."""
    with Site(tmp_path) as site:
        kept = site.put(text="kept")
        until = site.put(other="one")
        site.put(other="two")
        victim = independent_reader.headers(site.files.data_fs)[-3]
        before = site.files.data_fs.read_bytes()
        site.pack(until)
    files = site.files
    assert kept
    with files.data_fs.open("rb") as stream:
        after = tail_digest(stream.fileno(), victim.start, victim.end)
    (tmp_path / "before").write_bytes(before)
    with (tmp_path / "before").open("rb") as stream:
        assert tail_digest(stream.fileno(), victim.start, victim.end) != after


# What is no Data.fs


@pytest.mark.parametrize(
    ("content", "says", "advises"),
    [
        (b"", "is empty", "--data-fs"),
        (b"FS21" + bytes(100), "Python 2", "--convert-py3"),
        (b"FS2", "is not a Data.fs", "--data-fs"),
        (b"SQLite format 3\0", "is not a Data.fs", "--data-fs"),
    ],
)
def test_a_file_that_is_no_data_fs_is_refused_with_advice(
    tmp_path: Path, content: bytes, says: str, advises: str
) -> None:
    path = tmp_path / "Data.fs"
    path.write_bytes(content)
    with path.open("rb") as stream, pytest.raises(SourceDamaged, match=says) as caught:
        check_magic(stream.fileno(), str(path))
    assert str(path) in caught.value.message
    assert advises in caught.value.hint
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceDamaged, match=says):
        DataFile(path)
    assert len(os.listdir("/proc/self/fd")) == open_before


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Path.mkdir, "is a directory"),
        (fifo, "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda _path: None, "does not exist"),
        (lambda path: (path.parent / "file").write_bytes(b"") and None, "does not exist"),
    ],
)
def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], says: str
) -> None:
    monkeypatch.setattr("zodb_vault.strategies.filestorage.datafile.PACK_WINDOW", (0.0, 0.0))
    path = tmp_path / "Data.fs"
    make(path)
    with pytest.raises(SourceError, match=says) as caught:
        DataFile(path)
    assert str(path) in caught.value.message


def test_a_path_through_a_file_is_refused(data_fs: Path) -> None:
    with pytest.raises(SourceError, match="a part of its path is not a directory"):
        DataFile(data_fs / "Data.fs")


def test_a_missing_file_is_the_window_of_a_pack(data_fs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = data_fs.rename(data_fs.with_suffix(".old"))
    pauses: Iterator[float] = iter([0.0, 0.0, 0.0])

    def sleep(_seconds: float) -> None:
        next(pauses)
        if next(pauses, None) is None:
            old.rename(data_fs)

    monkeypatch.setattr("zodb_vault.strategies.filestorage.datafile.time.sleep", sleep)
    DataFile(data_fs).close()


def test_a_file_that_was_replaced_is_noticed(data_fs: Path) -> None:
    file = DataFile(data_fs)
    try:
        assert not file.replaced()
        shutil.copy(data_fs, data_fs.with_suffix(".new"))
        data_fs.unlink()
        assert file.replaced()
        data_fs.with_suffix(".new").rename(data_fs)
        assert file.replaced()
        assert file.read_at(4, 0) == b"FS30"
    finally:
        file.close()


def test_an_error_of_the_disk_names_the_file(data_fs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DataFile(data_fs)

    def fail(_fd: int, _length: int, _pos: int) -> bytes:
        raise OSError(5, "Input/output error")

    try:
        monkeypatch.setattr("zodb_vault.strategies.filestorage.datafile.os.pread", fail)
        with pytest.raises(SourceError, match="cannot be read: Input/output error") as caught:
            file.read_at(10, 0)
        assert str(data_fs) in caught.value.message
    finally:
        file.close()


def test_header_struct_is_that_of_the_format() -> None:
    assert TRANSACTION.size == tail_module.TRANSACTION.size == 23
