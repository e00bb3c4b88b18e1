"""Copies for other recipients, with and without the private key, signed and unsigned.

From plain to encrypted, from encrypted to plain, and to other keys.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import independent_reader
import key_pairs
import pytest
import site_factory
from command_line import Outcome, Vault, flip, process, stored
from services.s3 import CREDENTIALS, Service

from zodb_vault.errors import StoreError
from zodb_vault.model import canonical, chain
from zodb_vault.operations.copy import coordination
from zodb_vault.operations.copy.backup import BackupCopier
from zodb_vault.repository import encryption
from zodb_vault.repository.markers import RunMarker
from zodb_vault.repository.objects import Objects
from zodb_vault.stores.local import LocalStore

pytestmark = pytest.mark.usefixtures("clean_environment")

RECIPIENTS, FILE = "ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", "ZODB_VAULT_IDENTITY_FILE"
KEY, SIGNERS = "ZODB_VAULT_REPOSITORY_SIGNING_KEY", "ZODB_VAULT_REPOSITORY_SIGNING_SIGNERS"
NO_KEY = 12


class Keyring:
    """Key pairs by name, and the configuration of the one command that is run next."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self._monkeypatch = directory, monkeypatch
        self._pairs: dict[str, tuple[str, Path]] = {}

    def pair(self, name: str) -> tuple[str, Path]:
        if name not in self._pairs:
            self._pairs[name] = key_pairs.x25519(self.directory / f"{name}.key")
        return self._pairs[name]

    def configure(self, recipients: str = "", identity: str = "") -> None:
        """Configure recipients and the private key by their names, separated by blanks."""
        self._monkeypatch.setenv(RECIPIENTS, ",".join(self.pair(name)[0] for name in recipients.split()))
        (file := self.directory / "identity").write_text(
            "".join(self.pair(name)[1].read_text() for name in identity.split())
        )
        self._monkeypatch.setenv(FILE, str(file) if identity else "")


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    # lists of lists, although there are few segments and packs
    monkeypatch.setattr(chain, "TAIL_LIMIT", 2)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    return Keyring(tmp_path, monkeypatch)


def another(vault: Vault, name: str) -> Vault:
    other = Vault(vault.directory, vault.capsys)
    other.files, other.repository = vault.files, vault.directory / name
    other.done("repository", "init")
    return other


@pytest.fixture
def source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Vault]:
    vault = Vault(tmp_path / "work", capsys)
    site_factory.populate(vault.files.data_fs.parent)
    yield vault


def grow(vault: Vault, *numbers: int) -> None:
    for number in numbers:
        with site_factory.Site(vault.files.data_fs.parent) as site:
            site.put(text=f"number {number} " * 50, blob=site_factory.noise(3000, number))
        vault.make("--name", f"number {number}")


def objects(vault: Vault) -> list[Path]:
    return [path for path in (vault.repository / "objects").rglob("*") if path.is_file()]


def ids(vault: Vault) -> list[str]:
    return [row["id"] for row in vault.done("list", "--json").document["backups"]]


def copied(vault: Vault, other: Vault, *arguments: object) -> int:
    """Copy, and return how many objects and documents were stored for it."""
    return int(vault.done("repository", "copy", other.repository, "--json", *arguments).document["objects"])


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def assert_holds(vault: Vault, out: Path) -> None:
    """Require every backup of a repository to be complete, and the newest one to restore the site."""
    vault.done("verify", "--all", "--level", "bytes")
    vault.done("verify", "--all", "--level", "records")
    vault.done("restore", "--output", out, "--yes")
    assert (out / "Data.fs").read_bytes() == vault.files.data_fs.read_bytes()
    wanted = independent_reader.blob_files(vault.files.data_fs, vault.files.blob_dir)
    assert independent_reader.blob_files(out / "Data.fs", out / "blobs") == wanted
    shutil.rmtree(out)


def readers(path: Path, *pairs: tuple[str, Path]) -> list[bool]:
    """Return which private keys can decrypt an object."""
    import pyrage

    found = []
    for _recipient, file in pairs:
        identity = pyrage.x25519.Identity.from_str(file.read_text().splitlines()[1])
        try:
            found.append(bool(pyrage.decrypt(path.read_bytes(), [identity])))
        except pyrage.DecryptError:
            found.append(False)
    return found


