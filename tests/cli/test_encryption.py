"""Encrypted repositories: what works with public keys alone, what needs the private key, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import independent_reader
import key_pairs
import pytest
import site_factory
from command_line import Outcome, Vault, stored

from zodb_vault.repository import encryption

RECIPIENTS, FILE, COMMAND = (
    "ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS",
    "ZODB_VAULT_IDENTITY_FILE",
    "ZODB_VAULT_IDENTITY_COMMAND",
)
NO_KEY = 12


class Pairs(NamedTuple):
    """Two recipients and their private keys, and the key of another person."""

    recipients: str
    age: Path
    ssh: Path
    stranger: Path


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    (one, age), (two, ssh) = key_pairs.x25519(tmp_path / "identity"), key_pairs.ssh(tmp_path / "id_ed25519")
    return Pairs(f"{one},{two}", age, ssh, key_pairs.x25519(tmp_path / "stranger")[1])


@pytest.fixture
def encrypted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pairs: Pairs
) -> Vault:
    """A site and an encrypted repository with two backups, on a host that has the public keys alone."""
    monkeypatch.setenv(RECIPIENTS, pairs.recipients)
    vault = Vault(tmp_path / "work", capsys)
    site_factory.populate(vault.files.data_fs.parent)
    assert "encrypted for 2 recipients" in vault.done("repository", "init").err
    vault.make("--name", "one")
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news="Third news", photo=site_factory.noise(4000, 9))
    vault.make("--name", "two")
    return vault


def with_key(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, name: str, value: object, *arguments: object
) -> Outcome:
    with monkeypatch.context() as patched:
        patched.setenv(name, str(value))
        return vault(*arguments)


def test_the_public_keys_alone_make_prove_and_delete_backups(encrypted: Vault) -> None:
    listed = encrypted.done("list", "--json").document["backups"]
    assert [one["how"] for one in listed] == ["incremental", "full"]
    for level in ("objects", "bytes"):
        encrypted.done("verify", "--all", "--level", level)
    encrypted.done("delete", "--yes", "one")
    encrypted.done("prune", "--dry-run")
    unchanged = encrypted.done("create", "--json").document
    assert (unchanged["reason"]["code"], unchanged["how"]) == ("unchanged", "incremental")
    encrypted.make("--full")


def test_only_content_is_encrypted_and_all_of_it(encrypted: Vault, pairs: Pairs) -> None:
    objects = [path for path in (encrypted.repository / "objects").rglob("*") if path.is_file()]
    assert objects
    assert all(path.read_bytes().startswith(encryption.MAGIC) for path in objects)
    assert not any(
        path.read_bytes().startswith(encryption.MAGIC)
        for path in (encrypted.repository / "meta").rglob("*")
        if path.is_file()
    )
    document = encrypted.done("show", "two", "--json").document["manifest"]
    assert (document["requires"], len(document["recipients"])) == (["age"], 2)
    assert {
        part["codec"] for one in document["databases"][0]["storage"]["tail"] for part in one["parts"]
    } == {"zstd+age"}
    everything = b"".join(path.read_bytes() for path in encrypted.repository.rglob("*") if path.is_file())
    for secret in (b"AGE-SECRET-KEY", pairs.ssh.read_bytes()):
        assert secret not in everything


@pytest.mark.parametrize("identity", ["age", "ssh"])
def test_either_private_key_reads_everything(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs, tmp_path: Path, identity: str
) -> None:
    monkeypatch.setenv(FILE, str(getattr(pairs, identity)))
    for level in ("records", "restore"):
        assert encrypted.done("verify", "--level", level, "--json").document["ok"]
    encrypted.done("restore", "--output", tmp_path / "out", "--yes")
    assert (tmp_path / "out" / "Data.fs").read_bytes() == encrypted.files.data_fs.read_bytes()
    wanted = independent_reader.blob_files(encrypted.files.data_fs, encrypted.files.blob_dir)
    assert independent_reader.blob_files(tmp_path / "out" / "Data.fs", tmp_path / "out" / "blobs") == wanted
    rows = encrypted.done("log", "--json").document["transactions"]
    assert any(row["user"] for row in rows)
    encrypted.done("restore", "one", "--yes")
    assert encrypted.done("list", "--json").document["backups"][0]["trigger"] == "safety"


def test_without_the_key_or_with_a_wrong_one_the_status_is_12_and_nothing_changes(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("no key at all\n")
    locked = key_pairs.ssh(tmp_path / "locked", "a passphrase")[1]
    attempts = [
        ("ZODB_VAULT_X", "", "no private key is configured"),
        (FILE, pairs.stranger, "encrypted for another key"),
        (FILE, bad, "has no private key"),
        (FILE, tmp_path / "nowhere", "No such file"),
        (FILE, locked, "has no private key"),
        (COMMAND, "exit 3", "failed with exit status 3"),
        (COMMAND, "true", "has no private key"),
    ]
    before, site = stored(encrypted.repository), stored(encrypted.files.data_fs.parent)
    for name, value, said in attempts:
        if name == "ZODB_VAULT_X":
            name = "UNRELATED"
        for command in (
            ("verify",),
            ("restore", "--yes"),
            ("restore", "--output", tmp_path / "out", "--yes"),
        ):
            outcome = with_key(encrypted, monkeypatch, name, value, *command)
            assert outcome.status == NO_KEY, (command, value, outcome)
            assert said in outcome.err
    assert (stored(encrypted.repository), stored(encrypted.files.data_fs.parent)) == (before, site)
    assert not (tmp_path / "out").exists()


def test_log_omits_what_is_encrypted(encrypted: Vault) -> None:
    outcome = encrypted.done("log", "--json")
    assert {(row["user"], row["description"]) for row in outcome.document["transactions"]} == {(None, None)}
    assert "encrypted" in outcome.err


def test_the_key_comes_from_a_command_or_a_credential_of_systemd(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs, tmp_path: Path
) -> None:
    assert with_key(encrypted, monkeypatch, COMMAND, f"read nothing; cat '{pairs.age}'", "verify").status == 0
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    assert with_key(encrypted, monkeypatch, "CREDENTIALS_DIRECTORY", credentials, "verify").status == NO_KEY
    (credentials / "zodb-vault-identity").write_bytes(pairs.ssh.read_bytes())
    assert with_key(encrypted, monkeypatch, "CREDENTIALS_DIRECTORY", credentials, "verify").status == 0


def test_a_file_with_a_passphrase_asks_for_it_and_needs_a_terminal(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs
) -> None:
    from pyrage import passphrase

    # age makes each attempt at a passphrase, and this test, wait for seconds
    locked = pairs.age.with_suffix(".age")
    locked.write_bytes(passphrase.encrypt(pairs.age.read_bytes(), "correct horse", armored=True))
    monkeypatch.setenv(FILE, str(locked))
    outcome = encrypted("verify")
    assert outcome.status == NO_KEY
    assert "has a passphrase" in outcome.err
    monkeypatch.setattr("zodb_vault.cli.console.has_terminal", lambda: True)
    for said, status in (("correct horse", 0), ("wrong horse", NO_KEY)):
        monkeypatch.setattr("click.prompt", lambda *_arguments, _said=said, **_options: _said)
        assert encrypted("verify").status == status


def test_recipients_that_differ_are_refused_until_they_are_set(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs, tmp_path: Path
) -> None:
    before = stored(encrypted.repository)
    fresh, identity = key_pairs.x25519(tmp_path / "fresh")
    for recipients in ("", pairs.recipients.partition(",")[0], f"{pairs.recipients},{fresh}", fresh):
        outcome = with_key(encrypted, monkeypatch, RECIPIENTS, recipients, "create")
        assert outcome.status == 2, recipients
        assert "repository recipients set" in outcome.err
    assert stored(encrypted.repository) == before
    monkeypatch.setenv(RECIPIENTS, fresh)
    encrypted.done("repository", "recipients", "set")
    incremental = encrypted.make()
    assert encrypted.done("show", incremental, "--json").document["manifest"]["recipients"] == [fresh]
    assert with_key(encrypted, monkeypatch, FILE, identity, "verify", incremental).status == NO_KEY, (
        "older objects are for the old keys"
    )
    both = tmp_path / "both"
    both.write_text(identity.read_text() + pairs.age.read_text())
    assert with_key(encrypted, monkeypatch, FILE, both, "verify", incremental).status == 0
    full = encrypted.make("--full")
    assert with_key(encrypted, monkeypatch, FILE, identity, "verify", full).status == 0
    assert with_key(encrypted, monkeypatch, FILE, pairs.age, "verify", full).status == NO_KEY


def test_order_and_comments_of_recipients_do_not_count(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs
) -> None:
    one, two = pairs.recipients.split(",")
    monkeypatch.setenv(RECIPIENTS, f"{' '.join(two.split()[:2])} another comment,{one}")
    encrypted.done("create")


@pytest.mark.parametrize(
    "recipient", ["age1abc", "ssh-ed25519 AAAA", "a passphrase", "AGE-SECRET-KEY-1HUNTER2HUNTER2"]
)
def test_what_is_no_public_key_is_refused(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipient: str
) -> None:
    outcome = with_key(encrypted, monkeypatch, RECIPIENTS, recipient, "create")
    assert outcome.status == 2
    assert "HUNTER2" not in outcome.err
    with monkeypatch.context() as patched:
        patched.setenv(RECIPIENTS, recipient)
        assert encrypted.bare("--repository", tmp_path / "new", "repository", "init").status == 2
    assert not (tmp_path / "new").exists()


def test_damage_of_encrypted_objects_is_damage(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch, pairs: Pairs
) -> None:
    monkeypatch.setenv(FILE, str(pairs.age))
    path = max(
        (one for one in (encrypted.repository / "objects").rglob("*") if one.is_file()),
        key=lambda one: one.stat().st_size,
    )
    data = path.read_bytes()
    path.chmod(0o600)
    for broken in (data[:-1], data[:500], data[:-40] + b"x" + data[-39:], b"", data[:20] + b"x" + data[21:]):
        path.write_bytes(broken)
        outcome = encrypted("verify", "one")
        assert outcome.status == 4, outcome
        assert "damaged" in outcome.out + outcome.err


def test_an_installation_without_encryption_refuses_the_repository(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "is_installed", lambda: False)
    for command in (("list",), ("create",), ("verify",)):
        outcome = encrypted(*command)
        assert outcome.status == 1
        assert "pip install 'zodb-vault[encryption]'" in outcome.err


def test_a_process_that_dies_is_an_error_and_no_backup(
    encrypted: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(encrypted.done("list", "--json").document["backups"])
    with monkeypatch.context() as patched:
        patched.setattr(encryption, "module_command", lambda _module: ["/bin/false"])
        outcome = encrypted("create", "--full")
    assert (outcome.status, "encrypts and decrypts died" in outcome.err) == (1, True)
    assert len(encrypted.done("list", "--json").document["backups"]) == count
