"""``zodb-vault plan``: says what ``create`` would do, changes nothing, works without a repository and without a source."""

from __future__ import annotations

import shutil
from pathlib import Path

import factories
import pytest
from commandline import Vault, keys_of, tree, words

DATABASE = words(
    "name mount_point backend adapter wrappers history blob_mode blob_location copies_blobs method steps how reason warnings"
)


def test_the_document_has_exactly_the_keys_that_are_promised(vault: Vault) -> None:
    document = vault.done("plan", "--json").document
    assert keys_of(document) == words("site databases skipped")
    (database,) = document["databases"]
    assert keys_of(database) == DATABASE
    assert [keys_of(step) for step in database["steps"]] == [words("order what database from tool")] * 2
    assert [(step["order"], step["what"], step["from"]) for step in database["steps"]] == [
        (1, "storage", str(vault.files.data_fs)), (2, "blobs", str(vault.files.blob_dir)),
    ]  # fmt: skip
    assert keys_of(database["reason"]) == ["code", "text"]
    assert (database["backend"], database["blob_mode"], database["copies_blobs"], database["method"], database["history"]) == (
        "filestorage", "directory", True, "native", True,
    )  # fmt: skip
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
    with factories.Site(vault.files.data_fs.parent) as site:
        site.put(news="more")
    assert agreed() == "continued"
    assert agreed("--full") == "forced"
    with factories.Site(vault.files.data_fs.parent) as site:
        site.put(news="yet more")
        site.pack()
    assert agreed() == "packed"


def test_text_names_storage_and_blobs_in_their_order(vault: Vault) -> None:
    printed = vault.done("plan").out.splitlines()
    assert printed[0] == "site default"
    assert printed[-2:] == [f"  1. storage from {vault.files.data_fs}", f"  2. blobs from {vault.files.blob_dir}"]


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
    assert str(vault.files.blob_dir if lost == "blob_dir" else vault.files.data_fs) in warning


def test_a_repository_in_the_blob_directory_is_a_warning(vault: Vault) -> None:
    inside = vault.files.blob_dir / "backups"
    vault.bare("--repository", inside, "repository", "init")
    (warning,) = vault.bare("--repository", inside, *vault.options[2:], "plan", "--json").document["databases"][0]["warnings"]
    assert "lie in each other" in warning


def test_a_backend_of_a_later_version_is_described_with_a_warning_and_no_secret_is_shown(tmp_path: Path, vault: Vault) -> None:
    config = tmp_path / "zope.conf"
    config.write_text(
        "%import relstorage\n<zodb_db main>\nmount-point /\n<relstorage>\nblob-dir /var/blobs\nshared-blob-dir false\n<postgresql>\n"
        "dsn dbname='plone' user='plone' host='db' password='geh eim'\n</postgresql>\n</relstorage>\n</zodb_db>\n"
    )
    for arguments in (["plan"], ["plan", "--json"], ["plan", "-v"], ["create"], ["create", "--json"], ["create", "-v"], ["restore", "--yes"]):
        outcome = vault.bare("--repository", vault.repository, "--zope-conf", config, *arguments)
        assert "geh eim" not in outcome.out + outcome.err
    (database,) = vault.bare("--zope-conf", config, "plan", "--json").document["databases"]
    assert (database["backend"], database["adapter"], database["blob_mode"], database["steps"]) == ("relstorage", "postgresql", "database", [])
    assert any("cannot back up relstorage yet" in warning for warning in database["warnings"])
    refused = vault.bare("--repository", vault.repository, "--zope-conf", config, "create", "--json")
    assert (refused.status, refused.error["kind"]) == (2, "nothing-to-back-up")


def test_secrets_of_a_broken_configuration_are_not_printed(tmp_path: Path, vault: Vault) -> None:
    config = tmp_path / "zope.conf"
    config.write_text("<zodb_db main>\nmount-point /\n<relstorage>\n<postgresql>\ndsn password=geheim\npasword geheim\n</postgresql>\n</relstorage\n")
    for arguments in (["plan"], ["plan", "--json"], ["create", "-v"]):
        outcome = vault.bare("--repository", vault.repository, "--zope-conf", config, *arguments)
        assert outcome.status == 2
        assert str(config) in outcome.err
        assert "geheim" not in outcome.out + outcome.err
