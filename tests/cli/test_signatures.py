"""Signed manifests: made on the host of the backups, required where the signer is named."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import key_pairs
import pytest
import site_factory
from command_line import Vault, stored

from zodb_vault.errors import StoreError
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.stores.local import LocalStore

KEY, SIGNERS = "ZODB_VAULT_REPOSITORY_SIGNING_KEY", "ZODB_VAULT_REPOSITORY_SIGNING_SIGNERS"


@pytest.fixture
def signer(tmp_path: Path) -> tuple[str, Path]:
    return key_pairs.ssh(tmp_path / "signer")


@pytest.fixture
def signed(vault: Vault, monkeypatch: pytest.MonkeyPatch, signer: tuple[str, Path]) -> Vault:
    """A repository with one signed backup, and the signer in the configuration."""
    monkeypatch.setenv(KEY, str(signer[1]))
    monkeypatch.setenv(SIGNERS, signer[0])
    vault.make()
    return vault


def signature(vault: Vault) -> Path:
    (found,) = (vault.repository / "sites" / "default" / "backups").glob("*.sig")
    return found


def refused(vault: Vault, out: Path) -> None:
    for command in (
        *(("verify", "--level", level) for level in ("objects", "bytes", "records")),
        ("restore", "--output", out, "--yes"),
    ):
        outcome = vault(*command)
        assert outcome.status == 4, (command, outcome)
        assert "sign" in outcome.out + outcome.err
    assert not out.exists()


def test_a_signed_backup_is_proven_and_restored(signed: Vault, tmp_path: Path) -> None:
    for level in ("objects", "bytes", "records", "restore"):
        signed.done("verify", "--level", level)
    signed.done("restore", "--output", tmp_path / "out", "--yes")
    with site_factory.Site(signed.files.data_fs.parent) as site:
        site.put(news="Third news")
    assert signed.done("create", "--json").document["how"] == "incremental"


def test_the_signature_is_one_of_ssh_keygen_over_the_manifest_as_it_lies_there(
    signed: Vault, signer: tuple[str, Path], tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(f"host {signer[0]}\n")
    command = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        str(allowed),
        "-I",
        "host",
        "-n",
        "zodb-vault",
        "-s",
        str(signature(signed)),
    ]
    with signature(signed).with_suffix(".json").open("rb") as manifest:
        assert subprocess.run(command, stdin=manifest, check=False, capture_output=True).returncode == 0


def test_a_backup_without_a_signature_is_refused(signed: Vault, tmp_path: Path) -> None:
    signature(signed).unlink()
    refused(signed, tmp_path / "out")


def test_a_backup_of_another_signer_is_refused(
    signed: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SIGNERS, key_pairs.ssh(tmp_path / "other")[0])
    refused(signed, tmp_path / "out")


def test_a_manifest_that_was_changed_after_it_was_signed_is_refused(signed: Vault, tmp_path: Path) -> None:
    import hashlib

    manifest = signature(signed).with_suffix(".json")
    body = b"".join(
        manifest.read_bytes()
        .replace(b'"consistency":"consistent"', b'"consistency":"uncoordinated"')
        .splitlines(keepends=True)[:-1]
    )
    manifest.chmod(0o600)
    manifest.write_bytes(body + b'"self_sha256":"%s"}\n' % hashlib.sha256(body).hexdigest().encode())
    refused(signed, tmp_path / "out")


def test_an_incremental_backup_vouches_for_nothing_that_was_not_signed(signed: Vault) -> None:
    signature(signed).unlink()
    outcome = signed("create")
    assert (outcome.status, "not signed" in outcome.err) == (4, True)
    signed.done("create", "--full")
    signed.done("create")
    signed.done("verify")


def test_unsigned_backups_do_not_let_prune_remove_signed_ones(
    signed: Vault, monkeypatch: pytest.MonkeyPatch, signer: tuple[str, Path], tmp_path: Path
) -> None:
    """An attacker who can write to the repository could otherwise make room for other backups."""
    (ours,) = [row["id"] for row in signed.done("list", "--json").document["backups"]]
    configuration = tmp_path / "zodb-vault.toml"
    configuration.write_text(
        '[retention.on_demand]\nnewest = 1\nage = "0s"\n[retention.scheduled]\ndaily = 1\nweekly = 0\n'
        "monthly = 0\n"
    )
    later = datetime.now(UTC) + timedelta(days=2)
    with monkeypatch.context() as theirs:
        theirs.delenv(KEY)
        theirs.delenv(SIGNERS)
        theirs.setattr(clock, "now", lambda: later)
        theirs.setattr(LocalStore, "clock", lambda _self: later)
        foreign = [
            signed.done("create", "--full", "--trigger", trigger, "--json").document["id"]
            for trigger in ("scheduled", "on-demand")
        ]
        without = signed.done("--config", configuration, "prune", "--dry-run", "--json").document
        assert ours in [one["id"] for one in without["remove"]], "nothing would be to be seen here"
        theirs.setenv(SIGNERS, signer[0])
        kept = signed.done("--config", configuration, "prune", "--json").document["keep"]
    reasons = {one["id"]: one["reasons"] for one in kept}
    assert {ours, *foreign} == reasons.keys()
    assert all("of those that are signed" in reason for reason in reasons[ours])


@pytest.mark.parametrize("signs", [True, False])
def test_what_is_signed_was_compared_with_the_source_also_what_an_interrupted_run_has_left(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, signer: tuple[str, Path], tmp_path: Path, signs: bool
) -> None:
    """An attacker who can write to the repository could have left other blobs in its name."""
    if signs:
        monkeypatch.setenv(KEY, str(signer[1]))
        monkeypatch.setenv(SIGNERS, signer[0])
    with monkeypatch.context() as patch:
        patch.setattr(
            Repository, "commit", lambda *_: (_ for _ in ()).throw(StoreError("the cable was pulled"))
        )
        assert vault("create").status == 1
    blob = max(vault.files.blob_dir.rglob("*.blob"))
    left = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(bytes(len(left)))
    assert vault.done("create", "--json").document["reason"]["code"] == "resumed"
    vault.done("verify")
    vault.done("restore", "--output", tmp_path / "out", "--yes")
    restored = tmp_path / "out" / "blobs" / blob.relative_to(vault.files.blob_dir)
    assert restored.read_bytes() == (bytes(len(left)) if signs else left)


def test_any_of_several_signers_will_do_and_without_any_named_nothing_is_required(
    signed: Vault, monkeypatch: pytest.MonkeyPatch, signer: tuple[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setenv(SIGNERS, f"{key_pairs.ssh(tmp_path / 'other')[0]},{signer[0]}")
    signed.done("verify")
    signature(signed).unlink()
    monkeypatch.delenv(SIGNERS)
    signed.done("verify")


def test_a_key_that_cannot_sign_ends_the_run_and_no_backup_is_made(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in (tmp_path / "nowhere", key_pairs.ssh(tmp_path / "locked", "a passphrase")[1]):
        monkeypatch.setenv(KEY, str(file))
        outcome = vault("create")
        assert (outcome.status, "cannot be signed" in outcome.err) == (2, True), outcome
    assert vault.done("list", "--json").document["backups"][0]["status"] == "failed"
    monkeypatch.setenv(SIGNERS, "no key")
    assert "public SSH keys" in vault("list").err


def test_without_a_key_there_is_no_signature(vault: Vault) -> None:
    vault.make()
    assert not [path for path in stored(vault.repository) if path.endswith(".sig")]
