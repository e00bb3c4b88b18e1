"""The configurations for zodb-convert, read back by its own schema, with the packages of every storage."""

from __future__ import annotations

import importlib
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ZConfig
import ZEO.tests

from zodb_vault.config.convertconf import convert_conf
from zodb_vault.config.sectionparser import read_tree
from zodb_vault.config.zopeconf import read_site
from zodb_vault.errors import ConfigurationError
from zodb_vault.model.source import Database, Site

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
ENVIRONMENT = {"STAGE": "live"}
CERTIFICATES = Path(ZEO.tests.__file__).parent
ALL = sorted(path.name for path in CONFIGS.glob("*.conf"))
SCHEMA_OF_STORAGES = (
    '<schema><import package="ZODB"/><multisection type="ZODB.storage" name="*" '
    'attribute="storages"/></schema>'
)
# What the two roles of a storage change, see convertconf.
CHANGED = {"read_only", "read_only_fallback", "create", "client", "var", "cache_path"}


def site_of(tmp_path: Path, name: str) -> Site:
    """Return the site of a configuration, with all paths below the test's directory; required files exist."""
    folder = tmp_path / "configs"
    for path in CONFIGS.rglob("*.conf"):
        copy = folder / path.relative_to(CONFIGS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text().replace("/srv/", f"{tmp_path}/srv/")
        copy.write_text(text.replace("/etc/ssl/", f"{CERTIFICATES}/").replace("client.key", "client_key.pem"))
    text = "".join(path.read_text() for path in folder.rglob("*.conf"))
    below = {"srv/nasty/Data.fs", "srv/zlib/var/Data.fs", "srv/site/var/filestorage/Data.fs"}
    for found in {
        *re.findall(rf"{re.escape(str(tmp_path))}/srv/\S+", text),
        *(tmp_path / one for one in below),
    }:
        Path(found).parent.mkdir(parents=True, exist_ok=True)
    return read_site(folder / name, "plone", ENVIRONMENT, tmp_path)


def generated(tmp_path: Path, site: Site, database: Database, direction: Any) -> str:
    place = tmp_path / "converted"
    place.mkdir(exist_ok=True)
    return convert_conf(site, database, direction, place, ENVIRONMENT, tmp_path).text


def require_zodb_convert() -> None:
    """Skip where the package cannot be; where it only is not, the import fails the test."""
    if sys.version_info < (3, 12):
        pytest.skip("zodb-convert needs Python 3.12")


def parsed(text: str) -> Any:
    """Return what zodb-convert makes of a configuration, no storage opened."""
    require_zodb_convert()
    zodb_convert = importlib.import_module("zodb_convert.config")
    schema = ZConfig.loadSchemaFile(StringIO(zodb_convert.SCHEMA_XML))
    config, _ = ZConfig.loadConfigFile(schema, StringIO(text), url="file:///generated.conf")
    return config


def values(factory: Any) -> Any:
    """Return all options of the sections of a storage, nested like these, but not those that roles change."""
    section = getattr(factory, "config", factory)
    if isinstance(section, list):
        return [values(one) for one in section]
    if not hasattr(section, "getSectionAttributes"):
        return (
            section.address
            if hasattr(section, "address")
            else type(section)
            if isinstance(section, tuple)
            else section
        )
    keys = sorted(set(section.getSectionAttributes()) - CHANGED)
    return {"type": section.getSectionType()} | {key: values(getattr(section, key)) for key in keys}


@pytest.mark.parametrize("direction", ["export", "import"])
@pytest.mark.parametrize("name", ALL)
def test_the_schema_of_zodb_convert_reads_what_is_written_for_every_configuration(
    tmp_path: Path, name: str, direction: str
) -> None:
    site = site_of(tmp_path, name)
    assert site.databases
    for database in site.databases:
        config = parsed(generated(tmp_path, site, database, direction))
        ours, theirs = (
            (config.destination, config.source)
            if direction == "export"
            else (config.source, config.destination)
        )
        assert (ours.config.path, ours.config.blob_dir) == (
            str(tmp_path / "converted/Data.fs"),
            str(tmp_path / "converted/blobs"),
        )
        assert bool(ours.config.read_only) is (direction == "import")
        assert theirs.name == ("source" if direction == "export" else "destination")


# Zope and zodb-convert must read the same from these files. Zope's own schema refuses the files missing here.
AS_ZOPE_READS_THEM = [
    "direct.conf",
    "instance.conf",
    "instance_zeo.conf",
    "rs_mysql.conf",
    "rs_oracle.conf",
    "rs_pg_cache.conf",
    "rs_pg_hf_shared.conf",
    "instance_zlib.conf",
    "instance_zeo_shared.conf",
    "instance_relstorage.conf",
    "rs_sqlite_shared.conf",
    "rs_mysql_shared.conf",
    "zeo_cache.conf",
    "zeo_shared_socket.conf",
    "s3_zlib_rs.conf",
    "pgjsonb.conf",
    "pgjsonb_s3.conf",
    "s3_direct.conf",
    "s3_rs.conf",
    "s3_zeo.conf",
    "three.conf",
    "zeo_cache_socket.conf",
    "zeo_shared.conf",
]


@pytest.mark.parametrize("name", AS_ZOPE_READS_THEM)
def test_every_key_and_wrapper_of_the_site_is_kept(tmp_path: Path, name: str) -> None:
    require_zodb_convert()
    site = site_of(tmp_path, name)
    text = (tmp_path / "configs" / name).read_text()
    head = "\n".join(re.findall(r"^%.*", text, re.MULTILINE))
    # some of the files are damaged
    head += "\n%import zc.zlibstorage" * ("zlibstorage" in text) + "\n%import relstorage" * (
        "<relstorage>" in text
    )
    schema = ZConfig.loadSchemaFile(StringIO(SCHEMA_OF_STORAGES))
    for database in site.databases:
        (body,) = re.findall(rf"<zodb_db {database.name}>(.*?)</zodb_db>", text, re.DOTALL)
        body = re.sub(r"^\s*(mount-point|cache-size \d+$).*$", "", body, flags=re.MULTILINE)
        zope, _ = ZConfig.loadConfigFile(schema, StringIO(f"{head}\n{body}"), url="file:///zope.conf")
        for direction, role in (("export", "source"), ("import", "destination")):
            config = getattr(parsed(generated(tmp_path, site, database, direction)), role)
            assert values(config) == values(zope.storages[0])


def test_data_dir_and_a_section_closed_with_its_name_are_written_as_their_packages_want_them(
    tmp_path: Path,
) -> None:
    site = site_of(tmp_path, "rs_sqlite.conf")
    text = generated(tmp_path, site, site.databases[0], "export")
    assert f"\n    data-dir {tmp_path}/srv/rs/sqlite\n" in text
    assert "  data_dir" not in text
    assert "page_size 8192" in text
    section = (
        f"<blobstorage 1>\nblob-dir {tmp_path}/b\n<filestorage 1>\npath {tmp_path}/Data.fs\n"
        "</filestorage>\n</blobstorage>"
    )
    site = one_storage(tmp_path, section)
    assert "<blobstorage source>\n" in (text := generated(tmp_path, site, site.databases[0], "export"))
    assert "\n  <filestorage 1>\n" in text
    site = site_of(tmp_path, "convert_zeo.conf")
    assert "</zeoclient>\n" in generated(tmp_path, site, site.databases[0], "export")


def test_keys_with_an_underscore_keep_it_however_they_are_written(tmp_path: Path) -> None:
    for written in ("unix_socket", "unix-socket", "UNIX_SOCKET"):
        site = one_storage(
            tmp_path, f"<relstorage>\n<mysql>\n{written} /run/mysql.sock\n</mysql>\n</relstorage>"
        )
        assert "    unix_socket /run/mysql.sock\n" in generated(tmp_path, site, site.databases[0], "export")
    site = one_storage(
        tmp_path,
        f"<relstorage>\n<sqlite3>\ndata-dir {tmp_path}/x\ngevent_yield_interval 5\n</sqlite3>\n</relstorage>",
    )
    assert "    gevent_yield_interval 5\n" in generated(tmp_path, site, site.databases[0], "export")
    assert not [warning for warning in site.databases[0].warnings if "gevent" in warning]


def one_storage(tmp_path: Path, section: str, head: str = "", **environment: str) -> Site:
    file = tmp_path / "zope.conf"
    file.write_text(f"{head}\n<zodb_db main>\nmount-point /\n{section}\n</zodb_db>\n")
    return read_site(file, "plone", environment, tmp_path)


def test_a_replication_is_left_out_and_its_package_is_not_needed(tmp_path: Path) -> None:
    site = site_of(tmp_path, "zeoserver_zrs.conf")
    for direction, role in (("export", "source"), ("import", "destination")):
        text = generated(tmp_path, site, site.databases[0], direction)
        assert f"<filestorage {role}>" in text
        assert not re.search(
            "zrs|replicate|keep-alive", text.partition("%import")[2] or text.rpartition("#")[2]
        )
        assert getattr(parsed(text), role).config.blob_dir == f"{tmp_path}/srv/plone/var/blobstorage"


def test_only_the_source_is_opened_for_reading_and_neither_is_ever_emptied(tmp_path: Path) -> None:
    section = (
        "<blobstorage>\nblob-dir b\n<filestorage>\npath Data.fs\ncreate true\nread-only false\n"
        "</filestorage>\n</blobstorage>"
    )
    site = one_storage(tmp_path, section)
    export = parsed(generated(tmp_path, site, site.databases[0], "export"))
    assert (export.source.config.base.config.read_only, export.source.config.base.config.create) == (
        True,
        None,
    )
    assert not export.destination.config.read_only
    imported = parsed(generated(tmp_path, site, site.databases[0], "import"))
    assert (
        imported.destination.config.base.config.read_only,
        imported.destination.config.base.config.create,
    ) == (None, None)
    assert imported.source.config.read_only is True


def test_a_persistent_cache_stays_with_the_client_it_belongs_to(tmp_path: Path) -> None:
    site = site_of(tmp_path, "instance_zeo.conf")
    for direction, role in (("export", "source"), ("import", "destination")):
        config = getattr(parsed(generated(tmp_path, site, site.databases[0], direction)), role).config
        assert (config.client, config.var, config.read_only_fallback) == (None, None, False)
        assert config.blob_dir == f"{tmp_path}/srv/plone/var/blobcache"


def test_relative_paths_become_absolute(tmp_path: Path) -> None:
    site = one_storage(tmp_path, "<filestorage>\npath var/Data.fs\nblob-dir var/blobs\n</filestorage>")
    (tmp_path / "var").mkdir()
    source = parsed(generated(tmp_path, site, site.databases[0], "export")).source.config
    assert (source.path, source.blob_dir) == (str(tmp_path / "var/Data.fs"), str(tmp_path / "var/blobs"))


def test_a_value_reads_back_as_it_is_whatever_it_holds(tmp_path: Path) -> None:
    secret = "a$b $$c ${d} $(E) # <f> 'g' %h ü"
    site = one_storage(tmp_path, "<pgjsonb>\ndsn $(SECRET)\n</pgjsonb>", SECRET=secret)
    text = convert_conf(site, site.databases[0], "import", tmp_path, {"SECRET": secret}, tmp_path).text
    assert parsed(text).destination.config.dsn == secret


@pytest.mark.parametrize(
    "secret", ["hunter2\n</pgjsonb>", "hunter2\rx", " hunter2", "hunter2\u2028x", "hunter2\udcff"]
)
def test_a_value_that_no_file_can_hold_is_refused_and_not_shown(tmp_path: Path, secret: str) -> None:
    site = one_storage(tmp_path, "<pgjsonb>\ndsn $(SECRET)\n</pgjsonb>", SECRET=secret)
    with pytest.raises(ConfigurationError, match="line 5: the value of dsn cannot be written") as caught:
        convert_conf(site, site.databases[0], "export", tmp_path, {"SECRET": secret}, tmp_path)
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_a_name_with_a_line_break_stays_in_its_comment(tmp_path: Path) -> None:
    database = Database(name="a\n<b>", backend="filestorage", data_fs="/x/Data.fs")
    text = convert_conf(
        Site(name="plone", config=None, databases=(database,)), database, "export", tmp_path, {}, tmp_path
    ).text
    assert r"a\n<b>" in text


def test_only_the_packages_that_the_storage_needs_are_imported(tmp_path: Path) -> None:
    section = (
        "<s3blobstorage>\nbucket-name b\ncache-dir c\n<filestorage>\npath Data.fs\n</filestorage>\n"
        "</s3blobstorage>"
    )
    site = one_storage(tmp_path, section, head="%import iw.rotatezlogs\n%import zodb_s3blobs")
    text = generated(tmp_path, site, site.databases[0], "export")
    assert re.findall("%import .*", text) == ["%import zodb_s3blobs"]


def test_a_storage_of_another_package_keeps_all_imports_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.config import backend_registry as backends
    from zodb_vault.strategies.backend import Backend
    from zodb_vault.strategies.backend_lookup import backend_named

    class Cloud(Backend):
        name = "cloudstorage"
        read_section = backend_named("filestorage").read_section

    found = backends.Registered("cloud:BACKEND", Cloud(), ours=False)
    monkeypatch.setattr(backends, "find_other", {"cloudstorage": found}.get)
    site = one_storage(
        tmp_path, "<cloudstorage>\npath x\n</cloudstorage>", head="%import cloud.one\n%import cloud.two"
    )
    text = generated(tmp_path, site, site.databases[0], "export")
    assert re.findall("%import .*", text) == ["%import cloud.one", "%import cloud.two"]
    assert "<cloudstorage source>\n  path " in text


def test_errors_of_zodb_convert_are_named_in_the_file_and_in_the_warnings(tmp_path: Path) -> None:
    def warned(name: str, direction: Any) -> str:
        site = site_of(tmp_path, name)
        conf = convert_conf(site, site.databases[0], direction, tmp_path, ENVIRONMENT, tmp_path)
        assert all(f"# {warning}\n" in conf.text for warning in conf.warnings)
        return " ".join(conf.warnings)

    assert "loses every blob" in warned("pgjsonb_s3.conf", "export")
    assert "refuses <s3blobstorage>" in warned("s3_rs.conf", "export")
    assert "new TID" in warned("s3_direct.conf", "import")
    assert "open it with <zlibstorage>" in warned("zeo_zlib.conf", "export")
    assert "only the current revision" in warned("rs_pg_hf_cache.conf", "export")
    assert [warned(name, "export") for name in ("direct.conf", "rs_pg_cache.conf", "zeo_shared.conf")] == [
        "",
        "",
        "",
    ]
    assert [warned(name, "import") for name in ("direct.conf", "pgjsonb.conf", "rs_pg_hf_cache.conf")] == [
        "",
        "",
        "",
    ]


def test_our_own_reader_understands_what_is_written(tmp_path: Path) -> None:
    site = site_of(tmp_path, "s3_rs.conf")
    file = tmp_path / "out.conf"
    file.write_text(generated(tmp_path, site, site.databases[0], "export"))
    assert [section.name for section in read_tree(file, {}).root.sections] == ["source", "destination"]
    (again,) = read_site(file, "plone", {}, tmp_path).databases
    original = site.databases[0]
    assert (again.backend, again.adapter, again.wrappers, again.blob_mode) == (
        original.backend,
        original.adapter,
        original.wrappers,
        original.blob_mode,
    )
    assert again.options == original.options | {"read-only": "true"}
