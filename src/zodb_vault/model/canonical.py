"""The canonical form of the JSON files of a repository: it shows a flipped byte, and ``sed`` can read it.

Keys are sorted, nothing is indented, and every entry of a list of objects or rows has a line of its own. The
last line of a document with a digest contains the SHA-256 of all lines before it::

    sed '$d' manifest.json | sha256sum
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from ..errors import Damage

T = TypeVar("T")

DIGEST_LINE = re.compile(rb'"self_sha256":"([0-9a-f]{64})"\}\n\Z')
DIGEST_LINE_LENGTH = len('"self_sha256":""}\n') + 64


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a document (structs allowed), with a newline at the end.

    Bytes of a path that are not UTF-8 are escaped.
    """
    plain = msgspec.to_builtins(value)
    try:
        return b"".join(_tokens(plain)) + b"\n"
    except UnicodeEncodeError:
        return b"".join(_tokens(escaped(plain))) + b"\n"


def escaped(value: Any) -> Any:
    """Return a document of plain types whose texts can all be encoded: lone surrogates become escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {escaped(key): escaped(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(entry) for entry in value]
    return value


def with_digest(value: Any) -> bytes:
    """Return the canonical bytes of a document with its own digest as the last line."""
    body = encode(value)[:-2] + b",\n"
    return body + b'"self_sha256":"%s"}\n' % hashlib.sha256(body).hexdigest().encode()


def check_digest(data: bytes, name: str) -> bytes:
    """Return ``data`` after checking its digest.

    Raise Damage, with the ``name`` of the file, when a byte has changed.
    """
    match = DIGEST_LINE.search(data)
    if match is None or hashlib.sha256(data[:-DIGEST_LINE_LENGTH]).hexdigest().encode() != match.group(1):
        raise Damage(f"{name} is damaged: its content does not match its own digest")
    return data


def decode(data: bytes, kind: type[T], name: str) -> T:
    """Return the content of a document; keys that ``kind`` does not have are ignored.

    Raise Damage, with the ``name`` of the document, when it does not have the form of ``kind``.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # RecursionError: an attacker nested thousands of lists
        raise Damage(f"{name} does not have the expected form: {error}") from None


def rows(kind: str, lines: Sequence[bytes]) -> bytes:
    """Return a document of rows that are already encoded, one per line: the fast path for long lists."""
    return b'{"kind":"%s","rows":[\n' % kind.encode() + b",\n".join(lines) + b"\n]}\n"


def _tokens(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        yield b"{"
        for n, key in enumerate(sorted(value)):
            yield (b"," if n else b"") + msgspec.json.encode(key) + b":"
            yield from _tokens(value[key])
        yield b"}"
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        yield b"[\n"
        for n, entry in enumerate(value):
            yield b",\n" if n else b""
            yield from _tokens(entry)
        yield b"\n]"
    else:
        yield msgspec.json.encode(value)
