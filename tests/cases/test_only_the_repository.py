"""Only the repository is left: its sites are found and adopted, as the page says, with nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import site_factory
from command_line import Vault, process, tree

from zodb_vault.config import settings

pytestmark = pytest.mark.usefixtures("clean_environment")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "server-is-gone.rst"


@pytest.fixture
def lost(vault: Vault) -> Vault:
    """A repository with one backup of the site plone; ``vault.repository`` is a copy of it somewhere else."""
    vault.make("--site", "plone")
    vault.repository = shutil.copytree(vault.repository, vault.directory / "copied")
    return vault


def add_site(vault: Vault, name: str) -> str:
    with site_factory.Site(vault.directory / name) as site:
        site.put(text=name)
        files, vault.files = vault.files, site.files
    made = vault.make("--site", name)
    vault.files = files
    return made


# the sites of a repository


def test_U3_the_only_site_is_used_and_said(lost: Vault) -> None:
    for command in (["list"], ["show", "latest"], ["log"], ["verify"]):
        outcome = lost.bare("--repository", lost.repository, *command)
        assert outcome.status == 0, outcome
        assert "the site is plone" in outcome.err
    assert len(lost.bare("--repository", lost.repository, "list", "--json").document["backups"]) == 1
    output = lost.directory / "output"
    restored = lost.bare("--repository", lost.repository, "restore", "latest", "--output", output, "--yes")
    assert restored.status == 0
    assert (output / "Data.fs").read_bytes() == lost.files.data_fs.read_bytes()


def test_U3_of_several_sites_one_has_to_be_chosen(lost: Vault) -> None:
    add_site(lost, "intranet")
    for command in (["list"], ["show", "latest"], ["restore", "--output", "x", "--yes"], ["prune"], ["log"]):
        outcome = lost.bare("--repository", lost.repository, *command)
        assert outcome.status == 13, outcome
        assert "there are backups of intranet, plone" in outcome.err
        assert "--site" in outcome.err
    assert lost.bare("--repository", lost.repository, "--site", "plone", "list").status == 0


@pytest.mark.parametrize("command", [["list"], ["show", "latest"], ["prune"], ["verify", "--all"]])
def test_U3_a_typo_in_the_name_of_the_site_is_said(lost: Vault, command: list[str]) -> None:
    outcome = lost.bare("--repository", lost.repository, "--site", "plonee", *command)
    assert outcome.status == 13
    assert "there are no backups of the site plonee" in outcome.err
    assert "did you mean plone?" in outcome.err
    assert "--site plone" in outcome.err


def test_U3_a_copy_of_a_site_that_is_not_there_is_no_success(lost: Vault) -> None:
    target = lost.directory / "target"
    lost.bare("--repository", target, "repository", "init")
    outcome = lost.bare("--repository", lost.repository, "--site", "plonee", "repository", "copy", target)
    assert outcome.status == 13


def test_U3_an_empty_repository_and_a_configured_site_without_backups_have_none_yet(vault: Vault) -> None:
    empty = vault.bare("--repository", vault.repository, "--site", "any", "list")
    assert empty.status == 0
    assert "no backups of the site any" in empty.err
    vault.make("--site", "plone")
    config = vault.directory / "zodb-vault.toml"
    config.write_text('[site.new]\ndata_fs = "new.fs"\n')
    new = vault.bare("--config", config, "--repository", vault.repository, "list")
    assert new.status == 0
    assert "there are backups of plone" in new.err


def test_U3_an_id_is_found_in_any_site(lost: Vault) -> None:
    other = add_site(lost, "intranet")
    for site in ([], ["--site", "plone"]):
        for command in (["show", other], ["log", other], ["verify", other], ["show", other[:-2]]):
            outcome = lost.bare("--repository", lost.repository, *site, *command)
            assert outcome.status == 0, outcome
            assert "is of the site intranet" in outcome.err
    shown = lost.bare("--repository", lost.repository, "show", other, "--json").document
    assert shown["manifest"]["site"] == "intranet"
    output = lost.directory / "output"
    assert lost("--site", "plone", "restore", other, "--output", output, "--yes").status == 0
    assert (output / "Data.fs").read_bytes() == (lost.directory / "intranet" / "Data.fs").read_bytes()


def test_U3_what_changes_a_site_does_not_leave_the_site_that_was_named(lost: Vault) -> None:
    other = add_site(lost, "intranet")
    before = tree(lost.files.data_fs.parent)
    for command in (["restore", other, "--yes"], ["delete", other, "--yes"], ["annotate", other, "--pin"]):
        refused = lost("--site", "plone", *command)
        assert refused.status == 13
        assert "choose it with --site intranet" in refused.err
    assert tree(lost.files.data_fs.parent) == before
    assert lost.bare("--repository", lost.repository, "annotate", other, "--pin").status == 0


# the page


def steps(page: str) -> list[str]:
    """Return the commands of the page, in their order."""
    return re.findall(r"^   (zodb-vault .*)$", page, re.MULTILINE)


def test_U3_every_step_of_the_page_is_done_on_a_host_with_nothing_but_the_package(
    lost: Vault, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    page = PAGE.read_text(encoding="utf-8")
    for place in ("/srv/backups", "/srv/restored", "/opt/plone"):
        page = page.replace(place, f"{host}{place}")
    instance = host / "opt" / "plone" / "instance"
    (host / "home").mkdir(parents=True)
    shutil.move(lost.repository, host / "srv" / "backups")
    shutil.move(lost.files.data_fs.parent, tmp_path / "lost")
    toml = re.search(r"^\.\. code-block:: toml\n\n((?:   .*\n|\n)+)", page, re.MULTILINE)
    assert toml is not None
    commands = steps(page)
    assert len(commands) == 9
    for command in commands:
        if "--zope-conf" in command:
            install_plone(instance)
        if "--config" in command:
            (instance / "zodb-vault.toml").write_text(re.sub("^   ", "", toml.group(1), flags=re.MULTILINE))
        done = process(*shlex.split(command)[1:], cwd=host / "home", env={"HOME": str(host / "home")})
        assert done.status == 0, (command, done)
        said = "the site is plone" in done.err
        assert said is ("--config" not in command and "repository info" not in command), command
    for files in (host / "srv" / "restored", instance / "var"):
        assert (files / "Data.fs").read_bytes() == (tmp_path / "lost" / "Data.fs").read_bytes()
        assert len(list((files / "blobs").rglob("*.blob"))) == len(
            list((tmp_path / "lost" / "blobs").rglob("*.blob"))
        )
    rows = process("--config", instance / "zodb-vault.toml", "list", "--json").document["backups"]
    assert len(rows) == 2
    assert rows[0]["how"] == "incremental"
    assert rows[0]["site"] == "plone"


def install_plone(instance: Path) -> None:
    """Write what the installation of Zope leaves: a configuration, and empty directories."""
    (instance / "etc").mkdir(parents=True)
    (instance / "var").mkdir()
    (instance / "etc" / "zope.conf").write_text(
        f"""%define INSTANCE {instance}
