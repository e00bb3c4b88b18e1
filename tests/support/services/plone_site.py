"""A real Plone site: ``Data.fs`` and blobs as Plone 6 wrote them, from ``data/plone-site.tar.zst``."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import zstandard
from site_factory import SiteFiles

ARCHIVE = Path(__file__).parents[2] / "data" / "plone-site.tar.zst"


@pytest.fixture
def plone_site(tmp_path: Path) -> SiteFiles:
    """The site in its own directory: 7.4 MB of Data.fs, 40 transactions, 28 blobs; without Plone."""
    directory = tmp_path / "plone"
    with (
        ARCHIVE.open("rb") as packed,
        zstandard.open(packed, "rb") as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|") as archive,
    ):
        archive.extractall(directory, filter="data")
    return SiteFiles(directory / "filestorage" / "Data.fs", directory / "blobs")
