"""A FileStorage site with a repository in a bucket, and the command line for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import site_factory
from command_line import Outcome, Vault
from services.s3 import Service


class Remote:
    """A site of nine transactions and a repository in a bucket of its own."""

    def __init__(
        self,
        service: Service,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        **bucket: Any,
    ) -> None:
        self.service, self.bucket = service, service.bucket(**bucket)
        self.files = site_factory.populate(directory / "site")
        self.location = f"s3://{self.bucket}/some/place"
        for name, value in service.variables(self.location).items():
            monkeypatch.setenv(name, value)
        self.cache = directory / "cache" / "zodb-vault"
        monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        self._vault = Vault(directory, capsys)

    def __call__(self, *arguments: object) -> Outcome:
        return self._vault.bare(
            "--data-fs", self.files.data_fs, "--blob-dir", self.files.blob_dir, *arguments
        )

    def done(self, *arguments: object) -> Outcome:
        outcome = self(*arguments)
        assert outcome.status == 0, outcome
        return outcome

    def stored(self, prefix: str = "") -> list[str]:
        """Return the keys of the bucket itself."""
        pages = (
            self.service.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        )
        return [one["Key"] for page in pages for one in page.get("Contents", ())]
