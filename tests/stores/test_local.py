"""What only a local repository has: file modes, hard links, and the order in which data becomes durable."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from process_race import race

from zodb_vault.errors import KeyChanged, KeyExists, StoreError
from zodb_vault.runtime import durable
from zodb_vault.runtime.new_files import NewFiles
from zodb_vault.stores.local import LocalStore

KEY = "objects/ab/" + "ab" * 32
CALLS = ("mkdir", "write", "fsync", "link", "rename", "unlink")


class Call(NamedTuple):
    """One system call: its name, what it is about below the root, and how many bytes the file had then."""

    name: str
    about: str
    size: int | None = None


class Recorder:
    """Records the calls that make bytes and names durable, in their order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.calls = root, list[Call]()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            known = isinstance(first, int) and self._of_descriptor(name, first)
            done = function(first, *rest, **options)
            if known:
                self.calls.append(known)
            elif not isinstance(first, int):
                self.calls.append(Call(name, self._name(rest[0] if name in ("link", "rename") else first)))
            return done

        return call

    def _of_descriptor(self, name: str, fd: int) -> Call | None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not path.is_relative_to(self.root.parent):
            return None
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            return Call(name, self._name(path))
        return Call(name, "content", info.st_size)

    def _name(self, path: Any) -> str:
        relative = os.path.relpath(path, self.root)
        return "temporary" if ".tmp-" in relative else relative

    def without_writes(self) -> list[Call]:
        return [call for call in self.calls if call.name != "write"]


