"""What is copied of each kind of database, and what is not: the table of backends and blob modes."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodb_vault.config.zopeconf import read_site
from zodb_vault.errors import NothingToBackUp
from zodb_vault.model.source import Database, Secret
from zodb_vault.policy.scope import Scope, bucket
from zodb_vault.strategies.backend_lookup import backend_of

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
PG = "PostgreSQL dbname='zodb' user='zope' host='db' password=***"

# file: (storage and its tool, blobs, what is named as left where it is)
TABLE: dict[str, tuple[tuple[str, str] | None, str | None, list[str]]] = {
    "direct.conf": (("/srv/site/var/filestorage/Data.fs", "zodb-vault"), "/srv/site/var/blobs", []),
    "zeoserver.conf": (
        ("/srv/plone/var/filestorage/Data.fs", "zodb-vault"),
        "/srv/plone/var/blobstorage",
        [],
    ),
    "zodb.conf": (("/cwd/Data.fs", "zodb-vault"), None, ["no blob directory is configured"]),
    "rs_pg_cache.conf": (
        (PG, "pg_dump"),
        None,
        ["/srv/rs/cache: cache-local-dir", "/srv/rs/blobs: shared-blob-dir is off"],
    ),
    "rs_pg_hf_cache.conf": (
        (PG, "pg_dump"),
        None,
        ["/srv/rs/cache: cache-local-dir", "/srv/rs/blobs: shared-blob-dir is off"],
    ),
    "rs_pg_shared.conf": ((PG, "pg_dump"), "/srv/rs/blobs", ["/srv/rs/cache: cache-local-dir"]),
    "rs_sqlite.conf": (("/srv/rs/sqlite", "sqlite3"), None, ["/srv/rs/blobs: shared-blob-dir is off"]),
    "rs_sqlite_shared.conf": (("/srv/rs/sqlite", "sqlite3"), "/srv/rs/blobs", []),
    "rs_mysql.conf": (
        ("MySQL zodb at /run/mysqld/mysqld.sock", "mariadb-dump"),
        None,
        ["/srv/rs/blobs: shared-blob-dir is off"],
    ),
    "rs_mysql_shared.conf": (("MySQL zodb at db:3307", "mariadb-dump"), "/srv/rs/blobs", []),
    "rs_oracle.conf": (("Oracle", "zodb-convert"), None, ["no blob-dir is configured"]),
    "rs_oracle_shared.conf": (("Oracle", "zodb-convert"), "/srv/rs/blobs", []),
    "pgjsonb.conf": (
        ("PostgreSQL dbname=zodb user=zope password=*** host=localhost port=5433", "pg_dump"),
        None,
        ["rows of the database"],
    ),
    "pgjsonb_s3.conf": (
        ("PostgreSQL dbname=zodb user=zope password=*** host=localhost port=5433", "pg_dump"),
        "s3://plone",
        ["/srv/pg/cache: a cache"],
    ),
    "s3_direct.conf": (("/srv/s3/Data.fs", "zodb-vault"), "s3://plone", ["/srv/s3/cache: a cache"]),
    "s3_rs.conf": (
        ("PostgreSQL dbname=zodb password=***", "pg_dump"),
        "s3://plone",
        ["/srv/s3/cache: a cache", "/srv/s3/rsblobs: new blobs go"],
    ),
    "s3_zlib_rs.conf": (
        ("PostgreSQL host=db dbname=zodb password=***", "pg_dump"),
        "s3://plone/live",
        ["/srv/s3/cache: a cache"],
    ),
    "s3_zeo.conf": (None, "s3://plone", ["/srv/s3/cache: a cache"]),
    "zeo_shared.conf": (None, "/srv/shared/blobs", []),
    "zeo_shared_socket.conf": (None, "/srv/shared/blobs", ["/srv/client/one-1.zec: the persistent cache"]),
    "zeo_cache.conf": (None, None, ["/srv/client/blobcache: shared-blob-dir is off"]),
    "zeo_cache_socket.conf": (
        None,
        None,
        ["/srv/client/cache.zec: the persistent cache", "/srv/client/blobcache: shared-blob-dir is off"],
    ),
    "instance_zeo.conf": (
        None,
        None,
        [
            "/srv/plone/var/persistentcache88-1.zec: the persistent",
            "/srv/plone/var/blobcache: shared-blob-dir is off",
        ],
    ),
}


def scope_of(database: Database) -> Scope:
    return backend_of(database).scope(database)


def database(name: str) -> Database:
    return read_site(CONFIGS / name, "plone", {"STAGE": "live"}, Path("/cwd")).databases[0]


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    storage, blobs, left = TABLE[name]
    found = scope_of(database(name))
    assert [half.what for half in found.copied] == ["storage"] * bool(storage) + ["blobs"] * bool(blobs)
    assert [(half.source, half.tool) for half in found.copied if half.what == "storage"] == [storage] * bool(
        storage
    )
    assert [half.source for half in found.copied if half.what == "blobs"] == [blobs] * bool(blobs)
    assert found.copies_blobs is (blobs is not None)
    assert len(found.left) == len(left)
    assert all(part in text for part, text in zip(left, found.left, strict=True))
    assert all(half.why for half in found.copied)
    assert (found.elsewhere is not None) == (storage is None)
    assert found.portable == ("oracle" in name)


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.conf")))
def test_no_configuration_shows_a_secret_nor_has_an_empty_place(name: str) -> None:
    site = read_site(CONFIGS / name, "plone", {"STAGE": "live"}, Path("/cwd"))
    for one in site.databases:
        found = scope_of(one)
        assert "hunter2" not in repr(found).lower()
        assert all(half.source for half in found.copied)


def test_the_words_for_a_client_say_what_it_has() -> None:
    assert str(scope_of(database("zeo_cache.conf")).elsewhere).startswith("no data are on this machine: ")
    assert str(scope_of(database("zeo_shared.conf")).elsewhere).startswith("only blobs are on this machine: ")
    assert str(scope_of(database("s3_zeo.conf")).elsewhere).startswith("only blobs are on this machine: ")


def test_a_backend_of_another_package_and_a_hidden_dsn_have_words_too() -> None:
    with pytest.raises(NothingToBackUp, match="the database main is on neo, but no installed package"):
        backend_of(Database(name="main", backend="neo", blob_mode="none"))
    hidden = Database(
        name="main",
        backend="pgjsonb",
        adapter="postgresql",
        dsn_option="dsn",
        blob_mode="database",
        options={"dsn": Secret("x y")},
    )
    assert scope_of(hidden).copied[0].source == "PostgreSQL"
    assert (
        bucket(
            Database(
                name="main",
                backend="pgjsonb",
                blob_mode="database+s3",
                options={"s3-bucket-name": "b", "s3-prefix": "p/q"},
            )
        )
        == "s3://b/p/q"
    )
