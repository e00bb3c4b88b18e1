"""Load everything in a restored database, in a child process: see loader.py for what that does.

Loading imports classes of the application and keeps what ZODB caches. In a process of its own, neither the
memory nor a crash in a C extension affects the verification.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from ...errors import NotProven
from ...runtime.child_process import child_environment, module_command

# The argument that stands for a configuration on standard input: it contains secrets, and arguments are
# visible.
CONFIGURED = "-"


class Loaded(msgspec.Struct, kw_only=True):
    """What was loaded.

    ``undone``: objects whose creation was undone. ``broken``: objects whose class is not installed here;
    their records were decoded nevertheless. ``modules``: how many of them need each missing module.
    ``opaque``: records that only the wrapper that wrote them can decode, such as one that encrypts; they were
    read. ``failure``: why the storage could not be opened. ``not_installed``: which package is not installed
    here, so that nothing could be loaded.
    """

    objects: int = 0
    undone: int = 0
    broken: int = 0
    opaque: int = 0
    blobs: int = 0
    modules: dict[str, int] = {}
    undecodable: list[tuple[str, str]] = []
    unreadable_blobs: list[tuple[str, str, str]] = []
    failure: str | None = None
    not_installed: str | None = None


class StorageToLoad(msgspec.Struct):
    """A restored storage by its configuration, and what its backend needs to list the objects in it."""

    backend: str
    configuration: str
    settings: dict[str, str]


def load_data_fs(data_fs: Path, blob_dir: Path | None) -> Loaded:
    """Load every object and open every blob of a Data.fs.

    A storage that cannot be opened is a ``failure``. Raise NotProven when a package is missing, or when the
    process dies, for example because it runs out of memory: that says nothing about the database.
    """
    return _run_loader([str(data_fs), *([str(blob_dir)] if blob_dir else [])], b"")


def load_configured(storage: StorageToLoad) -> Loaded:
    """Load every object and open every blob of a configured storage, as ``load_data_fs`` does."""
    return _run_loader([CONFIGURED], msgspec.json.encode(storage))


def _run_loader(arguments: list[str], standard_input: bytes) -> Loaded:
    command = module_command("zodb_vault.operations.verify.loader", *arguments)
    done = subprocess.run(
        command, capture_output=True, check=False, input=standard_input, env=child_environment()
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise NotProven(
            f"the process that loads the restored database died: {why}",
            "free memory and verify again; this is no result about the backup",
        )
    # the application may print as well when it is imported: the last line is the result
    loaded = msgspec.json.decode(done.stdout.splitlines()[-1], type=Loaded)
    if loaded.not_installed:
        raise NotProven(
            f"the restored database cannot be opened here: {loaded.not_installed}",
            "install the packages that the site uses into the environment of zodb-vault, then verify again",
        )
    return loaded
