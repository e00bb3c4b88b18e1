"""Packs as ``tarfile`` and the program ``tar`` read them, and our own reading of single members."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import site_factory
from hypothesis import given
from hypothesis import strategies as st

from zodb_vault.blobs.layout import bushy
from zodb_vault.blobs.packs import BLOCK, Member, PackWriter, member_length, read_members, tar_header
from zodb_vault.errors import Damage, SourceChanged

SIZES = [0, 1, 511, 512, 513, 1024, 5000, 100_000]
TID = b"\x04" + bytes(7)


def pack(contents: list[bytes], mtime: int = 1_700_000_000) -> tuple[bytes, list[Member]]:
    """Return a pack of these blobs, with OIDs 0, 1, 2, ..., and its index."""
    out = io.BytesIO()
    writer = PackWriter(out.write)
    for number, content in enumerate(contents):
        pieces = [content[start : start + 700] for start in range(0, len(content), 700)]
        assert writer.add(number.to_bytes(8, "big"), TID, len(content), mtime, pieces) == writer.members[-1]
    writer.finish()
    assert writer.offset == len(out.getvalue())
    return out.getvalue(), writer.members


def contents() -> list[bytes]:
    return [site_factory.noise(size, size) for size in SIZES]


def test_a_pack_is_what_tarfile_reads() -> None:
    data, index = pack(contents())
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        found = archive.getmembers()
        assert [m.name for m in found] == [
            bushy(number.to_bytes(8, "big"), TID) for number in range(len(SIZES))
        ]
        assert [m.size for m in found] == SIZES
        assert [(m.offset_data, m.size) for m in found] == [(m.offset, m.size) for m in index]
        assert {(m.mode, m.uid, m.gid, m.mtime, m.type) for m in found} == {
            (0o444, 0, 0, 1_700_000_000, tarfile.REGTYPE)
        }
        for m, content in zip(found, contents(), strict=True):
            stream = archive.extractfile(m)
            assert stream is not None
            assert stream.read() == content
    assert [m.sha256 for m in index] == [hashlib.sha256(content).hexdigest() for content in contents()]


def test_the_program_tar_makes_a_blob_directory_of_it(tmp_path: Path) -> None:
    data, _index = pack(contents())
    done = subprocess.run(
        ["tar", "-x", "-f", "-"], input=data, cwd=tmp_path, check=False, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    for number, content in enumerate(contents()):
        path = tmp_path / bushy(number.to_bytes(8, "big"), TID)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o444
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(SIZES)


def test_packs_joined_by_cat_are_extracted_with_ignore_zeros(tmp_path: Path) -> None:
    one, two = pack(contents())[0], io.BytesIO()
    writer = PackWriter(two.write)
    writer.add(b"\1" * 8, TID, 3, 0, [b"two"])
    writer.finish()
    subprocess.run(["tar", "-x", "-i", "-f", "-"], input=one + two.getvalue(), cwd=tmp_path, check=True)
    assert (tmp_path / bushy(b"\1" * 8, TID)).read_bytes() == b"two"


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11, 8 << 30, 2**40 + 1, 2**63])
@pytest.mark.parametrize("mtime", [0, 1, 1_700_000_000, 8**11 - 1, 8**11, 2**62, -5])
def test_a_header_says_every_size_and_time(size: int, mtime: int) -> None:
    block = tar_header("name", size, mtime)
    assert len(block) == BLOCK
    info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    assert (info.name, info.size, info.mtime) == ("name", size, min(max(0, mtime), 8**11 - 1))


def test_a_blob_of_more_than_8_gib_is_listed_by_the_program_tar() -> None:
    size = 9 << 30
    done = subprocess.run(
        ["tar", "-t", "-v", "-f", "-"],
        input=tar_header(bushy(bytes(8), TID), size, 0),
        check=False,
        capture_output=True,
        text=False,
    )
    assert str(size).encode() in done.stdout


def test_every_name_fits_into_a_header() -> None:
    assert tarfile.TarInfo.frombuf(
        tar_header(bushy(b"\xff" * 8, b"\xff" * 8), 0, 0), "ascii", "strict"
    ).name == bushy(b"\xff" * 8, b"\xff" * 8)


@pytest.mark.parametrize("size", [4, 6, 0])
def test_a_blob_of_another_length_than_it_said_is_noticed(size: int) -> None:
    with pytest.raises(SourceChanged, match=f"changed from {size} to 5 bytes"):
        PackWriter(lambda _data: None).add(bytes(8), TID, size, 0, [b"12345"])


@given(st.lists(st.integers(0, 3000), max_size=10))
def test_room_is_what_a_member_takes(sizes: list[int]) -> None:
    data, _index = pack([bytes(size) for size in sizes])
    assert len(data) == sum(member_length(size) for size in sizes) + 2 * BLOCK


def cut(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=8), st.integers(1, 3000), st.data())
def test_wanted_members_are_read_in_one_pass(blobs: list[bytes], size: int, data: st.DataObject) -> None:
    tar, index = pack(blobs)
    wanted = data.draw(st.sets(st.sampled_from(index)))
    chunks = cut(tar, size)
    found = {
        int(m.oid, 16): b"".join(content) for m, content in read_members(index, chunks, wanted.__contains__)
    }
    assert found == {int(m.oid, 16): blobs[int(m.oid, 16)] for m in wanted}
    assert next(chunks, None) is None  # read to its end: only there is its digest checked


@given(st.integers(0, 3000))
def test_a_short_pack_gives_short_content_or_is_damage(length: int) -> None:
    blobs = [site_factory.noise(700, 1), site_factory.noise(900, 2)]
    tar, index = pack(blobs)
    found = []
    try:
        for _m, content in read_members(index, cut(tar[:length], 100), lambda _m: True):
            found.append(b"".join(content))
    except Damage:
        assert length < index[len(found)].offset
    assert found == [
        tar[m.offset : min(length, m.offset + m.size)] for m in index if m.offset - 376 <= length
    ]  # its header, up to the length


@pytest.mark.parametrize(
    "change", [{"oid": "0x" + 16 * "1"}, {"tid": "0x" + 16 * "1"}, {"size": 701}, {"offset": 1024}]
)
def test_an_index_that_does_not_fit_the_pack_is_damage(change: dict[str, Any]) -> None:
    tar, index = pack([site_factory.noise(700)])
    with pytest.raises(Damage, match="has no blob"):
        list(read_members([msgspec.structs.replace(index[0], **change)], iter([tar]), lambda _m: True))


def test_of_a_live_index_the_dead_members_are_passed_over() -> None:
    tar, index = pack(contents())
    live = index[2::3]
    found = [(m, b"".join(content)) for m, content in read_members(live, cut(tar, 999), lambda _m: True)]
    assert found == [(m, contents()[int(m.oid, 16)]) for m in live]
