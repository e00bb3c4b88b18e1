"""Backups while a process commits every few milliseconds and packs often: each is complete and correct."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filestorage_vault
import filestorage_writer
import history_with_backups
import pytest
from site_factory import SiteFiles

from zodb_vault.errors import SourceChanged
from zodb_vault.strategies.filestorage.restore import index as indexing

SECONDS = 20.0
PAUSE = 0.05


@contextlib.contextmanager
def running_writer(files: SiteFiles, log: Path, *options: str) -> Iterator[None]:
    """Run the writer until the block ends; require that it ended well."""
    stop = log.with_name("stop")
    script = [
        sys.executable,
        "-W",
        "error",
        filestorage_writer.__file__,
        *map(str, (*files, log)),
        "--seconds",
        "600",
        "--stop-file",
        str(stop),
        *options,
    ]
    process = subprocess.Popen(script)
    try:
        wait_for(lambda: log.exists() and len(filestorage_writer.read_log(log)) > 3)
        yield
        stop.touch()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def wait_for(condition: object, seconds: float = 60.0) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "the writer does not write"
        time.sleep(0.02)


@pytest.mark.parametrize("keep_old", ["--keep-old", "--no-keep-old"])
def test_every_backup_beside_a_writer_that_packs_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_old: str
) -> None:
    files, log = SiteFiles(tmp_path / "Data.fs", tmp_path / "blobs"), tmp_path / "log"
    made, given_up = [], 0
    with running_writer(files, log, "--pack-every", "0.3", keep_old):
        site = filestorage_vault.Vault(tmp_path, files)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                made.append(site.create(workers=2).manifest)
            except SourceChanged:
                given_up += 1
            time.sleep(PAUSE)
    assert len(made) > 20
    assert given_up <= len(made) // 20
    assert {"continued", "packed"} <= {manifest.reason.code for manifest in made}
    assert not {"new-history", "diverged"} & {manifest.reason.code for manifest in made}
    assert all(manifest.status == "complete" for manifest in made)
    monkeypatch.setattr(indexing, "subprocess", history_with_backups.InProcess)
    states = filestorage_writer.read_log(log)
    for manifest in made:
        restored = site.restore(manifest.id)
        last = bytes.fromhex((manifest.databases[0].last_tid or "")[2:])
        assert filestorage_writer.digests(*restored) == states[last]
