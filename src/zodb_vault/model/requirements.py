"""The Python packages and programs that a backend needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Package(NamedTuple):
    """A package: its module, the names of its distributions, and the oldest version that works.

    ``extra`` is the extra of zodb-vault that installs it, ``python`` the oldest Python that it runs on.
    """

    module: str
    distributions: tuple[str, ...]
    version: str
    extra: str = ""
    python: tuple[int, int] = (3, 11)


class Requirements(NamedTuple):
    """The requirements of a database.

    ``packages`` open its storage. ``drivers`` and ``tools`` back it up; a tool has several possible names.
    """

    packages: tuple[Package, ...] = ()
    drivers: tuple[Package, ...] = ()
    tools: tuple[tuple[str, ...], ...] = ()


ZODB: Final = Package("ZODB", ("ZODB",), "5.8")
BOTO3: Final = Package("boto3", ("boto3",), "1.36", "s3")
ZLIBSTORAGE: Final = Package("zc.zlibstorage", ("zc.zlibstorage",), "1.0")
# The sections that wrap a storage, as ``Database.wrappers`` names them.
WRAPPERS: Final[Mapping[str, Package]] = {
    "s3blobs": Package("zodb_s3blobs", ("zodb-s3blobs",), "1.0", "s3blobs", (3, 12)),
    "zlibstorage": ZLIBSTORAGE,
    "serverzlibstorage": ZLIBSTORAGE,
}
