"""Encode content to stored bytes and decode it: a zstd skippable frame, then one zstd frame.

The skippable frame (RFC 8878, section 3.1.2) holds the id of the run. It makes the bytes of two runs differ,
so that they never share a key; ``zstd -d`` skips it. The window is at most 2**27 bytes, the largest that
``zstd -d`` reads without an option.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

import zstandard

from ..errors import Damage

# Levels by measurement: long-distance matching saves more bytes than a higher level without it, in a fraction
# of the time.
NEAR_LEVEL: Final = 3
LONG_DISTANCE_LEVEL: Final = 1
SKIPPABLE: Final = Struct("<II")
SKIPPABLE_MAGIC: Final = 0x184D2A50
MOST_MARK: Final = 255
MOST_WINDOW_LOG: Final = 27
# Long-distance matching finds the repetitions of a history-keeping Data.fs; 32 MiB of window keep two workers
# in the memory budget.
STORAGE_WINDOW_LOG: Final = 25


@functools.cache
def _parameters(long_distance: bool) -> zstandard.ZstdCompressionParameters:
    if long_distance:
        return zstandard.ZstdCompressionParameters.from_level(
            LONG_DISTANCE_LEVEL,
            window_log=STORAGE_WINDOW_LOG,
            enable_ldm=True,
            write_checksum=True,
            write_content_size=False,
        )
    return zstandard.ZstdCompressionParameters.from_level(
        NEAR_LEVEL, write_checksum=True, write_content_size=False
    )


class Encoder:
    """Encodes one object; ``long_distance`` looks for repetitions at a distance (Data.fs)."""

    def __init__(self, run: str, long_distance: bool) -> None:
        mark = run.encode("ascii")
        self.head = SKIPPABLE.pack(SKIPPABLE_MAGIC, len(mark)) + mark
        self._stream = zstandard.ZstdCompressor(compression_params=_parameters(long_distance)).compressobj()

    def encode(self, data: bytes | memoryview) -> bytes:
        """Take ``data`` and return the encoded bytes that are ready."""
        return self._stream.compress(data)

    def finish(self) -> bytes:
        """Return the remaining encoded bytes."""
        return self._stream.flush()


def decode(chunks: Iterable[bytes | memoryview], raw: int | None, name: str) -> Iterator[bytes]:
    """Decode stored bytes and yield the content.

    Raise Damage, with the ``name`` of the object, when they do not decode to ``raw`` bytes (None: any
    length).
    """
    stream = zstandard.ZstdDecompressor(max_window_size=1 << MOST_WINDOW_LOG).decompressobj()
    size = 0
    for chunk in _after_mark(iter(chunks), name):
        try:
            data = stream.decompress(chunk)
        except zstandard.ZstdError as error:
            raise Damage(f"object {name} does not decode: {error}") from None
        size += len(data)
        if raw is not None and size > raw:
            break
        if data:
            yield data
    if not stream.eof or stream.unused_data or size != (size if raw is None else raw):
        raise Damage(f"object {name} does not decode to the bytes it was made from")


def _after_mark(chunks: Iterator[bytes | memoryview], name: str) -> Iterator[bytes | memoryview]:
    """Yield what follows the skippable frame; raise Damage when there is none."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= SKIPPABLE.size + MOST_MARK:
            break
    magic, length = SKIPPABLE.unpack_from(head) if len(head) >= SKIPPABLE.size else (0, 0)
    if magic != SKIPPABLE_MAGIC or SKIPPABLE.size + length > len(head):
        raise Damage(f"object {name} does not begin with a zstd skippable frame")
    yield head[SKIPPABLE.size + length :]
    yield from chunks
