"""Load everything in a restored database, in a child process: see loader.py for what that does.

Loading imports classes of the application and keeps what ZODB caches. In a process of its own, neither the
memory nor a crash in a C extension affects the verification.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import msgspec

from ...errors import NotProven
from ...runtime.child_process import child_environment, module_command
from ...runtime.progress import Progress

# The argument that stands for a configuration on standard input: it contains secrets, and arguments are
# visible.
CONFIGURED = "-"
# The child begins a line with these: the number of all objects, and of those loaded since the last line.
EXPECTED = b"zodb-vault: expected objects "
ADVANCED = b"zodb-vault: loaded objects "


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


def load_data_fs(data_fs: Path, blob_dir: Path | None, progress: Progress) -> Loaded:
    """Load every object and open every blob of a Data.fs.

    A storage that cannot be opened is a ``failure``. Raise NotProven when a package is missing, or when the
    process dies, for example because it runs out of memory: that says nothing about the database.
    """
    return _run_loader([str(data_fs), *([str(blob_dir)] if blob_dir else [])], b"", progress)


def load_configured(storage: StorageToLoad, progress: Progress, objects: int | None) -> Loaded:
    """Load every object and open every blob of a configured storage, as ``load_data_fs`` does.

    ``objects`` is how many of them the snapshot had, None if that is not known.
    """
    if objects is not None:
        progress.expect(objects, "objects")
    return _run_loader([CONFIGURED], msgspec.json.encode(storage), progress)


def _run_loader(arguments: list[str], standard_input: bytes, progress: Progress) -> Loaded:
    command = module_command("zodb_vault.operations.verify.loader", *arguments)
    last = b""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(standard_input)
        given.seek(0)
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=errors, env=child_environment()
        ) as process:
            try:
                for line in process.stdout or ():
                    if not _is_progress(line, progress):
                        last = line if line.strip() else last
            except BaseException:  # such as Ctrl-C: without this, the end of the child is waited for
                process.kill()
                raise
        errors.seek(0)
        said = errors.read()
    if process.returncode or not last:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {process.returncode}"
        raise NotProven(
            f"the process that loads the restored database died: {why}",
            "free memory and verify again; this is no result about the backup",
        )
    # the application may print as well when it is imported: the last line is the result
    loaded = msgspec.json.decode(last, type=Loaded)
    if loaded.not_installed:
        raise NotProven(
            f"the restored database cannot be opened here: {loaded.not_installed}",
            "install the packages that the site uses into the environment of zodb-vault, then verify again",
        )
    return loaded


def _is_progress(line: bytes, progress: Progress) -> bool:
    """Report what a line of the child says about its progress; return False if it is another line."""
    for prefix in (EXPECTED, ADVANCED):
        number = line.removeprefix(prefix).strip()
        if line.startswith(prefix) and number.isdigit():
            if prefix is EXPECTED:
                progress.expect(int(number), "objects")
            else:
                progress.advance(int(number))
            return True
    return False