WAYS = [("", "b"), ("a", "b"), ("a", "a b"), ("a", "")]


@pytest.mark.parametrize(
    ("before", "after"), WAYS, ids=["plain to encrypted", "to another key", "to one key more", "to plain"]
)
def test_a_copy_is_encrypted_for_those_of_the_target_only_and_the_next_one_stores_what_is_new(
    source: Vault, keyring: Keyring, tmp_path: Path, before: str, after: str
) -> None:
    keyring.configure(before)
    source.done("repository", "init")
    grow(source, *range(4))
    keyring.configure(after, before)
    other = another(source, "other")
    decrypt = [] if after else ["--decrypt"]
    first = copied(source, other, *decrypt)
    assert ids(other) == ids(source)
    assert len(objects(other)) == len(objects(source)), "nothing is stored twice"
    assert (
        other.done("show", "latest", "--json").document["manifest"]["copied_from"]
        == source.done("repository", "info", "--json").document["id"]
    )
    for path in objects(other):
        assert path.read_bytes().startswith(encryption.MAGIC) == bool(after)
        if after:
            assert readers(path, keyring.pair("a"), keyring.pair("b")) == ["a" in after, "b" in after]
            assert path.read_bytes().count(b"\n-> X25519 ") == len(after.split())
    keyring.configure(before)
    grow(source, 4)
    keyring.configure(after, before)
    assert 0 < copied(source, other, *decrypt) <= 6 < first
    assert len(objects(other)) == len(objects(source))
    assert copied(source, other, *decrypt) == 0
    shutil.rmtree(source.repository)
    keyring.configure(after, after)
    assert_holds(other, tmp_path / "out")
    rows = other.done("log", "--json").document["transactions"]
    assert any(row["user"] for row in rows)
    other.done("prune")
    document = other.done("show", "latest", "--json").document["manifest"]
    assert document["requires"] == (["age"] if after else [])
    # what continues a copy is a backup like any other
    grow(other, 5)
    assert other.done("show", "latest", "--json").document["manifest"]["how"] == "incremental"
    assert_holds(other, tmp_path / "out")


def test_the_sizes_in_the_manifest_are_those_of_the_copy(source: Vault, keyring: Keyring) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, *range(4))
    keyring.configure("b", "a")
    other = another(source, "other")
    copied(source, other)
    for backup in ids(other):
        other.done("verify", backup, "--level", "objects")
    rows = other.done("list", "--json").document["backups"]
    total = sum(
        path.stat().st_size
        for folder in ("objects", "meta")
        for path in (other.repository / folder).rglob("*")
        if path.is_file()
    )
    assert rows[0]["stored"] <= total
    assert rows[0]["stored"] > 0.9 * sum(path.stat().st_size for path in objects(other))


def test_names_notes_and_pins_come_along_and_prune_keeps_what_a_copy_needs(
    source: Vault, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, 1, 2, 3)
    source.done("annotate", "number 1", "--pin", "--note", "before the upgrade")
    keyring.configure("b", "a")
    other = another(source, "other")
    copied(source, other)
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    row = next(row for row in other.done("list", "--json").document["backups"] if row["pinned"])
    assert (row["name"], row["note"]) == ("number 1", "before the upgrade")
    other.done("delete", "--yes", "number 2")
    for _ in range(3):
        other.done("prune")
    keyring.configure("b", "b")
    assert_holds(other, tmp_path / "out")


# Keys


def refused(outcome: Outcome, status: int, *said: str) -> None:
    assert outcome.status == status, outcome
    for text in said:
        assert text in outcome.err
    assert "->" in outcome.err


def test_without_the_private_key_nothing_is_stored(source: Vault, keyring: Keyring, tmp_path: Path) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("b")
    other = another(source, "other")
    before = stored(other.repository)
    refused(source("repository", "copy", other.repository), NO_KEY, "no private key is configured")
    keyring.configure("b", "stranger")
    refused(source("repository", "copy", other.repository), NO_KEY, "encrypted for another key")
    assert stored(other.repository) == before


def test_an_unencrypted_target_has_to_be_meant(source: Vault, keyring: Keyring) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("", "a")
    other = another(source, "other")
    refused(source("repository", "copy", other.repository), 2, "is not encrypted", "--decrypt")
    keyring.configure("b", "a")
    third = another(source, "third")
    refused(source("repository", "copy", third.repository, "--decrypt"), 2, "is encrypted, and --decrypt")
    assert not objects(other) + objects(third)


