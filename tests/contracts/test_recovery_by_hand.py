"""RECOVERY.md keeps its promise: its commands, as written, restore everything without zodb-vault.

The shell finds the tools that the text names and no others.
"""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import hostile_manifest
import independent_reader
import key_pairs
import pytest
import site_factory
from command_line import Vault, tree

from zodb_vault.model import chain
from zodb_vault.model.chain import packs_of
from zodb_vault.model.manifest import Manifest
from zodb_vault.repository import objects
from zodb_vault.repository.repository import Repository
from zodb_vault.stores.local import LocalStore
from zodb_vault.strategies.blobs import packer
from zodb_vault.strategies.filestorage import cut

TOOLS: Final = ("sh", "sed", "sha256sum", "zstd", "tar", "cat", "mkdir")
SITE: Final = "default"


class Recovered(NamedTuple):
    """What the blocks of RECOVERY.md printed, and what they left."""

    files: site_factory.SiteFiles
    blocks: list[str]
    out: str
    err: str


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory with nothing but the tools that the text names."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is not installed"
        (directory / tool).symlink_to(found)
    return directory


@pytest.fixture
def vault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Vault:
    vault = Vault(tmp_path / "it's a $HOME", capsys)
    vault.done("repository", "init")
    return vault


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that a small site has all that a big one has: lists, segments, packs and parts."""
    monkeypatch.setattr(chain, "TAIL_LIMIT", 3)
    monkeypatch.setattr(chain, "TAIL_KEPT", 1)
    monkeypatch.setattr(chain, "LIST_LIMIT", 4)
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 2000)
    monkeypatch.setattr(packer, "PACK_LIMIT", 9000)
    monkeypatch.setattr(objects, "PART_RAW", 3000)


def blocks_of(text: str) -> list[str]:
    """Return the shell blocks of RECOVERY.md."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def with_variables(block: str, **values: str) -> str:
    """Return the first block with what a user would write there."""
    for name, value in values.items():
        line = f"{name}={shlex.quote(value)}"
        block, count = re.subn(rf"^{name}=.*$", line.replace("\\", r"\\"), block, flags=re.MULTILINE)
        assert count == 1, name
    return block


def recover(
    repository: Path, tools: Path, output: Path, backup: str, folder: str = "main", **more: str
) -> Recovered:
    """Paste the blocks into one shell whose current directory is the repository."""
    first, *rest = blocks_of((repository / "RECOVERY.md").read_text())
    blocks = [
        with_variables(first, BACKUP=backup, SITE=SITE, FOLDER=folder, OUTPUT=str(output), **more),
        *rest,
    ]
    done = subprocess.run(
        [str(tools / "sh")],
        input="\n".join(blocks).encode(),
        cwd=repository,
        env={"PATH": str(tools)},
        capture_output=True,
        check=False,
    )
    return Recovered(
        site_factory.SiteFiles(output / "Data.fs", output / "blobs"),
        blocks,
        done.stdout.decode(),
        done.stderr.decode(),
    )


def assert_recovered(
    vault: Vault, tools: Path, tmp_path: Path, backup: str, source: site_factory.SiteFiles
) -> None:
    """Require the exact Data.fs, every blob that it references, matching checks, and that ZODB loads all."""
    found = recover(vault.repository, tools, tmp_path / f"recovered-{backup}", backup)
    wanted = independent_reader.blob_files(source.data_fs, source.blob_dir)
    assert found.err == "" or (not wanted and "tar" in found.err), found.err
    computed, noted, *checks = found.out.splitlines()
    assert computed == noted
    assert checks
    assert all(line.endswith(": OK") for line in checks), found.out
    assert found.files.data_fs.read_bytes() == source.data_fs.read_bytes()
    assert {key: digest(independent_reader.blob_path(found.files.blob_dir, *key)) for key in wanted} == wanted
    assert independent_reader.transactions(*found.files) == independent_reader.transactions(*source)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_of(files: site_factory.SiteFiles, directory: Path) -> site_factory.SiteFiles:
    shutil.copytree(files.data_fs.parent, directory, symlinks=True)
    return site_factory.SiteFiles(directory / "Data.fs", directory / "blobs")


def manifest(vault: Vault, backup: str) -> Manifest:
    return Repository.open(LocalStore(vault.repository)).manifest(SITE, backup)


