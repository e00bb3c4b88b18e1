"""A mirror: a FileStorage that zodb-vault keeps as a copy of another storage.

``mirror.json`` names the source. It also tells up to which position of ``Data.fs`` everything was read back,
compared and made durable. Bytes after this position are removed: a run that was interrupted has written them.
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
from ...runtime.new_files import NewFiles
from ...runtime.ownership import existing_directory

MARKER: Final = "mirror.json"
LOCK: Final = "lock"
MODE: Final = 0o700
# The files that FileStorage keeps beside Data.fs. They belong to the file before its end was removed.
COMPANIONS: Final = (".index", ".index_tmp", ".tmp", ".lock", ".tr0", ".old", ".pack")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a mirror that was checked: ``Data.fs`` up to the position ``end``, and its blobs.

    ``missing`` are the OIDs and TIDs of blobs that the source does not have. The last checked transaction
    begins at ``start`` and has ``digest``. ``packed_end`` is the end of the last transaction that a pack of
    the source has seen. Blobs up to the TID ``kept_until`` that were put aside are right too: they were
    checked before the source was packed. ``ordered`` is False when the TIDs of the source do not ascend.
    ``records`` is the number of copied records. ``whole`` tells that a copy has reached the end of the
    source. Before that, ``size`` is the size of the source in bytes when the first copy began.
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
        """Tell whether the checked part has a transaction."""
        return self.end > len(MAGIC)


class Mirror:
    """The directory with the mirror of one database; use it only while it is locked, see ``held``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_fs, self.blob_dir = directory / "Data.fs", directory / "blobs"
        self.cache, self.aside = directory / "cache", directory / "blobs.kept"

    def read(self) -> Checked | None:
        """Return the checked part, None for a new mirror; raise Damage."""
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
                f"remove the directory {self.directory}; the next run makes a new mirror",
            ) from None

    def write(self, checked: Checked) -> None:
        """Write durably which part is checked; the part itself must be durable already."""
        durable.write_atomically(
            self.directory / MARKER,
            [canonical.with_digest(checked)],
            exclusive=False,
            new=NewFiles(file_mode=0o600),
        )

    def truncate_to(self, checked: Checked) -> bool:
        """Tell whether Data.fs still has the checked part, and remove everything after it."""
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
        """Empty the mirror, and return its checked part, which is then empty.

        Blobs up to the TID ``kept_until`` are put aside, to be used again. With None, all blobs are removed.
        It may be interrupted at any point, and called again with the checked part that it has written.
        """
        fresh = Checked(source=checked.source, machine=checked.machine, kept_until=kept_until)
        self.write(fresh)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.data_fs)
        self._remove_companions()
        if kept_until is None:
            self.forget_kept()
        elif self.blob_dir.exists():
            self.put_aside(all_checked=checked.begun)
        shutil.rmtree(self.blob_dir, ignore_errors=True)
        durable.sync_directory(self.directory)
        return fresh

    def put_aside(self, *, all_checked: bool) -> None:
        """Move the blobs aside, to be used again.

        If an interrupted run has already put blobs aside, the others follow only when all of them are
        checked.
        """
        if not self.aside.exists():
            os.rename(self.blob_dir, self.aside)
        for path in sorted(self.blob_dir.rglob("*.blob")) if all_checked else ():
            target = self.aside / path.relative_to(self.blob_dir)
            target.parent.mkdir(mode=MODE, parents=True, exist_ok=True)
            os.rename(path, target)

    def kept(self, checked: Checked, oid: bytes, tid: bytes) -> Path | None:
        """Return the file of a blob that was put aside, None when there is none that was checked."""
        if checked.kept_until is None or f"0x{tid.hex()}" > checked.kept_until:
            return None
        path = self.aside / bushy(oid, tid)
        return path if path.is_file() else None

    def forget_kept(self) -> None:
        """Remove blobs that were put aside and not used again."""
        shutil.rmtree(self.aside, ignore_errors=True)

    def blob(self, oid: bytes, tid: bytes) -> Path:
        """Return the path of a blob."""
        return self.blob_dir / bushy(oid, tid)

    def clear_cache(self) -> None:
        """Remove the cache into which the source storage loads blobs."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def _remove_companions(self) -> None:
        for suffix in COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.data_fs}{suffix}")


@contextlib.contextmanager
def held(directory: Path) -> Iterator[Mirror]:
    """Lock the mirror in a directory for one run; make the directory if there is none.

    Raise InUse while another run uses the mirror, TargetRefused when zodb-vault has not made the directory,
    or it belongs to another user.
    """
    with written(directory):
        durable.make_directories(directory, NewFiles(directory_mode=MODE))
        require_ours(directory)
        if stat.S_IMODE(directory.stat().st_mode) != MODE:
            directory.chmod(MODE)
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


def require_usable(directory: Path) -> None:
    """Raise TargetRefused when a directory cannot be a mirror, or cannot be made; change nothing."""
    if directory.exists():
        require_ours(directory)
        return
    parent = existing_directory(directory)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise TargetRefused(
            f"the mirror {directory} cannot be made: uid {os.geteuid()} cannot write to {parent}",
            "name another directory with --mirror, or correct the permissions",
        )


def require_ours(directory: Path) -> None:
    """Raise TargetRefused when a directory belongs to another user, or holds anything but a mirror."""
    info = directory.stat()
    if info.st_uid != os.geteuid():
        raise TargetRefused(
            f"the mirror {directory} belongs to uid {info.st_uid}, but this process has uid {os.geteuid()}",
            "run as that user; or, as root, give the whole directory to this user with `chown -R`",
        )
    names = {
        entry.name for entry in directory.iterdir() if not entry.name.startswith(durable.TEMPORARY_PREFIX)
    } - {LOCK}
    if names and MARKER not in names:
        raise TargetRefused(
            f"{directory} is not empty and not a mirror of zodb-vault: it has no {MARKER}",
            "name another directory with --mirror",
        )


@contextlib.contextmanager
def written(directory: Path) -> Iterator[None]:
    """Turn a system error into an error that names the mirror."""
    try:
        yield
    except OSError as error:
        raise VaultError(
            f"the mirror {directory} cannot be written: {error.strerror or error}",
            "make room there or name another directory with --mirror; the next run uses what was copied",
        ) from None
