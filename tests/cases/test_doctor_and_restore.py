"""U6, T09, T15, P4, U13: doctor looks at what create and restore look at, and says each cause once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import site_factory
from command_line import NOBODY, Vault, give_to_nobody, process_as_nobody, tree
from services.zeo import ZeoServer

ROOT = os.geteuid() == 0


def failures(vault: Vault, *arguments: object) -> dict[str, str]:
    """Return the messages of the failed checks of doctor by their names."""
    checks = vault(*arguments, "doctor", "--json").document["checks"]
    return {check["name"]: check["message"] for check in checks if not check["ok"]}


def no_links(*_arguments: object, **_options: object) -> None:
    """Fail as a file system without hard links, such as exFAT."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.skipif(not ROOT, reason="gives files to another group")
def test_u6_the_group_of_the_data_fs(reachable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vault = Vault(reachable, capsys)
    site_factory.populate(vault.files.data_fs.parent)
    vault.done("repository", "init")
    vault.make()
    give_to_nobody(reachable)
    assert process_as_nobody(*vault.options, "doctor").status == 0
    os.chown(vault.files.data_fs, NOBODY, 12345)
    doctor = process_as_nobody(*vault.options, "doctor")
    restore = process_as_nobody(*vault.options, "restore", "--yes")
    assert doctor.status == restore.status == 1
    (why,) = [line for line in restore.err.splitlines() if "belongs to gid 12345" in line]
    assert why.removeprefix("zodb-vault: ") in doctor.out


@pytest.mark.skipif(not ROOT, reason="gives files to another user")
@pytest.mark.parametrize("path", ["site/Data.fs.lock", "site", "site/blobs"])
def test_u6_what_cannot_be_written(reachable: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    vault = Vault(reachable, capsys)
    site_factory.populate(vault.files.data_fs.parent)
    vault.done("repository", "init")
    vault.make()
    give_to_nobody(reachable)
    os.chown(reachable / path, 0, 0)
    (reachable / path).chmod(0o755 if (reachable / path).is_dir() else 0o644)
    doctor = process_as_nobody(*vault.options, "doctor")
    restore = process_as_nobody(*vault.options, "restore", "--yes")
    assert (doctor.status, restore.status) == (1, 1), (doctor, restore)
    assert "FAILED  restore main: a restore in place would be refused: " in doctor.out


def test_t09_hard_links_are_tried(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.make()
    before = tree(vault.directory)
    assert failures(vault) == {}
    assert tree(vault.directory) == before, "the probe is removed"
    assert vault.files.data_fs.stat().st_nlink == 1
    # the repository is on a file system that has them
    real = os.link
    monkeypatch.setattr(
        os, "link", lambda a, b, **options: (no_links if "Data.fs" in str(a) else real)(a, b, **options)
    )
    refused = vault("restore", "--yes")
    assert refused.status == 1
    assert "cannot be hard-linked: Operation not permitted" in refused.err
    assert "cannot be hard-linked: Operation not permitted" in failures(vault)["restore main"]


def test_t09_a_probe_that_was_left_is_no_obstacle(vault: Vault) -> None:
    probe = vault.files.data_fs.with_name("Data.fs.restore.probe")
    os.link(vault.files.data_fs, probe)
    assert failures(vault) == {}
    assert not probe.exists()


def test_u6_blobs_without_a_place_are_found_before_the_restore(vault: Vault) -> None:
    vault.make()
    only_data_fs = vault.options[:4]
    doctor = vault.bare(*only_data_fs, "doctor", "--json")
    found = {one["name"]: one["message"] for one in doctor.document["checks"] if not one["ok"]}
    restore = vault.bare(*only_data_fs, "restore", "--yes")
    assert restore.status == 1
    assert "the site has no blob directory for main" in restore.err
    assert "the site has no blob directory for main" in found["restore main"]


def test_u6_several_databases_need_the_room_of_all(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sections = []
    for name in ("main", "other"):
        files = site_factory.populate(tmp_path / name)
        sections.append(
            f"<zodb_db {name}>\nmount-point /{name}\n<filestorage>\npath {files.data_fs}\n"
            f"blob-dir {files.blob_dir}\n</filestorage>\n</zodb_db>\n"
        )
    conf = tmp_path / "zope.conf"
    conf.write_text("".join(sections))
    site = ("--repository", vault.repository, "--zope-conf", conf)
    assert vault.bare(*site, "create").status == 0
    size = (tmp_path / "main" / "Data.fs").stat().st_size
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=size + size // 2))
    found = vault.bare(*site, "doctor", "--json").document["checks"]
    wrong = [one["name"] for one in found if not one["ok"]]
    assert "space restore" in wrong
    assert not {"space main", "space other"} & set(wrong)
    refused = vault.bare(*site, "restore", "--yes")
    assert refused.status == 1
    assert "bytes free" in refused.err


def test_t15_a_site_whose_only_way_is_portable(
    vault: Vault, serve: Callable[[site_factory.SiteFiles], ZeoServer], tmp_path: Path
) -> None:
    server = serve(vault.files)
    toml = tmp_path / "zodb-vault.toml"
    lines = ["[site.plone]", f'zope_conf = "{server.zope_conf}"', f'mirror = "{tmp_path}/mirrors"']
    site = ("--config", toml, "--repository", vault.repository)
    toml.write_text("\n".join(lines))
    native = vault.bare(*site, "doctor", "--json").document["checks"]
    (wrong,) = [one for one in native if not one["ok"]]
    assert wrong["name"] == "source main"
    assert "--method portable" in wrong["hint"]
    assert vault.bare(*site, "doctor", "--method", "portable").status == 0
    toml.write_text("\n".join([*lines, 'method = "portable"']))
    assert vault.bare(*site, "doctor", "-q").status == 0
    assert not (tmp_path / "mirrors").exists(), "nothing is copied"
    assert vault.bare(*site, "create").status == 0
    printed = vault.bare(*site, "doctor")
    assert printed.status == 0
    assert "restore main: not in place" in printed.out
    assert "with --output DIR" in printed.out
    assert vault.bare(*site, "create", "--method", "native").status == 2
    server.stop()
    assert [one for one in vault.bare(*site, "doctor").out.splitlines() if one.startswith("FAILED")] != []


def test_t15_a_mirror_that_create_refuses(
    vault: Vault, serve: Callable[[site_factory.SiteFiles], ZeoServer], tmp_path: Path
) -> None:
    server = serve(vault.files)
    (tmp_path / "mirrors" / "main").mkdir(parents=True)
    (tmp_path / "mirrors" / "main" / "photos").write_text("of somebody")
    toml = tmp_path / "zodb-vault.toml"
    lines = ["[site.plone]", f'zope_conf = "{server.zope_conf}"', f'mirror = "{tmp_path}/mirrors"']
    toml.write_text("\n".join([*lines, 'method = "portable"']))
    site = ("--config", toml, "--repository", vault.repository)
    create, doctor = vault.bare(*site, "create"), vault.bare(*site, "doctor")
    assert (create.status, doctor.status) == (1, 1)
    assert "is not empty and not a mirror" in create.err
    assert "is not empty and not a mirror" in doctor.out


def test_u13_one_cause_is_one_line(vault: Vault) -> None:
    for arguments, cause in (
        (vault.options[2:], "repository"),
        (["--repository", str(vault.directory / "nowhere"), *vault.options[2:]], "repository"),
        (vault.options[:2], "site"),
        ([*vault.options, "--config", "nowhere.toml"], "configuration"),
    ):
        outcome = vault.bare(*arguments, "doctor")
        failed = [line for line in outcome.out.splitlines() if line.startswith("FAILED")]
        assert outcome.status == 1
        assert len(failed) == 1, failed
        assert failed[0].startswith(f"FAILED  {cause}: ")
        assert "; not checked because of that: " in failed[0]
