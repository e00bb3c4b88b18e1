"""No secret leaves the process that needs it.

Every secret is set, every command runs, and everything that other users could read is searched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import key_pairs
import pytest
import site_factory
import zstandard
from command_line import DEADLINE, environment, process
from relstorage_sites import RelSite, on
from services.postgres import Cluster
from services.s3 import SECRET_KEY, Service

from zodb_vault.cli.main import COMMANDS, CORE_DUMP_LIMIT

TOKEN = "a-session-token-that-is-secret"
# What every way to quote the password leaves as it is.
PASSWORD_PARTS = ("s3cr", "wörd")
OTHERS = """
%import relstorage
<zodb_db mysql>
  mount-point /mysql
  <relstorage>
    <mysql>
      db zodb
      user zodb
      passwd word-of-mysql
    </mysql>
  </relstorage>
</zodb_db>
<zodb_db buckets>
  mount-point /buckets
  <s3blobstorage>
    bucket-name blobs
    cache-dir cache
    s3-access-key the-key-of-blobs
    s3-secret-key word-of-blobs
    <zeoclient>
      server localhost:8100
      username zeo
      password word-of-zeo
    </zeoclient>
  </s3blobstorage>
</zodb_db>
"""
BROKEN = """
import sys
from zodb_vault.{module} import {name} as broken
from zodb_vault.cli import main
def fail(*arguments, **_):
    secret = {secret!r}
    raise RuntimeError(secret, arguments)
