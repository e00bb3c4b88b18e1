"""The scanner against ZODB's own iterator: chunks of any size, damaged bytes and hostile bytes."""

from __future__ import annotations

import gc
import pickle
import struct
import subprocess
import sys
import tracemalloc
import weakref
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import independent_reader
import pytest
import site_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from site_factory import BLOB_RECORD, RECORD, RawRecord, Site, SiteFiles
from ZODB.blob import Blob
from ZODB.utils import p64

from zodb_vault.datafs.records import Defect, Pointer, Scanner, Transaction, follow_back_pointer, is_blob
from zodb_vault.errors import SourceDamaged
from zodb_vault.model.blob import BlobRef

WHOLE = {
    **site_factory.BUILDERS,
    **{name: site_factory.UNUSUAL[name] for name in ("without_transactions", "unordered_tids", "equal_tids")},
}


class Scanned(NamedTuple):
    """Everything that a scanner reports."""

    transactions: list[Transaction]
    blobs: list[BlobRef]
    pointers: list[Pointer]
    defects: list[Defect]


def scan(data: bytes, sizes: Iterable[int] = (), start: int = 0, *, resolve: bool = True) -> Scanned:
    """Feed ``data[start:]`` in chunks of these sizes, the rest at once."""
    transactions: list[Transaction] = []
    scanner = Scanner(
        start, transactions.append, (lambda length, pos: data[pos : pos + length]) if resolve else None
    )
    scanned = Scanned(transactions, [], [], [])
    for size in [*sizes, len(data)]:
        scanner.feed(data[start : start + size])
        start += size
        for all_of, new in zip(scanned[1:], scanner.drain(), strict=True):
            all_of.extend(new)  # type: ignore[attr-defined]
    scanner.finish()
    return scanned


class Built(NamedTuple):
    files: SiteFiles
    data: bytes
    directory: TemporaryDirectory[str]


@cache
def built(name: str) -> Built:
    """Build a site once for all tests of this module."""
    directory = TemporaryDirectory()
    files = WHOLE[name](Path(directory.name))
    return Built(files, files.data_fs.read_bytes(), directory)


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterable[None]:
    yield
    for name in WHOLE:
        built(name).directory.cleanup()
    built.cache_clear()


def existing(blobs: Iterable[BlobRef], files: SiteFiles) -> set[tuple[bytes, bytes]]:
    """Return those that are blobs: by their record, or by their file where the record cannot be read."""
    return {
        (b.oid, b.tid)
        for b in blobs
        if b.sure or independent_reader.blob_path(files.blob_dir, b.oid, b.tid).exists()
    }


@pytest.mark.parametrize("name", WHOLE)
def test_transactions_are_those_that_zodb_iterates(name: str) -> None:
    files, data, _ = built(name)
    scanned = scan(data).transactions
    assert [(t.tid, t.status.decode(), t.user, t.description, t.records) for t in scanned] == [
        (t.tid, t.status, t.user, t.description, len(t.records))
        for t in independent_reader.transactions(files.data_fs, None)
    ]
    assert [(t.tid, t.pos, t.pos + t.size) for t in scanned] == [
        (h.tid, h.start, h.end) for h in independent_reader.headers(files.data_fs)
    ]
    assert [pickle.loads(t.extension) if t.extension else {} for t in scanned] == [
        t.extension for t in independent_reader.transactions(files.data_fs, None)
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_blobs_are_those_that_have_a_file(name: str) -> None:
    files, data, _ = built(name)
    scanned = scan(data)
    assert existing(scanned.blobs, files) == set(independent_reader.blob_files(files.data_fs, files.blob_dir))
    assert sum(t.blobs for t in scanned.transactions) == len(scanned.blobs)
    assert not scanned.pointers
    assert not scanned.defects


@pytest.mark.parametrize("name", WHOLE)
def test_pointers_followed_later_lead_to_the_same_blobs(name: str) -> None:
    _files, data, _ = built(name)
    scanned, now = scan(data, resolve=False), scan(data)
    later = [
        (p.oid, p.tid)
        for p in scanned.pointers
        if follow_back_pointer(lambda length, pos: data[pos : pos + length], p.back) is not False
    ]
    assert sorted([(b.oid, b.tid) for b in scanned.blobs] + later) == sorted(
        (b.oid, b.tid) for b in now.blobs
    )


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1, 7, 41, 4096])
def test_chunks_of_one_size_give_the_same(name: str, size: int) -> None:
    _files, data, _ = built(name)
    if len(data) > size * 100_000:
        data = data[: scan(data).transactions[1].pos]  # as much as takes no time
    assert scan(data, [size] * (len(data) // size)) == scan(data)


@settings(deadline=None)
@given(st.data())
def test_chunks_of_any_sizes_give_the_same(data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from(["populate", "undone_into_packed", "empty_transactions", "opaque", "recreated"])
    )
    content = built(name).data
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=30)))
    sizes = [b - a for a, b in zip([0, *cuts], cuts, strict=False)]
    assert scan(content, sizes) == scan(content)


