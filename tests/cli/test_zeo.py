"""A ZEO site is backed up while its server runs; a restore waits for the stop and removes client caches."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import multi_database_writer
import pytest
import site_factory
import zeo_client
from command_line import Outcome, Vault, on_terminal
from multi_database_site import grown
from multi_database_writer import state_of
from services.zeo_site import Zeo, free_port
from ZODB.FileStorage import FileStorage

from zodb_vault.strategies.filestorage import zeo as servers

DATABASES = {"main": "1", "catalog": "catalog"}


class Served:
    """A server, a repository, and the command line for them."""

    def __init__(self, zeo: Zeo, vault: Vault) -> None:
        self.zeo, self.vault = zeo, vault
        self.where = ["--repository", str(vault.repository), "--site", "served", "--zeo-conf", str(zeo.conf)]

    def __call__(self, *arguments: object) -> Outcome:
        return self.vault.bare(*self.where, *arguments)

    def done(self, *arguments: object) -> Any:
        outcome = self(*arguments, "--json")
        assert outcome.status == 0, outcome
        return outcome.document

    def states(self) -> dict[str, multi_database_writer.State]:
        return {
            storage: state_of(self.zeo.data_fs(storage), self.zeo.blob_dir(storage))
            for storage in self.zeo.storages
        }


@pytest.fixture
def served(zeo: Zeo, vault: Vault) -> Served:
    return Served(zeo, vault)


@pytest.fixture
def on_a_socket(zeo_directory: Path, vault: Vault) -> Served:
    return Served(
        Zeo(zeo_directory, {"1": "main", "catalog": "catalog"}, str(zeo_directory / "zeo.sock")), vault
    )


def client(conf: Path, database: str, *operations: str) -> list[Any]:
    """Run a client until it is done; return what it has read."""
    command = [sys.executable, zeo_client.__file__, str(conf), database, *operations]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def writing(conf: Path, stop: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, multi_database_writer.__file__, str(conf), "--stop", str(stop), "--finish", "0.005"]
    )
    try:
        yield
    finally:
        stop.touch()
        assert process.wait(60) == 0


def test_every_backup_of_a_server_that_is_written_to_holds_whole_commits(
    served: Served, tmp_path: Path
) -> None:
    zeo = served.zeo
    conf = zeo.client_conf("writer", databases=DATABASES, shared=True)
    made: list[Any] = []
    with zeo.running():
        subprocess.run(
            [sys.executable, multi_database_writer.__file__, str(conf), "--seconds", "0.1"],
            check=True,
            timeout=60,
        )
        with writing(conf, tmp_path / "stop"):
            for _ in range(3):
                grown(zeo.data_fs("catalog"))
                made.append(served.done("create"))
        assert [one["databases"][0]["name"] for one in made] == ["1"] * 3
        shared = []
        for one in made:
            manifest = served.done("show", one["id"])["manifest"]
            assert served("restore", one["id"], "--output", tmp_path / one["id"], "--yes").status == 0
            states = [
                state_of(tmp_path / one["id"] / name / "Data.fs", tmp_path / one["id"] / name / "blobs")
                for name in zeo.storages
            ]
            if manifest["consistency"] == "consistent":
                (number,) = {state.shared for state in states}
                assert all(state.blob == multi_database_writer.content(number) for state in states)
                shared.append(number)
        assert len(shared) >= 2 and shared == sorted(set(shared))


def test_a_restore_and_an_abort_are_refused_while_the_server_answers(served: Served) -> None:
    zeo = served.zeo
    with zeo.running():
        client(zeo.client_conf("a", databases=DATABASES), "main", "put:a=1")
        client(zeo.client_conf("a", databases=DATABASES), "catalog", "put:a=1")
        served.done("create")
        before = {storage: zeo.data_fs(storage).read_bytes() for storage in zeo.storages}
        for arguments in (["restore", "--yes"], ["restore", "--abort"], ["create", "--cold"]):
            refused = served(*arguments)
            assert refused.status == 11, refused
            assert ("answers" in refused.err) == (arguments[0] == "restore")
        for storage in zeo.storages:  # a server that has its locks elsewhere, as in another container
            zeo.data_fs(storage).with_name("Data.fs.lock").unlink()
        assert served("restore", "--yes").status == 11
        assert {storage: zeo.data_fs(storage).read_bytes() for storage in zeo.storages} == before
    assert served("restore", "--yes").status == 0


def test_a_server_cannot_start_on_storages_of_which_only_one_is_new(on_a_socket: Served) -> None:
    zeo = on_a_socket.zeo
    conf = zeo.client_conf("writer", databases=DATABASES)
    writer = [sys.executable, multi_database_writer.__file__, str(conf), "--seconds", "0.1"]
    with zeo.running():
        subprocess.run(writer, check=True, timeout=60)
        on_a_socket.done("create")
        subprocess.run(writer, check=True, timeout=60)
    before = on_a_socket.states()
    pulled = f"""
