"""The Python packages and programs that a backend needs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from .source import Database


class Package(NamedTuple):
    """A package: its module, the names of its distributions, and the oldest version that works.

    One distribution is enough, and the first one is recommended. ``extra`` is the extra of zodb-vault that
    installs it, ``python`` the oldest Python that it runs on.
    """

    module: str
    distributions: tuple[str, ...]
    version: str
    extra: str = ""
    python: tuple[int, int] = (3, 11)

    @property
    def runs_here(self) -> bool:
        """Tell whether this Python is new enough for the package."""
        return sys.version_info[:2] >= self.python

    @property
    def how_to_install(self) -> str:
        """Return the next command, and what must be known before it is typed."""
        first, *others = self.distributions
        what = shlex.quote(f"zodb-vault[{self.extra}]" if self.extra else f"{first}>={self.version}")
        if not self.runs_here:
            needed, here = (".".join(map(str, one)) for one in (self.python, sys.version_info[:2]))
            command = f"python{needed} -m venv ENV && ENV/bin/pip install {what}"
            nothing = f"{what} does not install it on Python {here}: " if self.extra else ""
            return f"{nothing}use Python {needed} or later: {command}"
        command = f"{shlex.quote(sys.executable)} -m pip install {what}"
        also = f" ({' or '.join(others)} serves as well; install only one of them)" if others else ""
        return f"install it into this Python: {command}{also}"


class Requirements(NamedTuple):
    """The requirements of a database.

    ``packages`` open its storage, as the portable method and a proof by a restore do. ``drivers`` and
    ``tools`` back it up; a tool has several possible names.
    """

    packages: tuple[Package, ...] = ()
    drivers: tuple[Package, ...] = ()
    tools: tuple[tuple[str, ...], ...] = ()


def opening_packages(database: Database, requirements: Requirements) -> list[Package]:
    """Return the packages that open the storage of a database, with the wrapper that has its blobs."""
    wrapped = [WRAPPERS["s3blobs"]] if "s3blobs" in database.wrappers else []
    return [*requirements.packages, *wrapped]


ZODB: Final = Package("ZODB", ("ZODB",), "5.8")
BOTO3: Final = Package("boto3", ("boto3",), "1.36", "s3")
PYRAGE: Final = Package("pyrage", ("pyrage",), "1.2", "encryption")
# The sections that wrap a storage, as ``Database.wrappers`` names them.
WRAPPERS: Final[Mapping[str, Package]] = {
    "s3blobs": Package("zodb_s3blobs", ("zodb-s3blobs",), "1.0", "s3blobs", (3, 12)),
}
