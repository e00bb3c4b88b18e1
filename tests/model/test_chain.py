"""A chain is a list: it always holds what a plain list would hold, in a manifest that stays small."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zodb_vault.errors import Damage
from zodb_vault.model import canonical, chain
from zodb_vault.model.chain import Chain
from zodb_vault.model.manifest import DataFs, DocumentRef, Part, Segment


class Memory:
    """Documents in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.loads = 0

    def put_document(self, data: bytes) -> DocumentRef:
        name = hashlib.sha256(data).hexdigest()
        self.stored[name] = data
        return DocumentRef(meta=name, stored=len(data))

    def document(self, name: str) -> bytes:
        self.loads += 1
        if name not in self.stored:
            raise Damage(f"{name} is missing")
        return self.stored[name]


def segment(number: int) -> Segment:
    return Segment(
        start=number * 100,
        end=number * 100 + 100,
        sha256=f"{number:064x}",
        transactions=1,
        first_tid=f"0x{number:016x}",
        last_tid=f"0x{number:016x}",
        tail_start=number * 100,
        tail_digest=f"{number:064x}",
        parts=[Part(object=f"{number:064x}", raw=100, stored=50, to="main/Data.fs")],
    )


def segments(count: int, first: int = 0) -> list[Segment]:
    return [segment(first + number) for number in range(count)]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "TAIL_LIMIT", 6)
    monkeypatch.setattr(chain, "TAIL_KEPT", 3)
    monkeypatch.setattr(chain, "LIST_LIMIT", 5)


@pytest.fixture(autouse=True, scope="module")
def limits() -> Iterator[None]:
    """Hypothesis needs small limits for a complete test, not for one of its examples."""
    before = chain.TAIL_LIMIT, chain.TAIL_KEPT, chain.LIST_LIMIT
    yield
    after = chain.TAIL_LIMIT, chain.TAIL_KEPT, chain.LIST_LIMIT
    assert before == after


Operation = Callable[[Chain[Segment], list[Segment]], tuple[Chain[Segment], list[Segment]]]


def plus(count: int) -> Operation:
    def apply(found: Chain[Segment], model: list[Segment]) -> tuple[Chain[Segment], list[Segment]]:
        more = segments(count, len(model) + 1000)
        return found.extended(more), model + more

    return apply


def first(share: float) -> Operation:
    def apply(found: Chain[Segment], model: list[Segment]) -> tuple[Chain[Segment], list[Segment]]:
        count = round(share * len(model))
        return found.first(count), model[:count]

    return apply


def dropped(every: int) -> Operation:
    def change(entry: Segment) -> Segment | None:
        return entry if entry.start // 100 % every else None

    return lambda found, model: (found.mapped(change), [new for entry in model if (new := change(entry))])


