"""zodb-vault.toml, the variables, and the choice of a site."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from zodb_vault.config import settings as module
from zodb_vault.config.durations import parse_duration
from zodb_vault.config.settings import Settings, SiteSettings, load_settings
from zodb_vault.config.sites import choose_site, given_source, resolve_site
from zodb_vault.errors import ConfigurationError, UsageError, VaultError
from zodb_vault.model.source import Site

FULL = """
[repository]
location = "backups"
[repository.encryption]
recipients = ["age1abc", "ssh-ed25519 AAAA"]
[identity]
file = "~/key.txt"
[site.plone]
zope_conf = "instance/etc/zope.conf"
[site."my.site-2"]
data_fs = "/srv/Data.fs"
blob_dir = "blobs/"
client_confs = ["a.conf", "/b.conf"]
[retention]
grace = "24h"
[retention.scheduled]
daily = 14
[retention.on_demand]
age = "10d"
limit = 20
[schedule]
max_age = "26h"
timezone = "Europe/Vienna"
"""


@pytest.fixture(autouse=True)
def no_system_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYSTEM_DIRECTORY", tmp_path / "system")


def load(directory: Path, text: str | None = None, **environment: str) -> Settings:
    if text is not None:
        directory.mkdir(exist_ok=True)
        (directory / "zodb-vault.toml").write_text(text, encoding="utf-8")
    return load_settings(None, environment, directory)


def issues(directory: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, text, **environment)
    return caught.value.issues


def resolve(settings: Settings, cwd: Path, **given: Path | str | None) -> Site:
    paths: dict = {"zope_conf": None, "zeo_conf": None, "data_fs": None, "blob_dir": None} | given
    site = paths.pop("site", None)
    source = given_source(**paths, cwd=cwd)
    return resolve_site(settings, site=site, given=source, environment={}, cwd=cwd)


def test_every_value(tmp_path: Path) -> None:
    found = load(tmp_path, FULL, HOME="/home/op")
    assert found.file == tmp_path / "zodb-vault.toml"
    assert found.repository.location == f"{tmp_path}/backups"
    assert found.repository.encryption.recipients == ("age1abc", "ssh-ed25519 AAAA")
    assert found.identity.file == Path("/home/op/key.txt")
    assert found.sites == {
        "plone": SiteSettings(zope_conf=tmp_path / "instance/etc/zope.conf"),
        "my.site-2": SiteSettings(
            data_fs=Path("/srv/Data.fs"),
            blob_dir=tmp_path / "blobs",
            client_confs=(tmp_path / "a.conf", Path("/b.conf")),
        ),
    }
    assert (
        found.retention.scheduled.daily,
        found.retention.scheduled.weekly,
        found.retention.scheduled.monthly,
    ) == (14, 4, 12)
    assert (
        found.retention.on_demand.newest,
        found.retention.on_demand.age,
        found.retention.on_demand.limit,
    ) == (3, timedelta(days=10), 20)
    assert (found.retention.safety.age, found.retention.grace) == (timedelta(days=30), timedelta(hours=24))
    assert (found.schedule.max_age, found.schedule.timezone) == (timedelta(hours=26), "Europe/Vienna")


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert (found.file, found.repository.location, found.sites) == (None, None, {})
    assert (found.retention.scheduled.daily, found.retention.grace, found.schedule.timezone) == (
        7,
        timedelta(hours=72),
        "UTC",
    )


@pytest.mark.parametrize("place", [".", "etc", "elsewhere", "system"])
def test_where_the_file_is_found(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    file = tmp_path / place / "zodb-vault.toml"
    file.write_text("")
    zope_conf = Path("elsewhere/zope.conf") if place == "elsewhere" else None
    assert load_settings(None, {}, tmp_path, site_conf=zope_conf).file == file


def test_the_working_directory_comes_first_and_a_named_file_rules(tmp_path: Path) -> None:
    for place in ("etc", "system", "."):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "zodb-vault.toml").write_text("")
    assert load_settings(None, {}, tmp_path).file == tmp_path / "zodb-vault.toml"
    assert (
        load_settings(Path("etc/zodb-vault.toml"), {"ZODB_VAULT_CONFIG": "none"}, tmp_path).file
        == tmp_path / "etc/zodb-vault.toml"
    )
    assert (
        load_settings(None, {"ZODB_VAULT_CONFIG": "system/zodb-vault.toml"}, tmp_path).file
        == tmp_path / "system/zodb-vault.toml"
    )
    with pytest.raises(ConfigurationError, match="none.toml cannot be read: No such file"):
        load_settings(Path("none.toml"), {}, tmp_path)


def test_all_problems_are_reported_at_once_with_file_and_key(tmp_path: Path) -> None:
    text = """
