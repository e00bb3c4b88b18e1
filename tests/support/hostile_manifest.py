"""Manifests that somebody else has written: every digest is right, and what they say is not."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zodb_vault.model import canonical


def rewrite(repository: Path, backup: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a backup of the site ``default``, and give it the digest that fits."""
    path = repository / f"sites/default/backups/{backup}.json"
    document = json.loads(path.read_bytes())
    del document["self_sha256"]
    change(document)
    path.chmod(0o600)
    path.write_bytes(canonical.with_digest(document))


def name_files(document: dict[str, Any], names: Sequence[str]) -> None:
    """Make the only database of a FileStorage one of files, which all have the content of the Data.fs."""
    (database,) = document["databases"]
    parts = [part for segment in database["storage"]["tail"] for part in segment["parts"]]
    size = len(names) * sum(part["raw"] for part in parts)
    database["backend"] = "elsewhere"
    database["storage"] = {
        "kind": "files",
        "size": size,
        "lists": [],
        "tail": [part | {"to": name} for name in names for part in parts],
        "tables": {},
    }
    document["requires"] = sorted({*document["requires"], "files"})


def add_object(repository: Path, content: bytes) -> dict[str, Any]:
    """Store content as an object, and return its part without ``to``."""
    data = subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True).stdout
    name = hashlib.sha256(data).hexdigest()
    path = repository / "objects" / name[:2] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return {"object": name, "raw": len(content), "stored": len(data), "codec": "zstd"}
