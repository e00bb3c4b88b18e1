"""Paths of blobs and the layout of a directory, as ZODB has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import site_factory
from hypothesis import given
from hypothesis import strategies as st
from ZODB import blob as zodb

from zodb_vault.blobs.layout import LAYOUTS, detect
from zodb_vault.errors import ConfigurationError

IDS = st.binary(min_size=8, max_size=8)


@pytest.mark.parametrize("name", LAYOUTS)
@given(oid=IDS, tid=IDS)
def test_paths_are_those_of_zodb(name: str, oid: bytes, tid: bytes) -> None:
    assert LAYOUTS[name](oid, tid) == zodb.LAYOUTS[name].getBlobFilePath(oid, tid)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "oid", [bytes(8), bytes(7) + b"\1", bytes(6) + b"\1\0", b"\xff" * 8, b"\0\x10" + bytes(6)]
)
def test_paths_of_the_ends_of_the_range_are_those_of_zodb(name: str, oid: bytes) -> None:
    assert LAYOUTS[name](oid, bytes(8)) == zodb.LAYOUTS[name].getBlobFilePath(oid, bytes(8))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_of_a_site_is_found(tmp_path: Path, name: str) -> None:
    files = site_factory.populate(tmp_path, name)
    assert detect(files.blob_dir) == name


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("temporary", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_without_a_marker_the_layout_is_what_zodb_says(
    tmp_path: Path, used: bool, temporary: bool, hidden: bool
) -> None:
    for name, there in (("0x01", used), ("tmp", temporary), (".snapshot", hidden)):
        if there:
            (tmp_path / name).mkdir()
    before = sorted(tmp_path.iterdir())
    found = detect(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert found == zodb.auto_layout_select(str(tmp_path))


@pytest.mark.parametrize("text", ["zeocache", "zeocache\n"])
def test_a_cache_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ".layout").write_text(text)
    with pytest.raises(ConfigurationError, match="is a blob cache") as caught:
        detect(tmp_path)
    assert "contains all blobs" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"other", b"bushy lawn", b"\xff\xfe", b"BUSHY"])
def test_an_unknown_layout_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".layout").write_bytes(content)
    with pytest.raises(ConfigurationError, match="has the unknown layout"):
        detect(tmp_path)


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, says in (
        ("file", "is not a directory"),
        ("absent", "does not exist"),
        ("dangling", "does not exist"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            detect(tmp_path / name)


def test_a_link_to_a_blob_directory_is_one(tmp_path: Path) -> None:
    files = site_factory.only_root(tmp_path / "site")
    os.symlink(files.blob_dir, tmp_path / "link")
    assert detect(tmp_path / "link") == "bushy"
