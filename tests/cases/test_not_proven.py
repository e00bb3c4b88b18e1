"""P2, P8: what this machine lacks is no damage, and the missing packages of the application are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_factory
from command_line import Vault

from zodb_vault.operations.verify import load, restore
from zodb_vault.operations.verify.report import package_of
from zodb_vault.strategies.postgres import scratch


def proven_at(vault: Vault) -> list[tuple[str, bool]]:
    """Return what the repository knows of verifications of the newest backup."""
    found = vault.done("list", "--json").document["backups"][0]["verified"]
    return [(one["level"], one["ok"]) for one in found]


def test_p2_a_process_that_dies_is_no_result(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the memory is full."""
    vault.make()
    monkeypatch.setattr(load, "module_command", lambda *_args: ["sh", "-c", "echo Killed >&2; exit 137"])
    outcome = vault("verify", "--level", "restore")
    assert outcome.status == 5
    assert "CANNOT BE PROVEN HERE" in outcome.out
    assert "died: Killed" in outcome.err
    assert "free memory and verify again" in outcome.err
    assert proven_at(vault) == [("records", True)]
    assert vault.done("prune")
    document = vault("verify", "--level", "restore", "--json").document
    assert (document["ok"], document["damage"]) == (True, [])
    assert [one["hint"] for one in document["unproven"]]


def test_p2_a_package_that_is_missing_is_no_damage(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.make()
    said = b'{"not_installed":"ModuleNotFoundError: No module named \'relstorage\'"}'
    monkeypatch.setattr(load, "module_command", lambda *_args: ["printf", "%s\\n", said.decode()])
    outcome = vault("verify", "--level", "restore")
    assert outcome.status == 5
    assert "No module named 'relstorage'" in outcome.err
    assert "install the packages" in outcome.err


def test_p2_a_restore_that_is_refused_here_is_no_damage(vault: Vault, tmp_path: Path) -> None:
    """The scratch directory lies on a file system that is too small."""
    vault.make()
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        patched.setattr(
            "zodb_vault.operations.restore.preflight.shutil.disk_usage",
            lambda _path: type("Usage", (), {"free": 10})(),
        )
        outcome = vault("verify", "--level", "restore")
    assert outcome.status == 5, outcome
    assert proven_at(vault) == [("records", True)]


def test_p2_damage_counts_more_than_what_is_not_proven(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vault.make()
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(more="more")
    vault.make()
    manifest = vault.repository / "sites/default/backups" / f"{first}.json"
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes()[:-40])
    monkeypatch.setattr(load, "module_command", lambda *_args: ["false"])
    assert vault("verify", "--all", "--level", "restore").status == 4


def test_p8_missing_packages_are_named_with_their_counts(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.make()
    loaded = load.Loaded(objects=9, broken=7, modules={"plone.app.testing.x": 4, "Products.A.b": 2, "odd": 1})
    monkeypatch.setattr(restore, "load_data_fs", lambda *_args: loaded)
    outcome = vault.done("verify", "--level", "restore")
    assert "not installed here: plone.app.testing (4), Products.A (2), odd (1)" in outcome.out
    document = vault.done("verify", "--level", "restore", "--json").document
    assert document["missing_packages"] == {"plone.app.testing": 4, "Products.A": 2, "odd": 1}


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("plone.app.linkintegrity.x", "plone.app.linkintegrity"),
        ("plone.dexterity.content", "plone.dexterity"),
        ("Products.CMFPlone.Portal", "Products.CMFPlone"),
        ("my_app", "my_app"),
        ("", "others"),
    ],
)
def test_p8_the_package_of_a_module(module: str, package: str) -> None:
    assert package_of(module) == package


def test_p2_no_server_program_is_no_damage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zodb_vault.strategies.sql.program.shutil.which", lambda _name: None)
    monkeypatch.setattr("zodb_vault.strategies.sql.program.ELSEWHERE", ())
    with pytest.raises(scratch.NotProven, match="initdb is not installed") as caught:
        scratch.scratch_database(tmp_path, None, print).__enter__()
    assert "apt-get install postgresql" in caught.value.hint
