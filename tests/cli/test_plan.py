"""``zodb-vault plan`` says what ``create`` would do, changes nothing, needs no repository and no source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import site_factory
from command_line import Vault, keys_of, tree, words

DATABASE = words(
    "name mount_point backend adapter wrappers history blob_mode blob_location copies_blobs method steps "
    "how reason warnings"
)


def test_the_document_has_exactly_the_keys_that_are_promised(vault: Vault) -> None:
    document = vault.done("plan", "--json").document
    assert keys_of(document) == words("site databases skipped")
    (database,) = document["databases"]
    assert keys_of(database) == DATABASE
    assert [keys_of(step) for step in database["steps"]] == [words("order what database from tool")] * 2
    assert [(step["order"], step["what"], step["from"]) for step in database["steps"]] == [
        (1, "storage", str(vault.files.data_fs)),
        (2, "blobs", str(vault.files.blob_dir)),
    ]
    assert keys_of(database["reason"]) == ["code", "text"]
    assert (
        database["backend"],
        database["blob_mode"],
        database["copies_blobs"],
        database["method"],
        database["history"],
    ) == (
        "filestorage",
        "directory",
        True,
        "native",
        True,
    )
    assert (database["adapter"], database["wrappers"], database["warnings"]) == (None, [], [])


def test_what_is_planned_is_what_create_does_and_nothing_is_changed(vault: Vault) -> None:
    def agreed(*arguments: str) -> str:
        before = tree(vault.directory)
        planned = vault.done("plan", *arguments, "--json").document["databases"][0]
        assert vault.done("plan", *arguments).out
        assert tree(vault.directory) == before
        made = vault.done("create", *arguments, "--json").document
        assert (planned["how"], planned["reason"]) == (made["how"], made["reason"])
        return str(made["reason"]["code"])

    assert agreed() == "first"
    assert agreed() == "unchanged"
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news="more")
    assert agreed() == "continued"
    assert agreed("--full") == "forced"
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news="yet more")
        site.pack()
    assert agreed() == "packed"


def test_text_names_storage_and_blobs_in_their_order(vault: Vault) -> None:
    printed = vault.done("plan").out.splitlines()
    assert printed[0] == "site default"
    assert printed[1] == "database main: filestorage, blobs: directory"
    assert printed[-4::2] == [
        f"  1. storage from {vault.files.data_fs}",
        f"  2. blobs from {vault.files.blob_dir}",
    ]
    assert all(line.startswith("     why: ") for line in printed[-3::2])


def test_a_repository_that_is_not_there_is_a_warning(vault: Vault) -> None:
    for location in ([], ["--repository", "nowhere"]):
        outcome = vault.bare(*location, *vault.options[2:], "plan", "--json")
        assert outcome.status == 0
        (warning,) = outcome.document["databases"][0]["warnings"]
        assert "no earlier backup is known" in warning
        assert outcome.document["databases"][0]["how"] == "full"


@pytest.mark.parametrize("lost", ["data_fs", "blob_dir", "text"])
def test_a_source_that_cannot_be_looked_at_is_one_warning(vault: Vault, lost: str) -> None:
    if lost == "blob_dir":
        shutil.rmtree(vault.files.blob_dir)
    else:
        vault.files.data_fs.unlink()
        if lost == "text":
            vault.files.data_fs.write_text("no Data.fs")
    database = vault.done("plan", "--json").document["databases"][0]
    assert (database["how"], database["reason"]) == (None, None)
    (warning,) = database["warnings"]
    assert lost != "data_fs" or "does not exist" in warning
    assert str(vault.files.blob_dir if lost == "blob_dir" else vault.files.data_fs) in warning


def test_a_repository_in_the_blob_directory_is_a_warning(vault: Vault) -> None:
    inside = vault.files.blob_dir / "backups"
    vault.bare("--repository", inside, "repository", "init")
    (warning,) = vault.bare("--repository", inside, *vault.options[2:], "plan", "--json").document[
        "databases"
    ][0]["warnings"]
    assert "contains the other" in warning


def test_a_database_that_cannot_be_reached_is_described_with_a_warning_and_no_secret_is_shown(
    tmp_path: Path, vault: Vault
) -> None:
    config = tmp_path / "zope.conf"
    config.write_text(
        "%import relstorage\n<zodb_db main>\nmount-point /\n<relstorage>\nblob-dir /var/blobs\n"
        "shared-blob-dir false\n<postgresql>\n"
        "dsn dbname='plone' user='plone' host='/nowhere' password='geh eim'\n</postgresql>\n</relstorage>\n"
        "</zodb_db>\n"
    )
    for arguments in (
        ["plan"],
        ["plan", "--json"],
        ["plan", "-v"],
        ["create"],
        ["create", "--json"],
        ["create", "-v"],
        ["restore", "--yes"],
    ):
        outcome = vault.bare("--repository", vault.repository, "--zope-conf", config, *arguments)
        assert "geh eim" not in outcome.out + outcome.err
    (database,) = vault.bare("--zope-conf", config, "plan", "--json").document["databases"]
    assert [database[key] for key in ("backend", "adapter", "blob_mode", "copies_blobs")] == [
        "relstorage",
        "postgresql",
        "database",
        False,
    ]
    assert [(step["what"], step["from"], step["tool"]) for step in database["steps"]] == [
        ("storage", "PostgreSQL dbname='plone' user='plone' host='/nowhere' password=***", "pg_dump")
    ]
    assert (
        sum("No such file" in warning or "PostgreSQL" in warning for warning in database["warnings"]) >= 1
    ), database["warnings"]
    refused = vault.bare("--repository", vault.repository, "--zope-conf", config, "create", "--json")
    assert (refused.status, refused.error["kind"]) == (1, "source")


def test_secrets_of_a_broken_configuration_are_not_printed(tmp_path: Path, vault: Vault) -> None:
    config = tmp_path / "zope.conf"
    config.write_text(
        "<zodb_db main>\nmount-point /\n<relstorage>\n<postgresql>\ndsn password=geheim\npasword geheim\n"
        "</postgresql>\n</relstorage\n"
    )
    for arguments in (["plan"], ["plan", "--json"], ["create", "-v"]):
        outcome = vault.bare("--repository", vault.repository, "--zope-conf", config, *arguments)
        assert outcome.status == 2
        assert str(config) in outcome.err
        assert "geheim" not in outcome.out + outcome.err


# The table of the design, for each kind of site

SHARED = (
    "<zodb_db main>\nmount-point /\n<zeoclient>\nserver db.example.org:8100\nblob-dir {0}\n"
    "shared-blob-dir {1}\n</zeoclient>\n</zodb_db>\n"
)


@pytest.mark.parametrize("method", [[], ["--json"]])
def test_a_zeo_client_is_sent_to_the_server_and_creates_nothing(
    tmp_path: Path, vault: Vault, method: list[str]
) -> None:
    conf = tmp_path / "zope.conf"
    conf.write_text(SHARED.format(tmp_path / "cache", "off"))
    options = ["--repository", vault.repository, "--zope-conf", conf]
    before = tree(vault.directory)
    planned = vault.bare(*options, "plan", *method)
    assert (planned.status, planned.err) == (0, "")
    assert "no data are on this machine: it is a client of the ZEO server db.example.org:8100" in planned.out
    assert "--zeo-conf" in planned.out
    if method:
        (database,) = planned.document["databases"]
        assert (database["steps"], database["copies_blobs"], database["blob_mode"], database["backend"]) == (
            [],
            False,
            "server",
            "zeo",
        )
    refused = vault.bare(*options, "create", "--json")
    assert (refused.status, refused.error["kind"]) == (2, "nothing-to-back-up")
    assert "db.example.org:8100" in refused.error["message"]
    assert "--zeo-conf" in refused.error["hint"]
    assert tree(vault.directory) == before


def test_a_shared_blob_directory_is_only_one_component(tmp_path: Path, vault: Vault) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / ".layout").write_text("bushy")
    conf = tmp_path / "zope.conf"
    conf.write_text(SHARED.format(tmp_path / "shared", "on"))
    options = ["--repository", vault.repository, "--zope-conf", conf]
    (database,) = vault.bare(*options, "plan", "--json").document["databases"]
    assert (database["copies_blobs"], database["blob_mode"], database["blob_location"]) == (
        True,
        "directory",
        str(tmp_path / "shared"),
    )
    assert [(step["order"], step["what"], step["from"]) for step in database["steps"]] == [
        (1, "blobs", str(tmp_path / "shared"))
    ]
    assert any("only blobs are on this machine" in warning for warning in database["warnings"])
    assert vault.bare(*options, "create").status == 2
    assert vault.bare(*options, "doctor", "--json").status == 1


def test_all_storages_come_before_any_blobs(tmp_path: Path, vault: Vault) -> None:
    conf = tmp_path / "zope.conf"
    conf.write_text(
        f"<zodb_db main>\n<filestorage>\npath {vault.files.data_fs}\nblob-dir {vault.files.blob_dir}\n"
        "</filestorage>\n</zodb_db>\n"
        f"<zodb_db catalog>\nmount-point /c\n<filestorage>\npath {tmp_path}/C.fs\n</filestorage>\n"
        "</zodb_db>\n"
        "<zodb_db temporary>\n<temporarystorage/>\n</zodb_db>\n"
    )
    options = ["--repository", vault.repository, "--zope-conf", conf]
    document = vault.bare(*options, "plan", "--json").document
    steps = [step for database in document["databases"] for step in database["steps"]]
    assert sorted((step["order"], step["what"], step["database"]) for step in steps) == [
        (1, "storage", "main"),
        (2, "storage", "catalog"),
        (3, "blobs", "main"),
    ]
    assert [one["name"] for one in document["skipped"]] == ["temporary"]
    printed = vault.bare(*options, "plan").out
    assert f"site default, from {conf}\n" in printed
    assert "not backed up: temporary: <temporarystorage> is only in memory" in printed
    assert "not copied: blobs: no blob directory is configured" in printed


def test_details_are_what_was_understood_without_its_secrets(tmp_path: Path, vault: Vault) -> None:
    conf = tmp_path / "zope.conf"
    keys = "dsn host=/nowhere password=hunter2\ns3-bucket-name b\ns3-secret-key hunter2"
    conf.write_text(f"%import zodb_pgjsonb\n<zodb_db main>\n<pgjsonb>\n{keys}\n</pgjsonb>\n</zodb_db>")
    detailed = vault.bare("--zope-conf", conf, "plan", "-v").out
    assert (
        "  configured: dsn host=/nowhere password=***\n  configured: s3-bucket-name b\n"
        "  configured: s3-secret-key ***\n"
    ) in detailed
    assert "configured:" not in vault.bare("--zope-conf", conf, "plan").out
    assert "hunter2" not in detailed


def test_a_password_that_was_mistyped_or_broken_into_lines_is_not_shown(tmp_path: Path, vault: Vault) -> None:
    conf = tmp_path / "zope.conf"
    lines = "pasword hunter2\ndsn host=/nowhere;password=hunter2\nhunter2_x y\n  password=hunter2\n hunter2"
    conf.write_text(f"<zodb_db main>\n<pgjsonb>\n{lines}\n</pgjsonb>\n</zodb_db>")
    detailed = vault.bare("--zope-conf", conf, "plan", "-v")
    assert detailed.status == 0
    assert (
        "  configured: dsn host=***\n  configured: 4 keys more that zodb-vault does not know\n"
        in detailed.out
    )
    assert "hunter2" not in detailed.out + detailed.err
