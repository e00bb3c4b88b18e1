"""Backups of a real streaming replica."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import relstorage_sites
from relstorage_sites import RelSite, on
from relstorage_vault import NOISE, RelVault, by_hand, pg_restore
from services.postgres import Cluster, execute


class Replicated(RelVault):
    """A site whose configuration names a replica."""

    @property
    def options(self) -> list[str]:
        """Return what says where things are."""
        return ["--config", str(self.directory / "zodb-vault.toml"), "--repository", str(self.repository)]


def test_a_replica_is_dumped_unless_it_lags(
    postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login = postgres.database()
    site = RelSite(on(login), True, tmp_path / "blobs", False)
    with postgres.replica() as port:
        dsn = f"{login.dsn} port={port}".replace("\\", "\\\\")
        (tmp_path / "zodb-vault.toml").write_text(
            f'[site.default]\nzope_conf = "zope.conf"\nreplica_lag = "1s"\ndsn_backup = """{dsn}"""\n',
            encoding="utf-8",
        )
        vault = Replicated(tmp_path, capsys, site)
        vault.fill()
        made = _soon(vault)
        admin = f"{postgres.login(login.name).dsn} port={port}"
        _tell(admin, "SELECT pg_wal_replay_pause()")
        with site.opened() as opened:
            opened.put(title="not there yet", logo=NOISE[5])
        time.sleep(2)
        refused = vault("create", "--json")
        assert (refused.status, refused.error["kind"]) == (1, "source") and "lags by" in refused.error[
            "message"
        ]
        _tell(admin, "SELECT pg_wal_replay_resume()")
        after = _soon(vault)
    assert execute(login, "SELECT max(tid) FROM transaction") == [
        (int(after["databases"][0]["last_tid"], 16),)
    ]
    assert made["databases"][0]["last_tid"] < after["databases"][0]["last_tid"]
    by_hand(vault.repository, after["id"], tmp_path / "by hand")
    other = postgres.database()
    pg_restore(tmp_path / "by hand" / "database.dump", other)
    assert relstorage_sites.state(
        site._replace(adapter=on(other), blob_dir=tmp_path / "cache")
    ) == relstorage_sites.state(site)


def _soon(vault: RelVault) -> Any:
    """Back up as soon as the replica has followed."""
    for _ in range(20):
        done = vault("create", "--json")
        if done.status == 0:
            return done.document
        assert "lags" in done.err, done
        time.sleep(0.3)
    raise AssertionError(done)


def _tell(dsn: str, statement: str) -> None:
    import psycopg2

    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()
