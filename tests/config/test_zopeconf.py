"""Every kind of configuration, and what each says about its databases."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from zodb_vault.config import backend_registry as backends
from zodb_vault.config.masking import mask, mask_dsn_words
from zodb_vault.config.zopeconf import read_site, read_zeo_conf, read_zope_conf
from zodb_vault.errors import ConfigurationError
from zodb_vault.model.source import Database, Secret, Site, masked

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
SECRETS = ("hunter2", "HUNTER2")

# file: (backend, adapter, wrappers, blob_mode, blob_dir, data_fs, history)
ONE_DATABASE = {
    "direct.conf": (
        "filestorage",
        None,
        (),
        "directory",
        "/srv/site/var/blobs",
        "/srv/site/var/filestorage/Data.fs",
        True,
    ),
    "instance.conf": (
        "filestorage",
        None,
        ("blobstorage",),
        "directory",
        "/srv/plone/var/blobstorage",
        "/srv/plone/var/filestorage/Data.fs",
        True,
    ),
    "instance_zeo.conf": ("zeo", None, (), "server", "/srv/plone/var/blobcache", None, None),
    "instance_zlib.conf": (
        "filestorage",
        None,
        ("blobstorage", "zlibstorage"),
        "directory",
        "/srv/plone/var/blobstorage",
        "/srv/plone/var/filestorage/Data.fs",
        True,
    ),
    "instance_zeo_shared.conf": ("zeo", None, (), "directory", "/srv/plone/var/blobstorage", None, None),
    "instance_relstorage.conf": (
        "relstorage",
        "postgresql",
        (),
        "database",
        "/srv/plone/var/blobcache",
        None,
        False,
    ),
    "zeoserver.conf": (
        "filestorage",
        None,
        (),
        "directory",
        "/srv/plone/var/blobstorage",
        "/srv/plone/var/filestorage/Data.fs",
        True,
    ),
    "zeoserver_zrs.conf": (
        "filestorage",
        None,
        ("zrs",),
        "directory",
        "/srv/plone/var/blobstorage",
        "/srv/plone/var/filestorage/Data.fs",
        True,
    ),
    "zeo_zlib.conf": (
        "filestorage",
        None,
        ("serverzlibstorage",),
        "directory",
        "/srv/zlib/var/blobs",
        "/srv/zlib/var/Data.fs",
        True,
    ),
    "rs_pg_cache.conf": ("relstorage", "postgresql", (), "database", "/srv/rs/blobs", None, True),
    "rs_pg_shared.conf": ("relstorage", "postgresql", (), "directory", "/srv/rs/blobs", None, True),
    "rs_pg_hf_cache.conf": ("relstorage", "postgresql", (), "database", "/srv/rs/blobs", None, False),
    "rs_pg_hf_shared.conf": ("relstorage", "postgresql", (), "directory", "/srv/rs/blobs", None, False),
    "rs_sqlite.conf": ("relstorage", "sqlite3", (), "database", "/srv/rs/blobs", None, True),
    "rs_sqlite_shared.conf": ("relstorage", "sqlite3", (), "directory", "/srv/rs/blobs", None, False),
    "rs_mysql_shared.conf": ("relstorage", "mysql", (), "directory", "/srv/rs/blobs", None, False),
    "rs_oracle_shared.conf": ("relstorage", "oracle", (), "directory", "/srv/rs/blobs", None, True),
    "rs_mysql.conf": ("relstorage", "mysql", (), "database", "/srv/rs/blobs", None, True),
    "rs_oracle.conf": ("relstorage", "oracle", (), "none", None, None, True),
    "zeo_shared.conf": ("zeo", None, (), "directory", "/srv/shared/blobs", None, None),
    "zeo_shared_socket.conf": ("zeo", None, (), "directory", "/srv/shared/blobs", None, None),
    "zeo_cache.conf": ("zeo", None, (), "server", "/srv/client/blobcache", None, None),
    "zeo_cache_socket.conf": ("zeo", None, (), "server", "/srv/client/blobcache", None, None),
    "pgjsonb.conf": ("pgjsonb", "postgresql", (), "database", None, None, False),
    "pgjsonb_s3.conf": ("pgjsonb", "postgresql", (), "database+s3", None, None, True),
    "s3_direct.conf": ("filestorage", None, ("s3blobs",), "s3", None, "/srv/s3/Data.fs", True),
    "s3_rs.conf": ("relstorage", "postgresql", ("s3blobs",), "s3", "/srv/s3/rsblobs", None, True),
    "s3_zlib_rs.conf": ("relstorage", "postgresql", ("s3blobs", "zlibstorage"), "s3", None, None, False),
    "s3_zeo.conf": ("zeo", None, ("s3blobs",), "s3", None, None, None),
    "convert_zeo.conf": ("zeo", None, (), "server", "/srv/client/blobcache", None, None),
    "nasty.conf": (
        "filestorage",
        None,
        ("blobstorage", "zlibstorage"),
        "directory",
        "/srv/nasty/blobs-live",
        "/srv/nasty/Data.fs",
        True,
    ),
}


def read(name: str, **environment: str) -> Site:
    return read_site(CONFIGS / name, "plone", {"STAGE": "live", **environment}, Path("/cwd"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def storage(tmp_path: Path, section: str, **environment: str) -> Database:
    file = write(tmp_path / "zope.conf", f"<zodb_db main>\nmount-point /\n{section}\n</zodb_db>\n")
    site = read_site(file, "plone", environment, tmp_path)
    assert len(site.databases) == 1
    return site.databases[0]


def refused(tmp_path: Path, section: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        storage(tmp_path, section)
    return caught.value


@pytest.mark.parametrize("name", ONE_DATABASE)
def test_each_combination_is_understood(name: str) -> None:
    database = read(name).databases[0]
    found = (
        database.backend,
        database.adapter,
        database.wrappers,
        database.blob_mode,
        database.blob_dir,
        database.data_fs,
        database.history,
    )
    assert found == ONE_DATABASE[name]


def test_every_configuration_file_is_in_a_test() -> None:
    several = {"zeo_two.conf", "zodbpack.conf", "three.conf", "zodb.conf"}
    assert {path.name for path in CONFIGS.glob("*.conf")} == set(ONE_DATABASE) | several


def test_site_and_database_names_and_mount_points() -> None:
    site = read("three.conf")
    assert (site.name, site.config) == ("plone", str(CONFIGS / "three.conf"))
    assert [(d.name, d.mount_point) for d in site.databases] == [
        ("main", "/"),
        ("catalog", "/site/portal_catalog, /other:/site/portal_catalog"),
    ]
    assert site.databases[1].wrappers == ("zlibstorage",)
    assert site.databases[1].blob_mode == "none"
    assert [s.name for s in site.skipped] == ["temporary"]
    assert "in memory" in site.skipped[0].why


def test_storages_of_a_zeo_server_have_the_names_that_clients_use() -> None:
    site = read_zeo_conf(CONFIGS / "zeo_two.conf", "plone", {}, Path("/cwd"))
    assert [d.name for d in site.databases] == ["1", "catalog"]
    assert [s.name for s in site.skipped] == ["scratch"]
    assert site.databases[0].option("zeo.address") == "/cwd/run/zeo.sock"
    assert site.databases[1].data_fs == "/srv/zeo/Catalog.fs"


def test_what_two_databases_share_by_mistake_is_an_error_that_names_both(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "link").symlink_to("blobs")
    sections = [
        ("main", "Data.fs", "blobs"),
        ("catalog", "Catalog.fs", "link"),
        ("users", "Data.fs", "others"),
    ]
    text = "".join(
        (
            f"<zodb_db {name}>\n<filestorage>\npath {tmp_path}/{data}\nblob-dir {tmp_path}/{blobs}\n"
            "</filestorage>\n</zodb_db>\n"
        )
        for name, data, blobs in sections
    )
    with pytest.raises(ConfigurationError) as caught:
        read_site(write(tmp_path / "zope.conf", text), "plone", {}, tmp_path)
    assert [issue.partition(": ")[2] for issue in caught.value.issues] == [
        f"the databases main and catalog have the same blob directory {tmp_path}/link",
        f"the databases main and users have the same Data.fs {tmp_path}/Data.fs",
    ]


def test_databases_that_share_a_prefix_would_delete_each_others_blobs(tmp_path: Path) -> None:
    text = "".join(
        f"<zodb_db {name}>\n<s3blobstorage>\nbucket-name b\ns3-prefix {prefix}\ncache-dir c\n<filestorage>\n"
        f"path {name}.fs\n</filestorage>\n"
        "</s3blobstorage>\n</zodb_db>\n"
        for name, prefix in (("main", "plone"), ("catalog", "plone/catalog"), ("users", "plone/"))
    )
    with pytest.raises(ConfigurationError) as caught:
        read_site(write(tmp_path / "zope.conf", text), "plone", {}, tmp_path)
    assert [issue.partition(": ")[2] for issue in caught.value.issues] == [
        "the databases main and users have the same bucket and prefix s3://b/plone/"
    ]


def test_unnamed_storages_on_their_own_are_distinguished() -> None:
    site = read("zodbpack.conf")
    assert [d.name for d in site.databases] == ["main", "main-2"]
    assert masked(site.databases[0].options)["postgresql.dsn"] == "postgresql://zope:***@db:5432/one"
    assert masked(site.databases[1].options)["postgresql.dsn"] == "postgresql://zope:***@db:5432/two?***"
    assert any("no blob-dir" in warning for warning in site.databases[0].warnings)


def test_the_destination_of_a_conversion_is_skipped_and_its_closing_tag_noted() -> None:
    site = read("convert_zeo.conf")
    assert [d.name for d in site.databases] == ["source"]
    assert [s.name for s in site.skipped] == ["destination"]
    assert any(
        "</zeoclient source> is read as </zeoclient>" in w and "line 4" in w
        for w in site.databases[0].warnings
    )


def test_options_are_kept_for_strategies_with_absolute_paths() -> None:
    assert read("instance_zeo.conf").databases[0].option("server") == "127.0.0.1:8100\n127.0.0.1:8101"
    sqlite = read("rs_sqlite.conf").databases[0]
    assert sqlite.option("sqlite3.data-dir") == "/srv/rs/sqlite"
    assert sqlite.option("sqlite3.pragmas.page_size") == "8192"
    assert any("data_dir is read as data-dir" in warning for warning in sqlite.warnings)
    mysql = read("rs_mysql.conf").databases[0]
    assert mysql.option("mysql.unix_socket") == "/run/mysqld/mysqld.sock"
    assert not any("is read as" in warning for warning in mysql.warnings)
    s3 = read("s3_direct.conf").databases[0]
    assert (s3.option("s3blobstorage.bucket-name"), s3.option("path")) == ("plone", "/srv/s3/Data.fs")
    assert s3.option("absent", "otherwise") == "otherwise"


def test_strategies_get_the_secrets_that_they_need() -> None:
    assert (
        read("rs_pg_cache.conf").databases[0].option("postgresql.dsn")
        == "dbname='zodb' user='zope' host='db' password='hunter2'"
    )
    assert read("rs_mysql.conf").databases[0].option("mysql.passwd") == "hunter2"
    assert read("s3_direct.conf").databases[0].option("s3blobstorage.s3-secret-key") == "hunter2"


@pytest.mark.parametrize("name", sorted({*ONE_DATABASE, "zodbpack.conf"}))
def test_no_secret_is_printed(name: str) -> None:
    site = read(name)
    options = [masked(database.options) for database in site.databases]
    printed = f"{site!r} {site} {json.dumps(options)}"
    assert not any(secret in printed for secret in SECRETS)


def test_a_secret_cannot_be_encoded_by_accident() -> None:
    database = read("rs_mysql.conf").databases[0]
    with pytest.raises(TypeError):
        msgspec.json.encode(database)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("dbname=zodb host=db password=x", "dbname=zodb host=db password=***"),
        ("dbname='zo db' password = 'it\\'s x'", "dbname='zo db' password=***"),
        ("password=my secret host=db", "***"),
        ("host=db password='open", "***"),
        ("host=db sslpassword=x options='-c a=x'", "host=db sslpassword=*** options=***"),
        ("postgresql://u:x@h:1/db", "postgresql://u:***@h:1/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://u:12/x@h/db", "***"),
        ("postgresql://u:12#x@h/db", "***"),
        ("postgresql://u:x@h/db?password=x", "postgresql://u:***@h/db?***"),
        ("postgresql://u:x@[h/db", "***"),
        ("zope/x@XE", "***"),
        ("password='a'host=x", "***"),
        ("host=db;password=x", "host=***"),
        ("host=db port=x", "host=db port=***"),
        ("host=a,b port=5432,5433", "host=a,b port=5432,5433"),
        ("host='db password=x'", "host=***"),
        ("dbname=postgresql://u:x@h/db", "***"),
    ],
)
def test_what_is_shown_of_a_dsn(tmp_path: Path, dsn: str, shown: str) -> None:
    database = storage(tmp_path, f"<pgjsonb>\ndsn {dsn}\n</pgjsonb>")
    assert masked(database.options)["dsn"] == shown
    assert database.option("dsn") == dsn
    assert str(database.options["dsn"]) == "***"


def test_nothing_is_shown_of_several_dsns_in_one_place(tmp_path: Path) -> None:
    options = storage(
        tmp_path,
        "<pgjsonb>\ndsn postgresql://u:x@h/db\n<zodb_db>\ndsn host=h password=hunter2\n</zodb_db>\n"
        "</pgjsonb>",
    ).options
    assert "hunter2" not in repr([masked({key: value}) for key, value in options.items()])
    shown = mask("dsn", "postgresql://u:x@h/db\nhost=h password=hunter2")
    assert isinstance(shown, Secret) and shown.shown == "***"


def test_what_a_driver_says_is_shown_but_for_what_is_hidden_of_the_dsn() -> None:
    said = 'connection to server at "db", port 5433 failed: password authentication failed for user "zope"'
    assert mask_dsn_words(said, "host=db port=5433 user=zope password=hunter2") == said
    assert (
        mask_dsn_words('invalid integer value "hun-ter" for "port"', "postgresql://zope:hun-ter/x@h/db")
        == 'invalid integer value "***-***" for "port"'
    )


def test_only_values_of_known_keys_are_shown(tmp_path: Path) -> None:
    options = storage(
        tmp_path, "<filestorage>\npath /Data.fs\npack-gc off\npasswor hunter2\nunheard-of x\n</filestorage>"
    ).options
    assert masked(options) == {"path": "/Data.fs", "pack-gc": "off", "passwor": "***", "unheard-of": "***"}


def test_url_with_a_login_is_masked_whatever_its_key(tmp_path: Path) -> None:
    database = storage(
        tmp_path, "<filestorage>\npath /Data.fs\npacker http://me:hunter2@proxy/\n</filestorage>"
    )
    assert isinstance(database.options["packer"], Secret)
    assert masked(database.options)["packer"] == "http://me:***@proxy/"


# Relative paths


def test_relative_paths_are_taken_from_the_working_directory_and_that_is_said() -> None:
    database = read("zodb.conf").databases[0]
    assert database.data_fs == "/cwd/Data.fs"
    assert database.warnings == (
        "path is the relative path Data.fs: it is taken from /cwd (the working directory)",
    )


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("instancehome /inst", "instancehome"),
        ("%define INSTANCE /inst", "%define INSTANCE"),
        ("%define INSTANCEHOME /inst", "%define INSTANCEHOME"),
        ("%define INSTANCE /other\ninstancehome /inst/", "instancehome"),
    ],
)
def test_relative_paths_are_taken_from_the_instance_home(tmp_path: Path, head: str, reason: str) -> None:
    file = write(
        tmp_path / "zope.conf",
        f"{head}\n<zodb_db main>\n<filestorage>\npath var//./Data.fs\n</filestorage>\n</zodb_db>\n",
    )
    database = read_zope_conf(file, "plone", {}).databases[0]
    assert database.data_fs == "/inst/var/Data.fs"
    assert f"it is taken from /inst ({reason})" in database.warnings[0]


def test_a_relative_path_of_a_zeo_server_is_taken_from_where_its_runner_goes() -> None:
    database = read("zeo_zlib.conf").databases[0]
    assert (
        "path is the relative path var/Data.fs: it is taken from /srv/zlib (directory of <runner>)"
        in database.warnings
    )


def test_a_file_that_is_only_in_the_working_directory_is_pointed_out(tmp_path: Path) -> None:
    file = write(
        tmp_path / "zope.conf",
        f"instancehome {tmp_path}/inst\n<zodb_db main>\n<filestorage>\npath Data.fs\n</filestorage>\n"
        "</zodb_db>\n",
    )
    assert "but in" not in read_site(file, "plone", {}, tmp_path).databases[0].warnings[0]
    write(tmp_path / "Data.fs", "")
    database = read_site(file, "plone", {}, tmp_path).databases[0]
    assert database.data_fs == f"{tmp_path}/inst/Data.fs"
    assert f"it does not exist there, but in the working directory {tmp_path}" in database.warnings[0]
    (tmp_path / "inst").mkdir()
    write(tmp_path / "inst" / "Data.fs", "")
    assert "but in" not in read_site(file, "plone", {}, tmp_path).databases[0].warnings[0]


def test_home_directory_and_trailing_slash(tmp_path: Path) -> None:
    """F48."""
    database = storage(
        tmp_path, "<filestorage>\npath ~/Data.fs\nblob-dir /srv/blobs/\n</filestorage>", HOME="/home/zope"
    )
    assert (database.data_fs, database.blob_dir) == ("/home/zope/Data.fs", "/srv/blobs")
    assert any("~ is taken as /home/zope" in warning for warning in database.warnings)


def test_dots_after_a_symbolic_link_stay(tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inner")
    database = storage(tmp_path, f"<filestorage>\npath {tmp_path}/link/../Data.fs\n</filestorage>")
    assert os.path.realpath(str(database.data_fs)) == f"{tmp_path}/far/Data.fs"
    plain = storage(tmp_path, f"<filestorage>\npath {tmp_path}/far/inner/../Data.fs\n</filestorage>")
    assert plain.data_fs == f"{tmp_path}/far/Data.fs"


def test_the_path_of_the_file_itself_may_be_relative(tmp_path: Path) -> None:
    write(
        tmp_path / "zope.conf", "<zodb_db main>\n<filestorage>\npath /Data.fs\n</filestorage>\n</zodb_db>\n"
    )
    assert read_site(Path("zope.conf"), "plone", {}, tmp_path).config == f"{tmp_path}/zope.conf"


# Blob modes: what the configuration says against what the directory says (F25)


def marked(tmp_path: Path, layout: str) -> Path:
    directory = tmp_path / "blobs"
    directory.mkdir()
    (directory / ".layout").write_text(layout)
    return directory


BLOBS_OF = {
    "filestorage": "<filestorage>\npath /Data.fs\nblob-dir {0}\n</filestorage>",
    "blobstorage": (
        "<blobstorage>\nblob-dir {0}\n<filestorage>\npath /Data.fs\n</filestorage>\n</blobstorage>"
    ),
    "zeo shared": "<zeoclient>\nserver 8100\nblob-dir {0}\nshared-blob-dir on\n</zeoclient>",
    "relstorage shared": "<relstorage>\nblob-dir {0}\nshared-blob-dir true\n<postgresql/>\n</relstorage>",
    "zeo cache": "<zeoclient>\nserver 8100\nblob-dir {0}\n</zeoclient>",
    "relstorage cache": "<relstorage>\nblob-dir {0}\nshared-blob-dir false\n<postgresql/>\n</relstorage>",
}
WHOLE = ["filestorage", "blobstorage", "zeo shared", "relstorage shared"]
CACHES = ["zeo cache", "relstorage cache"]


@pytest.mark.parametrize("section", WHOLE)
def test_a_cache_is_never_taken_for_all_blobs(tmp_path: Path, section: str) -> None:
    directory = marked(tmp_path, "zeocache\n")
    error = refused(tmp_path, BLOBS_OF[section].format(directory))
    assert "zeocache" in str(error)
    assert str(directory) in str(error)
    assert f"{tmp_path}/zope.conf, line " in str(error)


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
@pytest.mark.parametrize("section", CACHES)
def test_authoritative_blobs_are_never_passed_by(tmp_path: Path, section: str, layout: str) -> None:
    directory = marked(tmp_path, layout)
    error = refused(tmp_path, BLOBS_OF[section].format(directory))
    assert layout in str(error)
    assert "shared-blob-dir" in str(error)


@pytest.mark.parametrize("section", CACHES)
def test_unmarked_blobs_are_not_passed_by_either(tmp_path: Path, section: str) -> None:
    (tmp_path / "blobs" / "0x01").mkdir(parents=True)
    assert "lawn" in str(refused(tmp_path, BLOBS_OF[section].format(tmp_path / "blobs")))


@pytest.mark.parametrize(
    ("section", "layout"),
    [*((s, "bushy") for s in WHOLE), *((s, "lawn") for s in WHOLE), *((s, "zeocache") for s in CACHES)],
)
def test_agreement_is_silent(
    tmp_path: Path, section: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zodb_vault.config.blobmodes.local_file_system", lambda path: None)
    directory = marked(tmp_path, layout)
    before = sorted(directory.rglob("*"))
    assert storage(tmp_path, BLOBS_OF[section].format(directory)).warnings == ()
    assert sorted(directory.rglob("*")) == before


def test_a_new_cache_directory_is_silent_a_missing_blob_directory_is_not(tmp_path: Path) -> None:
    assert storage(tmp_path, BLOBS_OF["zeo cache"].format(tmp_path / "new")).warnings == ()
    assert "does not exist" in storage(tmp_path, BLOBS_OF["filestorage"].format(tmp_path / "new")).warnings[0]
    (tmp_path / "file").write_text("")
    assert (
        "is not a directory"
        in storage(tmp_path, BLOBS_OF["filestorage"].format(tmp_path / "file")).warnings[0]
    )
    assert not (tmp_path / "new").exists()


def test_unknown_and_unreadable_layouts_are_warnings(tmp_path: Path) -> None:
    directory = marked(tmp_path, "flat")
    assert "unknown layout" in storage(tmp_path, BLOBS_OF["filestorage"].format(directory)).warnings[0]
    (directory / ".layout").unlink()
    (directory / ".layout").mkdir()
    assert "cannot be read" in storage(tmp_path, BLOBS_OF["filestorage"].format(directory)).warnings[0]


def test_shared_directory_on_a_local_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zodb_vault.config.blobmodes.local_file_system", lambda path: "ext4")
    directory = marked(tmp_path, "bushy")
    assert (
        "local file system (ext4)"
        in storage(tmp_path, BLOBS_OF["relstorage shared"].format(directory)).warnings[0]
    )
    assert (
        storage(
            tmp_path,
            BLOBS_OF["relstorage shared"]
            .format(directory)
            .replace("<postgresql/>", "<sqlite3>\ndata-dir /d\n</sqlite3>"),
        ).warnings
        == ()
    )


def test_kind_of_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zodb_vault.config import mounts

    table = write(
        tmp_path / "mounts", "d / ext4 rw 0 0\nsrv:/x /mnt/a\\040b nfs4 rw 0 0\nd /mnt/local xfs rw 0 0\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", table)
    assert mounts.local_file_system("/mnt/local/blobs") == "xfs"
    assert mounts.local_file_system("/mnt/a b/blobs") is None
    assert mounts.local_file_system("/elsewhere") == "ext4"
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert mounts.local_file_system("/elsewhere") is None


def test_shared_without_a_directory_is_a_warning(tmp_path: Path) -> None:
    database = storage(tmp_path, "<zeoclient>\nserver 8100\nshared-blob-dir on\n</zeoclient>")
    assert database.blob_mode == "server"
    assert "no blob-dir" in database.warnings[0]


def test_relstorage_without_a_directory_warns_but_not_inside_a_wrapper(tmp_path: Path) -> None:
    plain = "<relstorage>\n<postgresql/>\n</relstorage>"
    assert (storage(tmp_path, plain).blob_mode, len(storage(tmp_path, plain).warnings)) == ("none", 1)
    directory = marked(tmp_path, "bushy")
    wrapped = storage(tmp_path, f"<blobstorage>\nblob-dir {directory}\n{plain}\n</blobstorage>")
    assert (wrapped.blob_mode, wrapped.warnings) == ("directory", ())


def test_blobs_from_before_the_bucket_are_a_warning(tmp_path: Path) -> None:
    directory = marked(tmp_path, "bushy")
    text = (
        f"<s3blobstorage>\nbucket-name b\ncache-dir {directory}\n"
        f"{BLOBS_OF['filestorage'].format(directory)}\n</s3blobstorage>"
    )
    warnings = " ".join(storage(tmp_path, text).warnings)
    assert "before <s3blobstorage> was added" in warnings
    assert "cache-dir of <s3blobstorage>" in warnings


# Refused, skipped, unknown


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            (
                "<demostorage>\n<filestorage>\npath /b\n</filestorage>\n<filestorage changes>\npath /c\n"
                "</filestorage>\n</demostorage>"
            ),
            ["changes", "base"],
        ),
        ("<demostorage>\n<filestorage>\npath /b\n</filestorage>\n</demostorage>", ["in memory"]),
        ("<before>\nbefore now\n<filestorage>\npath /b\n</filestorage>\n</before>", ["one point in time"]),
        ("<beforestorage>\n<filestorage>\npath /b\n</filestorage>\n</beforestorage>", ["one point in time"]),
        ("<oddstorage>\n</oddstorage>", ["<oddstorage>", "does not know"]),
        ("<filestorage>\n</filestorage>", ["has no path"]),
        ("<filestorage>\npath /a\npath /b\n</filestorage>", ["given twice"]),
        ("<zeoclient>\n</zeoclient>", ["has no server"]),
        ("<relstorage>\n</relstorage>", ["<postgresql>", "<oracle>"]),
        ("<relstorage>\n<mssql/>\n</relstorage>", ["<mssql>"]),
        ("<relstorage>\n<sqlite3/>\n</relstorage>", ["has no data-dir"]),
        (
            "<relstorage>\nshared-blob-dir perhaps\n<postgresql/>\n</relstorage>",
            ["shared-blob-dir", "on or off", "line 4"],
        ),
        ("<pgjsonb>\n</pgjsonb>", ["has no dsn"]),
        (
            "<s3blobstorage>\ncache-dir /c\n<filestorage>\npath /a\n</filestorage>\n</s3blobstorage>",
            ["has no bucket-name"],
        ),
        ("<zlibstorage>\n</zlibstorage>", ["contains no storages"]),
        (
            "<blobstorage>\nblob-dir /a\n<filestorage>\npath /a\nblob-dir /b\n</filestorage>\n</blobstorage>",
            ["both have a blob-dir"],
        ),
        (
            "<filestorage>\npath /a\n</filestorage>\n<filestorage>\npath /b\n</filestorage>",
            ["contains 2 storages"],
        ),
        ("", ["contains no storages"]),
    ],
)
def test_refusals_name_the_location_and_the_reason(tmp_path: Path, section: str, words: list[str]) -> None:
    error = refused(tmp_path, section)
    assert f"{tmp_path}/zope.conf, line " in str(error)
    assert all(word in str(error) for word in words)


def test_advice_for_an_unknown_storage(tmp_path: Path) -> None:
    hint = refused(tmp_path, "<oddstorage/>").hint
    assert "zodb_vault.backends" in hint
    assert "zodb-convert" in hint


def test_memory_inside_wrappers_is_skipped(tmp_path: Path) -> None:
    wrapped = "<blobstorage>\nblob-dir /b\n<zlibstorage>\n<mappingstorage/>\n</zlibstorage>\n</blobstorage>"
    site = read_site(
        write(
            tmp_path / "z", f"<zodb_db one>\n{wrapped}\n</zodb_db>\n<zodb_db two>\n<demostorage/>\n</zodb_db>"
        ),
        "plone",
        {},
    )
    assert (site.databases, [s.name for s in site.skipped]) == ((), ["one", "two"])


def test_all_problems_of_all_databases_are_reported_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "z", "<zodb_db a>\n<odd/>\n</zodb_db>\n<zodb_db b>\n<filestorage/>\n</zodb_db>\n")
    with pytest.raises(ConfigurationError) as caught:
        read_site(file, "plone", {})
    assert len(caught.value.issues) == 2


def test_names_must_differ(tmp_path: Path) -> None:
    one = "<zodb_db Main>\n<filestorage>\npath /a\n</filestorage>\n</zodb_db>\n"
    with pytest.raises(
        ConfigurationError, match=r"line 7: a second database is called 'main', the first one is in .* line 2"
    ):
        read_site(write(tmp_path / "z", one + one.replace("Main", "main")), "plone", {})


def test_a_zope_conf_is_no_zeo_conf() -> None:
    with pytest.raises(ConfigurationError, match="no zeo.conf"):
        read_zeo_conf(CONFIGS / "direct.conf", "plone", {})


def test_a_file_without_databases(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="describes no database"):
        read_site(write(tmp_path / "z", "<environment>\nA b\n</environment>\n"), "plone", {})


PACKAGE = """
from zodb_vault.model.source import Database, Skipped

