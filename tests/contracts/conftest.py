"""The locations of a store. A new kind of store joins the contract by one more entry in ``PLACES``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn, Protocol

import pytest
from memory_store import MemoryStore
from services.s3 import Service
from services.s3_requests import AllOfThem, behind

from zodb_vault.errors import StoreError
from zodb_vault.model.s3settings import S3Settings
from zodb_vault.stores.base import Store
from zodb_vault.stores.local import LocalStore
from zodb_vault.stores.mutex import FOLDER, KEPT
from zodb_vault.stores.rate_limit import RateLimit, rate_limited
from zodb_vault.stores.retry import RetryPolicy
from zodb_vault.stores.s3 import S3Store


class StorePlace(Protocol):
    """One empty location of a store; ``atomic`` is False where the service overwrites an object in place."""

    atomic: bool

    def open(self) -> Store:
        """Return the store as another process would open it: it shares only what is stored."""
        ...

    def broken(self) -> Store:
        """Return a store whose medium fails."""
        ...


class LocalPlace:
    """A directory; the broken one would have to be inside a file."""

    atomic = True

    def __init__(self, directory: Path) -> None:
        self._root, self._file = directory / "store", directory / "file"
        self._file.write_bytes(b"in the way")

    def open(self) -> Store:
        return LocalStore(self._root)

    def broken(self) -> Store:
        return LocalStore(self._file / "store")


class PacedPlace(LocalPlace):
    """The same with a rate limit that no test notices."""

    def open(self) -> Store:
        return rate_limited(super().open(), RateLimit(1 << 40))

    def broken(self) -> Store:
        return rate_limited(super().broken(), RateLimit(1 << 40))


class BrokenMemory(dict[str, bytes]):
    """Memory that fails."""

    def _fail(self, *_arguments: object) -> NoReturn:
        raise StoreError("/memory: it failed")

    __getitem__ = __setitem__ = get = setdefault = pop = items = _fail


class MemoryPlace:
    """The store that other tests break: its ways have to be those of real ones."""

    atomic = True

    def __init__(self, _directory: Path) -> None:
        self._content: dict[str, bytes] = {}
        self._store = MemoryStore(self._content)

    def open(self) -> Store:
        return self._store

    def broken(self) -> Store:
        return MemoryStore(BrokenMemory())


class S3Place:
    """A prefix in a bucket that has a neighbour; the broken one's service does not answer."""

    def __init__(self, service: Service) -> None:
        self._service, self._bucket = service, service.bucket()
        self._neighbour = {"plon": b"1", "plone.json": b"2", "plone2/sites/default/running/create.json": b"3"}
        for key, data in self._neighbour.items():
            service.client().put_object(Bucket=self._bucket, Key=key, Body=data)
        self._found = service.store(self._bucket, "plone").probe()
        # of the services here only the one without conditions writes a file in place
        self.atomic = bool(self._found["conditional_put"])

    def open(self) -> Store:
        store = self._service.store(self._bucket, "plone")
        store.use_probed(self._found)
        return store

    def broken(self) -> Store:
        nobody = S3Settings(endpoint="http://127.0.0.1:1", region="us-east-1")
        return S3Store(f"s3://{self._bucket}/plone", nobody, RetryPolicy(sleep=lambda _seconds: None))

    def check(self) -> None:
        """The neighbours are as they were, and no sign or probe is left."""
        client = self._service.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        left = {
            one["Key"] for page in pages for one in page["Contents"] if not one["Key"].startswith("plone/")
        }
        assert {
            key: client.get_object(Bucket=self._bucket, Key=key)["Body"].read() for key in left
        } == self._neighbour
        signs = {
            one["Key"]
            for one in client.list_objects_v2(Bucket=self._bucket, Prefix="plone/.").get("Contents", ())
        }
        assert signs <= {f"plone/{FOLDER}{KEPT}"}


PLACES: Final[dict[str, Callable[[Path], StorePlace]]] = {
    "local": LocalPlace,
    "memory": MemoryPlace,
    "paced": PacedPlace,
}


@pytest.fixture(params=[*sorted(PLACES), "moto", "rclone", "faulty moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorePlace]:
    if request.param in PLACES:
        yield PLACES[request.param](tmp_path)
        return
    found = S3Place(request.getfixturevalue(request.param.rpartition(" ")[2]))
    with behind(AllOfThem()) if "faulty" in request.param else contextlib.nullcontext():
        yield found
    found.check()


@pytest.fixture
def store(place: StorePlace) -> Store:
    return place.open()
