"""The set of blob revisions: what is referenced and what a pack has, from several threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.blobs.refs import FETCH, BlobSet
from zodb_vault.model.blob import BlobRef


def number(n: int, sure: bool = True) -> BlobRef:
    return BlobRef(n.to_bytes(8, "big"), b"\1" * 8, sure)


def key(one: BlobRef) -> bytes:
    return one.oid + one.tid


@pytest.fixture
def refs() -> Iterator[BlobSet]:
    blobs = BlobSet()
    yield blobs
    blobs.close()


def test_what_is_asked_for_twice_counts_once_and_stays_sure(refs: BlobSet) -> None:
    refs.add([number(1, False), number(2), number(1, True)])
    refs.add([number(2, False)])
    assert list(refs.all()) == [number(1), number(2)]
    assert len(refs) == 2


def test_what_a_pack_has_is_not_missing(refs: BlobSet) -> None:
    refs.add(number(n) for n in range(4))
    refs.mark_present([key(number(2)), key(number(9))])
    assert list(refs.missing()) == [number(0), number(1), number(3)]
    assert key(number(2)) in refs
    assert key(number(9)) not in refs
    refs.add([number(2)])
    assert number(2) not in list(refs.missing())


@given(
    st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8), st.booleans())),
    st.data(),
)
def test_it_is_a_set_and_a_dictionary(rows: list[tuple[bytes, bytes, bool]], data: st.DataObject) -> None:
    refs = BlobSet()
    try:
        model: dict[bytes, bool] = {}
        for oid, tid, sure in rows:
            refs.add([BlobRef(oid, tid, sure)])
            model[oid + tid] = sure or model.get(oid + tid, False)
        had = data.draw(st.sets(st.sampled_from(sorted(model)))) if model else set()
        refs.mark_present(had)
        assert [(key(one), one.sure) for one in refs.all()] == sorted(model.items())
        assert [key(one) for one in refs.missing()] == sorted(set(model) - had)
        assert len(refs) == len(model)
    finally:
        refs.close()


@pytest.mark.parametrize("count", [FETCH - 1, FETCH, FETCH + 1, 3 * FETCH])
def test_missing_leaves_nothing_out_while_blobs_are_packed(refs: BlobSet, count: int) -> None:
    refs.add(number(n) for n in range(count))
    seen = []
    for one in refs.missing():
        seen.append(one)
        refs.mark_present([key(one)])
    assert seen == [number(n) for n in range(count)]
    assert list(refs.missing()) == []


def test_two_threads_add_note_and_ask_at_once(refs: BlobSet) -> None:
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for start in range(first, 20_000, 2_000):
                refs.add(number(n) for n in range(start, start + 1_000))
                refs.mark_present(key(number(n)) for n in range(start, start + 1_000, 2))
                assert key(number(start)) in refs
                assert number(start) not in list(refs.missing())
        except BaseException as error:  # noqa: BLE001 a thread cannot raise to its starter
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(refs) == 20_000
    assert list(refs.missing()) == [number(n) for n in range(1, 20_000, 2)]


def test_an_error_in_what_is_added_leaves_it_usable(refs: BlobSet) -> None:
    def failing() -> Iterator[BlobRef]:
        yield number(1)
        raise KeyError("the source failed")

    with pytest.raises(KeyError):
        refs.add(failing())
    refs.add([number(2)])
    assert list(refs.all()) == [number(2)]


def test_many_keys_take_bounded_memory_and_leave_no_file(tmp_path: Path) -> None:
    code = """
import os
from zodb_vault.blobs.refs import BlobSet
from zodb_vault.model.blob import BlobRef
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
refs = BlobSet()
for start in range(0, 300_000, 10_000):
    numbers = range(start, start + 10_000)
    refs.add(BlobRef(((n * 2654435761) % 2**64).to_bytes(8, "big"), bytes(8), True) for n in numbers)
assert sum(1 for _ in refs.missing()) == len(refs) == 300_000
print(peak() - before)
"""
    environment = {**os.environ, "SQLITE_TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert int(done.stdout) < 32_000  # kilobytes; as Python objects they take more than 60 MB
    assert list(tmp_path.iterdir()) == []


def test_among_returns_the_keys_that_are_referenced() -> None:
    refs = BlobSet()
    try:
        refs.add([BlobRef(bytes(7) + bytes([n]), bytes(8), True) for n in range(0, 10, 2)])
        keys = [bytes(7) + bytes([n]) + bytes(8) for n in range(10)]
        assert refs.referenced(keys) == set(keys[::2]) == {key for key in keys if key in refs}
    finally:
        refs.close()
