"""U11: progress with totals, tables that fit the terminal, and colours for states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import site_factory
from command_line import Terminal, Vault, environment, flip, on_terminal, process
from filestorage_vault import Quiet

from zodb_vault.operations.verify import load

COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
RED: Final = "\x1b[31m\x1b[1m"
YELLOW: Final = "\x1b[33m\x1b[1m"


@pytest.fixture
def stocked(vault: Vault) -> Vault:
    """Return a site with blobs and objects, and a backup of a long name."""
    with site_factory.Site(vault.files.data_fs.parent) as site:
        for n in range(3):
            site.put(**{f"blob{n}": b"x" * 100_000})
        site.put(**{f"object{n}": str(n) for n in range(150)})
    vault.make("--name", "before the upgrade of the shop to version six")
    return vault


def shown(terminal: Terminal) -> list[str]:
    """Return the lines on the screen without colours."""
    return [COLOUR.sub("", line.rstrip("\r")) for line in terminal.screen.split("\n") if line.strip()]


def test_u11_blobs_and_objects_have_totals_rate_and_time_left(vault: Vault) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        for n in range(3):
            site.put(**{f"blob{n}": b"x" * 100_000})
    made = COLOUR.sub("", on_terminal(*vault.options, "create").screen)
    assert re.search(r"blobs .*\d/\d+ blobs .*-:--:--|blobs .*\d/\d+ blobs .*\d:\d\d:\d\d", made)
    proven = COLOUR.sub("", on_terminal(*vault.options, "verify", "--level", "restore").screen)
    assert re.search(r"objects .*\d+/\d+ objects .*[-\d]:[-\d]{2}:[-\d]{2}", proven)


class Recorded(Quiet):
    """Records totals and how far each phase came."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.done, self.unit = 0, 0, ""

    def expect(self, total: int, unit: str) -> None:
        self.total, self.done, self.unit = total, 0, unit

    def advance(self, count: int) -> None:
        self.done += count


def test_u11_the_process_that_loads_the_objects_reports_how_far_it_is(vault: Vault) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        site.put(**{f"object{n}": str(n) for n in range(250)})
    progress = Recorded()
    loaded = load.load_data_fs(vault.files.data_fs, vault.files.blob_dir, progress)
    assert (progress.total, progress.unit) == (loaded.objects + loaded.undone, "objects")
    assert progress.total - 100 < progress.done <= progress.total
    assert progress.done > 0


@pytest.mark.parametrize("command", [["list"], ["log"], ["doctor"], ["prune", "--dry-run"]])
def test_u11_lines_fit_a_terminal_of_80_columns(stocked: Vault, command: list[str]) -> None:
    narrow = on_terminal(*stocked.options, *command, COLUMNS="80")
    lines = shown(narrow)
    assert lines
    paths = str(stocked.directory)
    assert [line for line in lines if len(line) > 80 and paths not in line and "->" not in line] == []
    if command == ["list"]:
        assert lines[0].split() == ["ID", "NAME", "CREATED", "SIZE", "STATUS", "VERIFIED"]
        assert "before the u..." in lines[1]
    wide = stocked.process(*command)
    assert "before the upgrade of the shop to version six" in wide.out or command != ["list"]
    if command in (["list"], ["log"]):
        assert any(len(line) > 80 for line in wide.out.splitlines())


def test_u11_states_are_coloured_on_a_terminal_only(stocked: Vault, tmp_path: Path) -> None:
    part = max(
        (path for path in (stocked.repository / "objects").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    flip(part)
    verify: list[Any] = [*stocked.options, "verify", "--level", "bytes"]
    assert f"{RED}DAMAGED" in on_terminal(*verify).screen
    assert f"{RED}damaged" in on_terminal(*stocked.options, "list").screen
    assert RED not in on_terminal(*verify, NO_COLOR="1").screen
    assert RED not in on_terminal(*verify, TERM="dumb").screen
    for arguments in (verify, [*verify, "--json"], [*stocked.options, "list"]):
        assert "\x1b" not in process(*arguments, env=environment()).out
    assert "\x1b" not in on_terminal(*verify, "--json", out=tmp_path / "out.json").out
    stocked.files.data_fs.unlink()
    assert f"{RED}FAILED" in on_terminal(*stocked.options, "doctor").screen


def test_u11_an_incomplete_backup_is_coloured(vault: Vault) -> None:
    with site_factory.Site(vault.files.data_fs.parent) as site:
        for n in range(30):
            site.put(**{f"blob{n}": b"x"})
    lost = next(path for path in sorted(vault.files.blob_dir.rglob("*.blob")))
    lost.unlink()
    assert f"{YELLOW}incomplete" in on_terminal(*vault.options, "create").screen
