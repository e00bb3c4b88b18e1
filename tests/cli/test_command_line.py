"""What all commands have in common: pipes, terminals, signals, two at once, mistypings, the start."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import site_factory
from command_line import DEADLINE, Vault, command, environment, on_terminal, process, stored

from zodb_vault import __version__
from zodb_vault.cli.main import COMMANDS, cli

HERE = Path(__file__).parent
HEAVY = ("ZODB", "ZConfig", "rich", "BTrees", "transaction", "persistent", "ZEO", "sqlite3", "asyncio")


def all_commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        one = cli.get_command(click.Context(cli), name)
        assert one is not None
        found[name] = one
        if isinstance(one, click.Group):
            found |= {f"{name} {inner}": command for inner, command in one.commands.items()}
    return found


def own_options(one: click.Command) -> set[str]:
    """Return the options that only this command has."""
    return {
        name
        for option in one.params
        if isinstance(option, click.Option) and option.expose_value
        for name in option.opts + option.secondary_opts
    }


@pytest.mark.parametrize("name", sorted(all_commands()))
def test_every_option_of_a_command_is_used_in_some_test_of_it(name: str) -> None:
    sources = [path.read_text() for path in HERE.parent.rglob("test_*.py")]
    source = "".join(text for text in sources if f'"{name.split()[0]}"' in text)
    unused = {
        option
        for option in own_options(all_commands()[name])
        if f'"{option}"' not in source and f"'{option}'" not in source
    }
    assert not unused, f"no test of {name} uses {sorted(unused)}"


def test_options_before_and_after_the_name_are_the_same_everywhere(stocked: Vault) -> None:
    for arguments in (["list"], ["show"], ["log"], ["plan"], ["repository", "info"]):
        before = stocked.bare(*stocked.options, *arguments, "--json")
        after = stocked.bare(*arguments, "--json", *stocked.options)
        assert (before.status, after.status) == (0, 0)
        assert before.document == after.document


def test_reading_commands_print_their_data_also_when_quiet(stocked: Vault) -> None:
    for arguments in (["list"], ["show"], ["log"], ["plan"], ["repository", "info"]):
        outcome = stocked(*arguments, "-q")
        assert outcome.status == 0
        assert outcome.out
        assert outcome.err == ""
        assert stocked(*arguments, "--json", "-q").document


def test_a_mistyped_option_or_command_is_answered_with_what_was_likely_meant(vault: Vault) -> None:
    option = vault("create", "--skip-unchagned", "--json")
    assert (option.status, option.error["kind"]) == (2, "usage")
    assert "--skip-unchanged" in option.error["message"]
    mistyped = vault.bare("craete", "--json")
    assert mistyped.status == 2
    assert "did you mean create?" in mistyped.error["message"]
    nonsense = vault.bare("xyzzy")
    assert nonsense.status == 2
    assert "verify" in nonsense.err
    assert "did you mean info?" in vault.bare("repository", "inof").err


def test_without_a_command_the_help_is_shown_as_it_is(vault: Vault) -> None:
    outcome = vault.bare()
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: zodb-vault [OPTIONS] COMMAND")
    asked = vault.bare("--help")
    assert (asked.status, asked.err) == (0, "")
    assert "130 interrupted" in asked.out


@pytest.mark.parametrize("group", [(), ("repository",)])
def test_the_help_says_in_whole_sentences_what_each_command_does(
    vault: Vault, group: tuple[str, ...]
) -> None:
    shown = vault.bare(*group, "--help").out
    assert "..." not in shown.partition("Commands:")[2]


def test_the_choices_of_a_missing_argument_are_on_one_line(vault: Vault) -> None:
    first = vault.bare("completion").err.splitlines()[0]
    assert first.endswith("Choose from: bash, zsh, fish")


def test_version_is_that_of_the_package() -> None:
    assert process("--version") == (0, f"zodb-vault {__version__}\n", "")


def test_a_reader_that_goes_away_is_no_traceback(stocked: Vault) -> None:
    for arguments in (["list", "--json"], ["log"], ["show", "--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        outcome = process(
            *stocked.options, *arguments, stdout=writer, stderr=subprocess.PIPE, capture_output=False
        )
        os.close(writer)
        assert (outcome.status, outcome.err) == (1, "")
    shell = f"{shlex.join(map(os.fsdecode, command('list', '--json', *stocked.options)))} | head -n 1"
    done = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, check=False, env=environment(), timeout=DEADLINE
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_output_that_cannot_be_written_is_an_error(stocked: Vault) -> None:
    with open("/dev/full", "wb") as full:
        outcome = process(*stocked.options, "list", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert outcome.status == 1
    assert "No space left on device (standard output)" in outcome.err
    assert "Exception" not in outcome.err


@pytest.mark.parametrize("how", ["2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_what_cannot_be_said_on_standard_error_ends_nothing(stocked: Vault, tmp_path: Path, how: str) -> None:
    output = tmp_path / "restored"
    for arguments in (["create"], ["restore", "--yes", "--output", output]):
        line = shlex.join(map(os.fsdecode, command(*stocked.options, *arguments)))
        assert (
            subprocess.run(
                ["sh", "-c", f"{line} {how}"], check=False, env=environment(), timeout=DEADLINE
            ).returncode
            == 0
        )
    assert (output / "Data.fs").read_bytes() == stocked.files.data_fs.read_bytes()
    assert len(stocked.done("list", "--json").document["backups"]) == 3


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    script = (
        "import os; from zodb_vault.cli.streams import prepare; prepare(); fd = os.open('.', os.O_RDONLY);"
        "os.write(1, b'lost'); os.write(2, b'lost'); os._exit(fd)"
    )
    line = shlex.join([sys.executable, "-c", script])
    done = subprocess.run(
        ["sh", "-c", f"{line} <&- >&- 2>&-"], check=False, env=environment(), timeout=DEADLINE
    )
    assert done.returncode > 2


def test_names_are_the_same_in_every_locale(stocked: Vault) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert stocked.process("create", "--name", "café ☃", env=plain).status == 0
    assert stocked.done("list", "--json").document["backups"][0]["name"] == "café ☃"
    assert stocked.process("show", "café ☃", env=plain).status == 0
    assert stocked.process("list", env={"PYTHONIOENCODING": "latin-1"}).status == 0


def test_closed_standard_streams_are_no_mistake_of_ours(stocked: Vault) -> None:
    line = shlex.join(map(os.fsdecode, command(*stocked.options, "create")))
    done = subprocess.run(
        ["sh", "-c", f"{line} <&- >&-"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment(),
        timeout=DEADLINE,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("backup 2")
    assert "error" not in done.stderr


def test_errors_as_json_are_one_document_on_standard_error(vault: Vault) -> None:
    for arguments, code in (
        (["show", "x"], 13),
        (["list", "--nonsense"], 2),
        (["show", "--repository", "nowhere"], 10),
    ):
        outcome = vault(*arguments, "--json")
        assert (outcome.status, outcome.out) == (code, "")
        assert sorted(json.loads(outcome.err)) == ["error"]
        assert sorted(outcome.error) == ["code", "hint", "kind", "message"]
        assert outcome.error["code"] == code


def test_a_mistake_of_ours_is_said_as_such_without_the_values_it_holds(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "geheim"

    def broken(*_arguments: object) -> None:
        raise ValueError(secret)

    monkeypatch.setattr("zodb_vault.cli.list_.raw_size", broken)
    vault.make()
    for arguments in (["list"], ["list", "--json"], ["list", "-v"]):
        outcome = vault(*arguments)
        assert outcome.status == 1
        assert "internal error: ValueError in broken" in outcome.err
        assert "please report it" in outcome.err
        assert "geheim" not in outcome.err
    assert "list_.py" in vault("list", "-v").err


# Progress


@pytest.fixture
def large(vault: Vault) -> Vault:
    vault.files = site_factory.big_transaction(vault.directory / "large", size=48_000_000, record=1_000_000)
    return vault


def test_a_bar_with_rate_and_remaining_time_on_a_terminal_and_the_document_where_it_was_sent(
    large: Vault, tmp_path: Path
) -> None:
    terminal = on_terminal(*large.options, "create", "--json", out=tmp_path / "out.json")
    assert terminal.status == 0
    assert json.loads(terminal.out)["databases"][0]["transactions"] == 3
    assert '"id"' not in terminal.screen
    assert "storage" in terminal.screen
    assert "B/s" in terminal.screen
    assert "0:00:0" in terminal.screen


def test_long_lines_reach_a_file_unbroken_and_errors_the_terminal(vault: Vault, tmp_path: Path) -> None:
    vault.make("--note", "word " * 200)
    terminal = on_terminal(*vault.options, "verify", "--json", out=tmp_path / "out.json")
    assert (terminal.status, json.loads(terminal.out)["ok"]) == (0, True)
    missing = on_terminal(*vault.options, "create", "--data-fs", tmp_path / "nothing")
    assert missing.status == 1
    assert "does not exist" in missing.screen


def test_no_bar_without_a_terminal_and_none_when_quiet(large: Vault) -> None:
    outcome = large.process("create")
    assert outcome.status == 0
    assert outcome.err.splitlines() == [f"backup {outcome.out.split()[0]}"]
    assert "\x1b" not in outcome.err + outcome.out
    assert on_terminal(*large.options, "create", "-q").screen == ""


def test_on_a_terminal_a_backup_is_on_demand(vault: Vault) -> None:
    on_terminal(*vault.options, "create")
    assert vault.done("list", "--json").document["backups"][0]["trigger"] == "on-demand"


# Signals, two at once


def begun(vault: Vault) -> subprocess.Popen[bytes]:
    """Start a create that takes a while, and return it when its marker exists."""
    child = subprocess.Popen(
        command(*vault.options, "create", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    end = time.monotonic() + DEADLINE
    while not (vault.repository / "sites" / "default" / "running" / "create.json").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_create_with_130_and_the_next_one_succeeds(
    large: Vault, number: signal.Signals
) -> None:
    child = begun(large)
    child.send_signal(number)
    out, err = child.communicate(timeout=DEADLINE)
    assert (child.returncode, out) == (130, b"")
    error = json.loads(err.splitlines()[-1])["error"]
    assert (error["code"], error["kind"]) == (130, "interrupted")
    assert b"Traceback" not in err
    assert "backups" not in {path.name for path in (large.repository / "sites" / "default").iterdir()}
    large.make()
    large.done("verify")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_code_is_read_is_an_interruption_without_a_traceback(
    number: signal.Signals,
) -> None:
    script = f"""
