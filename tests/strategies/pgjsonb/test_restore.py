"""Restores of zodb-pgjsonb with real PostgreSQL and S3, opened by the real storage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pgjsonb_sites
import psycopg2
import pytest
from command_line import flip
from pgjsonb_sites import PgjsonbSite, Place
from relstorage_vault import NOISE, RelVault
from services.postgres import PASSWORD, Cluster, Login, execute
from services.s3 import SECRET_KEY, Service

from zodb_vault.strategies.blobs import s3 as buckets
from zodb_vault.strategies.blobs import s3_restore
from zodb_vault.strategies.postgres.restore import LoadInPlace

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-pgjsonb needs Python 3.12")
EACH = pytest.mark.parametrize(
    ("history", "tiered"), [(False, False), (False, True), (True, False), (True, True)]
)
Make = Callable[..., RelVault]


@pytest.fixture
def make(postgres: Cluster, moto: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site with some content and a backup of it."""

    def make(history: bool = False, tiered: bool = True, *options: str) -> RelVault:
        login = postgres.database(postgres.role("zodb", *options))
        place = Place(moto, moto.bucket(), "plone") if tiered else None
        vault = pgjsonb_sites.filled(tmp_path, capsys, PgjsonbSite(login, history, tmp_path / "cache", place))
        vault.created()
        return vault

    return make


def other(vault: RelVault, login: Login, prefix: str = "copies/two/") -> PgjsonbSite:
    """Return the site as it is configured elsewhere: another database, another bucket, another prefix."""
    place = vault.site.place and Place(vault.site.place.service, vault.site.place.service.bucket(), prefix)
    return PgjsonbSite(login, vault.site.history, vault.directory / "other cache", place)


def conf_of(vault: RelVault, site: PgjsonbSite) -> Path:
    return site.write_conf(vault.directory / "other.conf")


def place_of(site: Any) -> Place:
    assert isinstance(site.place, Place)
    return site.place


def everything(site: Any) -> tuple[Any, ...]:
    return pgjsonb_sites.rows(site.login), pgjsonb_sites.revisions(site), pgjsonb_sites.state(site)


def modified(place: Place) -> dict[str, Any]:
    return {
        one["Key"]: one["LastModified"]
        for one in place.service.client().list_objects_v2(Bucket=place.bucket).get("Contents", [])
    }


@EACH
def test_into_an_empty_database_and_a_bucket_of_another_owner(
    make: Make, postgres: Cluster, history: bool, tiered: bool
) -> None:
    vault = make(history, tiered)
    site, before = other(vault, postgres.database()), place_of(vault.site).objects() if tiered else {}
    said = vault.done("restore", "--target", conf_of(vault, site), "--yes").err
    assert "restart every process" in said and "there are already objects below" not in said
    assert everything(site) == everything(vault.site)
    if tiered:
        assert place_of(site).objects() == place_of(vault.site).objects() == before and len(before) == 4
        assert f"blobs to s3://{place_of(site).bucket}/copies/two" in said
    with site.opened() as opened:
        count = len(opened.root)
        opened.put(**{f"key-{number}": "new" for number in range(40)}, blob=NOISE[4])
        assert len(opened.root) == count + 41  # no OID was given twice
        opened.pack()
    assert pgjsonb_sites.state(site)["key-39"] == "new"
    if tiered:
        assert place_of(vault.site).objects() == before


def test_in_place_nothing_is_written_twice_and_nothing_deleted(make: Make) -> None:
    vault = make(True, True, "CREATEDB")
    wanted, (first,), place = everything(vault.site), vault.backups(), place_of(vault.site)
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[6], later=NOISE[7], photo=None)
    vault.created()
    gone, *stay = sorted(wanted_keys := pgjsonb_sites.keys(vault.login)[:4])
    place.delete(gone)
    before, lost = modified(place), set(place.objects())
    assert list(vault.site.cache.rglob("*.blob"))
    done = vault.done("restore", first, "--replace", "--yes", "--json").document
    assert not list(vault.site.cache.rglob("*.blob")) and done["caches"] == [str(vault.site.cache)]
    after = modified(place)
    assert {key: after[key] for key in before} == before
    assert set(place.objects()) == lost | {gone} and set(stay) < set(wanted_keys)
    assert everything(vault.site) == wanted
    (kept,) = [one.removeprefix("the database ") for one in done["kept"]]
    assert "later" in pgjsonb_sites.state(vault.site._replace(login=vault.login._replace(name=kept)))
    assert any("stay there until a pack of the site deletes them" in note for note in done["notes"])
    with vault.site.opened() as opened:
        opened.put(title="and goes on")
    assert vault.created()["reason"]["code"] == "diverged"


