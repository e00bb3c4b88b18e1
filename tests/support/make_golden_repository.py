"""Makes the golden repository of a new format version, once.

Run as ``python tests/support/make_golden_repository.py DIRECTORY``.

From the first release on, ``tests/data/golden-v1`` is never made again: it represents the repositories of
users.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import independent_reader
import site_factory

from zodb_vault.cli.main import run
from zodb_vault.model import chain
from zodb_vault.operations.create import provenance
from zodb_vault.repository import objects
from zodb_vault.strategies.filestorage import cut, segments

SITE = Path("/tmp/golden-site")


def make(directory: Path) -> None:
    """Make a repository with one full and two incremental backups, and describe its content."""
    repository, files = directory / "repository", site_factory.SiteFiles(SITE / "Data.fs", SITE / "blobs")
    options = [
        "-q",
        "--repository",
        str(repository),
        "--data-fs",
        str(files.data_fs),
        "--blob-dir",
        str(files.blob_dir),
    ]
    expected: list[dict[str, Any]] = []
    _require(run([*options, "repository", "init"]))
    site_factory.populate(SITE)
    for number in range(3):
        if number:
            with site_factory.Site(SITE) as site:
                added: dict[str, str | bytes] = {
                    "news": f"Golden news {number}",
                    f"photo-{number}": site_factory.noise(400, 70 + number),
                }
                site.put(**added)
        _require(run([*options, "create", "--name", f"golden-{number}", "--note", "Ünïcödé"]))
        expected.append(_content(files))
    _require(run([*options, "annotate", "--pin", "golden-1"]))
    for lock in repository.rglob(".lock"):
        lock.unlink()
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _content(files: site_factory.SiteFiles) -> dict[str, Any]:
    blobs = {
        f"{oid.hex()} {tid.hex()}": digest
        for (oid, tid), digest in independent_reader.blob_files(*files).items()
    }
    data = files.data_fs.read_bytes()
    return {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "blobs": blobs,
        "last": independent_reader.headers(files.data_fs)[-1].tid.hex(),
    }


def _require(status: int) -> None:
    if status:
        sys.exit(status)


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    small = {
        chain: {"TAIL_LIMIT": 2, "TAIL_KEPT": 1},
        cut: {"SEGMENT_LIMIT": 8000},
        segments: {"SEGMENT_LIMIT": 8000},
        objects: {"PART_RAW": 12_000},
    }
    for module, values in small.items():
        for name, value in values.items():
            setattr(module, name, value)
    provenance.machine = lambda: "golden"
    make(target)
    shutil.rmtree(SITE)
