"""How much of the line and of the machine a command takes: measured for real, locally and in S3."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import site_factory
from command_line import DEADLINE, Outcome, Vault, command, environment
from services.s3 import Service

from zodb_vault.operations.create import options
from zodb_vault.operations.restore import options as restore
from zodb_vault.operations.verify import options as verify
from zodb_vault.policy.parallelism import MAX_WORKERS, workers
from zodb_vault.stores import registry

RATE = 2_000_000
SIZE = 3_000_000
# Marker, label and manifest take no second; starting what is imported late may take one on a busy machine.
SLACK = 2.5


@pytest.fixture(params=["local", "moto"])
def slow(request: pytest.FixtureRequest, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """A site with three megabytes that do not compress, and its repository, on the disk or in S3."""
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(photo=site_factory.noise(SIZE, 3))
    if request.param == "moto":
        service: Service = request.getfixturevalue("moto")
        location = f"s3://{service.bucket()}/paced"
        for name, value in service.variables(location).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(
            Vault, "options", ["--data-fs", str(vault.files.data_fs), "--blob-dir", str(vault.files.blob_dir)]
        )
        vault.done("repository", "init")
    return vault


def timed(call: Callable[[], Outcome]) -> float:
    begun = time.monotonic()
    outcome = call()
    assert outcome.status == 0, outcome
    return time.monotonic() - begun


def test_what_is_written_and_read_keeps_to_the_rate(slow: Vault, tmp_path: Path) -> None:
    least = SIZE / RATE
    limit = ["--limit-rate", "2MB"]
    assert least * 0.9 < timed(lambda: slow("create", *limit)) < least + SLACK
    assert least * 0.9 < timed(lambda: slow("verify", "--level", "bytes", *limit)) < least + SLACK
    assert (
        least * 0.9
        < timed(lambda: slow("restore", "--yes", "--output", tmp_path / "out", *limit))
        < least + SLACK
    )
    other = tmp_path / "other"
    slow.bare("--repository", other, "repository", "init")
    # read from one and written to the other at the same time: each has the rate for itself
    assert least * 0.9 < timed(lambda: slow("repository", "copy", other, *limit)) < 2 * least + SLACK


def test_the_rate_comes_from_the_option_the_variable_or_the_file(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[int | None] = []
    real = registry.open_store

    def noting(location: str, s3: Any = None, rate: int | None = None) -> Any:
        rates.append(rate)
        return real(location, s3, rate)

    monkeypatch.setattr(registry, "open_store", noting)
    file = vault.directory / "zodb-vault.toml"
    file.write_text(
        f'[site.default]\ndata_fs = "{vault.files.data_fs}"\nblob_dir = "{vault.files.blob_dir}"\n[limits]\n'
        f'rate = "10MB"\n'
    )
    arguments = ["--config", file, "--repository", vault.repository, "create"]
    assert vault.bare(*arguments).status == 0
    monkeypatch.setenv("ZODB_VAULT_LIMITS_RATE", "20M")
    assert vault.bare(*arguments).status == 0
    assert vault.bare(*arguments, "--limit-rate", "30M").status == 0
    assert rates == [10_000_000, 20_000_000, 30_000_000]


@pytest.mark.parametrize(
    ("key", "value"),
    [("rate", '"fast"'), ("rate", '"1k"'), ("nice", '"19"'), ("workers", "0"), ("workers", "65")],
)
def test_limits_that_are_none_are_errors(vault: Vault, key: str, value: str) -> None:
    file = vault.directory / "zodb-vault.toml"
    file.write_text(f"[limits]\n{key} = {value}\n")
    outcome = vault("--config", file, "list")
    assert outcome.status == 2
    assert f"limits.{key}" in outcome.err


@pytest.mark.parametrize("option", [("--limit-rate", "fast"), ("--limit-rate", "10"), ("--workers", "0")])
def test_options_that_are_no_limits_are_errors(vault: Vault, option: tuple[str, str]) -> None:
    assert vault("create", *option).status == 2


def test_there_are_as_many_workers_as_requested(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits: list[int] = []
    for module, name in ((options, "CreateOptions"), (restore, "RestoreOptions"), (verify, "VerifyOptions")):

        class Noting(getattr(module, name)):  # type: ignore[misc]
            def __post_init__(self) -> None:
                limits.append(self.workers)

        monkeypatch.setattr(module, name, Noting)
    stocked.done("create", "--workers", "1")
    stocked.done("verify", "--workers", "5", "--level", "bytes")
    stocked.done("restore", "--workers", "7", "--yes", "--output", tmp_path / "out")
    monkeypatch.setenv("ZODB_VAULT_LIMITS_WORKERS", "6")
    stocked.done("create")
    assert limits == [1, 5, 7, 6]


def test_the_default_is_by_the_processors_within_the_memory_and_more_where_a_service_answers() -> None:
    assert [workers(count, service=False) for count in (1, 2, 3, 64)] == [2, 2, MAX_WORKERS, MAX_WORKERS]
    assert [workers(count, service=True) for count in (1, 2, 64)] == [3, MAX_WORKERS, MAX_WORKERS]


def _priority(ionice: str, task: Path) -> tuple[int, str] | None:
    """Return the niceness and the I/O class of a thread; None for one that has ended."""
    try:
        niceness = int((task / "stat").read_text().rpartition(")")[2].split()[16])
        said = subprocess.run([ionice, "-p", task.name], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        if task.exists():
            raise
        return None
    return niceness, said.strip()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_nice_run_and_what_it_starts_let_others_go_first(vault: Vault, how: str) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(photo=site_factory.noise(SIZE, 3))
    option, variables = (["--nice"], {}) if how == "option" else ([], {"ZODB_VAULT_LIMITS_NICE": "true"})
    arguments = command(*vault.options, "create", "--limit-rate", "500k", *option)
    child = subprocess.Popen(
        arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(**variables)
    )
    try:
        end = time.monotonic() + DEADLINE
        ionice = shutil.which("ionice")
        assert ionice
        while len(threads := sorted(os.listdir(f"/proc/{child.pid}/task"), key=int)) < 3 or not any(
            vault.repository.glob("objects/*/*")
        ):
            assert child.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        asked = threads[:1] + threads[2:]  # the second one listens for signals, and was there before
        answers = [_priority(ionice, Path(f"/proc/{child.pid}/task/{thread}")) for thread in asked]
        assert answers[0] and set(answers) <= {(19, "idle"), None}
    finally:
        child.kill()
        child.wait()
