"""A repository: its backups with their labels, and the one write that makes a backup exist."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from ..errors import (
    BackupMissing,
    ConfigurationError,
    Damage,
    KeyExists,
    KeyMissing,
    RepositoryMissing,
    TargetRefused,
    UnsupportedRepository,
)
from ..model import canonical
from ..model.manifest import FORMAT, Label, Manifest, RemovedBackup, RepositoryInfo
from ..runtime import clock
from ..stores.base import ProbesCapabilities, Store
from .cache import Cache
from .encryption import FEATURE, EncryptionKeys, normalized_recipients, require_installed
from .ids import is_id_file, new_id
from .labels import LabelFacts, fold
from .objects import Objects
from .signing import is_signed, sign

T = TypeVar("T")

INFO_KEY: Final = "repository.json"
RECOVERY_KEY: Final = "RECOVERY.md"
# ``dump``: a storage component may be the dump of a database server. ``deltas``: a dump may have deltas.
# ``files``: a backend of another package may store files. ``age``: content is encrypted.
KNOWN_REQUIREMENTS: Final[frozenset[str]] = frozenset({"dump", "deltas", "files", FEATURE})
MARKER: Final = re.compile(r"(create|[a-z]+-\d{8}T\d{6}Z-[0-9a-f]{6})\.json\Z")


class Listing(msgspec.Struct):
    """The result of one LIST of a site: backup ids (oldest first), label keys by backup, marker keys."""

    backups: list[str] = []
    labels: dict[str, list[str]] = {}
    markers: list[str] = []


class Trash(msgspec.Struct):
    """The trash of a site: ids with the size of their file in bytes.

    ``backups`` are deleted backups, ``gone`` are notes of backups that were removed permanently.
    """

    backups: dict[str, int] = {}
    gone: dict[str, int] = {}


def recovery_text() -> bytes:
    """Return the RECOVERY.md that this version writes."""
    return importlib.resources.files(__package__).joinpath("RECOVERY.md").read_bytes()


class Repository:
    """An open repository.

    Methods that read raise Damage when a file is not as it was written.
    """

    def __init__(self, store: Store, info: RepositoryInfo) -> None:
        self.store, self.info, self.keys = store, info, EncryptionKeys(info.recipients)
        self._configured: Sequence[str] = ()
        self._signing_key: Path | None = None
        self._signers: Sequence[str] = ()
        self._cache: Cache | None = None

    def remember(self, cache: Cache) -> None:
        """Read manifests and labels through a local cache.

        Do not use it in commands that verify, restore or delete.
        """
        self._cache = cache

    @classmethod
    def create(cls, store: Store, recipients: Sequence[str] = ()) -> Repository:
        """Make a new repository in an empty store. Its content is encrypted for the recipients, if any.

        Raise TargetRefused when the store is not empty.
        """
        recipients = normalized_recipients(recipients)
        foreign = next((entry.key for entry in store.list("") if entry.key != RECOVERY_KEY), None)
        if foreign is not None:
            what = (
                "a repository" if foreign.startswith(("sites/", "meta/", "objects/", INFO_KEY)) else foreign
            )
            raise TargetRefused(
                f"there is {what} in {store.location} already",
                "use the existing repository, or choose an empty location",
            )
        text = recovery_text()
        info = RepositoryInfo(
            id=secrets.token_hex(16),
            created=clock.iso(clock.now()),
            recovery=hashlib.sha256(text).hexdigest(),
            recipients=recipients,
            requires=[FEATURE] if recipients else [],
            store=store.probe() if isinstance(store, ProbesCapabilities) else {},
        )
        store.put(RECOVERY_KEY, [text])
        store.put(INFO_KEY, [canonical.with_digest(info)])
        return cls(store, info)

    @classmethod
    def open(cls, store: Store) -> Repository:
        """Open an existing repository; raise RepositoryMissing, UnsupportedRepository or Damage."""
        try:
            data = store.get(INFO_KEY)
        except KeyMissing:
            raise RepositoryMissing(
                f"there is no repository in {store.location}",
                "make one with `zodb-vault --repository LOCATION repository init`",
            ) from None
        _require_known(
            _document(canonical.check_digest(data, INFO_KEY), INFO_KEY), f"the repository in {store.location}"
        )
        info = _decode(data, RepositoryInfo, INFO_KEY)
        if isinstance(store, ProbesCapabilities):
            store.use_probed(info.store)
        return cls(store, info)

    def objects(self, run: str) -> Objects:
        """Return the objects of the repository; new ones carry the id of ``run``."""
        return Objects(self.store, run, self.keys)

    def configure(self, recipients: Sequence[str], identities: Callable[[], Sequence[str]]) -> None:
        """Set the configured recipients, and the function that reads the private keys when needed."""
        self._configured, self.keys = recipients, EncryptionKeys(self.info.recipients, identities)

    def sign_with(self, key: Path | None, signers: Sequence[str]) -> None:
        """Set the key that signs manifests, and the accepted signers."""
        self._signing_key, self._signers = key, signers

    @property
    def signers(self) -> Sequence[str]:
        """Return the accepted signers; empty means that no signature is required."""
        return self._signers

    @property
    def signs(self) -> bool:
        """Return whether this process signs manifests."""
        return self._signing_key is not None

    def signature(self, site: str, backup: str) -> bytes | None:
        """Return the signature of a backup, None without one."""
        with contextlib.suppress(KeyMissing):
            return self.store.get(signature_key(site, backup))
        return None

    def put_signature(self, site: str, backup: str, data: bytes, signature: bytes | None = None) -> None:
        """Store the signature of a manifest before the manifest is written.

        Without a given signature, sign with our own key, if any. The signature of an interrupted run is
        replaced. Raise KeyExists when the existing signature belongs to an existing manifest.
        """
        if signature is None and self._signing_key:
            signature = sign(data, self._signing_key)
        if signature is None:
            return
        key = signature_key(site, backup)
        try:
            self.store.put(key, [signature])
        except KeyExists:
            existing = self.store.get(key)
            if backup in self.listing(site).backups:
                raise
            self.store.replace(key, signature, existing)

    def require_signature(self, manifest: Manifest) -> None:
        """Raise Damage unless an accepted signer signed exactly this manifest.

        Without accepted signers, nothing is checked.
        """
        if not self._signers:
            return
        site, backup = manifest.site, manifest.id
        data = self.manifest_bytes(site, backup)
        hint = (
            "use another backup, or make one with `create --full`; [repository.signing] signers lists the "
            "accepted signers"
        )
        signature = self.signature(site, backup)
        if signature is None:
            raise Damage(f"the backup {backup} is not signed", hint)
        if (
            not is_signed(data, signature, self._signers)
            or _decode(data, Manifest, manifest_key(site, backup)) != manifest
        ):
            raise Damage(f"the signature of the backup {backup} is not valid for any configured signer", hint)

    def require_recipients(self) -> None:
        """Raise ConfigurationError unless the recipients are exactly those of the configuration."""
        if set(normalized_recipients(self._configured)) != set(self.info.recipients):
            ours, theirs = len(self._configured), len(self.info.recipients)
            raise ConfigurationError(
                [
                    f"the configuration names {ours or 'no'} recipients, and they are not the "
                    f"{theirs or 'no'} recipients of the repository"
                ],
                "correct [repository.encryption] recipients; if the configuration is right, run "
                "`zodb-vault repository recipients set`; if it was not changed, find out how repository.json "
                "was changed before you store anything more",
            )

    def set_recipients(self, configured: Sequence[str]) -> None:
        """Encrypt new content for these recipients; stored content stays unchanged."""
        recipients, old = normalized_recipients(configured), self.store.get(INFO_KEY)
        text = recovery_text()
        digest, there = hashlib.sha256(text).hexdigest(), self.store.get(RECOVERY_KEY)
        if there != text:  # first: old instructions may not describe encryption
            self.store.replace(RECOVERY_KEY, text, there)
        requires = sorted({*self.info.requires, FEATURE})
        document = _document(old, INFO_KEY)
        before, former = document.get("recipients", []), document.get("former", [])
        former = [*former, before] if recipients != before else former
        changed = {"recipients": recipients, "former": former, "requires": requires, "recovery": digest}
        document |= changed
        del document["self_sha256"]
        self.store.replace(INFO_KEY, canonical.with_digest(document), old)
        self.info = msgspec.structs.replace(self.info, **changed)

    def sites(self) -> list[str]:
        """Return the names of all sites for which a run wrote anything."""
        return sorted({entry.key.split("/")[1] for entry in self.store.list("sites/")})

    def listing(self, site: str) -> Listing:
        """List the files of a site; foreign file names are ignored."""
        listing, keys = Listing(backups=[], labels={}, markers=[]), set()
        for key, _size in self.store.list(f"sites/{site}/"):
            keys.add(key)
            match key.split("/")[2:]:
                case ["backups", name] if is_id_file(name):
                    listing.backups.append(name.removesuffix(".json"))
                case ["labels", backup, name] if is_id_file(name):
                    listing.labels.setdefault(backup, []).append(key)
                case ["running", name] if MARKER.match(name):
                    listing.markers.append(key)
        listing.backups.sort()
        if self._cache:
            self._cache.evict_unlisted(f"sites/{site}", keys)
        return listing

    def trash(self, site: str) -> Trash:
        """List the trash of a site."""
        trash = Trash()
        for entry in self.store.list(f"trash/{site}/"):
            match entry.key.split("/")[2:]:
                case [name] if is_id_file(name):
                    trash.backups[name.removesuffix(".json")] = entry.size
                case ["gone", name] if is_id_file(name):
                    trash.gone[name.removesuffix(".json")] = entry.size
        return trash

    def trashed(self, site: str) -> list[str]:
        """Return the ids of deleted backups whose content may still exist."""
        return list(self.trash(site).backups)

    def note_gone(self, site: str, backup: str) -> None:
        """Note that a backup was removed permanently, so that it does not count as lost."""
        with contextlib.suppress(KeyExists):
            self.store.put(
                gone_key(site, backup),
                [canonical.with_digest(RemovedBackup(id=backup, at=clock.iso(self.store.clock())))],
            )

    def manifest(self, site: str, backup: str) -> Manifest:
        """Return a manifest; raise BackupMissing, Damage or UnsupportedRepository."""
        manifest = _decode(self.manifest_bytes(site, backup), Manifest, manifest_key(site, backup))
        if (manifest.site, manifest.id) != (site, backup):
            raise Damage(
                f"{manifest_key(site, backup)} is the manifest of the backup {manifest.id} of the site "
                f"{manifest.site}"
            )
        return manifest

    def manifest_document(self, site: str, backup: str) -> dict[str, Any]:
        """Return a manifest with all its keys, also those that this version does not know."""
        return _document(self.manifest_bytes(site, backup), manifest_key(site, backup))

    def manifest_bytes(self, site: str, backup: str) -> bytes:
        """Return the checked bytes of a manifest."""
        return self._checked_manifest(manifest_key(site, backup), site, backup)

    def _checked_manifest(self, key: str, site: str, backup: str) -> bytes:
        try:
            data = self._read(key)
        except KeyMissing:
            raise BackupMissing(
                f"there is no backup {backup} of the site {site}", "`zodb-vault list` shows all backups"
            ) from None
        _require_known(_document(data, key), f"the backup {backup}")
        return data

    def trashed_document(self, site: str, backup: str) -> dict[str, Any]:
        """Return the manifest of a deleted backup; raise BackupMissing, Damage or UnsupportedRepository."""
        return _document(
            self._checked_manifest(trash_key(site, backup), site, backup), trash_key(site, backup)
        )

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the backup exist. All that it references has to be durable."""
        self.put_signature(manifest.site, manifest.id, canonical.with_digest(manifest))
        self._write(manifest_key(manifest.site, manifest.id), manifest)

    def add_label(self, site: str, backup: str, fact: str, value: Any, listing: Listing) -> None:
        """Store one fact about a backup; its name sorts after all listed labels of the backup."""
        taken = [key.rsplit("/", 1)[1].removesuffix(".json") for key in listing.labels.get(backup, [])]
        now = clock.now()
        key = f"sites/{site}/labels/{backup}/{new_id(taken, now)}.json"
        self._write(key, Label(fact=fact, value=value, at=clock.iso(now)))
        listing.labels.setdefault(backup, []).append(key)

    def facts(self, listing: Listing, backup: str) -> LabelFacts:
        """Return the facts of the labels of a backup."""
        return fold(self.label(key) for key in sorted(listing.labels.get(backup, [])))

    def label(self, key: str) -> Label:
        """Return one label."""
        return _decode(self._read(key), Label, key)

    def _write(self, key: str, document: Manifest | Label) -> None:
        data = canonical.with_digest(document)
        self.store.put(key, [data])
        if self._cache:
            self._cache.put(key, data)

    def _read(self, key: str) -> bytes:
        """Return the checked bytes of a file that never changes; raise KeyMissing or Damage."""
        if self._cache is None:
            return canonical.check_digest(self.store.get(key), key)
        with contextlib.suppress(Damage):
            if (copy := self._cache.get(key)) is not None:
                return canonical.check_digest(copy, key)
        data = canonical.check_digest(self.store.get(key), key)
        self._cache.put(key, data)
        return data


