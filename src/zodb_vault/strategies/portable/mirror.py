"""A FileStorage of our own that holds what another storage holds.

Where it lies, which process uses it, and how much of it is known to be right.

``mirror.json`` says what is mirrored and up to which position of ``Data.fs`` everything was read back,
compared and made durable. What follows that position is removed, whatever it is: it was being written
when a run ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ...blobs.layout import bushy
from ...datafs.records import MAGIC
from ...datafs.tail import tail_digest
from ...errors import Damage, InUse, TargetRefused, VaultError
from ...model import canonical
from ...runtime import durable

MARKER: Final = "mirror.json"
LOCK: Final = "lock"
MODE: Final = 0o700
# What FileStorage keeps beside its file; the index is good for the whole file only.
COMPANIONS: Final = (".index", ".index_tmp", ".tmp", ".lock", ".tr0", ".old", ".pack")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What of a mirror is known to be right.

    ``Data.fs`` up to ``end`` with all its blobs, except those that the source did not have.

    ``start`` and ``digest`` tell its last transaction, ``packed_end`` is the end of the last one that a pack
    of the source has seen. ``kept_until``: blobs up to this TID that were kept aside, from before the source
    was packed, are right too. ``ordered`` is False when the TIDs of the source do not ascend. ``records``
    counts all that were copied. ``whole``: up to where the source was then; else a first copy was
    interrupted, and ``size`` is how long the source was when that began.
    """

    format: int = 1
    source: str
    machine: str
    end: int = len(MAGIC)
    start: int = len(MAGIC)
    digest: str = ""
    packed_end: int = len(MAGIC)
    first_tid: str | None = None
    last_tid: str | None = None
    kept_until: str | None = None
    ordered: bool = True
    records: int = 0
    whole: bool = False
    size: int = 0
    missing: list[tuple[str, str]] = []

    @property
    def begun(self) -> bool:
        """Tell whether there is a transaction."""
        return self.end > len(MAGIC)


class Mirror:
    """One directory for one database; only the process that holds it may use it, see ``held``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_fs, self.blob_dir = directory / "Data.fs", directory / "blobs"
        self.cache, self.aside = directory / "cache", directory / "blobs.kept"

    def read(self) -> Checked | None:
        """Return what is known to be right, None for a mirror that has just been made; raise Damage."""
        path = self.directory / MARKER
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(canonical.check_digest(data, str(path)), type=Checked)
        except (msgspec.MsgspecError, Damage):
            raise Damage(
                f"{path} is damaged",
                f"remove the directory {self.directory}: the next run makes the mirror again",
            ) from None

    def write(self, checked: Checked) -> None:
        """Make durable what is known to be right; everything that it says is durable already."""
        durable.write_atomically(
            self.directory / MARKER, [canonical.with_digest(checked)], exclusive=False, mode=0o600
        )

    def truncate_to(self, checked: Checked) -> bool:
        """Tell whether Data.fs is unchanged up to the position; if so, remove what follows it."""
        try:
            fd = os.open(self.data_fs, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            size = os.fstat(fd).st_size
            if size < checked.end or tail_digest(fd, checked.start, checked.end) != checked.digest:
                return False
            if size > checked.end:
                os.ftruncate(fd, checked.end)
                os.fsync(fd)
                self._remove_companions()
        finally:
            os.close(fd)
        return True

    def empty(self, checked: Checked, kept_until: str | None) -> Checked:
        """Begin again, with the blobs up to a TID aside to be used again (None: without any).

        Return what is known to be right then: nothing.

        May be interrupted anywhere and called again with what it has written.
        """
        fresh = Checked(source=checked.source, machine=checked.machine, kept_until=kept_until)
        self.write(fresh)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.data_fs)
        self._remove_companions()
        if kept_until is None:
            self.forget_kept()
        elif self.blob_dir.exists():
            self.put_aside(all_right=checked.begun)
        shutil.rmtree(self.blob_dir, ignore_errors=True)
        durable.sync_directory(self.directory)
        return fresh

    def put_aside(self, *, all_right: bool) -> None:
        """Move the blobs aside, to be used again.

        Those that a run left that ended here only if all of them are right.
        """
        if not self.aside.exists():
            os.rename(self.blob_dir, self.aside)
        for path in sorted(self.blob_dir.rglob("*.blob")) if all_right else ():
            target = self.aside / path.relative_to(self.blob_dir)
            target.parent.mkdir(mode=MODE, parents=True, exist_ok=True)
            os.rename(path, target)

    def kept(self, checked: Checked, oid: bytes, tid: bytes) -> Path | None:
        """Return the file of a blob that was kept aside, None when there is none that is known to be right."""
        if checked.kept_until is None or f"0x{tid.hex()}" > checked.kept_until:
            return None
        path = self.aside / bushy(oid, tid)
        return path if path.is_file() else None

    def forget_kept(self) -> None:
        """Remove what was kept aside and not used again."""
        shutil.rmtree(self.aside, ignore_errors=True)

    def blob(self, oid: bytes, tid: bytes) -> Path:
        """Return where a blob lies."""
        return self.blob_dir / bushy(oid, tid)

    def clear_cache(self) -> None:
        """Remove the cache that blobs pass through."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def _remove_companions(self) -> None:
        for suffix in COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.data_fs}{suffix}")


@contextlib.contextmanager
def held(directory: Path) -> Iterator[Mirror]:
    """Give the mirror in a directory, made if need be, to one run alone.

    Raise InUse while another run has it, TargetRefused when the directory is not one that this program made,
    or belongs to another user.
    """
    with written(directory):
        durable.make_directories(directory, MODE)
        _require_ours(directory)
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InUse(
                f"another run uses the mirror {directory}",
                "wait for it, or name another directory with --mirror",
            ) from None
        mirror = Mirror(directory)
        mirror.clear_cache()
        try:
            yield mirror
        finally:
            mirror.clear_cache()
    finally:
        os.close(fd)


def _require_ours(directory: Path) -> None:
    info = directory.stat()
    if info.st_uid != os.geteuid():
        raise TargetRefused(
            f"the mirror {directory} belongs to uid {info.st_uid}, this is uid {os.geteuid()}",
            "run as the user that made it",
        )
    names = {
        entry.name for entry in directory.iterdir() if not entry.name.startswith(durable.TEMPORARY_PREFIX)
    } - {LOCK}
    if names and MARKER not in names:
        raise TargetRefused(
            f"{directory} is not empty and not a mirror that zodb-vault made (no {MARKER} in it)",
            "name another directory with --mirror",
        )
    if stat.S_IMODE(info.st_mode) != MODE:
        directory.chmod(MODE)


@contextlib.contextmanager
def written(directory: Path) -> Iterator[None]:
    """Turn what the system says of a mirror that cannot be written into an error that names it."""
    try:
        yield
    except OSError as error:
        raise VaultError(
            f"the mirror {directory} cannot be written: {error.strerror or error}",
            "make room there or name another directory with --mirror; what was copied is used by the next run",
        ) from None
