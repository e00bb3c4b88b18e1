"""Canonical JSON: equal documents give equal bytes, ``sed`` can split them, any change is detected."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.errors import Damage
from zodb_vault.model import canonical
from zodb_vault.model.manifest import Part, RepositoryInfo

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
DOCUMENTS = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXTS.filter(lambda key: key != "self_sha256"), DOCUMENTS, min_size=1, max_size=5)
INFO = RepositoryInfo(id="ab", created="2026-01-01T00:00:00Z", recovery="cd", requires=["one", "two"])


@given(OBJECTS)
def test_the_digest_is_added_to_the_document(document: dict[str, Any]) -> None:
    data = canonical.check_digest(canonical.with_digest(document), "x")
    decoded = json.loads(data)
    assert (
        decoded.pop("self_sha256")
        == hashlib.sha256(b"".join(data.splitlines(keepends=True)[:-1])).hexdigest()
    )
    assert decoded == document


@given(OBJECTS)
def test_keys_are_sorted_at_every_depth_and_their_order_before_does_not_count(
    document: dict[str, Any],
) -> None:
    def reverse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reverse(value[key]) for key in reversed(list(value))}
        return [reverse(entry) for entry in value] if isinstance(value, list) else value

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert [key for key, _ in pairs] == sorted(key for key, _ in pairs)
        return dict(pairs)

    data = canonical.encode(document)
    assert data == canonical.encode(reverse(document))
    json.loads(data, object_pairs_hook=check)


@given(
    st.lists(st.dictionaries(TEXTS, PLAIN, max_size=3) | st.lists(PLAIN, max_size=3), min_size=1, max_size=6)
)
def test_every_entry_of_a_list_of_objects_or_rows_is_on_its_own_line(entries: list[Any]) -> None:
    lines = canonical.encode({"entries": entries}).decode().split("\n")
    assert lines[0] == '{"entries":['
    assert lines[-2:] == ["]}", ""]
    assert [json.loads(line.removesuffix(",")) for line in lines[1:-2]] == entries


def test_a_list_of_plain_values_stays_on_its_line() -> None:
    assert canonical.encode({"seen": ["a", "b"], "none": []}) == b'{"none":[],"seen":["a","b"]}\n'


def test_parts_in_lists_in_objects_each_have_a_line() -> None:
    part = Part(object="ab", raw=1, stored=2, to="main/Data.fs")
    data = canonical.encode({"segments": [{"parts": [part, part], "start": 0}]})
    line = b'{"codec":"zstd","object":"ab","raw":1,"stored":2,"to":"main/Data.fs"}'
    assert data == b'{"segments":[\n{"parts":[\n' + line + b",\n" + line + b'\n],"start":0}\n]}\n'


def test_rows_are_the_same_as_encoding_them() -> None:
    rows = [["0x01", 1], ["0x02", 2]]
    lines = [b'["0x01",1]', b'["0x02",2]']
    assert canonical.rows("tids", lines) == canonical.encode({"kind": "tids", "rows": rows})


@given(st.text(max_size=20))
def test_any_text_can_be_encoded_even_what_is_no_utf_8(text: str) -> None:
    decoded = json.loads(canonical.encode({"path": text, text: ["x"]}).decode("utf-8"))
    assert decoded["path"] == text.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_any_flipped_byte_is_damage(mask: int) -> None:
    data = canonical.with_digest(INFO)
    for n in range(len(data)):
        changed = bytearray(data)
        changed[n] ^= mask
        with pytest.raises(Damage, match="the name"):
            canonical.check_digest(bytes(changed), "the name")


def test_anything_truncated_or_added_is_damage() -> None:
    data = canonical.with_digest(INFO)
    changed = [data[:n] for n in range(len(data))] + [data[n:] for n in range(1, len(data))]
    for wrong in [*changed, data + b"\n", data + b"x", b"x" + data, data + data, b"", bytes(len(data))]:
        with pytest.raises(Damage):
            canonical.check_digest(wrong, "x")


def test_the_digest_is_what_the_shell_computes(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.write_bytes(canonical.with_digest(INFO))
    done = subprocess.run(
        ["sh", "-c", "sed '$d' \"$1\" | sha256sum", "sh", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[0] == json.loads(path.read_text())["self_sha256"]
