"""Stored bytes: plain ``zstd -d`` reads them, no two runs write the same, and any changed byte is found."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from zodb_vault.errors import Damage
from zodb_vault.repository.codec import MOST_WINDOW_LOG, Encoder, decode

RUN = "20260101T000000Z-abcdef"
DISTANCES = pytest.mark.parametrize("long_distance", [False, True], ids=["near", "far"])


def encoded(content: bytes | Iterable[bytes], long_distance: bool = False, run: str = RUN) -> bytes:
    encoder = Encoder(run, long_distance)
    chunks = [content] if isinstance(content, bytes) else content
    return b"".join([encoder.head, *map(encoder.encode, chunks), encoder.finish()])


def decoded(stored: bytes, raw: int | None, size: int = 1 << 20) -> bytes:
    return b"".join(decode((stored[n : n + size] for n in range(0, len(stored), size)), raw, "the name"))


@given(st.lists(st.binary(max_size=3000), max_size=5), st.booleans(), st.integers(1, 400))
@settings(deadline=None)
def test_what_was_encoded_decodes_in_pieces_of_any_size(
    chunks: list[bytes], long_distance: bool, size: int
) -> None:
    content = b"".join(chunks)
    stored = encoded(chunks, long_distance)
    assert decoded(stored, len(content), size) == content
    assert decoded(stored, None, size) == content


@DISTANCES
@pytest.mark.parametrize(
    "content",
    [b"", b"x", random.Random(1).randbytes(300_000), b"page\n" * 200_000],
    ids=["empty", "x", "noise", "pages"],
)
def test_plain_zstd_reads_it(tmp_path: Path, content: bytes, long_distance: bool) -> None:
    path = tmp_path / "object"
    path.write_bytes(encoded(content, long_distance))
    assert subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, check=True).stdout == content
    assert subprocess.run(["zstd", "-tq", str(path)], check=True).returncode == 0


@DISTANCES
def test_the_window_is_no_larger_than_plain_zstd_allows(long_distance: bool) -> None:
    stored = encoded((b"x" * (1 << 20) for _ in range(3)), long_distance)
    mark = 8 + len(RUN)
    assert zstandard.get_frame_parameters(stored[mark:]).window_size <= 1 << 27
    assert zstandard.get_frame_parameters(stored[mark:]).has_checksum


def test_repetitions_in_the_storage_are_found_at_a_distance() -> None:
    noise = random.Random(1).randbytes(12 << 20)
    assert len(encoded([noise, noise], long_distance=True)) < 1.05 * len(noise)


def test_a_larger_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=MOST_WINDOW_LOG + 1, write_content_size=False
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    head = Encoder(RUN, long_distance=False).head
    with pytest.raises(Damage):
        decoded(head + stream.compress(b"x") + stream.flush(), 1)


def test_two_runs_never_write_the_same_bytes() -> None:
    assert encoded(b"content") == encoded(b"content")
    assert encoded(b"content") != encoded(b"content", run="20260101T000000Z-abcde0")
    assert RUN.encode() in encoded(b"content")[: 8 + len(RUN)]


@DISTANCES
@pytest.mark.parametrize("raw_is_known", [True, False])
def test_any_flipped_bit_of_the_content_is_found(long_distance: bool, raw_is_known: bool) -> None:
    content = b"some content, some content and " + random.Random(2).randbytes(60)
    stored = encoded(content, long_distance)
    for n in range(8 + len(RUN), len(stored)):
        for bit in range(8):
            changed = bytearray(stored)
            changed[n] ^= 1 << bit
            try:
                found = decoded(bytes(changed), len(content) if raw_is_known else None)
            except Damage as error:
                assert "the name" in error.message
            else:
                assert found == content  # bits of the frame's header that mean nothing


@pytest.mark.parametrize("content", [b"", b"x" * 1000])
def test_what_is_truncated_or_longer_is_damage(content: bytes) -> None:
    stored = encoded(content)
    wrong = [stored[:n] for n in range(len(stored))] + [
        stored + b"x",
        stored + stored,
        stored[8:],
        b"x" + stored,
    ]
    for changed in wrong:
        for size in (1 << 20, 5):
            with pytest.raises(Damage):
                decoded(changed, len(content), size)


@pytest.mark.parametrize("raw", [0, 9, 11])
def test_content_of_another_length_than_noted_is_damage(raw: int) -> None:
    with pytest.raises(Damage):
        decoded(encoded(b"0123456789"), raw)


def test_content_much_longer_than_noted_is_not_decoded_to_its_end() -> None:
    """A small object that decodes to terabytes must not fill the memory or the disk."""
    stored = encoded(bytes(1 << 20) for _ in range(200))
    seen = 0
    with pytest.raises(Damage):
        for chunk in decode((stored[n : n + 1024] for n in range(0, len(stored), 1024)), 1 << 20, "x"):
            seen += len(chunk)
    assert seen <= 1 << 20


@pytest.mark.parametrize("mark", [b"", b"x" * 255])
def test_marks_of_any_length_are_passed_over(mark: bytes) -> None:
    head = b"\x50\x2a\x4d\x18" + len(mark).to_bytes(4, "little") + mark
    body = encoded(b"content")[8 + len(RUN) :]
    for size in (1, 7, 300, 1 << 20):
        assert decoded(head + body, 7, size) == b"content"