def increments(vault: Vault, tmp_path: Path, count: int) -> Iterator[tuple[str, site_factory.SiteFiles]]:
    """Make backups with changes in between; yield each with a copy of the site as it was then."""
    for number in range(count):
        if number:
            with site_factory.Site(vault.files.data_fs.parent) as site:
                site.put(**{f"news-{number}": f"News number {number}. " * 40})
                site.put(**{f"photo-{number}": site_factory.noise(700, 50 + number)})
                site.put(logo=site_factory.noise(900, 80 + number))
        yield vault.make(), copy_of(vault.files, tmp_path / f"source-{number}")


BUILDERS: Final[list[Callable[[Path], site_factory.SiteFiles]]] = [
    site_factory.populate,
    site_factory.lawn,
    site_factory.packed,
    site_factory.undone_blob_change,
    site_factory.recreated,
    site_factory.undone_into_packed,
    site_factory.empty_transactions,
    site_factory.long_texts,
    site_factory.unordered_tids,
    site_factory.only_root,
]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.__name__)
def test_every_shape_of_site(
    vault: Vault, tools: Path, tmp_path: Path, builder: Callable[[Path], site_factory.SiteFiles]
) -> None:
    source = builder(vault.files.data_fs.parent)
    assert_recovered(vault, tools, tmp_path, vault.make(), source)


def test_a_full_backup_and_every_incremental_one(vault: Vault, tools: Path, tmp_path: Path) -> None:
    site_factory.populate(vault.files.data_fs.parent)
    for backup, source in list(increments(vault, tmp_path, 4)):
        assert_recovered(vault, tools, tmp_path, backup, source)


def test_segments_and_blobs_in_lists_and_content_in_parts(
    small: None, vault: Vault, tools: Path, tmp_path: Path
) -> None:
    site_factory.populate(vault.files.data_fs.parent)
    made = list(increments(vault, tmp_path, 5))
    entry = manifest(vault, made[-1][0]).databases[0]
    assert entry.data_fs is not None
    assert entry.blobs is not None
    assert len(entry.data_fs.lists) > 1
    assert len(entry.blobs.lists) > 0
    assert any(
        len(pack.parts) > 1
        for pack in packs_of(entry, Repository.open(LocalStore(vault.repository)).objects(""))
    )
    for backup, source in made:
        assert_recovered(vault, tools, tmp_path, backup, source)