def test_over_what_is_there_where_no_database_may_be_created(make: Make, postgres: Cluster) -> None:
    vault = make()
    wanted, before = everything(vault.site), postgres.names()
    with vault.site.opened() as opened:
        opened.put(logo=NOISE[6], later="later")
    assert "over it, in one transaction" in vault.done("restore", "--replace", "--yes").err
    assert (everything(vault.site), postgres.names()) == (wanted, before)


def test_another_role_can_be_the_owner(make: Make, postgres: Cluster) -> None:
    vault = make()
    login, role = postgres.database(), postgres.role()
    execute(postgres.login(login.name), f"GRANT ALL ON SCHEMA public TO {role}")
    admin = other(vault, postgres.login(login.name))
    vault.done("restore", "--target", conf_of(vault, admin), "--role", role, "--yes")
    ours = admin._replace(login=Login(login.host, login.name, role, PASSWORD))
    assert everything(ours) == everything(vault.site)


def test_another_object_under_a_key_is_never_written_over_silently(make: Make, postgres: Cluster) -> None:
    vault = make()
    site = other(vault, postgres.database(), "shared")
    place, key = place_of(site), pgjsonb_sites.keys(vault.login)[1]
    for content in (b"", b"of somebody else", place_of(vault.site).objects()[key][::-1]):
        place.put(key, content)
        refused = vault("restore", "--target", conf_of(vault, site), "--yes", "--json")
        assert (refused.status, refused.error["kind"]) == (
            1,
            "target-refused",
        ) and f"s3://{place.bucket}/shared/{key}" in refused.error["message"]
        assert place.objects()[key] == content and pgjsonb_sites.rows(site.login) == {}
    done = vault.done(
        "restore", "--target", conf_of(vault, site), "--replace-blobs", "--yes", "--json"
    ).document
    (kept,) = [name for name in place.objects() if name.endswith(f"/{key}")]
    assert place.objects()[kept] == content and any(
        f"s3://{place.bucket}/shared/{kept.removesuffix(key)}" in note for note in done["notes"]
    )
    assert everything(site) == everything(vault.site)