@pytest.fixture(params=["anonymous", "named", "without /proc"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store on file systems with and without anonymous files, and where these get no name (in a chroot)."""
    if request.param == "named":
        monkeypatch.setattr(os, "open", without_anonymous_files(os.open))
    elif request.param == "without /proc":
        monkeypatch.setattr(durable, "DESCRIPTORS", "/nowhere/fd")
    return LocalStore(tmp_path / "store")


def without_anonymous_files(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *rest, **options)

    return opened


def everything(root: Path) -> list[str]:
    """Return all files below a directory, hidden ones too, lock files not."""
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock"
    )


def staged(store: LocalStore, content: bytes) -> None:
    staging = store.stage()
    staging.write(content)
    staging.store(KEY)


def put(store: LocalStore, content: bytes) -> None:
    store.put(KEY, [content])


WRITES = pytest.mark.parametrize("write", [put, staged])


# The order in which bytes become durable


def test_a_staged_object_is_complete_then_durable_then_named_then_its_name_durable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(store.root, monkeypatch)
    staging = store.stage()
    staging.write(b"x" * 1000)
    staging.write(b"y" * 234)
    assert all(call.name in ("write", "mkdir", "fsync") for call in recorder.calls)
    assert ("fsync", "content") not in [(call.name, call.about) for call in recorder.calls]
    recorder.calls.clear()
    staging.store(KEY)
    steps = [call for call in recorder.without_writes() if call.name != "mkdir" and call.about != "temporary"]
    named = steps.index(Call("link", KEY))
    assert steps[named - 1] == Call("fsync", "content", 1234)
    assert steps[named + 1 :] == [Call("fsync", "objects/ab")]
    assert not any(call.name == "write" for call in recorder.calls)


def test_a_put_is_complete_then_durable_then_named_then_its_name_durable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "objects/ab").mkdir(parents=True)
    recorder = Recorder(store.root, monkeypatch)
    store.put(KEY, [b"x" * 1000, b"y" * 234])
    assert recorder.without_writes() == [
        Call("fsync", "content", 1234),
        Call("link", KEY),
        Call("unlink", "temporary"),
        Call("fsync", "objects/ab"),
    ]


def test_a_replacement_is_durable_before_it_takes_the_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, [b"old"])
    recorder = Recorder(store.root, monkeypatch)
    store.replace(KEY, b"newer", b"old")
    steps = [call for call in recorder.without_writes() if call.name != "unlink"]
    assert steps == [Call("fsync", "content", 5), Call("rename", KEY), Call("fsync", "objects/ab")]


@WRITES
def test_every_directory_that_was_made_is_durable_in_its_parent_before_the_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, write: Callable[[LocalStore, bytes], None]
) -> None:
    recorder = Recorder(store.root, monkeypatch)
    write(store, b"x")
    calls = recorder.calls
    for directory, parent in ((".", ".."), ("objects", "."), ("objects/ab", "objects")):
        made = calls.index(Call("mkdir", directory))
        assert Call("fsync", parent) in calls[made : calls.index(Call("link", KEY))]


@WRITES
def test_a_name_that_another_wrote_is_made_durable_too(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, write: Callable[[LocalStore, bytes], None]
) -> None:
    write(store, b"x")
    recorder = Recorder(store.root, monkeypatch)
    write(store, b"x")
    assert Call("fsync", "objects/ab") in recorder.calls


def test_a_removal_is_durable(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, [b"x"])
    recorder = Recorder(store.root, monkeypatch)
    store.delete(KEY)
    assert recorder.calls == [Call("unlink", KEY), Call("fsync", "objects/ab")]


# Modes


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o027, 0o077])
@WRITES
def test_files_are_0400_and_directories_0700(
    store: LocalStore, write: Callable[[LocalStore, bytes], None], umask: int
) -> None:
    before = os.umask(umask)
    try:
        write(store, b"x")
        store.put("sites/a/running/create.json", [b"x"])
        store.replace("sites/a/running/create.json", b"y", b"x")
    finally:
        os.umask(before)
    for path in (store.root, *store.root.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600 if path.name == ".lock" else 0o400
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_an_existing_directory_keeps_its_mode(store: LocalStore) -> None:
    store.root.mkdir(mode=0o750)
    store.root.chmod(0o750)
    store.put("a/b", [b"x"])
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o750


# What can go wrong


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.ENOTSUP])
@WRITES
def test_a_file_system_without_hard_links_is_refused_and_said(
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[LocalStore, bytes], None],
    number: int,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError) as caught:
        write(store, b"x")
    assert "hard links" in caught.value.hint
    del caught  # its traceback holds the staging
    gc.collect()
    assert everything(store.root) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("name", ["write", "fsync"])
@WRITES
def test_a_failing_disk_is_a_store_error_and_leaves_nothing(
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[LocalStore, bytes], None],
    name: str,
    number: int,
) -> None:
    (store.root / "objects/ab").mkdir(parents=True)

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(StoreError, match=os.strerror(number)):
        write(store, b"x" * 10)
    gc.collect()
    assert everything(store.root) == []


@WRITES
def test_a_disk_that_takes_less_than_offered_gets_the_rest(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, write: Callable[[LocalStore, bytes], None]
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    write(store, bytes(range(200)))
    assert store.get(KEY) == bytes(range(200))


def test_a_failed_replacement_leaves_the_old_content(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, [b"old"])

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StoreError):
            store.replace(KEY, b"new", b"old")
    assert store.get(KEY) == b"old"
    assert everything(store.root) == [KEY]


def test_a_file_in_the_way_of_a_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        LocalStore(tmp_path / "file" / "store").put("a", [b"x"])


def test_directories_that_others_make_at_the_same_moment_are_no_problem(tmp_path: Path) -> None:
    for number in range(30):
        errors: list[BaseException] = []
        barrier = threading.Barrier(4)

        def make(
            number: int = number, errors: list[BaseException] = errors, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait()
            try:
                durable.make_directories(tmp_path / str(number) / "a" / "b" / "c")
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []


def test_a_directory_that_appears_between_two_looks_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real, looked = tmp_path / "new", Path.is_dir, list[Path]()

    def late(path: Path) -> bool:
        found = real(path)
        if path == target and not looked:
            looked.append(path)
            target.mkdir()
        return found

    monkeypatch.setattr(Path, "is_dir", late)
    durable.make_directories(target / "below")
    assert (target / "below").is_dir()


# What others left in the directory


def test_hidden_files_of_ours_and_of_others_are_not_listed(store: LocalStore) -> None:
    store.put("a/b", [b"x"])
    for name in (".lock", ".tmp-0123456789abcdef", ".nfs000001", ".snapshot"):
        (store.root / "a" / name).write_bytes(b"x")
    (store.root / ".zfs").mkdir()
    (store.root / ".zfs" / "x").write_bytes(b"x")
    assert [entry.key for entry in store.list("")] == ["a/b"]


def test_files_with_any_name_do_not_stop_a_list(store: LocalStore) -> None:
    store.put("a/b", [b"x"])
    for name in (b"caf\xe9", "ünïcode".encode(), b"two words", b"new\nline"):
        Path(os.fsdecode(bytes(store.root) + b"/a/" + name)).write_bytes(b"x")
    assert "a/b" in [entry.key for entry in store.list("a/")]


def test_a_dead_link_does_not_stop_a_list(store: LocalStore) -> None:
    store.put("a/b", [b"x"])
    (store.root / "a" / "c").symlink_to("nowhere")
    assert [entry.key for entry in store.list("")] == ["a/b"]


# Memory and processes


def test_a_staging_takes_no_memory(tmp_path: Path) -> None:
    store, chunk = LocalStore(tmp_path / "store"), bytes(1 << 20)
    tracemalloc.start()
    try:
        staging = store.stage()
        for _ in range(32):
            staging.write(chunk)
        staging.store(KEY)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert (store.root / KEY).stat().st_size == 32 << 20


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(1)", "raise SystemExit"])
def test_a_process_that_ends_while_it_stages_leaves_nothing(tmp_path: Path, end: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from zodb_vault.stores.local import LocalStore\n"
        "staging = LocalStore(Path(sys.argv[1])).stage(); staging.write(b'x' * 100000); print('staged', "
        f"flush=True); {end}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, check=False
    )
    assert done.stdout == b"staged\n", done.stderr
    assert everything(tmp_path / "store") == []


def test_two_processes_that_exchange_at_once_do_not_both_win(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zodb_vault.errors import KeyChanged; from "
        "zodb_vault.stores.local import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline(); won = 0\n"
        "for n in range(200):\n"
        "    try: store.replace(f'running/{n}', sys.argv[2].encode(), b'stale'); won += 1\n"
        "    except KeyChanged: pass\n"
        "print(won)"
    )
    store = LocalStore(tmp_path / "store")
    for n in range(200):
        store.put(f"running/{n}", [b"stale"])
    won = [int(printed) for printed in race(code, str(store.root))]
    assert sum(won) == 200
    contents = [store.get(f"running/{n}") for n in range(200)]
    assert [contents.count(b"left"), contents.count(b"right")] == won


def test_conflicts_leave_no_temporary_files(store: LocalStore) -> None:
    store.put(KEY, [b"one"])
    for call in (lambda: put(store, b"two"), lambda: staged(store, b"two")):
        with pytest.raises(KeyExists):
            call()
    with pytest.raises(KeyChanged):
        store.replace(KEY, b"two", b"three")
    gc.collect()
    assert everything(store.root) == [KEY]


# durable.py itself


def test_write_refuses_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        durable.write_atomically(tmp_path / "taken", [b"new"], exclusive=True)
    assert ((tmp_path / "taken").read_bytes(), everything(tmp_path)) == (b"old", ["taken"])


def test_write_takes_the_place_of_what_is_there_when_it_may(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"old")
    new = NewFiles(0o640)
    assert durable.write_atomically(tmp_path / "taken", [b"new", b"er"], exclusive=False, new=new) == 5
    assert ((tmp_path / "taken").read_bytes(), everything(tmp_path)) == (b"newer", ["taken"])
    assert stat.S_IMODE((tmp_path / "taken").stat().st_mode) & ~0o777 == 0


def test_write_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(FileExistsError):
        durable.write_atomically(tmp_path / "link", [b"new"], exclusive=True)
    durable.write_atomically(tmp_path / "link", [b"new"], exclusive=False)
    assert not (tmp_path / "link").is_symlink()
    assert not (tmp_path / "target").exists()


def test_what_was_staged_can_be_read_before_it_has_a_name(tmp_path: Path) -> None:
    staged_file = durable.UnnamedFile(tmp_path)
    staged_file.write(b"0123456789")
    assert (staged_file.read_at(4, 3), staged_file.read_at(4, 8), staged_file.read_at(4, 10)) == (
        b"3456",
        b"89",
        b"",
    )
    staged_file.discard()


@pytest.fixture(autouse=True)
def no_open_files_left() -> Iterator[None]:
    """Fail a test that leaves files open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    if len(os.listdir("/proc/self/fd")) > before:
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before


def test_content_leaves_the_cache_and_documents_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pushed out of the cache otherwise is what the running site reads."""
    advised: list[tuple[int, int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _fd, pos, size, advice: advised.append((pos, size, advice))
    )
    store, size = LocalStore(tmp_path / "repository"), 3 * durable.DOCUMENT + 7
    staging = store.stage()
    staging.write(bytes(size))
    staging.store(KEY)
    assert advised == [(durable.DOCUMENT, 0, os.POSIX_FADV_DONTNEED)]
    advised.clear()
    assert sum(map(len, store.stream(KEY))) == size
    assert advised == [(n * durable.DOCUMENT, durable.DOCUMENT, os.POSIX_FADV_DONTNEED) for n in range(3)]
    advised.clear()
    store.put("meta/document", [bytes(durable.DOCUMENT - 1)])
    assert sum(map(len, store.stream("meta/document"))) == durable.DOCUMENT - 1
    assert advised == []


def test_a_file_system_that_takes_no_advice_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    store, content = LocalStore(tmp_path / "repository"), os.urandom(2 * durable.DOCUMENT)
    staging = store.stage()
    staging.write(content)
    staging.store(KEY)
    assert b"".join(store.stream(KEY)) == content


def test_writing_begins_before_the_file_is_made_durable(tmp_path: Path) -> None:
    """Refused (here for a pipe) it does nothing: ``fsync`` is what counts."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    pipe = os.pipe()
    try:
        os.write(fd, bytes(durable.DOCUMENT))
        for one in (fd, pipe[1]):
            durable.start_writeback(one, 0, durable.DOCUMENT)
            durable.drop_from_cache(one, 0, durable.DOCUMENT)
        assert os.pread(fd, durable.DOCUMENT + 1, 0) == bytes(durable.DOCUMENT)
    finally:
        for one in (fd, *pipe):
            os.close(one)
