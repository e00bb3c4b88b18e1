"""Every sentence of ``stores/base.py``, for every kind of store. No test may ask which one it has."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from zodb_vault.errors import KeyChanged, KeyExists, KeyMissing, StoreError, VaultError
from zodb_vault.stores.base import ListedKey, RecordsTimes, Store

from .conftest import StorePlace

MEBIBYTE = 1 << 20
KEY = "sites/default/backups/20260101T000000Z-abcdef.json"
AT_ONCE = 6
NOT_KEYS = [
    "",
    "/",
    "/absolute",
    "..",
    "../up",
    "a/../b",
    "a//b",
    "a/",
    "./a",
    ".hidden",
    "a/.hidden",
    "a\nb",
    "a b",
    "a\0b",
    "ä",
]


def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Make calls at the same time; return what each returned or raised."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except VaultError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def failing(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise RuntimeError("the source failed")


# Entry


def test_an_entry_is_a_key_and_the_size_of_what_is_stored_under_it(store: Store) -> None:
    store.put(KEY, [b"four", b"teen bytes"])
    assert list(store.list("")) == [ListedKey(KEY, 14)]


def test_the_time_when_something_was_stored_is_known_where_the_medium_records_it(store: Store) -> None:
    if not isinstance(store, RecordsTimes):
        return
    before = store.clock()
    store.put(KEY, [b"bytes"])
    (found,) = store.stored_at("sites/default/")
    assert found[0] == KEY
    assert abs(found[1] - before) < timedelta(minutes=1)
    assert list(store.stored_at("trash/")) == []


# Staging


def test_a_staging_gets_its_key_when_it_is_complete(store: Store) -> None:
    staging = store.stage()
    for chunk in (b"one ", b"", b"two"):
        staging.write(chunk)
    staging.store(KEY)
    assert store.get(KEY) == b"one two"


def test_an_empty_staging_is_stored_as_nothing_but_is_there(store: Store) -> None:
    store.stage().store(KEY)
    assert (store.get(KEY), list(store.list(""))) == (b"", [ListedKey(KEY, 0)])


def test_stagings_know_nothing_of_each_other(store: Store) -> None:
    first, second = store.stage(), store.stage()
    first.write(b"first")
    second.write(b"second")
    second.store("b")
    first.store("a")
    assert (store.get("a"), store.get("b")) == (b"first", b"second")


def test_what_is_staged_is_not_there_before_it_is_stored(store: Store, place: StorePlace) -> None:
    staging = store.stage()
    staging.write(b"x" * MEBIBYTE)
    assert keys(place.open()) == []
    staging.discard()


def test_storing_a_staging_again_under_its_key_is_success(store: Store) -> None:
    for _ in range(2):
        staging = store.stage()
        staging.write(b"the same")
        staging.store(KEY)
    assert store.get(KEY) == b"the same"


@pytest.mark.parametrize("other", [b"", b"other", b"the sama", b"the same and more"])
def test_storing_a_staging_under_the_key_of_other_bytes_fails_and_they_stay(
    store: Store, other: bytes
) -> None:
    store.put(KEY, [b"the same"])
    staging = store.stage()
    staging.write(other)
    with pytest.raises(KeyExists):
        staging.store(KEY)
    assert store.get(KEY) == b"the same"


def test_a_discarded_staging_leaves_nothing(store: Store) -> None:
    staging = store.stage()
    staging.write(b"x" * MEBIBYTE)
    staging.discard()
    staging.discard()
    assert keys(store) == []


def test_a_forgotten_staging_leaves_nothing(store: Store) -> None:
    staging = store.stage()
    staging.write(b"x" * MEBIBYTE)
    del staging
    gc.collect()
    assert keys(store) == []


# Keys and prefixes


@pytest.mark.parametrize("key", NOT_KEYS)
def test_what_is_no_relative_path_is_no_key(store: Store, key: str) -> None:
    for call in (
        lambda: store.put(key, [b"x"]),
        lambda: store.get(key),
        lambda: list(store.stream(key)),
        lambda: store.replace(key, b"y", b"x"),
        lambda: store.delete(key),
        lambda: store.stage().store(key),
    ):
        with pytest.raises(ValueError, match="not a key"):
            call()


@pytest.mark.parametrize("prefix", ["a", "/", "../", "a/../", "a//", "./", "/a/"])
def test_a_prefix_is_a_directory_and_ends_with_a_slash(store: Store, prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        list(store.list(prefix))


def test_a_prefix_does_not_hold_what_only_begins_like_it(store: Store) -> None:
    for key in ("sites/a/x", "sites/ab/x", "sites/a-b/x", "sites/a.json"):
        store.put(key, [b"x"])
    assert keys(store, "sites/a/") == ["sites/a/x"]


# Every write is seen by the next call of any process; what is stored appears completely or not at all


def test_what_was_written_is_seen_by_others_at_once(store: Store, place: StorePlace) -> None:
    other = place.open()
    store.put(KEY, [b"1"])
    assert (other.get(KEY), keys(other)) == (b"1", [KEY])
    store.replace(KEY, b"22", b"1")
    assert (other.get(KEY), list(other.list(""))) == (b"22", [ListedKey(KEY, 2)])
    store.delete(KEY)
    assert keys(other) == []


@pytest.mark.parametrize("chunks", [[], [b"some"], [b"x" * MEBIBYTE] * 3])
def test_a_put_whose_source_fails_stores_nothing(store: Store, chunks: list[bytes]) -> None:
    with pytest.raises(RuntimeError, match="the source failed"):
        store.put(KEY, failing(*chunks))
    assert keys(store) == []
    with pytest.raises(KeyMissing):
        store.get(KEY)


def test_a_reader_sees_all_of_a_put_or_nothing(store: Store, place: StorePlace) -> None:
    content, done, other = b"x" * (8 * MEBIBYTE), threading.Event(), place.open()
    seen: set[int] = set()

    def look() -> None:
        while not done.is_set():
            seen.update(entry.size for entry in other.list(""))
            try:
                seen.add(len(other.get(KEY)))
            except KeyMissing:
                seen.add(-1)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(4):
            store.put(KEY, [content])
            store.delete(KEY)
            staging = store.stage()
            staging.write(content)
            staging.store(f"{KEY}-{number}")
    finally:
        done.set()
        thread.join()
    assert seen <= {-1, len(content)}


def test_a_reader_sees_the_old_or_the_new_of_a_replace(store: Store, place: StorePlace) -> None:
    old, new, done, other = b"o" * MEBIBYTE, b"n" * (2 * MEBIBYTE), threading.Event(), place.open()
    seen: set[bytes] = set()
    store.put(KEY, [old])

    def look() -> None:
        while not done.is_set():
            seen.add(other.get(KEY))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(10):
            store.replace(KEY, new, old)
            store.replace(KEY, old, new)
    finally:
        done.set()
        thread.join()
    assert seen <= {old, new} or (not place.atomic and set().union(*seen) <= set(b"on"))


# Failures of the medium


def test_failures_of_the_medium_are_store_errors(place: StorePlace) -> None:
    broken = place.broken()
    for call in (
        lambda: broken.put("a", [b"x"]),
        lambda: broken.stage().store("a"),
        lambda: broken.replace("a", b"y", b"x"),
        lambda: broken.get("a"),
        lambda: list(broken.stream("a")),
        lambda: list(broken.list("")),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert not isinstance(caught.value, (KeyMissing, KeyExists, KeyChanged))
        assert caught.value.hint
        assert broken.location in caught.value.message


# location


def test_the_location_is_a_name_for_users_and_the_same_for_all(store: Store, place: StorePlace) -> None:
    assert store.location
    assert store.location == place.open().location


# put


@pytest.mark.parametrize(
    "chunks", [[], [b""], [b"a"], [b"a", b"", b"bc"], [bytes(3 * MEBIBYTE), b"!"]], ids=len
)
def test_put_stores_the_joined_chunks_and_returns_their_length(store: Store, chunks: list[bytes]) -> None:
    assert store.put(KEY, iter(chunks)) == len(b"".join(chunks))
    assert store.get(KEY) == b"".join(chunks)


def test_putting_the_same_bytes_again_is_success(store: Store) -> None:
    assert store.put(KEY, [b"the ", b"same"]) == 8
    assert store.put(KEY, iter([b"the same"])) == 8
    assert store.get(KEY) == b"the same"


@pytest.mark.parametrize("other", [b"", b"other", b"the sama", b"the same and more"])
def test_putting_other_bytes_fails_and_the_first_stay(store: Store, other: bytes) -> None:
    store.put(KEY, [b"the same"])
    with pytest.raises(KeyExists):
        store.put(KEY, iter([other]))
    assert store.get(KEY) == b"the same"


def test_of_many_puts_at_once_one_wins_and_the_others_fail(place: StorePlace) -> None:
    for number in range(10):
        key = f"running/{number}"
        contents = [b"%d" % n * 1000 for n in range(AT_ONCE)]
        outcomes = at_once(*(partial(place.open().put, key, [content]) for content in contents))
        winners = [n for n, outcome in enumerate(outcomes) if outcome == 1000]
        assert len(winners) == 1
        assert sum(isinstance(outcome, KeyExists) for outcome in outcomes) == AT_ONCE - 1
        assert place.open().get(key) == contents[winners[0]]


def test_many_puts_of_the_same_at_once_all_succeed(place: StorePlace) -> None:
    for number in range(10):
        assert (
            at_once(*(partial(place.open().put, f"same/{number}", [b"same"]) for _ in range(AT_ONCE)))
            == [4] * AT_ONCE
        )


# replace


def test_replace_takes_the_place_of_exactly_what_is_expected(store: Store) -> None:
    store.put(KEY, [b"old"])
    store.replace(KEY, b"new", b"old")
    assert (store.get(KEY), list(store.list(""))) == (b"new", [ListedKey(KEY, 3)])


@pytest.mark.parametrize("expected", [b"", b"ol", b"older", b"new"])
def test_replace_of_something_else_fails_and_that_stays(store: Store, expected: bytes) -> None:
    store.put(KEY, [b"old"])
    with pytest.raises(KeyChanged):
        store.replace(KEY, b"new", expected)
    assert store.get(KEY) == b"old"


def test_replace_of_nothing_fails_and_stores_nothing(store: Store) -> None:
    with pytest.raises(KeyMissing):
        store.replace(KEY, b"new", b"old")
    store.put(KEY + "-neighbour", [b"x"])
    with pytest.raises(KeyMissing):
        store.replace(KEY, b"new", b"old")
    assert keys(store) == [KEY + "-neighbour"]


def test_of_many_replaces_at_once_one_wins(place: StorePlace) -> None:
    for number in range(10):
        key = f"running/{number}.json"
        place.open().put(key, [b"stale"])
        outcomes = at_once(*(partial(place.open().replace, key, b"%d" % n, b"stale") for n in range(AT_ONCE)))
        winners = [n for n, outcome in enumerate(outcomes) if outcome is None]
        assert len(winners) == 1
        assert sum(isinstance(outcome, KeyChanged) for outcome in outcomes) == AT_ONCE - 1
        assert place.open().get(key) == b"%d" % winners[0]


# get and stream


@pytest.mark.parametrize("key", [KEY, "meta/ab/" + "ab" * 32, "nothing"])
def test_what_is_not_stored_is_missing(store: Store, key: str) -> None:
    for _ in range(2):
        with pytest.raises(KeyMissing, match=key):
            store.get(key)
        with pytest.raises(KeyMissing, match=key):
            next(iter(store.stream(key)))
        store.put(key + "-neighbour", [b"x"])


def test_a_stream_yields_everything_in_chunks_of_at_most_a_mebibyte(store: Store) -> None:
    content = bytes(range(256)) * (10 * 1024) + b"end"
    store.put(KEY, [content])
    chunks = list(store.stream(KEY))
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= MEBIBYTE
    assert all(chunks)


def test_a_stream_of_nothing_ends(store: Store) -> None:
    store.put(KEY, [])
    assert b"".join(store.stream(KEY)) == b""


# list


def test_the_list_is_in_byte_order_and_has_each_key_once(store: Store) -> None:
    names = [
        "a",
        "a-b/x",
        "a.json",
        "a0/x",
        "a_/x",
        "aa",
        "B/x",
        "b/a/c",
        "b/a-c",
        "b/a.c",
        "b/a0",
        "b/A",
        "b/_",
        "z/9",
        "z/10",
        "Z",
    ]
    for name in names:
        store.put(name, [b"x"])
    assert keys(store) == sorted(names, key=str.encode)
    assert keys(store, "b/") == sorted((name for name in names if name.startswith("b/")), key=str.encode)
    assert keys(store, "b/a/") == ["b/a/c"]


def test_a_thousand_keys_and_more_are_all_listed(store: Store) -> None:
    names = sorted(f"meta/{n % 7:02x}/{n:04}" for n in range(1010))
    for name in names:
        store.put(name, [])
    assert keys(store, "meta/") == names


def test_a_prefix_that_holds_nothing_lists_nothing(store: Store) -> None:
    assert keys(store) == keys(store, "nothing/") == keys(store, "not/a/thing/") == []
    store.put("some/thing", [b"x"])
    assert keys(store, "some/thing/") == keys(store, "some/other/") == []
    store.delete("some/thing")
    assert keys(store) == keys(store, "some/") == []


def test_a_list_goes_on_when_something_is_deleted_meanwhile(store: Store, place: StorePlace) -> None:
    names = [f"{n}/x" for n in range(9)]
    for name in names:
        store.put(name, [b"x"])
    listed = store.list("")
    found = [next(listed).key]
    for name in names[4:8]:
        place.open().delete(name)
    found += [entry.key for entry in listed]
    assert set(found) >= {*names[:4], names[8]}
    assert found == sorted(set(found))


# delete


def test_delete_removes_the_key_and_nothing_else(store: Store) -> None:
    for name in ("a/x", "a/y", "a/x-y"):
        store.put(name, [b"x"])
    store.delete("a/x")
    assert keys(store) == ["a/x-y", "a/y"]
    with pytest.raises(KeyMissing):
        store.get("a/x")


def test_a_deleted_key_can_be_used_again(store: Store) -> None:
    store.put(KEY, [b"one"])
    store.delete(KEY)
    assert store.put(KEY, [b"another"]) == 7
    assert store.get(KEY) == b"another"


@pytest.mark.parametrize("expected", [None, b"something"])
def test_removing_nothing_is_success(store: Store, expected: bytes | None) -> None:
    store.delete(KEY, expected)
    store.put(KEY + "-neighbour", [b"x"])
    store.delete(KEY, expected)
    assert keys(store) == [KEY + "-neighbour"]


def test_delete_removes_exactly_what_is_expected(store: Store) -> None:
    store.put(KEY, [b"mine"])
    store.delete(KEY, b"mine")
    assert keys(store) == []


@pytest.mark.parametrize("expected", [b"", b"min", b"theirs"])
def test_delete_of_something_else_than_expected_fails_and_it_stays(store: Store, expected: bytes) -> None:
    store.put(KEY, [b"mine"])
    with pytest.raises(KeyChanged):
        store.delete(KEY, expected)
    assert store.get(KEY) == b"mine"


def test_delete_and_replace_of_the_same_at_once_have_one_order(place: StorePlace) -> None:
    for number in range(10):
        key = f"running/{number}.json"
        place.open().put(key, [b"stale"])
        deleted, replaced = at_once(
            partial(place.open().delete, key, b"stale"),
            partial(place.open().replace, key, b"fresh", b"stale"),
        )
        if replaced is None:
            assert isinstance(deleted, KeyChanged)
            assert place.open().get(key) == b"fresh"
        else:
            assert (deleted, type(replaced)) == (None, KeyMissing)
            assert key not in keys(place.open(), "running/")


# clock


def test_the_clock_gives_the_time_in_utc(store: Store) -> None:
    now = store.clock()
    assert now.tzinfo == UTC
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)
