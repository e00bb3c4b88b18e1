"""``zodb-vault create``: every option, the document, the exit statuses."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import site_factory
from command_line import Vault, keys_of, process, stored, words
from ZODB.FileStorage import FileStorage

from zodb_vault.repository.markers import RunMarker
from zodb_vault.stores.local import LocalStore

DOCUMENT = words(
    "id site status how reason created_at finished_at locked_until added raw stored healed "
    "still_damaged databases findings"
)
DATABASE = words("name last_tid transactions transactions_added blobs missing warnings")


def add(vault: Vault, **values: str | bytes) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(**values)


def lose(vault: Vault) -> Path:
    """Take a blob file that the newest transactions refer to away; return where it was."""
    path = max(vault.files.blob_dir.rglob("*.blob"), key=lambda path: path.name)
    path.unlink()
    return path


def marked(vault: Vault, name: str = "latest") -> dict[str, object]:
    row: dict[str, object] = next(
        row for row in vault.done("list", "--json").document["backups"] if name in ("latest", row["name"])
    )
    return row


def test_the_first_backup_is_full_and_the_summary_goes_to_standard_output_its_id_to_standard_error(
    vault: Vault,
) -> None:
    outcome = vault.done("create")
    backup = marked(vault)["id"]
    assert outcome.out == (
        f"{backup} complete: full (first), 9 new transactions, 7 new blobs, {outcome.out.split('blobs, ')[1]}"
    )
    assert outcome.err == f"backup {backup}\n"


def test_the_document_has_exactly_the_keys_that_are_promised(vault: Vault) -> None:
    document = vault.done("create", "--json").document
    assert keys_of(document) == DOCUMENT
    assert keys_of(document["reason"]) == ["code", "text"]
    (database,) = document["databases"]
    assert keys_of(database) == DATABASE
    assert database["blobs"] == {"added": 7, "count": 7}
    assert (
        database["name"],
        database["transactions"],
        database["transactions_added"],
        database["missing"],
    ) == ("main", 9, 9, [])
    assert (document["site"], document["status"], document["how"], document["reason"]["code"]) == (
        "default",
        "complete",
        "full",
        "first",
    )
    assert database["last_tid"] == "0x0405e70900000000"
    assert document["added"] == document["stored"] > 0
    assert document["raw"] == vault.files.data_fs.stat().st_size + sum(
        path.stat().st_size for path in vault.files.blob_dir.rglob("*.blob")
    )


def test_nothing_new_is_a_backup_of_its_own_that_adds_nothing(vault: Vault) -> None:
    first, second = vault.make(), vault.done("create", "--json").document
    assert second["id"] != first
    assert (second["how"], second["reason"]["code"], second["added"]) == ("incremental", "unchanged", 0)
    assert second["databases"][0]["blobs"] == {"added": 0, "count": 7}


def test_skip_unchanged_makes_no_backup_and_says_so(vault: Vault) -> None:
    first = vault.make()
    before = stored(vault.repository)
    outcome = vault.done("create", "--skip-unchanged")
    assert outcome.out == f"nothing new since {first}, no backup made\n"
    document = vault.done("create", "--skip-unchanged", "--json").document
    assert (document["id"], document["status"], document["added"]) == (first, "skipped", 0)
    assert keys_of(document) == DOCUMENT
    assert stored(vault.repository) == before
    add(vault, news="fourth")
    assert (
        vault.done("create", "--skip-unchanged", "--json").document["databases"][0]["transactions_added"] == 1
    )


def test_full_stores_everything_again(vault: Vault) -> None:
    first = vault.done("create", "--json").document
    again = vault.done("create", "--full", "--json").document
    assert (again["how"], again["reason"]["code"]) == ("full", "forced")
    assert again["added"] > first["added"] / 20
    assert again["databases"][0]["transactions_added"] == 9


def test_name_and_note_are_kept_as_they_are_written(vault: Vault) -> None:
    name, note = 'it\'s "quoted"\nünï 日本 \t$HOME', "two\nlines"
    vault.make("--name", name, "--note", note)
    assert (marked(vault)["name"], marked(vault)["note"]) == (name, note)
    assert vault.done("show", name, "--json").document["manifest"]["id"] == marked(vault)["id"]


def test_an_empty_name_is_no_name(vault: Vault) -> None:
    vault.make("--name", "", "--note", "")
    assert (marked(vault)["name"], marked(vault)["note"]) == (None, None)


@pytest.mark.parametrize(
    ("option", "value"), [("--name", "latest"), ("--name", "a\udcff"), ("--note", "\ud800")]
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_stored(
    vault: Vault, option: str, value: str
) -> None:
    before = stored(vault.repository)
    outcome = vault("create", option, value)
    assert outcome.status == 2
    assert "-> " in outcome.err
    assert stored(vault.repository) == before


def test_the_trigger_is_scheduled_without_a_terminal_and_what_is_given_otherwise(vault: Vault) -> None:
    process(*vault.options, "create")
    assert marked(vault)["trigger"] == "scheduled"
    vault.make("--trigger", "on-demand")
    assert marked(vault)["trigger"] == "on-demand"
    assert vault("create", "--trigger", "safety").status == 2


def test_cold_takes_the_lock_and_is_refused_while_the_site_runs(vault: Vault) -> None:
    storage = FileStorage(str(vault.files.data_fs), blob_dir=str(vault.files.blob_dir))
    try:
        before = stored(vault.repository)
        outcome = vault("create", "--cold", "--json")
        assert (outcome.status, outcome.error["kind"], outcome.out) == (11, "in-use", "")
        assert "Data.fs.lock" in outcome.error["message"]
        assert "stop the site" in outcome.error["hint"]
        assert stored(vault.repository) == before
    finally:
        storage.close()
    vault.make("--cold")


def test_a_backup_of_one_component_is_never_latest(vault: Vault) -> None:
    storage = vault.done("create", "--only", "storage", "--json").document
    blobs = vault.done("create", "--only", "blobs", "--json").document
    assert storage["databases"][0]["blobs"] is None
    assert blobs["databases"][0]["transactions"] is None
    assert [row["contents"] for row in vault.done("list", "--json").document["backups"]] == [
        "blobs",
        "storage",
    ]
    assert vault("show", "latest").status == 13


def test_a_file_storage_is_its_own_mirror_and_other_methods_are_named(vault: Vault) -> None:
    vault.make("--method", "native")
    assert vault.done("create", "--method", "portable", "--json").document["reason"]["code"] == "unchanged"
    outcome = vault("create", "--method", "other")
    assert outcome.status == 2
    assert "native" in outcome.err and "portable" in outcome.err


def test_database_chooses_one_and_an_unknown_one_is_an_error_that_names_the_known_ones(vault: Vault) -> None:
    vault.make("--database", "main")
    outcome = vault("create", "--database", "nope", "--json")
    assert (outcome.status, outcome.error["kind"]) == (2, "usage")
    assert "nope" in outcome.error["message"]
    assert "main" in outcome.error["hint"]


def test_a_blob_that_the_site_has_lost_is_named_and_the_status_is_3(vault: Vault) -> None:
    path = lose(vault)
    outcome = vault("create")
    assert outcome.status == 3
    assert "incomplete" in outcome.out
    assert f"is missing: {path}" in outcome.err
    document = vault("create", "--json")
    assert document.status == 3
    (missing,) = document.document["databases"][0]["missing"]
    assert keys_of(missing) == ["oid", "path", "tid"]
    assert missing["path"] == str(path)
    assert missing["tid"] == f"0x{path.stem[2:]}"
    assert vault("create", "-q").err.startswith("zodb-vault: main: the blob 0x")


def test_a_loss_that_was_accepted_is_no_news_for_cron_any_more(vault: Vault) -> None:
    lose(vault)
    vault("create", "--name", "lossy")
    vault.done("annotate", "lossy", "--accept-missing")
    outcome = vault("create", "-q")
    assert outcome == (0, "", "")
    assert "is missing" in vault.done("create").err


def test_allow_missing_moves_the_limit(vault: Vault) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(**{f"photo-{number}": site_factory.noise(100, number) for number in range(30)})
    for path in sorted(vault.files.blob_dir.rglob("*.blob"))[:25]:
        path.unlink()
    before = stored(vault.repository)
    refused = vault("create", "--json")
    assert (refused.status, refused.error["kind"]) == (1, "blobs-missing")
    assert "--allow-missing" in refused.error["hint"]
    assert not [path for path in stored(vault.repository).keys() - before.keys() if "/backups/" in path]
    allowed = vault("create", "--allow-missing", "25", "--json")
    assert allowed.status == 3
    assert len(allowed.document["databases"][0]["missing"]) == 25
    assert vault("create", "--allow-missing", "-1").status == 2


def test_another_source_is_refused_unless_it_takes_over(vault: Vault, tmp_path: Path) -> None:
    vault.make()
    other = site_factory.packed(tmp_path / "other")
    before = stored(vault.repository)
    options = [
        "--repository",
        vault.repository,
        "--data-fs",
        other.data_fs,
        "--blob-dir",
        other.blob_dir,
        "create",
    ]
    refused = vault.bare(*options, "--json")
    assert (refused.status, refused.error["kind"]) == (2, "wrong-source")
    assert str(other.data_fs) in refused.error["message"]
    assert "--take-over" in refused.error["hint"]
    assert stored(vault.repository) == before
    assert vault.bare(*options, "--take-over").status == 0


def test_quiet_prints_nothing_and_verbose_says_more(vault: Vault) -> None:
    assert vault("create", "-q") == (0, "", "")
    assert vault("create", "--quiet") == (0, "", "")
    plain, verbose = vault.done("create"), vault.done("create", "-v")
    assert len(verbose.err.splitlines()) == len(plain.err.splitlines()) + 2
    assert "last transaction 0x0405e70900000000" in vault.done("create", "--verbose").err
    both = vault("create", "-q", "-v", "--json")
    assert (both.status, both.error["kind"]) == (2, "usage")


def test_quiet_with_json_still_gives_the_document_that_was_asked_for(vault: Vault) -> None:
    outcome = vault("create", "-q", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    assert keys_of(outcome.document) == DOCUMENT


def test_options_go_before_and_after_the_name_of_the_command_and_the_later_one_holds(vault: Vault) -> None:
    for line in (
        ["-q", *vault.options, "create"],
        [*vault.options, "create", "-q"],
        ["create", *vault.options, "--quiet"],
    ):
        assert vault.bare(*line) == (0, "", "")
    assert vault.bare("--repository", "nowhere", "create", *vault.options, "-q").status == 0
    split = [*vault.options[:2], "create", *vault.options[2:], "-q"]
    assert vault.bare(*split).status == 0


def test_every_part_of_standard_output_is_data(vault: Vault) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(late=b"blob")
    lose(vault)
    outcome = vault("create", "--json")
    assert json.loads(outcome.out)
    assert "missing" not in outcome.err


def test_configuration_says_site_and_repository(vault: Vault, tmp_path: Path) -> None:
    config = tmp_path / "my vault.toml"
    config.write_text(
        f"[repository]\nlocation = '{vault.repository}'\n[site.plone]\ndata_fs = '{vault.files.data_fs}'\n"
        f"blob_dir = '{vault.files.blob_dir}'\n"
        f"[site.other]\ndata_fs = '{vault.files.data_fs}'\n"
    )
    several = vault.bare("--config", config, "create", "--json")
    assert (several.status, several.error["kind"]) == (2, "usage")
    assert "other, plone" in several.error["message"]
    assert "--site" in several.error["hint"]
    assert vault.bare("--config", config, "--site", "plone", "create", "--json").document["site"] == "plone"
    assert vault.bare("create", "--site", "plone", "--config", config, "--json").document["site"] == "plone"


def test_zope_conf_and_zeo_conf_say_the_site(vault: Vault, tmp_path: Path) -> None:
    storage = (
        f"<filestorage{{}}>\npath {vault.files.data_fs}\nblob-dir {vault.files.blob_dir}\n</filestorage>\n"
    )
    zope, zeo = tmp_path / "zope.conf", tmp_path / "zeo.conf"
    zope.write_text(f"<zodb_db main>\nmount-point /\n{storage.format('')}</zodb_db>\n")
    zeo.write_text(f"<zeo>\naddress localhost:8100\n</zeo>\n{storage.format(' 1')}")
    repository = ["--repository", vault.repository, "create", "--json"]
    assert vault.bare("--zope-conf", zope, *repository).document["databases"][0]["name"] == "main"
    assert vault.bare(*repository, "--site", "zeo", "--zeo-conf", zeo).document["databases"][0]["name"] == "1"


def test_variables_say_what_options_would_and_options_go_before_them(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZODB_VAULT_REPOSITORY", str(vault.repository))
    monkeypatch.setenv("ZODB_VAULT_DATA_FS", str(vault.files.data_fs))
    monkeypatch.setenv("ZODB_VAULT_BLOB_DIR", str(vault.files.blob_dir))
    monkeypatch.setenv("ZODB_VAULT_SITE", "mysite")
    assert vault.bare("create", "--json").document["site"] == "mysite"
    assert vault.bare("create", "--site", "other", "--json").document["site"] == "other"
    assert vault.bare("--site", "third", "create", "--json").document["site"] == "third"
    assert vault.bare("--repository", tmp_path / "nowhere", "create").status == 10
    other = site_factory.packed(tmp_path / "other")
    # a blob directory of the environment is never mixed with a Data.fs of the command line
    mixed = vault.bare("create", "--data-fs", other.data_fs, "--site", "fourth", "--json")
    assert (mixed.status, mixed.error["kind"]) == (2, "configuration")
    assert "no blob directory is configured" in mixed.error["message"]


def test_help_says_what_the_options_do_and_what_the_status_3_means(vault: Vault) -> None:
    for flag in ("--help", "-h"):
        outcome = vault.bare("create", flag)
        assert outcome.status == 0
        assert outcome.err == ""
        assert "--skip-unchanged" in outcome.out
        assert "Exit code 3" in outcome.out


def test_with_wait_the_second_one_begins_when_the_first_has_ended(vault: Vault) -> None:
    store = LocalStore(vault.repository)
    run = RunMarker.start(store, "default", "create", "20260101T000000Z-aaaaaa", [])
    assert vault("create").status == 11
    removal = threading.Timer(1.5, run.remove)
    removal.start()
    outcome = vault.done("create", "--wait")
    removal.join()
    assert "waiting for the create 20260101T000000Z-aaaaaa (host" in outcome.err
    assert len(vault.done("list", "--json").document["backups"]) == 1
