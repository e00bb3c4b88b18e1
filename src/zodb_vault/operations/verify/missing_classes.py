"""Tell which classes that a record names are not installed here."""

from __future__ import annotations

import importlib
import io
from functools import cache


class _Anything:
    """Takes the place of every class and function that a record names, and accepts everything."""

    def __new__(cls, *_arguments: object, **_options: object) -> _Anything:
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """Accept an item."""

    def extend(self, _items: object) -> None:
        """Accept items."""


def missing_modules(record: bytes) -> set[str]:
    """Return the modules of the classes and functions that a record names and that are not installed here.

    Nothing for a record that is no complete pickle.
    """
    from ZODB._compat import PersistentUnpickler

    named: set[tuple[str, str]] = set()

    def find(module: str, name: str) -> type[_Anything]:
        named.add((module, name))
        return _Anything

    unpickler = PersistentUnpickler(find, lambda _reference: None, io.BytesIO(record))
    try:
        unpickler.load()  # the class
        unpickler.load()  # the state
    except Exception:  # noqa: BLE001  then something else is wrong with the record
        return set()
    return {module for module, name in named if not _is_installed(module, name)}


@cache
def _is_installed(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except Exception:  # noqa: BLE001  an application may raise anything when it is imported
        return False
