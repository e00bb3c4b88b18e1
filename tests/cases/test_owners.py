"""T28: the owner of a repository goes on after any command of root, and a group can be given access."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from pathlib import Path

import pytest
from command_line import NOBODY, Outcome, Vault, give_to_nobody, process_as_nobody
from site_factory import SiteFiles

from zodb_vault.stores.local import LocalStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")

MEMBER = 65532


@pytest.fixture
def shared(vault: Vault, reachable: Path) -> Vault:
    """A site of the user nobody, where every user can come, and no repository."""
    shutil.rmtree(vault.repository, ignore_errors=True)
    shutil.copytree(vault.directory, reachable / "work")
    vault.directory = reachable / "work"
    vault.repository = vault.directory / "repository"
    vault.files = SiteFiles(vault.directory / "site" / "Data.fs", vault.directory / "site" / "blobs")
    vault.directory.chmod(0o755)
    give_to_nobody(vault.directory)
    return vault


def as_root(vault: Vault, umask: int, *arguments: object) -> Outcome:
    return vault.process(*arguments, umask=umask)


def as_owner(vault: Vault, umask: int, *arguments: object) -> Outcome:
    return process_as_nobody(*vault.options, *arguments, umask=umask)


def not_of_the_owner(*roots: Path) -> list[Path]:
    found = [path for root in roots for path in (root, *root.rglob("*"))]
    return [path for path in found if (path.lstat().st_uid, path.lstat().st_gid) != (NOBODY, NOBODY)]


def work(vault: Vault, copy: Path) -> list[list[object]]:
    """Return commands that write everything that a repository has."""
    return [
        ["create", "--name", "one"],
        ["verify", "--level", "bytes"],
        ["annotate", "latest", "--note", "n", "--pin"],
        ["create", "--full"],
        ["delete", "latest", "--yes"],
        ["prune"],
        ["repository", "copy", copy],
        ["repository", "check"],
        ["repository", "unlock", "--yes"],
    ]


@pytest.mark.parametrize(("root_first", "umask"), [(True, 0o077), (False, 0o000)])
def test_T28_root_and_the_owner_take_turns(shared: Vault, umask: int, root_first: bool) -> None:
    copy = shared.directory / "copy"
    turns = [as_root, as_owner, as_root] if root_first else [as_owner, as_root, as_owner]
    turns[0](shared, umask, "repository", "init")
    turns[0](shared, umask, "--repository", copy, "repository", "init")
    for turn in turns:
        for arguments in work(shared, copy):
            outcome = turn(shared, umask, *arguments)
            assert outcome.status == 0, (turn, arguments, outcome)
        assert not_of_the_owner(shared.repository, copy) == []
        modes = {path.lstat().st_mode & 0o077 for path in shared.repository.rglob("*")}
        assert modes == {0}


def test_T28_damage_and_markers_of_root_can_be_gone_on_with(shared: Vault) -> None:
    as_owner(shared, 0o022, "repository", "init")
    assert as_root(shared, 0o022, "create").status == 0
    damaged = next(path for path in (shared.repository / "objects").rglob("*") if path.is_file())
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    assert as_root(shared, 0o022, "verify").status == 4
    assert not_of_the_owner(shared.repository) == []
    assert as_owner(shared, 0o022, "create").status in (0, 4)


@pytest.mark.parametrize(("turn", "umask"), [(as_root, 0o077), (as_owner, 0o000)])
def test_T28_a_group_can_read_whatever_the_umask_of_a_writer_is(
    shared: Vault, umask: int, turn: type
) -> None:
    assert as_owner(shared, umask, "repository", "init", "--group-access").status == 0
    copy = shared.directory / "copy"
    assert as_root(shared, umask, "--repository", copy, "repository", "init").status == 0
    for arguments in work(shared, copy)[:5]:
        assert turn(shared, umask, *arguments).status == 0
    for path in (shared.repository, *shared.repository.rglob("*")):
        info = path.lstat()
        wanted = 0o2750 if path.is_dir() else 0o600 if path.name == ".lock" else 0o640
        assert (path, stat.S_IMODE(info.st_mode)) == (path, wanted)
        assert (info.st_uid, info.st_gid) == (NOBODY, NOBODY)
    out = shared.directory / "out"
    out.mkdir()
    os.chown(out, MEMBER, NOBODY)
    where = ["--repository", shared.repository]

    def member(*arguments: object) -> Outcome:
        return process_as_nobody(*where, *arguments, uid=MEMBER, gid=NOBODY)

    assert member("list").status == 0
    assert member("restore", "one", "--output", out, "--yes").status == 0
    refused = member("annotate", "one", "--note", "x")
    assert refused.status == 1
    assert f"{shared.repository}/sites/default" in refused.err
    assert "belongs to nobody:nogroup" in refused.err
    assert "run as nobody" in refused.err


def test_T28_an_owner_is_told_what_belongs_to_whom_and_never_to_run_as_himself(shared: Vault) -> None:
    as_owner(shared, 0o022, "repository", "init")
    assert as_owner(shared, 0o022, "create").status == 0
    for path in (shared.repository / "sites").rglob("*"):
        os.chown(path, 0, 0)
    for arguments in (["create", "--json"], ["list", "--json"]):
        refused = as_owner(shared, 0o022, *arguments)
        assert refused.status == 1
        assert f"{shared.repository}/sites/default belongs to root:root" in refused.error["message"]
        assert f"`chown -R nobody {shared.repository}`" in refused.error["hint"]
        assert "run as" not in refused.error["hint"].replace("as root, run", "")


def test_T28_a_name_in_the_repository_leads_root_nowhere_else(shared: Vault, tmp_path: Path) -> None:
    as_owner(shared, 0o022, "repository", "init")
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    (shared.repository / ".lock").symlink_to(secret)
    store = LocalStore(shared.repository)
    text = store.get("RECOVERY.md")
    with pytest.raises(Exception, match="symbolic links"):
        store.replace("RECOVERY.md", text, text)
    assert secret.stat().st_uid == 0


def test_T28_a_default_acl_is_kept_and_not_masked(shared: Vault) -> None:
    as_owner(shared, 0o022, "repository", "init")
    entries = [(1, 7, -1), (2, 5, MEMBER), (4, 0, -1), (16, 5, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *one) for one in entries)
    try:
        os.setxattr(shared.repository, "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("the file system has no ACLs")
    assert as_root(shared, 0o077, "create").status == 0
    for path in (shared.repository / "sites").rglob("*"):
        if path.name != ".lock":
            assert os.getxattr(path, "system.posix_acl_access")
            assert path.stat().st_mode & 0o040, "the mask lets the named user read"
    assert as_owner(shared, 0o077, "create").status == 0
    assert not_of_the_owner(shared.repository) == []


def test_T28_no_group_access_where_there_are_no_groups(vault: Vault) -> None:
    refused = vault.bare("--repository", "s3://bucket/x", "repository", "init", "--group-access")
    assert refused.status != 0