@given(st.data())
def test_a_range_in_the_middle_is_scanned_like_the_whole(data: st.DataObject) -> None:
    content = built("populate").data
    whole = scan(content)
    first = data.draw(st.sampled_from(whole.transactions))
    part = scan(content, [data.draw(st.integers(0, 5000))], first.pos)
    assert part.transactions == [t for t in whole.transactions if t.pos >= first.pos]
    assert part.blobs == [b for b in whole.blobs if b.tid >= first.tid]


def test_a_giant_transaction_is_scanned_in_the_memory_of_a_chunk(tmp_path: Path) -> None:
    data = site_factory.big_transaction(tmp_path, size=6_000_000, record=3_000_000).data_fs.read_bytes()
    scanner = Scanner(0, lambda _t: None)
    tracemalloc.start()
    try:
        for start in range(0, len(data), 10_000):
            scanner.feed(data[start : start + 10_000])
        scanner.finish()
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# Raw transactions, for what ZODB does not write


def transaction(
    pos: int, records: bytes, *, status: bytes = b" ", tid: bytes = b"\3" * 8, texts: bytes = b""
) -> bytes:
    """Return the bytes of a transaction at a position."""
    length = site_factory.TRANSACTION.size + len(texts) + len(records)
    return (
        site_factory.TRANSACTION.pack(tid, length, status, len(texts), 0, 0) + texts + records + p64(length)
    )


def record(
    pos: int, data: bytes, *, oid: int = 1, back: int | None = None, length: int | None = None
) -> bytes:
    """Return the bytes of a data record of the transaction at ``pos``."""
    body = data if back is None else p64(back)
    said = (len(data) if back is None else 0) if length is None else length
    return RECORD.pack(p64(oid), b"\3" * 8, 0, pos, 0, said) + body


