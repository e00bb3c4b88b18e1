"""P3: the zope.conf of a container has variables that only its entry point sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodb_vault.config.zopeconf import read_site
from zodb_vault.errors import ConfigurationError

# As a container image has it: the entry point exports all variables, `docker exec` does not.
HEAD = """
%%define INSTANCE /app
instancehome $INSTANCE
%%define CLIENTHOME $(CLIENT_HOME)
clienthome $CLIENTHOME
debug-mode $(DEBUG_MODE)
verbose-security $(VERBOSE_SECURITY)
<dos_protection>
  form-memory-limit $(ZOPE_FORM_MEMORY_LIMIT)
</dos_protection>
<zodb_db main>
  cache-size $(ZODB_CACHE_SIZE)
  %s
  mount-point /
</zodb_db>
"""
DATA_FS = """<blobstorage>
    blob-dir $INSTANCE/var/blobstorage
    <filestorage>
      path $INSTANCE/var/filestorage/Data.fs
    </filestorage>
  </blobstorage>"""
RELSTORAGE = """<relstorage>
    name $(RELSTORAGE_NAME)
    read-only $(RELSTORAGE_READ_ONLY)
    keep-history $(RELSTORAGE_KEEP_HISTORY)
    commit-lock-timeout $(RELSTORAGE_COMMIT_LOCK_TIMEOUT)
    create-schema $(RELSTORAGE_CREATE_SCHEMA)
    blob-dir $INSTANCE/var/blobstorage
    shared-blob-dir $(RELSTORAGE_SHARED_BLOB_DIR)
    blob-cache-size $(RELSTORAGE_BLOB_CACHE_SIZE)
    blob-chunk-size $(RELSTORAGE_BLOB_CHUNK_SIZE)
    <postgresql>
      dsn $(RELSTORAGE_DSN)
    </postgresql>
  </relstorage>"""


def conf(tmp_path: Path, storage: str) -> Path:
    path = tmp_path / "zope.conf"
    path.write_text(HEAD % storage)
    return path


def test_p3_a_data_fs_needs_no_variable(tmp_path: Path) -> None:
    (database,) = read_site(conf(tmp_path, DATA_FS), "plone", {}, tmp_path).databases
    assert database.data_fs == "/app/var/filestorage/Data.fs"
    assert database.blob_dir == "/app/var/blobstorage"


def test_p3_only_variables_of_used_keys_are_asked_for(tmp_path: Path) -> None:
    path = conf(tmp_path, RELSTORAGE)
    with pytest.raises(ConfigurationError) as caught:
        read_site(path, "plone", {}, tmp_path)
    missing = [issue.split()[-4] for issue in caught.value.issues]
    assert missing == ["RELSTORAGE_KEEP_HISTORY", "RELSTORAGE_SHARED_BLOB_DIR", "RELSTORAGE_DSN"]
    values = {"KEEP_HISTORY": "false", "SHARED_BLOB_DIR": "false", "DSN": "dbname=plone"}
    environment = {f"RELSTORAGE_{name}": value for name, value in values.items()}
    (database,) = read_site(path, "plone", environment, tmp_path).databases
    assert (database.history, database.blob_mode, database.dsn) == (False, "database", "dbname=plone")


def test_p3_a_define_is_missed_where_it_is_used(tmp_path: Path) -> None:
    text = "<filestorage>\npath $CLIENTHOME/Data.fs\n</filestorage>"
    with pytest.raises(ConfigurationError, match="CLIENT_HOME is not set"):
        read_site(conf(tmp_path, text), "plone", {}, tmp_path)