import os, sys
class Interrupting:
    def find_spec(name, *_):
        if name == "zodb_vault.cli.output":
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Interrupting)
from zodb_vault.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_when_all_is_done_changes_nothing_any_more(number: signal.Signals) -> None:
    script = f"""
import atexit, os
from zodb_vault.cli import main
main.run = lambda: 3
atexit.register(lambda: os.kill(os.getpid(), {int(number)}))
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_a_run_under_nohup_outlives_its_terminal(large: Vault) -> None:
    line = shlex.join(map(os.fsdecode, command(*large.options, "create")))
    child = subprocess.Popen(
        ["nohup", "sh", "-c", f"kill -HUP $$; exec {line}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    while (
        not (large.repository / "sites" / "default" / "running" / "create.json").exists()
        and child.poll() is None
    ):
        time.sleep(0.005)
    child.send_signal(signal.SIGHUP)
    child.communicate(timeout=DEADLINE)
    assert child.returncode == 0


def test_a_second_create_is_refused_with_the_status_11_while_the_first_runs(large: Vault) -> None:
    child = begun(large)
    child.send_signal(signal.SIGSTOP)
    try:
        before = stored(large.repository)
        second = large("create", "--json")
        assert (second.status, second.error["kind"], second.out) == (11, "in-use", "")
        assert str(child.pid) in second.error["message"]
        assert second.error["hint"]
        assert stored(large.repository) == before
        assert [row["status"] for row in large.done("list", "--json").document["backups"]] == ["creating"]
    finally:
        child.send_signal(signal.SIGCONT)
        out, err = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, err
    assert [row["id"] for row in large.done("list", "--json").document["backups"]] == [json.loads(out)["id"]]


def test_a_create_that_was_killed_is_listed_as_failed_and_the_next_one_succeeds(large: Vault) -> None:
    child = begun(large)
    child.kill()
    child.communicate(timeout=DEADLINE)
    assert [row["status"] for row in large.done("list", "--json").document["backups"]] == ["failed"]
    made = large.make()
    assert [row["id"] for row in large.done("list", "--json").document["backups"]] == [made]


# The start


def imported_by(*arguments: object) -> set[str]:
    """Return the top-level modules that a command has imported."""
    script = (
        "import sys\nfrom zodb_vault.cli.main import run\nrun(sys.argv[1:])\n"
        "print('|', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        timeout=DEADLINE,
    )
    return set(done.stdout.rpartition("|")[2].split())


def test_the_version_imports_next_to_nothing() -> None:
    assert imported_by("--version") & {*HEAVY, "zstandard", "zoneinfo"} == set()


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["show"]])
def test_looking_at_backups_imports_no_storage_and_no_bar(stocked: Vault, arguments: list[str]) -> None:
    assert imported_by(*stocked.options, *arguments) & set(HEAVY) == set()


def test_a_create_without_a_terminal_imports_no_bar_and_no_database(stocked: Vault) -> None:
    assert imported_by(*stocked.options, "create") & {"rich", "ZODB", "BTrees", "ZEO", "asyncio"} == set()


def test_these_tests_have_a_file_for_every_command() -> None:
    assert {f"test_{name}.py" for name in COMMANDS} <= {path.name for path in HERE.iterdir()}
    assert inspect.getdoc(cli)