DAMAGED: dict[str, Callable[[int], bytes]] = {
    "another transaction's": lambda pos: record(pos + 1, b"x" * 600),
    "longer than the transaction": lambda pos: record(pos, b"x" * 600, length=10_000),
    "longer than any file": lambda pos: record(pos, b"x" * 600, length=2**63),
    "one byte too short": lambda pos: record(pos, b"x" * 600, length=599),
    "only the beginning of a header": lambda pos: record(pos, b"x" * 600) + b"\0" * 10,
    "half a record": lambda pos: record(pos, BLOB_RECORD)[:-10],
    "zeros": lambda _pos: bytes(100),
    "a pointer forward": lambda pos: record(pos, b"", back=pos + 10_000),
    "a pointer to itself": lambda pos: record(pos, b"", back=pos + 23 + 42 + len(BLOB_RECORD)),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("behind", ["nothing", "another"])
@pytest.mark.parametrize("size", [1, 30, 100_000])
def test_a_defect_inside_a_transaction_is_reported_and_not_fatal(name: str, behind: str, size: int) -> None:
    before = b"FS30" + transaction(4, record(4, BLOB_RECORD, oid=7))
    pos = len(before)
    data = before + transaction(pos, record(pos, BLOB_RECORD, oid=8) + DAMAGED[name](pos))
    if behind == "another":
        data += transaction(len(data), record(len(data), BLOB_RECORD, oid=9))
    scanned = scan(data, [size] * (len(data) // size))
    assert len(scanned.defects) == 1
    assert pos <= scanned.defects[0].pos < len(data)
    assert [b.oid for b in scanned.blobs] == [
        p64(oid) for oid in ((7, 8, 9) if behind == "another" else (7, 8))
    ]
    assert len(scanned.transactions) == (3 if behind == "another" else 2)


def test_a_pointer_past_the_end_is_reported() -> None:
    data = b"FS30" + transaction(4, record(4, b"", back=27 - 1) + record(4, BLOB_RECORD, oid=2))
    scanner = Scanner(0, lambda _t: None, lambda _length, _pos: b"")
    scanner.feed(data)
    scanner.finish()
    assert [d.why for d in scanner.defects] == [
        "the back-pointer to position 26 leads beyond the end of the file"
    ]
    assert [b.oid for b in scanner.blobs] == [p64(2)]


def test_pointers_that_do_not_descend_are_damage() -> None:
    loop = record(4, b"", back=100)
    with pytest.raises(SourceDamaged, match="leads forward"):
        follow_back_pointer(lambda length, pos: (loop if pos == 50 else loop[42:])[:length], 50)


@pytest.mark.parametrize("status", [b" ", b"p", b"u"])
def test_an_undone_transaction_counts_and_its_records_do_not(status: bytes) -> None:
    data = b"FS30" + transaction(4, record(4, BLOB_RECORD), status=status)
    data += transaction(len(data), b"")
    scanned = scan(data)
    assert [t.status for t in scanned.transactions] == [status, b" "]
    assert len(scanned.blobs) == scanned.transactions[0].records == (0 if status == b"u" else 1)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("does not repeat its length", transaction(4, b"")[:-1] + b"\1"),
        (
            "no valid transaction header",
            site_factory.TRANSACTION.pack(b"\3" * 8, 20, b" ", 0, 0, 0) + bytes(100),
        ),
        ("ends inside", transaction(4, record(4, b"x" * 900))[:-9]),
        ("ends inside", transaction(4, b"")[:-1]),
        ("ends inside", transaction(4, b"")[:10]),
    ],
)
def test_a_broken_chain_of_transactions_is_damage(what: str, data: bytes) -> None:
    with pytest.raises(SourceDamaged, match=what):
        scan(b"FS30" + data)


# Which records are blobs

FORMS = [
    *(
        pickle.dumps(Blob, protocol) + pickle.dumps(None, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
    *(pickle.dumps(("ZODB.blob", "Blob"), protocol) + pickle.dumps(None, protocol) for protocol in range(6)),
    *(
        pickle.dumps((("ZODB.blob", "Blob"), None), protocol) + pickle.dumps(None, protocol)
        for protocol in range(6)
    ),
    *(pickle.dumps((Blob, None), protocol) + pickle.dumps(None, protocol) for protocol in range(6)),
    *(pickle.dumps((Blob, ()), protocol) + pickle.dumps(None, protocol) for protocol in range(6)),
]


@pytest.mark.parametrize("data", [BLOB_RECORD, *FORMS], ids=lambda data: repr(data[:12]))
def test_every_pickle_of_a_blob_is_one(data: bytes) -> None:
    assert is_blob(data) is True
    assert is_blob(b".z" + zlib.compress(data)) is True


class Holder:
    """A class whose name says ZODB.blob."""


@pytest.mark.parametrize(
    "data",
    [
        site_factory.text_record("ZODB.blob\nBlob\n"),
        pickle.dumps(Holder, 2) + pickle.dumps({"blob": ("ZODB.blob", "Blob")}, 2),
        pickle.dumps(Holder, 0) + pickle.dumps({"blob": ("ZODB.blob", "Blob")}, 0),
        b"\x80\x02cZODB.blob\nBlobStorage\nq\x00." + pickle.dumps(None, 2),
        b"\x80\x02cmy.ZODB.blob\nBlob\nq\x00." + pickle.dumps(None, 2),
        pickle.dumps(("ZODB.blob", "Other"), 2) + pickle.dumps(None, 2),
        pickle.dumps((), 2) + pickle.dumps("ZODB.blob", 2),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_a_record_that_only_names_blobs_is_none(data: bytes) -> None:
    assert is_blob(data) is False
    assert is_blob(b".z" + zlib.compress(data)) is False


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"xyz",
        b".e" + bytes(40),
        b".z" + bytes(40),
        b"\x80\xff.",
        b"\x80",
        b".z",
        site_factory.noise(200),
    ],
)
def test_of_an_unknown_encoding_nothing_is_said(data: bytes) -> None:
    assert is_blob(data) is None


@given(st.binary(max_size=600))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    for record_data in (
        data,
        b".z" + data,
        data + b"ZODB.blob" + data,
        b".z" + zlib.compress(b"(" + data + b"ZODB.blob."),
    ):
        assert is_blob(record_data) in (True, False, None)


class Bomb:
    """Its pickle calls print."""

    def __init__(self, what: object, *arguments: object) -> None:
        self.reduced = (what, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


def test_hostile_pickles_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hostile = [
        pickle.dumps((Bomb(open, str(mark), "w"), "ZODB.blob"), protocol) + b"N." for protocol in range(6)
    ]
    hostile += [
        b"\x80\x02cbuiltins\nopen\n(X%sX\x01\x00\x00\x00wtR(X\x09\x00\x00\x00ZODB.blobt."
        % (struct.pack("<I", len(str(mark))) + str(mark).encode()),
        b"(S'touch %s'\nios\nsystem\n(S'ZODB.blob'\nt." % str(mark).encode(),
        b"\x80\x02cposix\nsystem\nX%s\x85R0X\x09\x00\x00\x00ZODB.blob."
        % (struct.pack("<I", len(f"touch {mark}")) + f"touch {mark}".encode()),
        b"\x80\x02czodb_vault_never\nimported\n)\x81X\x09\x00\x00\x00ZODB.blob\x86.",
        b"\x80\x02cantigravity\nfly\nX\x09\x00\x00\x00ZODB.blob\x86.",
    ]
    pickle.loads(pickle.dumps(Bomb(open, str(mark), "w"))).close()
    assert mark.exists()  # the bombs do explode when they are unpickled
    mark.unlink()
    path = tmp_path / "hostile"
    path.write_bytes(pickle.dumps(hostile))
    code = (
        "import pickle, sys; from zodb_vault.datafs.records import is_blob\n"
        f"for data in pickle.load(open({str(path)!r}, 'rb')):\n    assert is_blob(data) is not True\n"
        "assert 'antigravity' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not mark.exists()


def test_a_compression_bomb_takes_no_memory() -> None:
    bomb = b".z" + zlib.compress(zlib.compress(bytes(50_000_000)))
    assert len(bomb) < 512
    assert is_blob(bomb) is None
    assert is_blob(b".z" + zlib.compress(b"\x80\x02" + bytes(500_000))) is None


def test_a_pickle_that_asks_for_memory_gets_none() -> None:
    """LONG_BINPUT, BINBYTES, BINBYTES8, FRAME and LONG4 with numbers of a quarter of a gigabyte."""
    script = """
from zodb_vault.datafs.records import is_blob
codes = [b"r\\0\\0\\0\\1", b"B\\0\\0\\0\\x10", b"\\x8e\\0\\0\\0\\x10\\0\\0\\0\\0", b"\\x8b\\0\\0\\0\\x10"]
for code in (*codes, b"\\x95\\0\\0\\0\\x10\\0\\0\\0\\0"):
    assert not is_blob(b"\\x80\\4X\\x09\\0\\0\\0ZODB.blob" + code + b".")
print(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])
"""
    assert (
        int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout) < 100_000
    )


def test_a_blob_of_any_form_is_found_in_a_file(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for number, form in enumerate(FORMS, 100):
            site.write([RawRecord(number, form, b"content")])
    assert [b.oid for b in scan(site.files.data_fs.read_bytes()).blobs] == [
        p64(number) for number in range(100, 100 + len(FORMS))
    ]


def test_a_scanner_and_what_it_leads_to_are_freed_at_once() -> None:
    """Not only at a garbage collection: that is too late where the lists of a range take megabytes."""
    rows: list[Transaction] = []
    scanner = Scanner(0, rows.append)
    scanner.feed(built("populate").data)
    scanner.finish()
    gone = weakref.ref(scanner)
    gc.disable()
    try:
        del scanner
        assert gone() is None
    finally:
        gc.enable()