<zodb_db main>
  mount-point /
  <blobstorage>
    blob-dir $INSTANCE/var/blobs
    <filestorage>
      path $INSTANCE/var/Data.fs
    </filestorage>
  </blobstorage>
</zodb_db>
"""
    )


# where the configuration is


@pytest.fixture
def no_system_directory(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = vault.directory / "no-system"
    monkeypatch.setattr(settings, "SYSTEM_DIRECTORY", directory)
    return directory


def write_zope_conf(vault: Vault, place: str) -> Path:
    conf = vault.directory / place / "etc" / "zope.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(
        f"<zodb_db main>\n<filestorage>\npath {vault.files.data_fs}\nblob-dir {vault.files.blob_dir}\n"
        "</filestorage>\n</zodb_db>\n"
    )
    return conf


@pytest.mark.parametrize("beside", ["etc", "."])
def test_U8_the_configuration_is_found_beside_the_given_zope_conf_and_above(
    vault: Vault, beside: str
) -> None:
    conf = write_zope_conf(vault, "instance")
    (conf.parent.parent / beside / "zodb-vault.toml").write_text(
        f'[repository]\nlocation = "{vault.repository}"\n[site.plone]\nzope_conf = "{conf}"\n'
    )
    made = vault.bare("--zope-conf", conf, "create", "--json")
    assert made.status == 0, made
    assert made.document["site"] == "plone"


def test_U8_a_message_lists_where_the_configuration_was_looked_for(
    vault: Vault, no_system_directory: Path
) -> None:
    conf = write_zope_conf(vault, "instance")
    for command in (["list"], ["create"], ["doctor"]):
        outcome = vault.bare("--zope-conf", conf, *command)
        for place in (Path.cwd(), conf.parent, conf.parent.parent, no_system_directory):
            assert str(place) in outcome.err + outcome.out
    nothing = vault.bare("--repository", vault.repository, "create")
    assert nothing.status == 2
    assert str(no_system_directory) in nothing.err


def test_P7_a_configuration_gives_its_name_to_its_own_source_only(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = write_zope_conf(vault, "own"), write_zope_conf(vault, "other")
    (vault.directory / "zodb-vault.toml").write_text(
        f'[repository]\nlocation = "{vault.repository}"\n[site.plone]\nzope_conf = "{own}"\n'
    )
    monkeypatch.chdir(vault.directory)
    refused = vault.bare("--zope-conf", other, "create")
    assert refused.status == 2
    assert "configures plone" in refused.err
    assert "--site NAME" in refused.err
    (vault.directory / "link.conf").symlink_to(own)
    made = vault.bare("--zope-conf", "link.conf", "create", "--json")
    assert made.document["site"] == "plone"
    new = vault.bare("--zope-conf", other, "--site", "other", "plan", "--json")
    assert new.document["site"] == "other"