def test_write_access_to_the_target_does_not_decide_about_its_recipients(
    source: Vault, keyring: Keyring
) -> None:
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("stranger")
    other = another(source, "other")
    keyring.configure("b")
    refused(source("repository", "copy", other.repository), 2, "recipients")
    keyring.configure("")
    refused(source("repository", "copy", other.repository), 2, "recipients")
    assert not objects(other)


def test_after_a_change_of_keys_a_new_repository_holds_nothing_for_the_old_ones(
    source: Vault, keyring: Keyring, tmp_path: Path
) -> None:
    """The recipients of both are the same then; what is stored in the source is not."""
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, 1, 2)
    keyring.configure("b")
    source.done("repository", "recipients", "set")
    grow(source, 3)
    other = another(source, "other")
    refused(source("repository", "copy", other.repository), NO_KEY, "no private key is configured")
    keyring.configure("b", "a b")
    copied(source, other)
    assert {tuple(readers(path, keyring.pair("a"), keyring.pair("b"))) for path in objects(other)} == {
        (False, True)
    }
    # from now on the public keys alone will do: what is new was encrypted for them
    keyring.configure("b")
    grow(source, 4)
    assert copied(source, other) > 0
    assert {tuple(readers(path, keyring.pair("a"), keyring.pair("b"))) for path in objects(other)} == {
        (False, True)
    }
    keyring.configure("b", "b")
    assert_holds(other, tmp_path / "out")


def test_two_repositories_whose_keys_are_changed_alike_need_no_private_one(
    source: Vault, keyring: Keyring
) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    other = another(source, "other")
    grow(source, 1)
    copied(source, other)
    keyring.configure("b")
    for vault in (source, other):
        vault.done("repository", "recipients", "set")
    grow(source, 2)
    copied(source, other)
    assert {path.name for path in objects(other)} == {path.name for path in objects(source)}
    keyring.configure("b", "a b")
    other.done("verify", "--all")


# Damage, and what is not known


@pytest.mark.parametrize("after", ["a", "b"], ids=["as it is", "reencrypted"])
def test_damage_is_not_copied_and_a_repaired_source_is(
    source: Vault, keyring: Keyring, tmp_path: Path, after: str
) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure(after, "a")
    other = another(source, "other")
    needed = [
        path
        for folder in ("objects", "meta")
        for path in (source.repository / folder).rglob("*")
        if path.is_file()
    ]
    for number, path in enumerate(needed):
        damaged = another(source, f"other{number}")
        flip(path)
        refused(
            source("repository", "copy", damaged.repository), 4, "damaged: its bytes do not match its name"
        )
        flip(path)
        path.rename(path.with_name("away"))
        refused(source("repository", "copy", damaged.repository), 4, f"{path.name} is missing")
        path.with_name("away").rename(path)
        assert ids(damaged) == []
    copied(source, other)
    keyring.configure(after, after)
    assert_holds(other, tmp_path / "out")


def test_content_that_does_not_hold_what_was_read_from_the_source_is_damage(
    source: Vault, keyring: Keyring
) -> None:
    """Complete objects of another backup, under the names of a forged manifest."""
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("b")
    (manifest,) = (source.repository / "sites" / "default" / "backups").glob("*.json")
    document = json.loads(manifest.read_bytes())
    entry = document["databases"][0]
    for changed in ("segment", "blob"):
        broken = json.loads(json.dumps(document))
        if changed == "segment":
            broken["databases"][0]["storage"]["tail"][0]["sha256"] = "00" * 32
        else:
            index = Objects(LocalStore(source.repository), "x")
            rows = json.loads(index.document(entry["blobs"]["tail"][0]["index"]["meta"]))["rows"]
            rows[0][4] = "00" * 32
            broken["databases"][0]["blobs"]["tail"][0]["index"]["meta"] = index.put_document(
                canonical.encode({"kind": "blobs", "rows": rows})
            ).meta
        del broken["self_sha256"]
        rewrite(manifest, canonical.with_digest(broken))
        outcome = source("repository", "copy", another(source, changed).repository)
        refused(outcome, 4, changed, "does not have the bytes that were read from the site")