repositry = 1
[repository]
locaton = "x"
location = 7
[site.Plone]
zope_conf = "a"
[site.two]
zope_config = "a"
[site.three]
zope_conf = "a"
zeo_conf = "b"
blob_dir = "c"
[retention]
grace = "3 fortnights"
[retention.scheduled]
daily = "many"
weekly = true
[schedule]
timezone = "Mars/Base"
"""
    found = issues(tmp_path, text, ZODB_VAULT_RETENTION_SCHEDULED_DALY="3", ZODB_VAULT_SITE_X="1")
    file = f"{tmp_path}/zodb-vault.toml: "
    expected = {
        f"{file}repositry is not known, did you mean repository?",
        f"{file}repository.locaton is not known, did you mean location?",
        f"{file}repository.location has to be a string in quotes",
        (
            f"{file}site.Plone has to begin with a small letter or digit, then up to 62 of these, dots, "
            "dashes and underscores"
        ),
        f"{file}site.two.zope_config is not known, did you mean zope_conf?",
        f"{file}site.two has to have exactly one of zope_conf, zeo_conf and data_fs, it has none",
        (
            f"{file}site.three has to have exactly one of zope_conf, zeo_conf and data_fs, it has zope_conf "
            "and zeo_conf"
        ),
        f"{file}site.three.blob_dir belongs to data_fs; zope_conf and zeo_conf contain it themselves",
        (
            f"{file}retention.grace is not a length of time: must be a whole number and a unit: s, m, h, d "
            "or w, such as 72h or 30d"
        ),
        f"{file}retention.scheduled.daily has to be a whole number, 0 or more",
        f"{file}retention.scheduled.weekly has to be a whole number, 0 or more",
        f"{file}schedule.timezone is not a zone of the time zone database, such as Europe/Vienna",
        (
            "ZODB_VAULT_RETENTION_SCHEDULED_DALY is not known, did you mean "
            "ZODB_VAULT_RETENTION_SCHEDULED_DAILY?"
        ),
        "ZODB_VAULT_SITE_X has to be named ZODB_VAULT_SITE_<SITE>_<KEY>, the key one of ZOPE_CONF, "
        "ZEO_CONF, DATA_FS, BLOB_DIR, "
        "CLIENT_CONFS, RETENTION, MAX_AGE, METHOD, MIRROR, DSN_BACKUP, REPLICA_LAG",
    }
    assert set(found) == expected


def test_variables_rule_over_the_file(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        FULL,
        ZODB_VAULT_REPOSITORY_LOCATION="s3://bucket/prefix/",
        ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS="age1x, age1y",
        ZODB_VAULT_RETENTION_SCHEDULED_DAILY="3",
        ZODB_VAULT_RETENTION_SAFETY_AGE="2w",
        ZODB_VAULT_RETENTION_ON_DEMAND_NEWEST="1",
        ZODB_VAULT_SCHEDULE_AT="",
        ZODB_VAULT_IDENTITY_COMMAND="pass show hunter2",
        ZODB_VAULT_SITE_MY_SITE_2_BLOB_DIR="other",
        ZODB_VAULT_SITE_NEW_ZEO_CONF="/zeo.conf",
        ZODB_VAULT_SITE_NEW_CLIENT_CONFS="/a.conf:b.conf",
        ZODB_VAULT_TEST_REQUIRE="s3",
    )
    assert found.repository.location == "s3://bucket/prefix"
    assert found.repository.encryption.recipients == ("age1x", "age1y")
    assert (found.retention.scheduled.daily, found.retention.scheduled.weekly) == (3, 4)
    assert (
        found.retention.safety.age,
        found.retention.on_demand.newest,
        found.retention.on_demand.limit,
    ) == (timedelta(days=14), 1, 20)
    assert found.schedule.max_age == timedelta(hours=26)
    assert (found.identity.file, found.identity.command and found.identity.command.reveal()) == (
        None,
        "pass show hunter2",
    )
    assert "hunter2" not in repr(found)
    clients = (tmp_path / "a.conf", Path("/b.conf"))
    assert found.sites["my.site-2"] == SiteSettings(
        data_fs=Path("/srv/Data.fs"), blob_dir=tmp_path / "other", client_confs=clients
    )
    assert found.sites["new"] == SiteSettings(
        zeo_conf=Path("/zeo.conf"), client_confs=(Path("/a.conf"), tmp_path / "b.conf")
    )


def test_the_command_line_rules_over_both(tmp_path: Path) -> None:
    environment = {"ZODB_VAULT_REPOSITORY_LOCATION": "/other"}
    found = load_settings(None, environment, tmp_path, repository="here/")
    assert found.repository.location == f"{tmp_path}/here"


def test_relative_paths_of_the_file_are_relative_to_it(tmp_path: Path) -> None:
    load(tmp_path / "conf", FULL)
    found = load_settings(Path("conf/zodb-vault.toml"), {}, tmp_path)
    assert found.repository.location == f"{tmp_path}/conf/backups"
    assert found.sites["plone"].zope_conf == tmp_path / "conf/instance/etc/zope.conf"


@pytest.mark.parametrize(
    "text",
    [
        '[repository]\nlocation = "s3://id:hunter2@bucket/x"',
        '[repository]\nlocation = "s3://[hunter2"',
        '[repository.encryption]\nrecipients = ["AGE-SECRET-KEY-1HUNTER2hunter2"]',
        '[identity]\nfile = "a"\ncommand = "echo hunter2"',
        '[repository]\nlocation = "hunter2',
        '[repository]\nlocation = ["hunter2"]',
        '[repository]\nlocation = ""\n[retention]\ngrace="hunter2"',
        'site = "hunter2"',
        'repository = "hunter2"',
        "[" * 20000,
        "\x00",
    ],
)
def test_wrong_values_are_reported_but_never_shown(tmp_path: Path, text: str) -> None:
    found = issues(tmp_path, text)
    assert "zodb-vault.toml" in found[0]
    assert "hunter2" not in str(found).lower()


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "zodb-vault.toml").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe4")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load_settings(tmp_path / "latin.toml", {}, tmp_path)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        ("72h", timedelta(days=3)),
        (" 30 D ", timedelta(days=30)),
        ("4w", timedelta(weeks=4)),
    ],
)
def test_durations(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["", "72", "h", "-3h", "1.5h", "3 months", "1h30m", "999999999w", "٣h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"whole number and a unit|too long"):
        parse_duration(text)


TABLE_NAMES = ["repository", "site", "retention", "schedule", "identity", "x"]
INNER_NAMES = [
    "location",
    "plone",
    "data_fs",
    "blob_dir",
    "zope_conf",
    "scheduled",
    "daily",
    "file",
    "timezone",
    "encryption",
    "recipients",
    "..",
    "A",
]
LEAVES = st.one_of(
    st.integers(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from(["s3://a:b@c", "04:00", "a/b", "x" * 300]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(st.sampled_from(INNER_NAMES), inner, max_size=4) | st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(TABLE_NAMES), VALUES, max_size=4))
@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_fuzz(tmp_path: Path, document: dict) -> None:
    try:
        load(tmp_path, "\n".join(f"{key} = {toml(value)}" for key, value in document.items()))
    except VaultError as error:
        assert error.exit_code == 2


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(inner)}' for key, inner in value.items()) + "}"
    return '"' + "".join(c if c.isalnum() or c in "/:@ " else f"\\U{ord(c):08x}" for c in str(value)) + '"'


# The choice of a site


def test_without_configuration_the_site_is_called_default(tmp_path: Path) -> None:
    site = resolve(Settings(), tmp_path, data_fs=Path("Data.fs"))
    database = site.databases[0]
    assert (site.name, site.config, database.name) == ("default", None, "main")
    assert (database.backend, database.data_fs, database.blob_dir, database.blob_mode) == (
        "filestorage",
        f"{tmp_path}/Data.fs",
        None,
        "none",
    )


def test_paths_of_the_command_line_are_absolute_and_not_resolved(tmp_path: Path) -> None:
    """F48, F51."""
    (tmp_path / "real" / "blobs").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    database = resolve(
        Settings(), tmp_path, data_fs=Path("link/./Data.fs"), blob_dir=Path("link//blobs/")
    ).databases[0]
    assert (database.data_fs, database.blob_dir, database.blob_mode) == (
        f"{tmp_path}/link/Data.fs",
        f"{tmp_path}/link/blobs",
        "directory",
    )


def test_a_cache_is_refused_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".layout").write_text("zeocache")
    with pytest.raises(ConfigurationError, match="zeocache"):
        resolve(Settings(), tmp_path, data_fs=Path("Data.fs"), blob_dir=Path("cache"))


def test_one_configured_site_needs_no_choice(tmp_path: Path) -> None:
    (tmp_path / "zope.conf").write_text(
        "<zodb_db main>\n<filestorage>\npath /Data.fs\n</filestorage>\n</zodb_db>\n"
    )
    settings = load(tmp_path, '[site.plone]\nzope_conf = "zope.conf"')
    assert resolve(settings, Path("/elsewhere")).name == "plone"
    other = resolve(settings, tmp_path, data_fs=Path("other.fs"), site="plone")
    assert other.databases[0].data_fs == f"{tmp_path}/other.fs"
    assert resolve(settings, tmp_path, zope_conf=Path("zope.conf"), site="new").name == "new"


def test_several_sites_and_no_choice_lists_them(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL)
    with pytest.raises(UsageError, match=r"my\.site-2, plone"):
        resolve(settings, tmp_path)
    assert resolve(settings, tmp_path, site="my.site-2").databases[0].blob_dir == f"{tmp_path}/blobs"
    assert choose_site(settings, "gone") == "gone"


def test_an_unknown_site_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean plone") as caught:
        resolve(load(tmp_path, FULL), tmp_path, site="plona")
    assert "my.site-2, plone" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"site": "plone"},
        {"site": "../x", "data_fs": Path("D")},
        {"site": "P", "data_fs": Path("D")},
        {"site": "a" * 64, "data_fs": Path("D")},
        {"site": "plone\n", "data_fs": Path("D")},
        {"zope_conf": Path("a"), "data_fs": Path("b")},
        {"zeo_conf": Path("a"), "zope_conf": Path("b")},
        {"blob_dir": Path("b")},
        {"zope_conf": Path("a"), "blob_dir": Path("b")},
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, given: dict[str, Path | str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Settings(), tmp_path, **given)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_zeo_conf_of_the_command_line_and_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 8100\n</zeo>\n<filestorage 1>\npath /Data.fs\n</filestorage>\n"
    )
    assert resolve(Settings(), tmp_path, zeo_conf=Path("zeo.conf")).databases[0].name == "1"
    assert (
        resolve(load(tmp_path, '[site.x]\nzeo_conf = "zeo.conf"'), tmp_path).config == f"{tmp_path}/zeo.conf"
    )