def test_a_transaction_and_a_blob_longer_than_an_object(
    vault: Vault, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PART_RAW", 300_000)
    monkeypatch.setattr(cut, "SEGMENT_LIMIT", 300_000)
    source = site_factory.big_transaction(vault.files.data_fs.parent)
    with site_factory.Site(source.data_fs.parent) as site:
        site.put(film=site_factory.noise(1_000_000, 7), small=site_factory.noise(10, 8))
    backup = vault.make()
    entry = manifest(vault, backup).databases[0]
    assert entry.data_fs is not None
    assert entry.blobs is not None
    assert max(len(segment.parts) for segment in entry.data_fs.tail) > 5
    assert max(len(pack.parts) for pack in entry.blobs.tail) > 2
    assert_recovered(vault, tools, tmp_path, backup, source)


def test_backups_before_and_after_a_pack(small: None, vault: Vault, tools: Path, tmp_path: Path) -> None:
    site_factory.populate(vault.files.data_fs.parent)
    before = list(increments(vault, tmp_path, 3))
    with site_factory.Site(vault.files.data_fs.parent) as site:
        del site.root["report"]
        site.pack(site.commit("remove report"))
        site.put(after="the pack", photo=site_factory.noise(500, 99))
    for backup, source in [*before, (vault.make(), vault.files)]:
        assert_recovered(vault, tools, tmp_path, backup, source)


def test_a_site_without_blobs_and_without_a_blob_directory(vault: Vault, tools: Path, tmp_path: Path) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(text="no blob anywhere")
    arguments = ["--repository", vault.repository, "--data-fs", vault.files.data_fs]
    backup = vault.bare(*arguments, "create", "--json").document["id"]
    found = recover(vault.repository, tools, tmp_path / "recovered", backup)
    assert found.files.data_fs.read_bytes() == vault.files.data_fs.read_bytes()
    assert independent_reader.transactions(*found.files) == independent_reader.transactions(*vault.files)


def test_of_several_databases_the_one_that_was_chosen(vault: Vault, tools: Path, tmp_path: Path) -> None:
    """The names differ in a dot only, which a pattern of ``sed`` could take for any sign."""
    sites = {
        name: site_factory.SiteFiles(tmp_path / name / "Data.fs", tmp_path / name / "blobs")
        for name in ("ab.c", "ab-c")
    }
    sections = list[str]()
    for name, files in sites.items():
        with site_factory.Site(files.data_fs.parent) as site:
            site.put(text=name, blob=site_factory.noise(300, len(sections)))
        storage = f"<filestorage>\n path {files.data_fs}\n blob-dir {files.blob_dir}\n</filestorage>"
        sections.append(f"<zodb_db {name}>\n mount-point /{name}\n {storage}\n</zodb_db>\n")
    conf = tmp_path / "zope.conf"
    conf.write_text("".join(sections))
    outcome = vault.bare("--repository", vault.repository, "--zope-conf", conf, "create", "--json")
    assert outcome.status == 0, outcome
    for name in ("ab.c", "ab-c"):
        (folder,) = [
            entry.folder for entry in manifest(vault, outcome.document["id"]).databases if entry.name == name
        ]
        found = recover(
            vault.repository, tools, tmp_path / f"recovered-{name}", outcome.document["id"], folder
        )
        assert found.files.data_fs.read_bytes() == sites[name].data_fs.read_bytes()
        assert independent_reader.transactions(*found.files) == independent_reader.transactions(*sites[name])


def test_damage_is_said(vault: Vault, tools: Path, tmp_path: Path) -> None:
    site_factory.populate(vault.files.data_fs.parent)
    backup = vault.make()
    entry = manifest(vault, backup).databases[0]
    assert entry.data_fs is not None
    name = entry.data_fs.tail[0].parts[0].object
    path = vault.repository / "objects" / name[:2] / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    found = recover(vault.repository, tools, tmp_path / "recovered", backup)
    assert f"objects/{name[:2]}/{name}: FAILED" in found.out
    assert f"DAMAGED: {name}" in found.err


def test_a_changed_manifest_shows_in_its_digest(vault: Vault, tools: Path, tmp_path: Path) -> None:
    site_factory.populate(vault.files.data_fs.parent)
    backup = vault.make()
    path = vault.repository / f"sites/{SITE}/backups/{backup}.json"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"complete"', b'"complefe"'))
    computed, noted, *_checks = recover(
        vault.repository, tools, tmp_path / "recovered", backup
    ).out.splitlines()
    assert computed != noted


def test_an_earlier_time(vault: Vault, tools: Path, tmp_path: Path) -> None:
    """Section 5: the lists that the manifest names say where a transaction ends."""
    source = site_factory.populate(vault.files.data_fs.parent)
    backup = vault.make()
    entry = manifest(vault, backup).databases[0]
    assert entry.data_fs is not None
    (segment,) = entry.data_fs.tail
    assert segment.tids is not None
    path = vault.repository / "meta" / segment.tids.meta[:2] / segment.tids.meta
    rows = subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r'^\["(0x[0-9a-f]{16})",(\d+),(\d+),', rows, re.MULTILINE)
    ends = {tid: int(begin) + int(length) for tid, begin, length in lines}
    assert list(ends.values()) == [header.end for header in independent_reader.headers(source.data_fs)]


def test_the_text_names_every_tool_that_it_uses(vault: Vault) -> None:
    text = (vault.repository / "RECOVERY.md").read_text()
    assert len(blocks_of(text)) == 5
    prose = text.partition("```")[0]
    assert all(f"`{tool}`" in prose for tool in TOOLS if tool != "mkdir")