@pytest.mark.parametrize("where", ["blobs", "storage"])
def test_an_interrupted_restore_is_finished_by_the_next_one(
    make: Make, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    vault = make()
    site = other(vault, postgres.database())
    put = buckets.BlobBucket.put
    stored: list[Any] = []

    def break_off(bucket: buckets.BlobBucket, *arguments: Any) -> None:
        if len(stored) == 2:
            raise KeyboardInterrupt
        stored.append(arguments)
        put(bucket, *arguments)

    with monkeypatch.context() as patch:
        if where == "blobs":
            patch.setattr(buckets.BlobBucket, "put", break_off)
        else:
            patch.setattr(
                LoadInPlace, "make_valid", lambda *_arguments: (_ for _ in ()).throw(KeyboardInterrupt)
            )
        assert vault("restore", "--target", conf_of(vault, site), "--yes").status == 130
    assert pgjsonb_sites.rows(site.login) == {}
    before = modified(place_of(site))
    assert len(before) == (2 if where == "blobs" else 4)
    assert (
        "there are already objects below"
        in vault.done("restore", "--target", conf_of(vault, site), "--yes").err
    )
    assert modified(place_of(site)).items() >= before.items()
    assert everything(site) == everything(vault.site)


def test_one_component_after_the_other(make: Make, postgres: Cluster) -> None:
    vault = make()
    site = other(vault, postgres.database())
    vault.done("restore", "--target", conf_of(vault, site), "--only", "storage", "--yes")
    assert place_of(site).objects() == {} and pgjsonb_sites.rows(site.login) == pgjsonb_sites.rows(
        vault.login
    )
    vault.done("restore", "--target", conf_of(vault, site), "--only", "blobs", "--yes")
    assert everything(site) == everything(vault.site)


def test_blobs_that_were_under_other_keys_are_so_again(make: Make, postgres: Cluster) -> None:
    vault = make()
    place, key = place_of(vault.site), pgjsonb_sites.keys(vault.login)[0]
    place.put("blobs/moved/by/somebody", place.objects()[key])
    place.delete(key)
    execute(vault.login, "UPDATE blob_state SET s3_key = 'blobs/moved/by/somebody' WHERE s3_key = %s", (key,))
    for _ in range(2):  # the second one reads none of them again
        vault.created()
    site = other(vault, postgres.database())
    vault.done("restore", "--target", conf_of(vault, site), "--yes")
    assert everything(site) == everything(vault.site)
    assert "blobs/moved/by/somebody" in place_of(site).objects()
    assert vault.done("verify", "--level", "objects", "--json").document["damage"] == []


def test_a_site_without_a_place_for_them_is_refused(make: Make, postgres: Cluster) -> None:
    vault = make()
    site = other(vault, postgres.database())._replace(place=None)
    refused = vault("restore", "--target", conf_of(vault, site), "--yes", "--json")
    assert (refused.status, refused.error["kind"]) == (
        1,
        "target-refused",
    ) and "s3-bucket-name" in refused.error["hint"]
    assert pgjsonb_sites.rows(site.login) == {}


def test_a_database_in_use_is_refused_before_anything_is_put_into_the_bucket(
    make: Make, postgres: Cluster
) -> None:
    vault = make()
    site = other(vault, postgres.database())
    connection = psycopg2.connect(f"{site.login.dsn} application_name=instance1")
    refused = vault("restore", "--target", conf_of(vault, site), "--yes", "--json")
    connection.close()
    assert (refused.status, refused.error["kind"]) == (11, "in-use") and "instance1" in refused.error[
        "message"
    ]
    assert place_of(site).objects() == {}


def test_a_damaged_pack_puts_nothing_wrong_into_the_bucket(make: Make, postgres: Cluster) -> None:
    vault = make()
    manifest = vault.done("show", "latest", "--json").document["manifest"]
    (part,) = manifest["databases"][0]["blobs"]["tail"][0]["parts"]
    flip(vault.repository / "objects" / part["object"][:2] / part["object"])
    site = other(vault, postgres.database())
    done = vault("restore", "--target", conf_of(vault, site), "--yes", "--json")
    assert (done.status, done.error["kind"]) == (4, "damage")
    assert pgjsonb_sites.rows(site.login) == {}
    assert set(place_of(site).objects().items()) <= set(place_of(vault.site).objects().items())


def test_a_blob_that_is_not_what_its_index_says_does_not_become_an_object(
    make: Make, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, rows = make(), s3_restore.pack_members
    monkeypatch.setattr(
        s3_restore,
        "pack_members",
        lambda *arguments: [msgspec.structs.replace(one, sha256="0" * 64) for one in rows(*arguments)],
    )
    site = other(vault, postgres.database())
    done = vault("restore", "--target", conf_of(vault, site), "--yes", "--json")
    assert (done.status, done.error["kind"]) == (4, "damage")
    assert (place_of(site).objects(), pgjsonb_sites.rows(site.login)) == ({}, {})


@pytest.mark.parametrize("wrong", ["bucket", "secret"])
def test_a_bucket_that_cannot_be_written_is_an_error_that_shows_no_secret(
    make: Make, postgres: Cluster, rclone: Service, wrong: str
) -> None:
    vault = make()
    site = other(vault, postgres.database())
    text = site.conf.replace(place_of(site).bucket, "nobodys-bucket")
    if wrong == "secret":
        text = text.replace(place_of(site).service.endpoint, rclone.endpoint).replace(
            SECRET_KEY, "another-secret-of-s3"
        )
    (vault.directory / "other.conf").write_text(text)
    done = vault("restore", "--target", vault.directory / "other.conf", "--yes", "--json")
    assert (done.status, done.error["kind"]) in ((1, "store"), (1, "missing")) and "zope.conf" in done.error[
        "hint"
    ]
    assert pgjsonb_sites.rows(site.login) == {}
    for secret in (SECRET_KEY, "another-secret-of-s3", PASSWORD):
        assert secret not in done.err + done.out
