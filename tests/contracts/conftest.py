"""The places that a store can be in. A new kind of store joins the contract by one more entry of ``PLACES``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, Protocol

import pytest
from memorystore import MemoryStore

from zodb_vault.errors import StoreError
from zodb_vault.stores.base import Store
from zodb_vault.stores.local import LocalStore


class StorePlace(Protocol):
    """One empty place for a store."""

    def open(self) -> Store:
        """Return the store of this place as another process would open it: nothing is shared but what is stored."""
        ...

    def broken(self) -> Store:
        """Return a store whose medium fails."""
        ...


class LocalPlace:
    """A directory; the broken one would have to be inside a file."""

    def __init__(self, directory: Path) -> None:
        self._root, self._file = directory / "store", directory / "file"
        self._file.write_bytes(b"in the way")

    def open(self) -> Store:
        return LocalStore(self._root)

    def broken(self) -> Store:
        return LocalStore(self._file / "store")


class BrokenMemory(dict[str, bytes]):
    """Memory that fails."""

    def _fail(self, *_arguments: object) -> NoReturn:
        raise StoreError("/memory: it failed")

    __getitem__ = __setitem__ = get = setdefault = pop = items = _fail


class MemoryPlace:
    """The store that other tests break: its ways have to be those of real ones."""

    def __init__(self, _directory: Path) -> None:
        self._content: dict[str, bytes] = {}
        self._store = MemoryStore(self._content)

    def open(self) -> Store:
        return self._store

    def broken(self) -> Store:
        return MemoryStore(BrokenMemory())


PLACES: Final[dict[str, Callable[[Path], StorePlace]]] = {"local": LocalPlace, "memory": MemoryPlace}


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    return PLACES[request.param](tmp_path)


@pytest.fixture
def store(place: StorePlace) -> Store:
    return place.open()