def test_encrypted_content_comes_back_with_age_and_the_private_key(
    vault: Vault, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age = shutil.which("age")
    assert age, "age is not installed"
    (tools / "age").symlink_to(age)
    site_factory.populate(vault.files.data_fs.parent)
    clear = vault.make()
    public, identity = key_pairs.x25519(tmp_path / "it's my key")
    other, other_identity = key_pairs.ssh(tmp_path / "ssh key")
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY_ENCRYPTION_RECIPIENTS", f"{public},{other}")
    vault.done("repository", "recipients", "set")
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(news="Third news", photo=site_factory.noise(4000, 9))
    mixed, full = vault.make(), vault.make("--full")
    for backup in (clear, mixed, full):
        for name, file in (("age", identity), ("ssh", other_identity)):
            found = recover(vault.repository, tools, tmp_path / name / backup, backup, IDENTITY=str(file))
            assert found.err == ""
            if backup != clear:
                assert found.files.data_fs.read_bytes() == vault.files.data_fs.read_bytes()
            wanted = independent_reader.blob_files(found.files.data_fs, vault.files.blob_dir)
            assert {
                key: digest(independent_reader.blob_path(found.files.blob_dir, *key)) for key in wanted
            } == wanted
    stranger = key_pairs.x25519(tmp_path / "stranger")[1]
    assert (
        "DAMAGED"
        in recover(vault.repository, tools, tmp_path / "stranger's", full, IDENTITY=str(stranger)).err
    )


UNSAFE: Final = {
    "main/../escaped": "../escaped",
    "main/../../escaped": "../../escaped",
    "main//tmp/escaped": "/tmp/escaped",
    "main/blobs/../../escaped": "blobs/../../escaped",
    "main/..": "..",
    "main/": "",
    "main/.profile": ".profile",
    "main/-rf": "-rf",
    "main/a b": "a?b",
    "main/*": "?",
    "main/$(touch escaped)": "??touch?escaped?",
    "main/`touch escaped`": "?touch?escaped?",
    "main/a;touch escaped": "a?touch?escaped",
    "main/a|e touch escaped": "a?e?touch?escaped",
    "main/line\ntouch escaped": "line?ntouch?escaped",
    "main/\x1b[2J": "?u001b?2J",
    "main/ü": "??",
}


def test_a_file_with_an_unsafe_name_is_named_and_never_written(
    vault: Vault, tools: Path, tmp_path: Path
) -> None:
    source = site_factory.only_root(vault.files.data_fs.parent)
    backup = vault.make()
    names = ["main/first.dump", *UNSAFE, "main/whole.a%20~b"]
    hostile_manifest.rewrite(
        vault.repository, backup, lambda document: hostile_manifest.name_files(document, names)
    )
    before, output = outside(tmp_path), tmp_path / "recovered"
    (tools / "touch").symlink_to(shutil.which("touch") or "")
    found = recover(vault.repository, tools, output, backup)
    # both the check and the block that writes files report them
    reports = [line for line in found.err.splitlines() if not line.startswith("tar: ")]
    assert reports == [f"UNSAFE NAME: {name}" for name in UNSAFE.values()] * 2
    assert outside(tmp_path) == before
    assert sorted(path.name for path in output.iterdir()) == ["blobs", "first.dump", "whole.a%20~b"]
    assert (output / "first.dump").read_bytes() == source.data_fs.read_bytes()


def outside(directory: Path) -> dict[str, tuple[int, str]]:
    """Return everything except the output and the tools."""
    found = tree(directory).items()
    return {path: entry for path, entry in found if not path.startswith(("recovered", "tools"))}


def test_a_folder_of_a_manifest_is_no_command(vault: Vault, tools: Path, tmp_path: Path) -> None:
    site_factory.only_root(vault.files.data_fs.parent)
    backup = vault.make()
    before = outside(tmp_path)
    (tools / "touch").symlink_to(shutil.which("touch") or "")
    for folder in (
        "main/|touch escaped #|e;s|y",  # the old commands ran this
        "main|e touch escaped",
        "main[",
        ".*",
        "m\ne touch escaped",
    ):
        recover(vault.repository, tools, tmp_path / "recovered", backup, folder)
        assert outside(tmp_path) == before
        assert not (tmp_path / "recovered" / "Data.fs").exists()


def test_a_link_in_a_pack_leads_nowhere(vault: Vault, tools: Path, tmp_path: Path) -> None:
    """A tar can hold links, also with the name of a file that the commands write."""
    site_factory.populate(vault.files.data_fs.parent)
    backup, precious = vault.make(), tmp_path / "precious"
    precious.write_text("precious")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in (".layout", "0x00"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(precious if name == ".layout" else tmp_path)
            tar.addfile(link)
        through = tarfile.TarInfo("0x00/precious")
        through.size = 3
        tar.addfile(through, io.BytesIO(b"bad"))
    part = hostile_manifest.add_object(vault.repository, packed.getvalue())

    def add_pack(document: dict[str, Any]) -> None:
        packs = document["databases"][0]["blobs"]["tail"]
        packs.append(packs[0] | {"parts": [part | {"to": "main/blobs"}]})

    hostile_manifest.rewrite(vault.repository, backup, add_pack)
    found = recover(vault.repository, tools, tmp_path / "recovered", backup)
    assert precious.read_text() == "precious"
    assert (found.files.blob_dir / ".layout").read_text() == "bushy"