def changed(every: int) -> Operation:
    def change(entry: Segment) -> Segment | None:
        return segment(entry.start // 100 + 5000) if entry.start // 100 % every == 1 else entry

    return lambda found, model: (found.mapped(change), [new for entry in model if (new := change(entry))])


def changed_at(share: float) -> Operation:
    def apply(found: Chain[Segment], model: list[Segment]) -> tuple[Chain[Segment], list[Segment]]:
        chosen = model[int(share * len(model))] if model else None
        return found.mapped(lambda entry: None if entry is chosen or entry == chosen else entry), [
            entry for entry in model if entry != chosen
        ]

    return apply


def sealed(found: Chain[Segment], model: list[Segment]) -> tuple[Chain[Segment], list[Segment]]:
    done = found.with_short_tail()
    assert len(done.tail) <= chain.TAIL_LIMIT
    assert all(0 < ref.count <= chain.LIST_LIMIT for ref in done.lists)
    return done, model


def with_tail(count: int) -> Operation:
    def apply(found: Chain[Segment], model: list[Segment]) -> tuple[Chain[Segment], list[Segment]]:
        tail = segments(count, 9000)
        return found.with_tail(tail), model[: len(model) - len(found.tail)] + tail

    return apply


OPERATIONS = st.one_of(
    st.integers(0, 12).map(plus),
    st.floats(0, 1).map(first),
    st.integers(2, 7).map(dropped),
    st.integers(2, 9).map(changed),
    st.just(sealed),
    st.just(sealed),
    st.integers(0, 4).map(with_tail),
    st.floats(0, 0.99).map(changed_at),
)


@given(st.lists(OPERATIONS, max_size=14))
@settings(max_examples=200, deadline=None)
def test_any_sequence_of_operations_equals_a_plain_list(operations: list[Operation]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("TAIL_LIMIT", 6), ("TAIL_KEPT", 3), ("LIST_LIMIT", 5)):
            patched.setattr(chain, name, value)
        found, model = Chain(Segment, Memory()), list[Segment]()
        for operation in operations:
            before, was = found, list(found)
            found, model = operation(found, model)
            assert list(found) == model
            assert list(reversed(found)) == model[::-1]
            assert (len(found), found.raw) == (len(model), sum(entry.raw for entry in model))
            assert list(before) == was, "a chain is never changed in place"


def test_lists_are_shared_by_all_that_contain_them_whole(small_limits: None) -> None:
    memory = Memory()
    first_one = Chain(Segment, memory).extended(segments(30)).with_short_tail()
    known = set(memory.stored)
    second = first_one.extended(segments(3, 30)).with_short_tail()
    shared = [ref for ref in second.lists if ref.list in {one.list for one in first_one.lists}]
    assert len(shared) >= len(first_one.lists) - 1
    assert len(set(memory.stored) - known) <= 1


def test_mapping_writes_nothing_where_nothing_changes(small_limits: None) -> None:
    memory = Memory()
    found = Chain(Segment, memory).extended(segments(30)).with_short_tail()
    known = dict(memory.stored)
    same = found.mapped(lambda entry: entry)
    assert (same.lists, same.tail, memory.stored) == (found.lists, found.tail, known)
    cut = found.first(found.lists[0].count + 2)
    assert cut.lists == found.lists[:1]
    memory.loads = 0
    whole = found.first(found.lists[0].count)
    assert (whole.lists, whole.tail, memory.loads) == (found.lists[:1], [], 0)
    assert memory.stored == known


def test_what_follows_a_change_keeps_its_place(small_limits: None) -> None:
    model = segments(30)
    found = Chain(Segment, Memory()).extended(model).with_short_tail()
    assert len(found.lists) > 2
    for gone in (0, 7, 29):
        assert list(found.mapped(partial(_without, gone))) == model[:gone] + model[gone + 1 :]


def test_the_sizes_of_a_list_are_those_of_its_entries(small_limits: None) -> None:
    memory = Memory()
    found = Chain(Segment, memory).extended(segments(20)).with_short_tail()
    for ref in found.lists:
        entries = chain.load_list(Segment, memory, ref)
        assert (ref.count, ref.raw) == (len(entries), 100 * len(entries))
        assert ref.stored == len(memory.stored[ref.list]) + 50 * len(entries)


def test_a_manifest_stays_small_for_twenty_thousand_segments() -> None:
    memory = Memory()
    found = Chain(Segment, memory)
    for start in range(0, 20_000, 400):
        found = found.extended(segments(400, start)).with_short_tail()
    assert [entry.start for entry in found] == [n * 100 for n in range(20_000)]
    manifest = canonical.encode(
        DataFs(end=2_000_000, transactions=20_000, lists=found.lists, tail=found.tail)
    )
    assert len(manifest) < 64 << 10
    assert len(found.lists) <= 20_000 // 256


def test_the_lists_of_many_small_backups_are_written_about_once() -> None:
    memory = Memory()
    found = Chain(Segment, memory)
    for number in range(2_000):
        found = found.extended([segment(number)]).with_short_tail()
    once = len(canonical.encode({"entries": segments(2_000)}))
    assert sum(map(len, memory.stored.values())) < 10 * once


def test_walking_backwards_loads_only_what_is_asked_for(small_limits: None) -> None:
    memory = Memory()
    found = Chain(Segment, memory).extended(segments(60)).with_short_tail()
    backwards = reversed(found)
    assert next(backwards) == segment(59)
    assert memory.loads == 0
    for _ in found.tail:
        next(backwards)
    assert memory.loads == 1


def test_a_missing_list_is_damage(small_limits: None) -> None:
    memory = Memory()
    found = Chain(Segment, memory).extended(segments(20)).with_short_tail()
    memory.stored.clear()
    with pytest.raises(Damage):
        list(found)


@pytest.mark.parametrize("content", [b"not json", b"[]", b'{"entries": 5}', b'{"entries": [{"first": 1}]}'])
def test_a_list_of_another_form_is_damage(content: bytes) -> None:
    memory = Memory()
    ref = chain.store_list(memory, [segment(1)])
    memory.stored[ref.list] = content
    with pytest.raises(Damage, match=ref.list):
        chain.load_list(Segment, memory, ref)


def test_an_unknown_key_in_a_list_is_passed_over(small_limits: None) -> None:
    memory = Memory()
    plain: Any = {"entries": [{**_plain(segment(1)), "later": True}], "later": {}}
    meta = memory.put_document(canonical.encode(plain))
    ref = chain.store_list(memory, [segment(1)])
    found = chain.load_list(Segment, memory, type(ref)(list=meta.meta, count=1, stored=1, raw=100))
    assert found == [segment(1)]


def _without(gone: int, entry: Segment) -> Segment | None:
    return None if entry.start == gone * 100 else entry


def _plain(value: Any) -> dict[str, Any]:
    import msgspec

    done: dict[str, Any] = msgspec.to_builtins(value)
    return done