import zodb_vault.{module}
zodb_vault.{module}.{name} = fail
sys.argv[0] = "zodb-vault"
main.main()
"""


class Watch(threading.Thread):
    """Watches the arguments of all processes, and the core file limits of those that have ``mark``."""

    def __init__(self, mark: str = "") -> None:
        super().__init__()
        self._mark = os.fsencode(mark)
        self._done = threading.Event()
        self.seen: set[bytes] = set()
        self.limits: dict[bytes, set[str]] = {}

    def run(self) -> None:
        while not self._done.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    arguments = path.read_bytes()
                    if self._mark and self._mark in path.with_name("environ").read_bytes():
                        core = next(
                            line
                            for line in path.with_name("limits").read_text().splitlines()
                            if line.startswith("Max core file size")
                        )
                        self.limits[arguments] = set(core.split()[4:6])
                    self.seen.add(arguments)
                except (OSError, StopIteration):
                    continue  # it has just ended

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


@pytest.mark.parametrize("place", ["s3", "directory"])
def test_no_secret_is_seen_in_arguments_output_or_the_repository(
    rclone: Service, tmp_path: Path, place: str
) -> None:
    files = site_factory.populate(tmp_path / "site")
    recipient, identity = key_pairs.x25519(tmp_path / "identity")
    private = identity.read_text().splitlines()[-1]
    signer, signing = key_pairs.ssh(tmp_path / "signing")
    bucket = rclone.bucket()
    location = f"s3://{bucket}/place" if place == "s3" else str(tmp_path / "repository")
    variables = rclone.variables(location) | {
        "ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS": recipient,
        "ZODB_VAULT_IDENTITY_COMMAND": f"sleep 0.2; printf '%s\\n' {private}",
        "ZODB_VAULT_REPOSITORY_SIGNING_KEY": str(signing),
        "ZODB_VAULT_REPOSITORY_SIGNING_SIGNERS": signer,
        "ZODB_VAULT_DATA_FS": str(files.data_fs),
        "ZODB_VAULT_BLOB_DIR": str(files.blob_dir),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    wrong = {
        "AWS_SECRET_ACCESS_KEY": "another-secret-key",
        "ZODB_VAULT_IDENTITY_COMMAND": f"echo {private[:-4]}; exit 1",
    }
    secrets = [
        SECRET_KEY,
        wrong["AWS_SECRET_ACCESS_KEY"],
        private[:-4],
        TOKEN,
        signing.read_text().splitlines()[2],
    ]
    printed = ""
    with Watch() as watch:
        for command in (
            ("repository", "check"),
            ("repository", "init"),
            ("create", "-v"),
            ("create", "--json"),
            ("list", "--json"),
            ("show", "latest", "--json"),
            ("log", "--json"),
            ("verify", "-v"),
            ("doctor", "--json"),
            ("restore", "--output", str(tmp_path / "out"), "--yes", "--json"),
            ("repository", "info", "--json"),
        ):
            outcome = process(*command, env=variables)
            assert outcome.status == 0, (command, outcome)
            printed += outcome.out + outcome.err
        for command in (
            ("verify", "-v"),
            ("restore", "--output", str(tmp_path / "other"), "--yes", "-v"),
            ("create", "-v"),
        ):
            bad = variables | (
                wrong
                if place == "s3"
                else {"ZODB_VAULT_IDENTITY_COMMAND": wrong["ZODB_VAULT_IDENTITY_COMMAND"]}
            )
            outcome = process(*command, env=bad | {"AWS_SESSION_TOKEN": TOKEN})
            printed += outcome.out + outcome.err
    assert any(b"ageworker" in one for one in watch.seen), "the watch looks at all processes"
    # the service itself, which takes them in no other way
    arguments = {one for one in watch.seen if b"--auth-key" not in one}
    stored = [
        path.read_bytes()
        for folder in ("repository", "cache", "out")
        for path in (tmp_path / folder).rglob("*")
        if path.is_file()
    ]
    client = rclone.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        stored += [
            client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
            for one in page.get("Contents", ())
        ]
    for secret in secrets:
        assert secret not in printed
        assert not [one for one in arguments if secret.encode() in one]
        assert not any(secret.encode() in data for data in stored)


def test_no_secret_of_a_database_is_seen_whatever_command_runs(
    moto: Service, postgres: Cluster, tmp_path: Path
) -> None:
    login = postgres.database()
    site = RelSite(on(login), True, tmp_path / "blobs", True)
    with site.opened() as opened:
        opened.put(title="one", photo=os.urandom(3000))
    conf = site.write_conf(tmp_path / "zope.conf")
    bucket = moto.bucket()
    other = str(tmp_path / "other")
    variables = moto.variables(f"s3://{bucket}/place") | {
        "ZODB_VAULT_ZOPE_CONF": str(conf),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    work = tmp_path / "work"
    work.mkdir()
    commands: list[tuple[tuple[str, ...], int]] = [
        (("repository", "init", "-v"), 0),
        (("--repository", other, "repository", "init"), 0),
        (("repository", "check", "--json"), 0),
        (("plan", "-v"), 0),
        (("plan", "--json"), 0),
        (("create", "-v", "--name", "one"), 0),
        (("create", "--json", "--name", "two"), 0),
        (("list", "-v"), 0),
        (("show", "latest", "--json"), 0),
        (("log", "latest", "--json"), 0),
        (("annotate", "one", "--note", "kept"), 0),
        (("verify", "-v"), 0),
        (("verify", "--level", "bytes", "--json"), 0),
        (("delete", "one", "--yes"), 0),
        (("prune", "--json"), 0),
        (("repository", "info", "--json"), 0),
        (("repository", "copy", other, "--json"), 0),
        (("repository", "unlock", "--yes"), 0),
        (("doctor", "-v"), -1),
        (("restore", "two", "--yes", "--replace", "-v"), -1),
        (("convert", "config", "--export", "--json"), -1),
        (("completion", "bash"), 0),
        (("undelete", "none"), 13),
    ]
    assert {command[0] for command, _ in commands if not command[0].startswith("-")} == set(COMMANDS)
    with Watch(str(tmp_path)) as watch:
        printed = "".join(_ran(command, status, variables, work) for command, status in commands)
        printed += _ran(
            ("list",),
            2,
            variables | {"ZODB_VAULT_REPOSITORY_S3_ENDPOINT": f"http://me:{SECRET_KEY}@localhost"},
            work,
        )
        printed += _ran(
            ("create", "-v"), 1, variables | {"ZODB_VAULT_ZOPE_CONF": str(_wrong(tmp_path, conf))}, work
        )
        other_conf = tmp_path / "others.conf"
        other_conf.write_text(OTHERS)
        for options in (("plan", "-v"), ("plan", "--json"), ("create", "-v"), ("doctor", "-v")):
            printed += _ran(options, -1, variables | {"ZODB_VAULT_ZOPE_CONF": str(other_conf)}, work)
        printed += "".join(
            _broken(module, name, command, variables, work)
            for module, name, command in (
                ("strategies.postgres.connection", "connect", "create"),
                ("stores.registry", "open_store", "list"),
                ("config.zopeconf", "read_site", "plan"),
            )
        )
    # the dump program inherits the limit from ours
    cores = [limit for arguments, limit in watch.limits.items() if b"--snapshot" in arguments]
    assert cores, "the watch looks at all processes"
    assert all(limit in ({str(CORE_DUMP_LIMIT)}, {"0"}) for limit in cores)
    seen = [
        printed.encode(),
        *watch.limits,
        *_stored(moto, bucket),
        *_files(tmp_path / "other"),
        *_files(tmp_path / "cache"),
    ]
    names = [str(path).encode() for path in tmp_path.rglob("*")]
    for secret in (
        *PASSWORD_PARTS,
        SECRET_KEY,
        "word-of-mysql",
        "word-of-blobs",
        "word-of-zeo",
        "another-word",
    ):
        assert not [data[:200] for data in (*seen, *names) if secret.encode() in data], secret


def _ran(command: tuple[str, ...], status: int, variables: dict[str, str], cwd: Path) -> str:
    """Run a command and return all that it printed; a status below 0 is any that an error of ours has."""
    outcome = process(*command, env=variables, cwd=cwd)
    assert outcome.status == status or (status < 0 and "internal error" not in outcome.err), (
        command,
        outcome,
    )
    return outcome.out + outcome.err


def _wrong(directory: Path, conf: Path) -> Path:
    """Return a zope.conf with a password that is refused."""
    wrong = directory / "wrong.conf"
    wrong.write_text(conf.read_text().replace("wörd", "another-word"))
    return wrong


def _broken(module: str, name: str, command: str, variables: dict[str, str], cwd: Path) -> str:
    """Run a command in which a mistake of ours raises something that holds a secret; return what it says."""
    script = BROKEN.format(module=module, name=name, secret=PASSWORD_PARTS[1])
    done = subprocess.run(
        [sys.executable, "-c", script.replace("wörd", "w\\xf6rd"), command, "-v"],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(**variables),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1 and "internal error: RuntimeError" in done.stderr, done
    return done.stdout + done.stderr


def _stored(service: Service, bucket: str) -> list[bytes]:
    """Return the names and the decoded content of everything in a bucket."""
    found, client = list[bytes](), service.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for one in page.get("Contents", ()):
            found += [
                one["Key"].encode(),
                _decoded(one["Key"], client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()),
            ]
    assert any(b"meta/" in one for one in found)
    return found


def _files(directory: Path) -> list[bytes]:
    """Return the decoded content of everything below a directory."""
    return [_decoded(str(path), path.read_bytes()) for path in directory.rglob("*") if path.is_file()]


def _decoded(name: str, data: bytes) -> bytes:
    """Return what follows the mark of a stored object."""
    if "meta/" not in name and "objects/" not in name:
        return data
    return (
        zstandard.ZstdDecompressor()
        .decompressobj()
        .decompress(data[8 + int.from_bytes(data[4:8], "little") :])
    )
