"""The two files at the top of a repository: ``repository.json`` and the instructions ``RECOVERY.md``.

``repository.json`` makes a store a repository: it is written last. Both are replaced only when the recipients
change.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import secrets

import msgspec

from ..errors import KeyMissing, RepositoryMissing, TargetRefused, UsageError
from ..model import canonical
from ..model.manifest import RepositoryInfo
from ..runtime import clock
from ..stores.base import ProbesCapabilities, SharesWithGroup, Store
from .encryption import FEATURE
from .files import decode_document, require_known
from .layout import INFO_KEY, RECOVERY_KEY


def recovery_text() -> bytes:
    """Return the RECOVERY.md that this version writes."""
    return importlib.resources.files(__package__).joinpath("RECOVERY.md").read_bytes()


def create_info(store: Store, recipients: list[str], *, group_access: bool = False) -> RepositoryInfo:
    """Write both files into an empty store. ``recipients`` are in the stored form.

    ``group_access``: the group of the directory may read everything. Raise TargetRefused when the store is
    not empty, UsageError when it cannot be shared with a group.
    """
    foreign = next((entry.key for entry in store.list("") if entry.key != RECOVERY_KEY), None)
    if foreign is not None:
        is_ours = foreign.startswith(("sites/", "meta/", "objects/", INFO_KEY))
        raise TargetRefused(
            f"there is {'a repository' if is_ours else foreign} in {store.location} already",
            "use the existing repository, or choose an empty location",
        )
    if group_access:
        if not isinstance(store, SharesWithGroup):
            raise UsageError(
                f"there is no group access in {store.location}",
                "use the permissions of the service; --group-access is for a directory",
            )
        store.share_with_group()
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
    return info


def read_info(store: Store) -> RepositoryInfo:
    """Return what ``repository.json`` says; raise RepositoryMissing, UnsupportedRepository or Damage."""
    try:
        data = store.get(INFO_KEY)
    except KeyMissing:
        raise RepositoryMissing(
            f"there is no repository in {store.location}",
            "make one with `zodb-vault --repository LOCATION repository init`",
        ) from None
    document = decode_document(canonical.check_digest(data, INFO_KEY), INFO_KEY)
    require_known(document, f"the repository in {store.location}")
    return canonical.decode(data, RepositoryInfo, INFO_KEY)


def replace_recipients(store: Store, info: RepositoryInfo, recipients: list[str]) -> RepositoryInfo:
    """Replace the recipients, which are in the stored form; the list of former recipients grows.

    Keys of ``repository.json`` that this version does not know stay. Raise KeyChanged when another process
    replaces a file at the same time.
    """
    old, text = store.get(INFO_KEY), recovery_text()
    digest, there = hashlib.sha256(text).hexdigest(), store.get(RECOVERY_KEY)
    if there != text:  # first: old instructions may not describe encryption
        store.replace(RECOVERY_KEY, text, there)
    document = decode_document(old, INFO_KEY)
    before, former = document.get("recipients", []), document.get("former", [])
    changed = {
        "recipients": recipients,
        "former": [*former, before] if recipients != before else former,
        "requires": sorted({*info.requires, FEATURE}),
        "recovery": digest,
    }
    document |= changed
    del document["self_sha256"]
    store.replace(INFO_KEY, canonical.with_digest(document), old)
    return msgspec.structs.replace(info, **changed)
