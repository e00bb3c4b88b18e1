"""With any zope.conf, every command ends with a documented exit status and prints no secret."""

from __future__ import annotations

import io
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hostile_configurations import DAMAGED, LINES, REAL, SECRET, WELL_FORMED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zodb_vault.cli.main import run
from zodb_vault.operations.doctor import packages
from zodb_vault.strategies.sql import probe

PLANS = [["plan"], ["plan", "-v"], ["plan", "--json"], ["plan", "-q", "--full"]]
CONVERT = ["convert", "config", "--force"]
OTHERS = [
    ["create"],
    ["create", "-v", "--json"],
    [*CONVERT, "--export"],
    [*CONVERT, "--import", "-v", "--json"],
]
CHECKS = [["doctor"], ["doctor", "-v"], ["doctor", "--json"], ["doctor", "-q"]]
OFTEN = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SELDOM = settings(OFTEN, max_examples=40)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no name server, and run no tool a thousand times: what they answer is looked at elsewhere."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    monkeypatch.setattr(packages, "check_tool", lambda names: iter(()))
    monkeypatch.setenv("HOME", "/home/nobody")
    monkeypatch.setenv("STAGE", "live")
    assert probe.CONNECT_SECONDS


def said(arguments: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(arguments)
    return status, out.getvalue() + err.getvalue()


def harmless(directory: Path, text: str, arguments: list[str]) -> None:
    """Run a command with a configuration, and look at how it ends and at all it says."""
    conf = directory / "zope.conf"
    conf.write_bytes(text.encode("utf-8", "surrogatepass"))
    for name, content in REAL.items():
        if name in ("main.conf", "storages.conf"):
            (directory / "included").mkdir(exist_ok=True)
            (directory / "included" / name).write_text(content)
    repository = ["--repository", str(directory / "repository")]
    if not (directory / "repository").exists():
        assert said(["repository", "init", *repository])[0] == 0
    status, printed = said([*arguments, "--zope-conf", str(conf), *repository])
    assert status in (0, 1, 2), printed
    assert status != 1 or arguments[0] != "plan", printed
    assert SECRET not in printed.lower()
    assert "internal error" not in printed
    assert "mistake in zodb-vault" not in printed
    assert "Traceback" not in printed
    shutil.rmtree("converted", ignore_errors=True)


@given(DAMAGED, st.sampled_from(PLANS))
@OFTEN
def test_damaged_configurations_and_plan(tmp_path: Path, text: str, arguments: list[str]) -> None:
    harmless(tmp_path, text, arguments)


@given(DAMAGED, st.sampled_from(OTHERS))
@OFTEN
def test_damaged_configurations_and_what_writes(tmp_path: Path, text: str, arguments: list[str]) -> None:
    harmless(tmp_path, text, arguments)


@given(DAMAGED, st.sampled_from(CHECKS))
@SELDOM
def test_damaged_configurations_and_doctor(tmp_path: Path, text: str, arguments: list[str]) -> None:
    harmless(tmp_path, text, arguments)


@given(
    st.one_of(st.lists(LINES, max_size=25), WELL_FORMED).map("\n".join), st.sampled_from([*PLANS, *OTHERS])
)
@OFTEN
def test_made_up_configurations(tmp_path: Path, text: str, arguments: list[str]) -> None:
    harmless(tmp_path, text, arguments)


@given(
    st.one_of(st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")), st.text(max_size=80)),
    st.sampled_from([["plan"], ["doctor"]]),
)
@SELDOM
def test_what_is_no_configuration(tmp_path: Path, text: str, arguments: list[str]) -> None:
    harmless(tmp_path, text, arguments)


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_command_with_every_configuration_as_it_is(tmp_path: Path, name: str) -> None:
    for arguments in [*PLANS, *OTHERS, CHECKS[1]]:
        harmless(tmp_path, REAL[name], arguments)
