"""The signatures of the backups of a repository, one file beside each manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import Damage, KeyExists, KeyMissing
from ..model import canonical
from ..model.manifest import Manifest
from .files import ImmutableFiles
from .layout import listing_of, manifest_key, signature_key, site_prefix
from .signing import is_signed, sign


class Signatures:
    """Signs manifests with ``key`` if there is one, and accepts the signatures of ``signers``.

    ``signers`` are public SSH keys; empty means that no signature is required.
    """

    def __init__(self, files: ImmutableFiles, key: Path | None = None, signers: Sequence[str] = ()) -> None:
        self._files, self._key, self.signers = files, key, signers

    @property
    def can_sign(self) -> bool:
        """Return whether this process signs manifests."""
        return self._key is not None

    def get(self, site: str, backup: str) -> bytes | None:
        """Return the signature of a backup, None without one."""
        with contextlib.suppress(KeyMissing):
            return self._files.store.get(signature_key(site, backup))
        return None

    def put(self, site: str, backup: str, data: bytes, signature: bytes | None = None) -> None:
        """Store the signature of a manifest before the manifest is written.

        Without a given signature, sign with our own key, if any. The signature of an interrupted run is
        replaced. Raise KeyExists when the existing signature belongs to an existing manifest.
        """
        if signature is None and self._key:
            signature = sign(data, self._key)
        if signature is None:
            return
        store, key = self._files.store, signature_key(site, backup)
        try:
            store.put(key, [signature])
        except KeyExists:
            existing = store.get(key)
            if backup in listing_of(entry.key for entry in store.list(site_prefix(site))).backups:
                raise
            store.replace(key, signature, existing)

    def require(self, manifest: Manifest) -> None:
        """Raise Damage unless an accepted signer signed exactly this manifest.

        Without accepted signers, nothing is checked.
        """
        if not self.signers:
            return
        site, backup = manifest.site, manifest.id
        key = manifest_key(site, backup)
        data = self._files.read_manifest(key, site, backup)
        hint = (
            "use another backup, or make one with `create --full`; "
            "[repository.signing] signers lists the accepted signers"
        )
        signature = self.get(site, backup)
        if signature is None:
            raise Damage(f"the backup {backup} is not signed", hint)
        if not is_signed(data, signature, self.signers) or canonical.decode(data, Manifest, key) != manifest:
            raise Damage(f"the signature of the backup {backup} is not valid for any configured signer", hint)
