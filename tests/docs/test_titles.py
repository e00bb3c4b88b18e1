"""U14: pages have the field's words as titles, and the pages that a user looks for first exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from zodb_vault.errors import ExitCode, VaultError

DOCS: Final = Path(__file__).parents[2] / "docs"
TITLES: Final = {
    "tutorials/install": "Installation",
    "how-to/troubleshooting": "Troubleshooting",
    "how-to/server-is-gone": "The server is gone",
    "how-to/retention": "Retention and pruning",
    "how-to/copies": "Off-site copies",
    "how-to/choose": "Backup methods",
    "how-to/damage": "Damaged backups: repair and salvage",
    "how-to/encryption": "Encryption and signatures",
}
# A sentence instead of the word that a user looks for.
SENTENCE: Final = re.compile(r"^(Decide|When|How|Support|Choose|What|Copies in)\b")


def title_of(page: Path) -> str:
    lines = page.read_text().splitlines()
    return lines[1] if lines[0].startswith("===") else lines[0]


def test_u14_pages_are_titled_with_the_words_of_the_field() -> None:
    assert {name: title_of(DOCS / f"{name}.rst") for name in TITLES} == TITLES
    for folder in ("tutorials", "how-to", "reference", "explanation"):
        for page in (DOCS / folder).glob("*.rst"):
            assert not SENTENCE.match(title_of(page)), page
            assert f"{folder}/{page.stem}" in (DOCS / "index.rst").read_text()


def kinds(root: type[VaultError] = VaultError) -> set[str]:
    """Return the kinds of all errors."""
    return {root.kind}.union(*map(kinds, root.__subclasses__()))


def test_u14_troubleshooting_has_every_kind_of_error_and_every_exit_code() -> None:
    page = (DOCS / "how-to" / "troubleshooting.rst").read_text()
    assert {kind for kind in kinds() if f"``{kind}``" not in page} == set()
    numbers = {int(number) for number in re.findall(r"\b\d+\b", page)}
    assert {code for code in ExitCode if code and code not in numbers} == set()


def test_u14_code_blocks_are_not_cut_and_have_a_button() -> None:
    conf = (DOCS / "conf.py").read_text()
    assert '"sphinx_copybutton"' in conf
    assert 'html_css_files = ["code.css"]' in conf
    assert "white-space: pre-wrap" in (DOCS / "_static" / "code.css").read_text()
    assert "sphinx-copybutton" in (DOCS.parent / "setup.cfg").read_text()


def test_u14_decisions_are_left_out_of_the_search(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    assert 'unsearched_folders = ["decisions"]' in (DOCS / "conf.py").read_text()
    (tmp_path / "decisions").mkdir()
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\nextensions = ['unsearched']\n"
        "unsearched_folders = ['decisions']\n"
    )
    (tmp_path / "index.rst").write_text(
        "Retention\n=========\n\nlighthouse\n\n.. toctree::\n\n   other <decisions/one>\n"
    )
    (tmp_path / "decisions" / "one.rst").write_text("Walruses\n========\n\nzeppelin\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    found = (tmp_path / "out" / "searchindex.js").read_text()
    assert "lighthous" in found
    assert "zeppelin" not in found
    assert "walrus" not in found
