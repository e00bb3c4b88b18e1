"""Locations of a repository that other programs understand, and this one does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Vault

pytestmark = pytest.mark.usefixtures("clean_environment")

UNSUPPORTED = [
    "user@host:/srv/x",
    "host:/srv/x",
    "host:",
    "s3:bucket/x",
    "rclone:r:x",
    "rest:https://host/x",
    "b2:bucket",
    "sftp://host/x",
    "sftp://user:hunter2@host/x",
    "ssh://host/x",
    "file:///srv/x",
    "S3://bucket/x",
    "rsync://host/x",
]


@pytest.mark.parametrize("location", UNSUPPORTED)
def test_T27_a_location_that_is_not_supported_is_refused(vault: Vault, location: str) -> None:
    config = vault.directory / "zodb-vault.toml"
    config.write_text(f'[repository]\nlocation = "{location}"\n')
    copies = vault.directory / "copies.toml"
    copies.write_text(f'[repository]\ncopies = ["{location}"]\n')
    for arguments in (
        ["--repository", location, "repository", "init"],
        ["--repository", location, "list"],
        ["--config", config, "repository", "init"],
        [*vault.options, "--config", copies, "create"],
        ["--repository", vault.repository, "--data-fs", "x", "repository", "copy", location],
    ):
        outcome = vault.bare(*arguments)
        assert outcome.status == 2, outcome
        assert "is not supported" in outcome.err
        assert "use a directory or s3://bucket/prefix" in outcome.err
        assert "hunter2" not in outcome.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ["./a:b", "a.b/c:d", "plain", "~backups"])
def test_T27_a_directory_may_have_a_colon_in_its_name(vault: Vault, name: str) -> None:
    assert vault.bare("--repository", name, "repository", "init").status == 0
    assert (Path(name) / "repository.json").exists()
