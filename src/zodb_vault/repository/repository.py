"""A repository: its backups, and the one write that makes a backup exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, Damage
from ..model import canonical
from ..model.manifest import Manifest, RepositoryInfo
from ..stores.base import ProbesCapabilities, Store
from .cache import Cache
from .damage import DamageRegister, ObjectObserver
from .encryption import EncryptionKeys, normalized_recipients
from .files import ImmutableFiles, decode_document
from .info import create_info, read_info, replace_recipients
from .labels import Labels
from .layout import Listing, listing_of, manifest_key, site_prefix
from .objects import Objects
from .signatures import Signatures
from .trash import Trash


class Repository:
    """An open repository: its manifests here, all else in ``labels``, ``trash`` and ``signatures``.

    Methods that read raise Damage when a file is not as it was written.
    """

    def __init__(self, store: Store, info: RepositoryInfo) -> None:
        self.store, self.info, self.keys = store, info, EncryptionKeys(info.recipients)
        self._files = ImmutableFiles(store)
        self.labels, self.trash = Labels(self._files), Trash(self._files)
        self.signatures, self.observer = Signatures(self._files), ObjectObserver()
        self._configured: Sequence[str] = ()
        # the sites that have backups, as they were when a command first asked for them
        self.backed_up_sites: list[str] | None = None

    @classmethod
    def create(
        cls, store: Store, recipients: Sequence[str] = (), *, group_access: bool = False
    ) -> Repository:
        """Make a new repository in an empty store. Its content is encrypted for the recipients, if any.

        Raise TargetRefused when the store is not empty.
        """
        info = create_info(store, normalized_recipients(recipients), group_access=group_access)
        return cls(store, info)

    @classmethod
    def open(cls, store: Store) -> Repository:
        """Open an existing repository; raise RepositoryMissing, UnsupportedRepository or Damage."""
        info = read_info(store)
        if isinstance(store, ProbesCapabilities):
            store.use_probed(info.store)
        return cls(store, info)

    def remember(self, cache: Cache) -> None:
        """Read manifests and labels through a local cache.

        Do not use it in commands that verify, restore or delete.
        """
        self._files.cache = cache

    def configure(self, recipients: Sequence[str], identities: Callable[[], Sequence[str]]) -> None:
        """Set the configured recipients, and the function that reads the private keys when needed."""
        self._configured, self.keys = recipients, EncryptionKeys(self.info.recipients, identities)

    def sign_with(self, key: Path | None, signers: Sequence[str]) -> None:
        """Set the key that signs manifests, and the accepted signers."""
        self.signatures = Signatures(self._files, key, signers)

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
        self.info = replace_recipients(self.store, self.info, normalized_recipients(configured))

    def objects(self, run: str) -> Objects:
        """Return the objects of the repository; new ones carry the id of ``run``."""
        return Objects(self.store, run, self.keys, self.observer)

    def sites(self) -> list[str]:
        """Return the names of all sites for which a run wrote anything."""
        return sorted({entry.key.split("/")[1] for entry in self.store.list("sites/")})

    def listing(self, site: str) -> Listing:
        """List the files of a site; foreign file names are ignored."""
        keys = [entry.key for entry in self.store.list(site_prefix(site))]
        self._files.evict_unlisted(f"sites/{site}", keys)
        return listing_of(keys)

    def damage(self, listing: Listing, site: str) -> DamageRegister:
        """Return the register of the damaged objects of a site."""
        return DamageRegister(self.store, site, listing.damage)

    def manifest(self, site: str, backup: str) -> Manifest:
        """Return a manifest; raise BackupMissing, Damage or UnsupportedRepository."""
        key = manifest_key(site, backup)
        manifest = canonical.decode(self.manifest_bytes(site, backup), Manifest, key)
        if (manifest.site, manifest.id) != (site, backup):
            raise Damage(f"{key} is the manifest of the backup {manifest.id} of the site {manifest.site}")
        return manifest

    def manifest_document(self, site: str, backup: str) -> dict[str, Any]:
        """Return a manifest with all its keys, also those that this version does not know."""
        return decode_document(self.manifest_bytes(site, backup), manifest_key(site, backup))

    def manifest_bytes(self, site: str, backup: str) -> bytes:
        """Return the checked bytes of a manifest."""
        return self._files.read_manifest(manifest_key(site, backup), site, backup)

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the backup exist. All that it references has to be durable."""
        self.signatures.put(manifest.site, manifest.id, canonical.with_digest(manifest))
        self._files.write(manifest_key(manifest.site, manifest.id), manifest)