def manifest_key(site: str, backup: str) -> str:
    """Return the key of a manifest."""
    return f"sites/{site}/backups/{backup}.json"


def signature_key(site: str, backup: str) -> str:
    """Return the key of the signature of a manifest."""
    return f"sites/{site}/backups/{backup}.sig"


def trash_key(site: str, backup: str) -> str:
    """Return the key of a deleted manifest."""
    return f"trash/{site}/{backup}.json"


def gone_key(site: str, backup: str) -> str:
    """Return the key of the note that a backup was removed permanently."""
    return f"trash/{site}/gone/{backup}.json"


def _document(data: bytes, key: str) -> dict[str, Any]:
    return _decode(data, dict[str, Any], key)


def _decode(data: bytes, kind: type[T], key: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damage(f"{key} does not have the expected form: {error}") from None


def _require_known(document: dict[str, Any], what: str) -> None:
    """Raise UnsupportedRepository unless this installation knows the format and all requirements."""
    version, requires = document.get("format"), document.get("requires") or []
    if not isinstance(version, int) or version > FORMAT:
        raise UnsupportedRepository(
            f"{what} has format {version}, this version reads format {FORMAT} at most",
            "install a newer zodb-vault",
        )
    unknown = sorted(set(requires) - KNOWN_REQUIREMENTS)
    if unknown:
        raise UnsupportedRepository(
            f"{what} requires {', '.join(unknown)}, which this installation does not have",
            "install a newer zodb-vault, or the extra that provides it",
        )
    if FEATURE in requires:
        require_installed(what)