import os, signal, sys
from zodb_vault.cli.main import run
rename = os.rename
def killed(source, target, **options):
    rename(source, target, **options)
    if str(target).endswith("/Data.fs"):
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = killed
run({[*on_a_socket.where, "restore", "--yes", "--no-safety-backup"]!r})
"""
    assert (
        subprocess.run([sys.executable, "-c", pulled], check=False, timeout=60).returncode == -signal.SIGKILL
    )
    with pytest.raises(pytest.fail.Exception, match="did not start"), zeo.running():
        pass
    for storage in zeo.storages:
        with pytest.raises(OSError, match="Data.fs.lock"):
            FileStorage(str(zeo.data_fs(storage)))
    assert on_a_socket("create").status == 11
    assert on_a_socket("restore", "--abort", "--yes").status == 0
    assert on_a_socket.states() == before
    with zeo.running():
        subprocess.run(writer, check=True, timeout=60)
    assert len({state.shared for state in on_a_socket.states().values()}) == 1


def test_a_storage_that_a_process_has_open_without_a_server_is_in_use_too(on_a_socket: Served) -> None:
    site_factory.populate(on_a_socket.zeo.directory / "main")
    site_factory.populate(on_a_socket.zeo.directory / "catalog")
    on_a_socket.done("create")
    with site_factory.Site(on_a_socket.zeo.directory / "catalog"):
        assert on_a_socket("restore", "--yes").status == 11


@pytest.mark.parametrize("host", ["", "localhost:", "127.0.0.1:", "0.0.0.0:", ":"])
def test_a_server_is_found_at_every_form_of_an_address(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert servers.accepts_connections(f"{host}{server.getsockname()[1]}")
    assert not servers.accepts_connections(f"{host}{free_port()}")


@pytest.mark.parametrize("kind", ["nothing", "file", "left", "long", "unknown host"])
def test_where_no_server_listens(kind: str, zeo_directory: Path) -> None:
    address = str(zeo_directory / "sock")
    if kind == "file":
        Path(address).write_text("")
    elif kind == "left":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(address)
    elif kind == "long":
        address += "x" * 200
    elif kind == "unknown host":
        address = "no-such-host.invalid:8100"
    assert not servers.accepts_connections(address)


def test_an_unknown_state_counts_as_in_use(on_a_socket: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    site_factory.populate(on_a_socket.zeo.directory / "main")
    site_factory.populate(on_a_socket.zeo.directory / "catalog")
    on_a_socket.done("create")
    monkeypatch.setattr(servers, "TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(on_a_socket.zeo.address)
        stuck.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(on_a_socket.zeo.address)
        assert on_a_socket("restore", "--yes").status == 11
        for one in waiting:
            one.close()

    def refuses(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(servers, "accepts_connections", refuses)
    refused = on_a_socket("restore", "--yes")
    assert (refused.status, "is not known whether a ZEO server runs" in refused.err) == (11, True)


# Caches of clients


class Cached(Served):
    """A client with persistent caches that has seen what a restore is going to take back."""

    def __init__(self, served: Served) -> None:
        super().__init__(served.zeo, served.vault)
        self.conf = self.zeo.client_conf("old", databases=DATABASES, persistent=True)
        self.home = self.conf.parent
        with self.zeo.running():
            client(self.conf, "main", "put:a=1,b=1,c=1", "blob:picture=first", "read:picture")
            client(self.conf, "catalog", "put:entries=1")
            self.backup = self.done("create")["id"]
            client(
                self.conf,
                "main",
                "put:a=2,b=2",
                "get:a,b,c",
                "blob:picture=second,other=new",
                "read:picture",
                "read:other",
            )
            client(self.conf, "catalog", "put:entries=2")

    def zec(self) -> list[str]:
        return sorted(path.name for path in self.home.glob("*.zec*"))

    def cached_blobs(self) -> set[str]:
        return {path.read_text() for path in self.home.rglob("*.blob")}

    def seen(self) -> list[int]:
        """Let another client commit, so that every cache is outdated; return what the cached client reads."""
        with self.zeo.running():
            other = self.zeo.client_conf("other", databases=DATABASES)
            client(other, "main", "put:c=7")
            client(other, "catalog", "put:entries=7")  # before that, the client is refused
            (found,) = client(self.conf, "main", "get:a,b,c")
        values: list[int] = found
        return values


@pytest.fixture
def cached(on_a_socket: Served) -> Cached:
    return Cached(on_a_socket)


CACHES = ["old-1.zec", "old-1.zec.lock", "old-catalog.zec", "old-catalog.zec.lock"]


def test_F18_a_client_reads_the_lost_future_from_its_cache_and_not_without_it(
    cached: Cached,
) -> None:
    shutil.copytree(cached.home, cached.home.with_name("saved"))
    assert cached.zec() == CACHES
    kept = cached.done("restore", cached.backup, "--yes")
    assert kept["caches"] == [] and cached.zec() == CACHES
    assert cached.seen() == [2, 2, 7], "no error, and wrong: this is what the removal is for"
    shutil.rmtree(cached.home)
    cached.home.with_name("saved").rename(cached.home)
    done = cached.done("restore", cached.backup, "--client-conf", cached.conf, "--yes")
    assert [path for path in done["caches"] if ".zec" in path] == [str(cached.home / name) for name in CACHES]
    assert cached.seen() == [1, 1, 7]


def test_blobs_of_the_lost_future_go_and_others_stay(cached: Cached) -> None:
    assert cached.cached_blobs() == {"first", "second", "new"}
    planned = cached.done("restore", cached.backup, "--client-conf", cached.conf, "--dry-run")
    assert cached.cached_blobs() == {"first", "second", "new"} and cached.zec() == CACHES
    done = cached.done("restore", cached.backup, "--client-conf", cached.conf, "--yes")
    assert sorted(done["caches"]) == sorted(planned["caches"]) and len(done["caches"]) == 6
    assert cached.cached_blobs() == {"first"}
    with cached.zeo.running():
        assert client(cached.conf, "main", "get:a,b,c", "read:picture") == [[1, 1, 1], "first"]


def test_the_cache_of_another_storage_is_left_alone(cached: Cached) -> None:
    done = cached.done(
        "restore", cached.backup, "--database", "catalog", "--client-conf", cached.conf, "--yes"
    )
    assert done["caches"] == [str(cached.home / name) for name in CACHES[2:]]
    assert cached.zec() == CACHES[:2]
    assert cached.cached_blobs() == {"first", "second", "new"}


def test_what_goes_is_shown_and_asked_for(cached: Cached) -> None:
    refused = on_terminal(*cached.where, "restore", cached.backup, "--client-conf", cached.conf, answer="n")
    assert refused.status == 1
    assert (
        f"removes {cached.home}/old-1.zec, a cache of the ZEO client {cached.conf}"
        in refused.screen.replace("\r\n", "")
    )
    assert "removes 2 blobs of the replaced state" in refused.screen
    assert cached.zec() == CACHES
    text = cached("restore", cached.backup, "--client-conf", cached.conf, "--yes").err
    assert "restart every ZEO client, on every host, before the server accepts writes again" in text
    assert "mixes discarded objects with restored ones" in text
    assert f"of every client except {cached.conf}" in text
    assert f"removed: {cached.home}/old-1.zec" in text
    assert cached.zec() == []
    assert "none was named with --client-conf" in cached("restore", cached.backup, "--yes").err


@pytest.mark.parametrize("how", ["absolute", "absolute without var", "in a folder", "symlinked var"])
def test_T18_a_cache_is_found_where_ZEO_puts_it(cached: Cached, how: str) -> None:
    text = cached.conf.read_text()
    shutil.rmtree(cached.home / "blobs-1")
    for path in cached.home.glob("*.zec*"):
        path.unlink()
    elsewhere = cached.home / "elsewhere"
    elsewhere.mkdir()
    if how == "symlinked var":
        (cached.home / "link").symlink_to(elsewhere)
        text = text.replace(f"var {cached.home}", f"var {cached.home}/link")
    else:
        name = "elsewhere/old" if how == "in a folder" else f"{elsewhere}/old"
        text = text.replace("client old", f"client {name}")
    if how == "absolute without var":
        text = text.replace(f"var {cached.home}", "")
    cached.conf.write_text(text)
    with cached.zeo.running():
        client(cached.conf, "main", "get:a,b,c")
        client(cached.conf, "catalog", "get:entries")
    assert sorted(path.name for path in elsewhere.glob("*.zec*")) == CACHES
    cached.done("restore", cached.backup, "--client-conf", cached.conf, "--yes")
    assert cached.seen() == [1, 1, 7]


def test_T18_a_cache_that_is_not_found_stops_a_restore(cached: Cached) -> None:
    restore = ["restore", cached.backup, "--client-conf", cached.conf]
    (cached.home / "old-1.zec").rename(cached.home / "moved.zec")
    before = cached.zeo.data_fs("1").read_bytes()
    refused = cached(*restore, "--yes")
    assert refused.status == 1
    assert f"the cache {cached.home}/old-1.zec of the ZEO client" in refused.err
    assert "--allow-missing-caches" in refused.err
    asked = on_terminal(*cached.where, *restore, answer="n")
    assert (asked.status, "Go on without these caches?" in asked.screen) == (1, True)
    assert cached.zeo.data_fs("1").read_bytes() == before
    assert cached.zec() == ["moved.zec", *CACHES[1:]]
    cached.done(*restore, "--allow-missing-caches", "--yes")
    again = cached(*restore, "--yes")
    assert (again.status, "old-catalog.zec" in again.err) == (1, True)


def test_T18_a_restore_that_goes_on_does_not_ask_for_what_it_has_removed(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zodb_vault.strategies.filestorage.restore.phases import DataFsRestore

    restore = ["restore", cached.backup, "--client-conf", cached.conf, "--yes"]

    def fail(*_arguments: object) -> None:
        raise OSError(5, "Input/output error", "/a/disk")

    with monkeypatch.context() as patched:
        patched.setattr(DataFsRestore, "make_valid", fail)
        assert cached(*restore).status == 1
    assert cached.zec() == []
    cached.done(*restore)
    assert cached.seen() == [1, 1, 7]


def test_P5_removed_blobs_are_counted_and_what_is_to_do_comes_last(cached: Cached) -> None:
    bucket = next(cached.home.glob("blobs-1/[0-9]*"))
    for number in range(300):
        (bucket / f"{number}.0fffffffffffffff.blob").write_bytes(b"")
    shutil.copytree(cached.home, cached.home.with_name("saved"))
    restore = ["restore", cached.backup, "--client-conf", cached.conf, "--yes"]
    lines = cached(*restore).err.splitlines()
    assert f"removed: 302 blobs of the replaced state from {cached.home}/blobs-1" in lines
    assert not [line for line in lines if line.endswith(".blob")]
    assert lines[-2].startswith("restart every ZEO client, on every host")
    assert lines[-1].startswith("remove the persistent caches")
    shutil.rmtree(cached.home)
    cached.home.with_name("saved").rename(cached.home)
    assert sum(line.endswith(".blob") for line in cached("-v", *restore).err.splitlines()) == 302


def test_clients_can_be_configured(cached: Cached, tmp_path: Path) -> None:
    toml = tmp_path / "zodb-vault.toml"
    toml.write_text(
        f'[repository]\nlocation = "{cached.vault.repository}"\n[site.served]\n'
        f'zeo_conf = "{cached.zeo.conf}"\nclient_confs = ["{cached.conf}"]\n'
    )
    where = ["--config", toml, "restore", cached.backup, "--json"]
    done = cached.vault.bare(*where, "--dry-run")
    assert (done.status, len(done.document["caches"])) == (0, 6)
    elsewhere = cached.vault.bare(*where, "--dry-run", "--output", tmp_path / "out")
    assert (elsewhere.status, elsewhere.document["caches"]) == (0, [])
    other = cached.vault.bare(*where, "--dry-run", "--target", cached.zeo.conf)
    assert (other.status, other.document["caches"]) == (0, []), (
        "the clients are those of the site, whatever the target"
    )


def test_a_client_that_still_runs_is_in_use(cached: Cached, tmp_path: Path) -> None:
    command = [sys.executable, zeo_client.__file__, str(cached.conf), "main", f"hold:{tmp_path}/go"]
    with cached.zeo.running():
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == b"held\n"
        except AssertionError:
            running.kill()
            raise
    try:
        refused = cached("restore", cached.backup, "--client-conf", cached.conf, "--yes")
        assert refused.status == 11 and "is running: it holds" in refused.err
        assert cached.zec() == CACHES
    finally:
        running.kill()  # after SIGTERM it would wait for its server
        running.wait(30)
        running.stdout.close()
    assert cached("restore", cached.backup, "--client-conf", cached.conf, "--yes").status == 0
    assert cached.zec() == []


def test_a_cache_in_an_unknown_place_is_named(cached: Cached) -> None:
    cached.conf.write_text(cached.conf.read_text().replace(f"var {cached.home}", ""))
    done = cached.done("restore", cached.backup, "--client-conf", cached.conf, "--dry-run")
    assert ["old-1.zec in its working directory" in note for note in done["notes"]] == [True, False]
    assert not [path for path in done["caches"] if ".zec" in path]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--client-conf", "{zeo}"], "configures no ZEO client"),
        (["--client-conf", "{zeo}", "--output", "out"], "exclude each other"),
    ],
)
def test_what_cannot_be_meant_with_clients(on_a_socket: Served, arguments: list[str], says: str) -> None:
    site_factory.populate(on_a_socket.zeo.directory / "main")
    site_factory.populate(on_a_socket.zeo.directory / "catalog")
    on_a_socket.done("create")
    refused = on_a_socket("restore", "--yes", *(one.format(zeo=on_a_socket.zeo.conf) for one in arguments))
    assert (refused.status, says in refused.err) == (2, True)


def test_a_site_becomes_one_of_a_server(vault: Vault, zeo_directory: Path) -> None:
    """The only database of each goes into the other, whatever they are called."""
    backup = vault.make()
    zeo = Zeo(zeo_directory, {"1": "main"}, str(zeo_directory / "zeo.sock"))
    done = vault.done("restore", backup, "--target", zeo.conf, "--yes", "--json").document
    assert done["target"] == str(zeo.data_fs("1").parent)
    assert zeo.data_fs("1").read_bytes() == vault.files.data_fs.read_bytes()
    with zeo.running():
        assert client(zeo.client_conf("new", databases={"main": "1"}), "main", "put:a=1", "get:a") == [[1]]
    assert vault.done("show", backup, "--json").document["labels"] == []