@pytest.mark.parametrize("after", ["", "b"], ids=["as it is", "reencrypted"])
def test_what_this_version_does_not_know_is_refused_and_never_left_out(
    source: Vault, keyring: Keyring, after: str
) -> None:
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure(after)
    (manifest,) = (source.repository / "sites" / "default" / "backups").glob("*.json")
    document = json.loads(manifest.read_bytes())
    del document["self_sha256"]
    document["databases"][0]["storage"]["delta"] = {"page": "ab" * 32}
    rewrite(manifest, canonical.with_digest(document))
    other = another(source, "other")
    refused(
        source("repository", "copy", other.repository),
        1,
        "does not know what the key page references",
        "newer zodb-vault",
    )
    assert ids(other) == []


# Signatures


@pytest.fixture
def signed(
    source: Vault, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """A signer whose signature is on the two backups of the source, which are encrypted for a."""
    public, file = key_pairs.ssh(tmp_path / "signer")
    monkeypatch.setenv(KEY, str(file))
    monkeypatch.setenv(SIGNERS, public)
    keyring.configure("a")
    source.done("repository", "init")
    grow(source, 1, 2)
    return public, file


def test_a_signed_backup_that_does_not_change_keeps_its_signature(
    source: Vault, keyring: Keyring, signed: tuple[str, Path], tmp_path: Path
) -> None:
    other = another(source, "other")
    copied(source, other)
    backups = other.repository / "sites" / "default" / "backups"
    for path in (source.repository / "sites" / "default" / "backups").iterdir():
        assert (backups / path.name).read_bytes() == path.read_bytes()
    keyring.configure("a", "a")
    assert_holds(other, tmp_path / "out")
    (signature := sorted(backups.glob("*.sig"))[-1]).unlink()
    assert other("verify").status == 4
    assert copied(source, other) == 0, signature


def test_a_copy_that_changes_is_signed_again_when_the_signature_is_right(
    source: Vault, keyring: Keyring, signed: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.configure("b", "a")
    other = another(source, "other")
    with monkeypatch.context() as patched:
        patched.setenv(SIGNERS, "")
        refused(
            source("repository", "copy", other.repository),
            2,
            "is signed, and its copy needs a new signature",
        )
    with monkeypatch.context() as patched:
        patched.setenv(KEY, "")
        refused(
            source("repository", "copy", other.repository),
            2,
            "is signed, and its copy needs a new signature",
        )
    with monkeypatch.context() as patched:
        patched.setenv(SIGNERS, key_pairs.ssh(tmp_path / "somebody")[0])
        refused(
            source("repository", "copy", other.repository),
            4,
            "is not valid for any configured signer",
        )
    assert not objects(other)
    # what a run that died just before the manifest has left
    oldest = ids(source)[-1]
    (backups := other.repository / "sites" / "default" / "backups").mkdir(parents=True)
    (backups / f"{oldest}.sig").write_bytes(b"a signature of other bytes")
    copied(source, other)
    keyring.configure("b", "b")
    assert_holds(other, tmp_path / "out")
    before = len(objects(other))
    keyring.configure("a")
    grow(source, 3)
    keyring.configure("b", "a")
    copied(source, other)
    assert len(objects(other)) - before == 3, "a segment, its log and a pack"


def test_a_signature_without_a_manifest_goes_and_that_of_a_backup_stays(
    source: Vault, signed: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    backups = source.repository / "sites" / "default" / "backups"
    left = backups / "20260101T000000Z-abcdef.sig"
    left.write_bytes(b"a signature")
    before = set(backups.iterdir())
    source.done("prune")
    source.done("prune")
    assert set(backups.iterdir()) == before - {left}
    source.done("delete", "--yes", "number 1")
    gone = set(backups.glob("*.sig")) - {path.with_suffix(".sig") for path in backups.glob("*.json")}
    assert len(gone) == 1, "as long as it is in the trash it keeps its signature"
    for _ in range(5):
        source.done("prune")
    assert not gone & set(backups.iterdir())
    assert len(list(backups.glob("*.sig"))) == 1


# Interrupted


def test_what_an_interrupted_copy_has_stored_survives_sweeps_and_is_used(
    source: Vault, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("b")
    other = another(source, "other")
    copied(source, other)
    keyring.configure("")
    grow(source, 2)
    keyring.configure("b")
    with monkeypatch.context() as patched:
        patched.setattr(
            BackupCopier, "commit", lambda *_: (_ for _ in ()).throw(StoreError("the disk is full"))
        )
        refused(source("repository", "copy", other.repository), 1, "the disk is full")
    before = {path.name for path in objects(other)}
    assert before
    monkeypatch.setenv("ZODB_VAULT_RETENTION_GRACE", "0s")
    orphan = other.repository / "objects" / "aa" / ("aa" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of nobody")
    for _ in range(3):
        other.done("prune")
    assert not orphan.exists(), "a copy that has ended does not hold up a sweep"
    assert {path.name for path in objects(other)} == before
    assert copied(source, other) <= 2, "documents, which nobody has noted"
    assert len(objects(other)) == len(objects(source))
    keyring.configure("b", "b")
    for _ in range(3):
        other.done("prune")
    assert_holds(other, tmp_path / "out")


def test_lost_notes_of_an_interrupted_copy_cost_time_and_nothing_else(
    source: Vault, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("b")
    other = another(source, "other")
    with monkeypatch.context() as patched:
        patched.setattr(
            BackupCopier, "commit", lambda *_: (_ for _ in ()).throw(StoreError("the disk is full"))
        )
        source("repository", "copy", other.repository)
    (marker,) = (other.repository / "sites" / "default" / "running").glob("copy-*.json")
    name = json.loads(marker.read_bytes())["copied"][0]["list"]
    (other.repository / "meta" / name[:2] / name).unlink()
    copied(source, other)
    keyring.configure("b", "b")
    assert_holds(other, tmp_path / "out")


def test_a_copy_beside_another_one_that_re_encrypts_is_refused(source: Vault, keyring: Keyring) -> None:
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1)
    keyring.configure("b")
    other = another(source, "other")
    run = RunMarker.start(LocalStore(other.repository), "default", "copy", "20260101T000000Z-aaaaaa", [])
    refused(source("repository", "copy", other.repository), 11, "another copy of the site default")
    run.remove()
    assert copied(source, other) > 0


def test_backups_stay_while_they_are_copied_and_a_source_that_is_read_only_can_be_copied(
    source: Vault, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.configure("")
    source.done("repository", "init")
    grow(source, 1, 2)
    keyring.configure("b")
    other = another(source, "other")
    outcomes: list[Outcome] = []
    commit = BackupCopier.commit

    def then_delete(one: BackupCopier, backup: str, *rest: object) -> None:
        outcomes.append(process(*source.options, "delete", "--yes", backup))
        commit(one, backup, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(BackupCopier, "commit", then_delete)
        copied(source, other)
    assert [(one.status, "in use by the export" in one.err) for one in outcomes] == [(11, True)] * 2
    third = another(source, "third")
    with monkeypatch.context() as patched:
        patched.setattr(
            coordination.RunMarker,
            "start",
            classmethod(refusing(coordination.RunMarker.start, str(source.repository))),
        )
        outcome = source.done("repository", "copy", third.repository)
    assert "no marker can be written" in outcome.err
    assert ids(third) == ids(source)


def refusing(start: Any, location: str) -> Callable[..., Any]:
    """Let no marker be written in one place."""

    def started(_cls: Any, store: Any, *arguments: Any) -> Any:
        if store.location == location:
            raise StoreError(f"{location}: Read-only file system")
        return start(store, *arguments)

    return started


# After each create


def configured(vault: Vault, repository: str) -> Path:
    config = vault.directory / "zodb-vault.toml"
    site = f'[site.default]\ndata_fs = "{vault.files.data_fs}"\nblob_dir = "{vault.files.blob_dir}"\n'
    config.write_text(f'[repository]\nlocation = "{vault.repository}"\n{repository}\n{site}')
    return config


def test_each_create_copies_what_is_plain_here_to_where_it_is_encrypted(
    source: Vault, keyring: Keyring, tmp_path: Path
) -> None:
    other = Vault(source.directory, source.capsys)
    other.files, other.repository = source.files, source.directory / "other"
    config = configured(
        source, f'copies = [{{location = "{other.repository}", recipients = ["{keyring.pair("b")[0]}"]}}]'
    )
    for place in (source.repository, other.repository):
        made = source.bare("--config", config, "--repository", place, "repository", "init")
        assert ("encrypted for 1 recipient" in made.err) == (place == other.repository)
    for _ in range(2):
        done = source.bare("--config", config, "create")
        assert (done.status, "1 backup copied" in done.err) == (0, True), done
    assert not [path for path in objects(source) if path.read_bytes().startswith(encryption.MAGIC)]
    assert {tuple(readers(path, keyring.pair("b"))) for path in objects(other)} == {(True,)}
    keyring.configure("b", "b")
    assert_holds(other, tmp_path / "out")


def test_a_copy_in_a_bucket_of_another_service_has_its_own_way_there(
    source: Vault,
    keyring: Keyring,
    moto: Service,
    rclone: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (f"s3://{service.bucket()}/copy" for service in (moto, rclone))
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    way = 's3 = {{endpoint = "{}", region = "us-east-1", addressing_style = "path"}}'
    copies = [f'{{location = "{first}", {way.format(moto.endpoint)}}}']
    copies.append(
        f'{{location = "{second}", recipients = ["{keyring.pair("b")[0]}"], {way.format(rclone.endpoint)}}}'
    )
    config = configured(source, f"copies = [{', '.join(copies)}]")
    for place in (str(source.repository), first, second):
        assert source.bare("--config", config, "--repository", place, "repository", "init").status == 0
    done = source.bare("--config", config, "create")
    assert (done.status, done.err.count("1 backup copied")) == (0, 2), done
    grow(source, 1)
    done = source.bare("--config", config, "create")
    assert (done.status, done.err.count("2 backups copied")) == (0, 2), done
    keyring.configure("", "b")
    for place in (first, second):
        assert source.bare("--config", config, "--repository", place, "verify", "--all").status == 0
        out = tmp_path / place.split("/")[2]
        assert (
            source.bare("--config", config, "--repository", place, "restore", "--yes", "--output", out).status
            == 0
        )
        assert (out / "Data.fs").read_bytes() == source.files.data_fs.read_bytes()


def test_a_copy_for_others_that_can_never_be_made_here_is_refused_before_the_backup(
    source: Vault, keyring: Keyring
) -> None:
    keyring.configure("a")
    source.done("repository", "init")
    (ours, _), (theirs, identity) = keyring.pair("a"), keyring.pair("b")
    assert theirs
    for recipients, said in (
        (f'["{theirs}"]', "no private key is configured"),
        ("[]", "is not encrypted, but the repository is"),
    ):
        config = configured(source, f'copies = [{{location = "/srv/offsite", recipients = {recipients}}}]')
        refused(outcome := source.bare("--config", config, "create"), 2, said, "repository copy /srv/offsite")
        assert str(identity) not in outcome.err
    assert ids(source) == []
    # for the same ones, named once more, no private key is needed
    other = another(source, "other")
    config = configured(source, f'copies = [{{location = "{other.repository}", recipients = ["{ours}"]}}]')
    assert source.bare("--config", config, "create").status == 0
    assert ids(other) == ids(source)


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        ("[]", "has to be a list of locations"),
        ('["s3://"]', "is not a location"),
        ('[{recipients = ["age1"]}]', "has to be a string"),
        (
            '[{location = "s3://x/y", s3 = {endpoint = "s3.example.com"}}]',
            "repository.copies.s3.endpoint has to be a URL",
        ),
        ('[{location = "s3://x/y", s3 = {endpont = "x"}}]', "did you mean endpoint?"),
        ('[{location = "s3://x/y", s3 = 3}]', "has to be a table"),
        ('[{location = "/x", recipient = "y"}]', "did you mean recipients?"),
        ('[{location = "/x", recipients = 3}]', "has to be a list of texts"),
        ('[{location = "/x", recipients = ["AGE-SECRET-KEY-1HUNTER2"]}]', "contains a private key"),
        ("[3]", "has to be a string"),
    ],
)
def test_what_is_no_copy_is_refused(source: Vault, keyring: Keyring, copies: str, said: str) -> None:
    keyring.configure("")
    source.done("repository", "init")
    outcome = source.bare("--config", configured(source, f"copies = {copies}"), "list")
    assert (
        outcome.status,
        said in outcome.err,
        "repository.copies" in outcome.err,
        "HUNTER2" in outcome.err,
    ) == (2, True, True, False), outcome.err
