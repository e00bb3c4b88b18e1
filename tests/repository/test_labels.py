"""Facts about a backup are what its labels say together, in the order of their names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.model.manifest import Label
from zodb_vault.repository.labels import LabelFacts, Verified, fold, superseded


def label(fact: str, value: Any) -> Label:
    return Label(fact=fact, value=value, at="2026-01-01T00:00:00Z")


def test_no_labels_say_nothing() -> None:
    assert fold([]) == LabelFacts()


@pytest.mark.parametrize("fact", ["name", "note", "pinned", "accept-missing", "accept-history"])
def test_of_a_single_fact_the_last_one_holds(fact: str) -> None:
    facts = fold(
        [label(fact, "first"), label("note" if fact != "note" else "name", "between"), label(fact, "last")]
    )
    assert getattr(facts, fact.replace("-", "_")) == "last"


def test_what_was_set_can_be_taken_back() -> None:
    assert (
        fold([label("pinned", True), label("pinned", False), label("name", "x"), label("name", None)])
        == LabelFacts()
    )


def test_every_verification_and_every_restore_is_kept() -> None:
    one, two = {"level": "bytes", "ok": True, "at": "a"}, {"level": "records", "ok": False, "at": "b"}
    facts = fold(
        [
            label("verified", one),
            label("restored", {"at": "c"}),
            label("verified", two),
            label("restored", {"at": "d"}),
        ]
    )
    assert facts.verified == [Verified("bytes", True, "a"), Verified("records", False, "b")]
    assert facts.restored == [{"at": "c"}, {"at": "d"}]


def verified(level: str, *, ok: bool, **more: Any) -> Label:
    return label("verified", {"level": level, "ok": ok, "at": "2026-01-01T00:00:00Z"} | more)


def test_u2_only_a_complete_verification_of_the_same_or_a_higher_level_clears_a_failure() -> None:
    failure = verified("records", ok=False)
    for later, clears in (
        (verified("records", ok=True), True),
        (verified("restore", ok=True), True),
        (verified("bytes", ok=True), False),
        (verified("records", ok=True, share=0.05), False),
        (verified("other", ok=True), False),
    ):
        assert (not fold([failure, later]).open_failures) is clears
    assert fold([verified("restore", ok=True), failure]).open_failures
    assert not fold([verified("bytes", ok=False, scope="objects")]).open_failures


def test_u2_the_strongest_level_that_passed_is_known() -> None:
    facts = fold([verified("restore", ok=True), verified("bytes", ok=True), verified("records", ok=False)])
    assert facts.proven is not None
    assert facts.proven.level == "restore"
    assert fold([verified("bytes", ok=False)]).proven is None


def test_u2_a_sample_replaces_no_label_of_a_complete_verification() -> None:
    labels = {"a": verified("bytes", ok=False), "b": verified("bytes", ok=True, share=0.1)}
    assert superseded(labels) == []
    assert superseded(labels | {"c": verified("bytes", ok=True)}) == ["a"]


def test_facts_of_later_versions_are_passed_over() -> None:
    verified = label("verified", {"level": "x", "ok": True, "at": "", "by": "me"})
    facts = fold([label("mood", "good"), label("__class__", "x"), label("name", "kept"), verified])
    assert (facts.name, len(facts.verified)) == ("kept", 1)


def test_folding_twice_does_not_add_up() -> None:
    labels = [label("verified", {"level": "bytes", "ok": True, "at": "a"})]
    assert fold(labels) == fold(labels)
    assert fold([]).verified == []


@given(
    st.lists(
        st.sampled_from(["name", "note"]).flatmap(lambda fact: st.tuples(st.just(fact), st.text(max_size=3)))
    )
)
def test_two_kinds_of_facts_do_not_touch_each_other(facts: list[tuple[str, str]]) -> None:
    found = fold(label(*fact) for fact in facts)
    for kind in ("name", "note"):
        assert getattr(found, kind) == next((value for name, value in reversed(facts) if name == kind), None)
