"""The keys of backups, labels and trash in a repository, and what a list of a site says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from .ids import is_id_file

INFO_KEY: Final = "repository.json"
RECOVERY_KEY: Final = "RECOVERY.md"
MARKER: Final = re.compile(r"(create|[a-z]+-\d{8}T\d{6}Z-[0-9a-f]{6})\.json\Z")


def site_prefix(site: str) -> str:
    """Return the prefix of all files of a site, apart from its trash."""
    return f"sites/{site}/"


def manifest_key(site: str, backup: str) -> str:
    """Return the key of a manifest."""
    return f"sites/{site}/backups/{backup}.json"


def is_manifest_key(key: str) -> bool:
    """Tell whether a key below ``sites/`` is that of a manifest."""
    match key.split("/"):
        case ["sites", _site, "backups", name]:
            return is_id_file(name)
    return False


def signature_key(site: str, backup: str) -> str:
    """Return the key of the signature of a manifest."""
    return f"sites/{site}/backups/{backup}.sig"


def label_key(site: str, backup: str, label: str) -> str:
    """Return the key of a label of a backup."""
    return f"sites/{site}/labels/{backup}/{label}.json"


def damage_key(site: str, record: str) -> str:
    """Return the key of a record of damaged objects."""
    return f"sites/{site}/damage/{record}.json"


def trash_prefix(site: str) -> str:
    """Return the prefix of the trash of a site."""
    return f"trash/{site}/"


def trash_key(site: str, backup: str) -> str:
    """Return the key of a deleted manifest."""
    return f"trash/{site}/{backup}.json"


def gone_key(site: str, backup: str) -> str:
    """Return the key of the note that a backup was removed permanently."""
    return f"trash/{site}/gone/{backup}.json"


class Listing(msgspec.Struct):
    """The result of one LIST of a site.

    ``backups`` are ids, oldest first. ``labels`` are keys by backup, ``markers`` and ``damage`` are keys.
    """

    backups: list[str] = []
    labels: dict[str, list[str]] = {}
    markers: list[str] = []
    damage: list[str] = []


def listing_of(keys: Iterable[str]) -> Listing:
    """Return what the keys below the prefix of a site are; foreign file names are ignored."""
    listing = Listing()
    for key in keys:
        match key.split("/")[2:]:
            case ["backups", name] if is_id_file(name):
                listing.backups.append(name.removesuffix(".json"))
            case ["labels", backup, name] if is_id_file(name):
                listing.labels.setdefault(backup, []).append(key)
            case ["running", name] if MARKER.match(name):
                listing.markers.append(key)
            case ["damage", name] if is_id_file(name):
                listing.damage.append(key)
    listing.backups.sort()
    return listing
