"""``create`` and ``plan`` with ``--method portable`` as they are typed, with only a client's zope.conf."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import independent_reader
import pytest
from command_line import Vault, process, tree
from services.zeo import ZeoServer
from site_factory import SiteFiles

Serve = Callable[[SiteFiles], ZeoServer]


@pytest.fixture
def server(vault: Vault, serve: Serve) -> ZeoServer:
    """A server of the site, with a client's configuration."""
    return serve(vault.files)


def test_a_client_names_the_server_and_copies_on_request(
    vault: Vault, server: ZeoServer, tmp_path: Path
) -> None:
    client = ["--repository", vault.repository, "--zope-conf", server.zope_conf]
    refused = vault.bare(*client, "create", "--json")
    assert (refused.status, refused.error["kind"]) == (2, "nothing-to-back-up")
    assert "no data are on this machine" in refused.error["message"]
    assert "--zeo-conf" in refused.error["hint"] and "--method portable" in refused.error["hint"]
    assert not (server.directory / "mirror-default").exists()

    made = vault.bare(*client, "create", "--method", "portable", "--json")
    assert (made.status, made.document["status"], made.document["reason"]["code"]) == (0, "complete", "first")
    assert (server.directory / "mirror-default" / "main" / "mirror.json").exists()
    shown = vault.bare(*client, "show", "latest", "--json").document["manifest"]["databases"][0]
    assert (shown["backend"], shown["method"], shown["blob_mode"]) == ("zeo", "portable", "server")
    again = vault.bare(*client, "create", "--method", "portable", "--skip-unchanged", "--json")
    assert (again.status, again.document["status"]) == (0, "skipped")
    expected = independent_reader.transactions(*vault.files)
    server.stop()
    vault.done("restore", "--yes")  # into the server's own files
    assert independent_reader.transactions(*vault.files) == expected


def test_plan_says_what_each_method_does_without_any_connection(vault: Vault, server: ZeoServer) -> None:
    server.stop()
    client = ["--repository", vault.repository, "--zope-conf", server.zope_conf]
    before = tree(vault.directory), tree(server.directory)
    planned = vault.bare(*client, "plan", "--json")
    (database,) = planned.document["databases"]
    assert (planned.status, database["method"], database["steps"]) == (0, "native", [])
    assert any("--method portable" in warning for warning in database["warnings"])

    planned = vault.bare(*client, "plan", "--method", "portable", "--json")
    (database,) = planned.document["databases"]
    assert (
        planned.status,
        database["backend"],
        database["adapter"],
        database["method"],
        database["copies_blobs"],
    ) == (
        0,
        "zeo",
        None,
        "portable",
        True,
    )
    source, mirror = (
        f"storage 1 of the ZEO server {server.socket}",
        server.directory / "mirror-default" / "main",
    )
    assert [(step["order"], step["what"], step["from"]) for step in database["steps"]] == [
        (1, "storage", source),
        (2, "blobs", source),
    ]
    assert all(str(mirror) in step["tool"] for step in database["steps"])
    assert (database["how"], database["reason"]) == (None, None)
    assert any("no mirror yet" in warning for warning in database["warnings"])
    text = vault.bare(*client, "plan", "--method", "portable", "--mirror", "elsewhere").out
    assert f"1. storage from {source}, with ZODB, into the mirror {Path.cwd() / 'elsewhere' / 'main'}" in text
    assert (tree(vault.directory), tree(server.directory)) == before

    server.start()
    vault.bare(*client, "create", "--method", "portable")
    (database,) = vault.bare(*client, "plan", "--method", "portable", "--json").document["databases"]
    assert (database["how"], database["reason"]["code"]) == ("incremental", "unchanged")


def test_plan_of_what_cannot_be_copied_so_is_a_warning(vault: Vault, tmp_path: Path) -> None:
    conf = tmp_path / "zope.conf"
    conf.write_text(
        "<zodb_db main>\nmount-point /\n<pgjsonb>\ndsn dbname=zodb password=hunter2\n</pgjsonb>\n</zodb_db>\n"
    )
    planned = vault.bare("--zope-conf", conf, "plan", "--method", "portable", "--json")
    (database,) = planned.document["databases"]
    assert (planned.status, database["steps"]) == (0, [])
    assert any("portable method cannot copy" in warning for warning in database["warnings"])
    assert "hunter2" not in planned.out + planned.err


def test_the_mirror_lies_where_it_is_configured(vault: Vault, server: ZeoServer, tmp_path: Path) -> None:
    toml = tmp_path / "zodb-vault.toml"
    toml.write_text(
        f'[repository]\nlocation = "{vault.repository}"\n[site.plone]\nzope_conf = "{server.zope_conf}"\n'
        f'mirror = "mirrors/plone"\n'
    )
    assert vault.bare("--config", toml, "create", "--method", "portable").status == 0
    assert (tmp_path / "mirrors" / "plone" / "main" / "Data.fs").exists()
    toml.write_text(toml.read_text().replace('mirror = "mirrors/plone"\n', ""))
    assert vault.bare("--config", toml, "create", "--method", "portable").status == 0
    assert (tmp_path / "mirror-plone" / "main" / "Data.fs").exists()


def test_a_blob_that_is_missing_is_exit_code_3(vault: Vault, server: ZeoServer) -> None:
    lost = next(vault.files.blob_dir.rglob("*.blob"))
    lost.unlink()
    made = vault.bare(
        "--repository",
        vault.repository,
        "--zope-conf",
        server.zope_conf,
        "create",
        "--method",
        "portable",
        "--json",
    )
    assert (made.status, made.document["status"]) == (3, "incomplete")
    assert len(made.document["databases"][0]["missing"]) == 1


def test_a_server_that_is_not_there_is_one_error_on_standard_error(vault: Vault, server: ZeoServer) -> None:
    server.client(package=True)
    server.stop()
    outcome = process(
        "--repository",
        vault.repository,
        "--zope-conf",
        server.zope_conf,
        "create",
        "-q",
        "--method",
        "portable",
    )
    assert (outcome.status, outcome.out) == (1, "")
    assert f"the ZEO server {server.socket} cannot be read" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_mirror_in_use_is_exit_code_11(vault: Vault, server: ZeoServer) -> None:
    from zodb_vault.strategies.portable.mirror import held

    with held(server.directory / "mirror-default" / "main"):
        outcome = vault.bare(
            "--repository",
            vault.repository,
            "--zope-conf",
            server.zope_conf,
            "create",
            "--method",
            "portable",
            "--json",
        )
    assert (outcome.status, outcome.error["kind"]) == (11, "in-use")