class Tiny:
    def read_section(self, section, around):
        if section.text("fail"):
            raise RuntimeError(section.text("password"))
        if section.text("nothing"):
            return None
        path = around.path(section, "path")
        options = around.all_options(section)
        return Database(
            name=around.name,
            backend="filestorage",
            data_fs=path,
            blob_mode="none",
            history=True,
            options=options,
        )

storage = Tiny()
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as pip leaves it, which registers <tinystorage> and <brokenstorage>."""
    site = tmp_path / "site-packages"
    (site / "tiny_storage-1.0.dist-info").mkdir(parents=True)
    write(site / "tiny_storage.py", PACKAGE)
    write(
        site / "tiny_storage-1.0.dist-info" / "METADATA",
        "Metadata-Version: 2.1\nName: tiny-storage\nVersion: 1.0\n",
    )
    write(
        site / "tiny_storage-1.0.dist-info" / "entry_points.txt",
        f"[{backends.ENTRY_POINTS}]\ntinystorage = tiny_storage:storage\n"
        "brokenstorage = tiny_storage:absent\nodd = no_such_module:x\n",
    )
    monkeypatch.syspath_prepend(site)
    backends.find_other.cache_clear()
    return site


@pytest.mark.usefixtures("installed")
def test_another_package_can_register_a_storage(tmp_path: Path) -> None:
    database = storage(
        tmp_path,
        "<zlibstorage>\n<tinystorage>\npath var/Data.fs\npassword hunter2\n</tinystorage>\n</zlibstorage>",
    )
    assert (database.backend, database.data_fs, database.wrappers) == (
        "filestorage",
        f"{tmp_path}/var/Data.fs",
        ("zlibstorage",),
    )
    assert masked(database.options)["password"] == "***"
    # on its own, where only the type shows that it is a storage
    site = read_site(write(tmp_path / "z", "<tinystorage>\npath /x\n</tinystorage>"), "plone", {}, tmp_path)
    assert [one.data_fs for one in site.databases] == ["/x"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("<brokenstorage/>", "tiny_storage:absent, registered for <brokenstorage>, cannot be imported"),
        ("<odd/>", "no_such_module:x, registered for <odd>, cannot be imported (ModuleNotFoundError)"),
        (
            "<tinystorage>\nfail yes\npassword hunter2\n</tinystorage>",
            "tiny_storage:storage, registered for <tinystorage>, failed (RuntimeError)",
        ),
        ("<tinystorage>\nnothing yes\n</tinystorage>", "returned neither a Database nor a Skipped"),
    ],
)
def test_a_mistake_of_the_other_package_is_an_error_that_names_it(
    tmp_path: Path, section: str, words: str
) -> None:
    error = refused(tmp_path, section)
    assert words in str(error)
    assert "hunter2" not in f"{error} {error.hint} {error.__cause__!r}"
