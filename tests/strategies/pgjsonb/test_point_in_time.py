"""Point-in-time restores of zodb-pgjsonb, compared with the rows and with what the site showed then."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pgjsonb_sites
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from persistent.TimeStamp import TimeStamp
from pgjsonb_sites import PgjsonbSite
from random_walks import STEPS, Walk
from relstorage_vault import NOISE, RelVault
from services.postgres import Cluster, Login, execute
from ZODB.serialize import referencesf
from ZODB.utils import u64

from zodb_vault.model.tid import to_hex

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="zodb-pgjsonb needs Python 3.12")
Make = Callable[..., RelVault]
ONE = "SELECT zoid, tid, class_mod, class_name, state::text FROM"


@pytest.fixture
def make(postgres: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Make:
    """Make a site, its blobs in the database."""

    def make(history: bool = True) -> RelVault:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        login = postgres.database(postgres.role("zodb", "CREATEDB"))
        vault = RelVault(directory, capsys, PgjsonbSite(login, history, directory / "cache", None))
        vault.login = login
        return vault

    return make


def restored(vault: RelVault, postgres: Cluster, tid: str) -> PgjsonbSite:
    directory = Path(tempfile.mkdtemp(dir=vault.directory))
    site = PgjsonbSite(postgres.database(postgres.role("zodb", "CREATEDB")), True, directory / "cache", None)
    vault.done("restore", "--target", site.write_conf(directory / "zope.conf"), "--yes", "--tid", tid)
    return site


def revisions(login: Login, tid: int) -> set[Any]:
    """Return all revisions up to a transaction, current or not."""
    return set(
        execute(
            login,
            f"{ONE} object_state WHERE tid <= %s UNION {ONE} object_history WHERE tid <= %s",
            (tid, tid),
        )
    )


def others(login: Login, tid: int) -> list[Any]:
    query = "SELECT tid, username, description FROM transaction_log WHERE tid <= %s ORDER BY 1"
    return [
        execute(login, "SELECT zoid, tid, data FROM blob_state WHERE tid <= %s ORDER BY 1, 2", (tid,)),
        execute(login, query, (tid,)),
    ]


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(st.sampled_from([one for one in STEPS if one != "pack"]), min_size=6, max_size=12),
    seed=st.integers(0, 2**20),
)
def test_every_target_is_what_was_there_then(
    make: Make, postgres: Cluster, steps: list[str], seed: int
) -> None:
    vault = make()
    with vault.site.opened() as opened:
        # zodb-pgjsonb itself cannot load a blob whose change was undone
        walk = Walk(opened, seed, blobs_undone=False)
        walk.put(root="first", blob=NOISE[0])
        for what in steps:
            walk.step(what)
    vault.created()
    targets = {to_hex(tid): tid for tid in walk.tids}
    log = {row["tid"] for row in vault.done("log", "--json").document["transactions"] if row["restorable"]}
    assert set(targets) <= log
    for text in sorted({*random.Random(seed).sample(sorted(targets), 2), min(targets)}):
        tid = targets[text]
        site = restored(vault, postgres, text)
        assert pgjsonb_sites.state(site) == walk.states[tid]
        number = u64(tid)
        assert revisions(site.login, 2**62) == revisions(vault.login, number)
        assert others(site.login, 2**62) == others(vault.login, number)
        assert not execute(site.login, "SELECT 1 FROM object_history h JOIN object_state o USING (zoid, tid)")
        with site.opened() as opened:
            opened.put(later="goes on", more=NOISE[1])
            opened.pack()
            assert {"later", "more"} <= set(opened.root)


def put(vault: RelVault, *titles: str) -> list[bytes]:
    with vault.site.opened() as opened:
        return [opened.put(**{title.partition(" ")[0]: title}) for title in titles]


def test_a_pack_is_noticed_by_what_is_gone(make: Make, postgres: Cluster) -> None:
    vault = make()
    tids = put(vault, "a one", "b one", "a two", "b two", "a three")
    first = vault.created()["id"]
    with vault.site.opened() as opened:
        opened.pack()
    later = put(vault, "b three", "a four")
    second = vault.created()
    packed = {row["tid"] for row in vault.done("log", "--json").document["transactions"] if row["restorable"]}
    assert packed == {to_hex(later[-1])}
    put(vault, "c one")
    vault.created()
    assert to_hex(later[-1]) in {
        row["tid"] for row in vault.done("log", "--json").document["transactions"] if row["restorable"]
    }
    # what the pack took is still in the backup before it
    site = restored(vault, postgres, to_hex(tids[3]))
    assert pgjsonb_sites.state(site) == {"a": "a two", "b": "b two"}
    assert first < second["id"]


def test_what_a_pack_before_the_first_backup_took_away_is_not_made_up(make: Make, postgres: Cluster) -> None:
    vault = make()
    tids = put(vault, "a one", "b one", "a two", "b two")
    with vault.site.opened() as opened:
        opened.pack()
    put(vault, "c one")
    vault.created()
    there = {row["tid"]: row["restorable"] for row in vault.done("log", "--json").document["transactions"]}
    assert there[to_hex(tids[2])]
    target = PgjsonbSite(
        postgres.database(postgres.role("zodb", "CREATEDB")), True, vault.directory / "other", None
    )
    conf = target.write_conf(vault.directory / "other.conf")
    outcome = vault("restore", "--target", conf, "--yes", "--json", "--tid", to_hex(tids[2]))
    assert outcome.status == 4 and "a pack has removed" in outcome.error["message"]
    assert not execute(target.login, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'")
    assert pgjsonb_sites.state(restored(vault, postgres, to_hex(tids[3]))) == {"a": "a two", "b": "b two"}


def test_what_was_gone_stays_gone_and_what_lost_its_transaction_comes_back(
    make: Make, postgres: Cluster
) -> None:
    vault = make()
    with vault.site.opened() as opened:
        opened.put(a="a one")
        opened.put(b="b one")
        opened.manager.begin()
        second = opened.storage.lastTransaction()
        opened.put(a="a two")
        # the newest revision of "a" up to here is kept, its transaction is not: nothing current is of it
        opened.storage.pack(TimeStamp(second).timeTime() + 0.00001, referencesf)
        opened.manager.begin()
        opened.put(c="c one")
        opened.db.undo(opened.db.undoLog(0, 1)[0]["id"], opened.manager.get())
        opened.manager.commit()
        opened.manager.begin()
        assert set(opened.root) == {"a", "b"}
        opened.put(a="a three")
    vault.created()
    undone = vault.done("log", "--json").document["transactions"][1]["tid"]
    for tid, wanted in (
        (to_hex(second), {"a": "a one", "b": "b one"}),
        (undone, {"a": "a two", "b": "b one"}),
    ):
        site = restored(vault, postgres, tid)
        assert pgjsonb_sites.state(site) == wanted
        assert not execute(site.login, "SELECT 1 FROM object_state WHERE state IS NULL")


def test_without_history_states_of_backups_are_what_is_possible(make: Make) -> None:
    vault = make(history=False)
    tids = put(vault, "a one", "a two")
    vault.created()
    outcome = vault("restore", "--tid", to_hex(tids[0]), "--yes", "--json", "--replace")
    assert outcome.status == 13 and "keeps no history" in outcome.error["message"]
