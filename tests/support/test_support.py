"""The support code is tested here: the model, the sites and the writer's log, compared with ZODB itself."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import filestorage_writer
import independent_reader
import pytest
import random_histories
import site_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage

SEEDS = 40


def check_every_tid(history: random_histories.History, directory: Path) -> None:
    """Truncate a copy after each valid transaction in turn: ZODB must show what the model says."""
    for tid in history.valid_tids():
        data_fs, blob_dir = independent_reader.cut_site(history.data_fs, history.blob_dir, tid, directory)
        random_histories.assert_state(data_fs, blob_dir, history.states[tid])
        random_histories.assert_all_references_resolve(data_fs, blob_dir)
        shutil.rmtree(directory)


def reset_to_a_valid_tid(history: random_histories.History, directory: Path, rng: random.Random) -> None:
    """Truncate a copy after one valid transaction, and continue there."""
    tid = rng.choice(history.valid_tids())
    history.reset_to(*independent_reader.cut_site(history.data_fs, history.blob_dir, tid, directory), tid)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_model_equals_zodb_at_every_valid_tid(tmp_path: Path, seed: int) -> None:
    with random_histories.History(tmp_path, seed) as history:
        for _ in range(12):
            history.step()
        check_every_tid(history, tmp_path / "cut")


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_model_equals_zodb_after_resets(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with random_histories.History(tmp_path, seed) as history:
        for number in range(3):
            for _ in range(6):
                history.step()
            reset_to_a_valid_tid(history, tmp_path / f"line-{number}", rng)
        history.step("several")
        check_every_tid(history, tmp_path / "cut")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    operations=st.lists(st.sampled_from(sorted(random_histories.OPERATIONS)), max_size=12),
)
def test_operations_can_be_chosen_by_hypothesis(
    tmp_path_factory: pytest.TempPathFactory, seed: int, operations: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("history")
    with random_histories.History(directory, seed) as history:
        for operation in operations:
            history.step(operation)
        check_every_tid(history, directory / "cut")


def test_every_operation_happens_and_undo_is_effective(tmp_path: Path) -> None:
    with random_histories.History(tmp_path, 5) as history:
        for operation in sorted(random_histories.OPERATIONS) * 2:
            history.step(operation)
        assert len(history.undos) >= 4
        assert {operation.split(":")[0] for operation in history.journal} == set(random_histories.OPERATIONS)


def test_same_seed_gives_the_same_content(tmp_path: Path) -> None:
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with random_histories.History(tmp_path / name, 11) as history:
            for _ in range(20):
                history.step()
            states.append(list(history.states.values()))
    assert states[0] == states[1]


def test_aborts_leave_an_orphan_and_a_pending_transaction_has_status_c(tmp_path: Path) -> None:
    with random_histories.History(tmp_path, 3) as history:
        statuses = []
        history.when_pending = lambda: statuses.append(independent_reader.headers(history.data_fs)[-1].status)
        history.step("abort_pending")
        history.step("new_blob")
        history.step("abort_orphan")
        files = list(history.blob_dir.rglob("*.blob"))
        assert statuses == ["c", "c"]
        assert len(files) > len(independent_reader.blob_files(history.data_fs, history.blob_dir))


def test_pack_makes_earlier_transactions_invalid(tmp_path: Path) -> None:
    with random_histories.History(tmp_path, 2) as history:
        for operation in ("new_blob", "several", "changed_blob", "pack_garbage", "commit"):
            history.step(operation)
        assert len(history.valid_tids()) < len(history.states)
        assert independent_reader.transactions(history.data_fs, history.blob_dir)[0].status == "p"


def test_assertions_see_a_difference(tmp_path: Path) -> None:
    with random_histories.History(tmp_path, 1) as history:
        history.step("new_blob")
        state = history.state
    data_fs, blob_dir = history.data_fs, history.blob_dir
    key = next(key for key in state if key.endswith("blob"))
    random_histories.assert_state(data_fs, blob_dir, state)
    for wrong in (
        {**state, key: b"other"},
        {**state, "new": "text"},
        {k: v for k, v in state.items() if k != key},
    ):
        with pytest.raises(AssertionError, match=r"blob|new"):
            random_histories.assert_state(data_fs, blob_dir, wrong)
    next(blob_dir.rglob("*.blob")).unlink()
    with pytest.raises(KeyError):
        random_histories.assert_all_references_resolve(data_fs, blob_dir)
    assert independent_reader.MISSING in independent_reader.blob_files(data_fs, blob_dir).values()


# Builders


@pytest.mark.parametrize("name", sorted(site_factory.BUILDERS))
def test_builders_make_the_same_readable_site_each_time(tmp_path: Path, name: str) -> None:
    one, two = (site_factory.BUILDERS[name](tmp_path / directory) for directory in ("one", "two"))
    transactions = independent_reader.transactions(*one)
    assert [header.tid for header in independent_reader.headers(one.data_fs)] == [
        transaction.tid for transaction in transactions
    ]
    assert all(
        record.blob != independent_reader.MISSING
        for transaction in transactions
        for record in transaction.records
    )
    assert name == "future_tids" or (
        one.data_fs.read_bytes() == two.data_fs.read_bytes()
        and transactions == independent_reader.transactions(*two)
    )
    if name not in site_factory.UNREADABLE:
        assert random_histories.assert_all_references_resolve(*one) > 0


def last(files: site_factory.SiteFiles) -> independent_reader.Transaction:
    """Return the last transaction."""
    return independent_reader.transactions(*files)[-1]


def test_populate_has_a_bit_of_everything(tmp_path: Path) -> None:
    transactions = independent_reader.transactions(*site_factory.populate(tmp_path))
    records = [record for transaction in transactions for record in transaction.records]
    assert {transaction.status for transaction in transactions} == {"p", " "}
    assert {transaction.user.decode() for transaction in transactions} >= {
        "admin",
        "editor",
        "manager",
        "Ädmin Ümlaut",
    }
    assert any(transaction.extension for transaction in transactions)
    assert len(records) > 200
    assert len({record.blob for record in records if record.blob}) < len(
        [record for record in records if record.blob]
    )


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    files = site_factory.populate(tmp_path, layout)
    assert (files.blob_dir / ".layout").read_text().strip() == layout
    depth = {len(path.relative_to(files.blob_dir).parts) for path in files.blob_dir.rglob("*.blob")}
    assert depth == {9 if layout == "bushy" else 2}


def test_undo_shapes(tmp_path: Path) -> None:
    assert [record.data for record in last(site_factory.uncreated(tmp_path / "uncreated")).records].count(
        None
    ) == 2
    back = last(site_factory.recreated(tmp_path / "recreated"))
    assert all(record.data for record in back.records)
    assert any(record.blob for record in back.records)
    twice = [record.oid for record in last(site_factory.twice_in_one_transaction(tmp_path / "twice")).records]
    assert len(twice) == 2 * len(set(twice))
    for builder in (
        site_factory.undone_blob_change,
        site_factory.undone_undo,
        site_factory.undone_into_packed,
    ):
        files = builder(tmp_path / builder.__name__)
        raw = files.data_fs.read_bytes()[independent_reader.headers(files.data_fs)[-1].start :]
        assert site_factory.BLOB_RECORD not in raw
        assert any(record.blob for record in last(files).records)


def test_opaque_and_wrapped_records(tmp_path: Path) -> None:
    for name in site_factory.UNREADABLE:
        records = [
            record
            for transaction in independent_reader.transactions(*site_factory.BUILDERS[name](tmp_path / name))
            for record in transaction.records
        ]
        assert len([record for record in records if record.blob]) == 2, name
        assert name == "zlib_wrapped" or not any(is_blob_record(record.data) for record in records), name
    assert any(
        (record.data or b"").startswith(b".z")
        for record in last(site_factory.zlib_wrapped(tmp_path / "zlib")).records
    )


def test_sizes_and_empty_transactions(tmp_path: Path) -> None:
    header = max(
        independent_reader.headers(site_factory.big_transaction(tmp_path / "big", 3_000_000).data_fs),
        key=lambda header: header.end - header.start,
    )
    assert header.end - header.start > 3_000_000
    assert [
        len(transaction.records)
        for transaction in independent_reader.transactions(
            *site_factory.empty_transactions(tmp_path / "empty")
        )
    ].count(0) == 2
    assert site_factory.without_transactions(tmp_path / "bare").data_fs.stat().st_size == 4


def test_unusual_tids(tmp_path: Path) -> None:
    unordered, equal = (
        site_factory.unordered_tids(tmp_path / "unordered"),
        site_factory.equal_tids(tmp_path / "equal"),
    )
    tids = [header.tid for header in independent_reader.headers(unordered.data_fs)]
    assert tids != sorted(tids)
    tids = [header.tid for header in independent_reader.headers(equal.data_fs)]
    assert len(set(tids)) == len(tids) - 1
    now = site_factory.tid_at(datetime.now(UTC))
    assert (
        len(
            [
                header
                for header in independent_reader.headers(
                    site_factory.future_tids(tmp_path / "future").data_fs
                )
                if header.tid > now
            ]
        )
        == 3
    )


@pytest.mark.parametrize("tail", site_factory.TAILS)
def test_torn_tails_end_where_zodb_says(tmp_path: Path, tail: str) -> None:
    files = site_factory.populate(tmp_path)
    end = site_factory.tear(files.data_fs, tail)
    (tmp_path / "Data.fs.index").unlink()
    storage = FileStorage(str(files.data_fs), read_only=True)
    try:
        assert storage.getSize() == end
    finally:
        storage.close()
    assert files.data_fs.stat().st_size > end


# The writer


@pytest.mark.parametrize("keep_old", ["--keep-old", "--no-keep-old"])
def test_writer_log_matches_the_files(tmp_path: Path, keep_old: str) -> None:
    data_fs, blob_dir, log, stop = (tmp_path / name for name in ("Data.fs", "blobs", "log", "stop"))
    script: list[str | Path] = [
        sys.executable,
        "-W",
        "error",
        filestorage_writer.__file__,
        data_fs,
        blob_dir,
        log,
    ]
    process = subprocess.Popen(
        [*script, "--seconds", "30", "--pack-every", "0.3", "--stop-file", stop, keep_old]
    )
    time.sleep(1.5)
    stop.touch()
    assert process.wait(30) == 0
    states = filestorage_writer.read_log(log)
    valid = independent_reader.valid_tids(data_fs)
    assert len(states) > 20
    assert '"packed"' in log.read_text()
    assert set(valid) <= set(states)
    for number, tid in enumerate([*valid[:3], valid[-1]]):
        assert (
            filestorage_writer.digests(
                *independent_reader.cut_site(data_fs, blob_dir, tid, tmp_path / str(number))
            )
            == states[tid]
        )
