"""U12, P6: what an installation brings, and what each message says to install next."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest
from command_line import Vault

from zodb_vault.model import requirements
from zodb_vault.operations.doctor.packages import check_package
from zodb_vault.strategies.pgjsonb.backend import PGJSONB
from zodb_vault.strategies.postgres.requirements import PSYCOPG2

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ("setup.cfg", "pyproject.toml", "README.rst", "CHANGES.rst", "LICENSE", "COPYRIGHT")
BUILD: Final = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
PGJSONB_SITE: Final = (
    "<zodb_db main>\nmount-point /\n<pgjsonb>\ndsn dbname=zodb host=/nowhere\n</pgjsonb>\n</zodb_db>\n"
)


def test_u12_the_wheel_has_the_templates(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, clone / name)
    for name in ("src", "templates"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=clone, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.rpartition("/")[2] for name in names if "/data/share/zodb-vault/templates/" in name}
    assert inside == set(os.listdir(ROOT / "templates"))


def test_u12_the_readme_says_what_each_target_does_to_the_machine() -> None:
    readme = (ROOT / "README.rst").read_text()
    for target in ("demo", "test", "bench", "lint", "docs", "clean"):
        assert f"\n``make {target}``" in readme
    script = (ROOT / "scripts" / "debian-packages.sh").read_text()
    needed = [line.split() for line in script.splitlines() if line.startswith("bench ")]
    assert all(f"``{package}``" in readme for _, _, package in needed)
    assert "apt-get install python3-venv" in readme


def test_u12_doctor_says_that_an_extra_installs_nothing_on_this_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requirements.sys, "version_info", (3, 11, 2, "final", 0))
    check = check_package(PGJSONB)
    assert (check.ok, check.message) == (False, "needs Python 3.12, this is 3.11")
    assert check.hint == (
        "'zodb-vault[pgjsonb]' does not install it on Python 3.11: use Python 3.12 or later: "
        "python3.12 -m venv ENV && ENV/bin/pip install 'zodb-vault[pgjsonb]'"
    )


def test_p6_no_extra_forces_a_driver_over_the_installed_one() -> None:
    setup = configparser.ConfigParser(comment_prefixes=("#",))
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    forcing = [name for name, wanted in extras.items() if "psycopg2" in wanted and name != "test"]
    assert forcing == []
    assert "relstorage" in extras["all"]


def test_p6_either_driver_serves_and_messages_name_both(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(PSYCOPG2.distributions) == {"psycopg2-binary", "psycopg2"}
    assert check_package(PSYCOPG2).ok
    conf = vault.directory / "zope.conf"
    conf.write_text(PGJSONB_SITE)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    check = check_package(PSYCOPG2)
    assert not check.ok
    hint = check.hint or ""
    assert "-m pip install 'psycopg2-binary>=2.8' (psycopg2 serves as well; install only one" in hint
    outcome = vault.bare("--repository", vault.repository, "--zope-conf", conf, "create")
    assert outcome.status == 2
    assert "PostgreSQL needs psycopg2-binary or psycopg2" in outcome.err
    assert "'psycopg2-binary>=2.8' (psycopg2 serves as well" in outcome.err
    assert "relstorage" not in outcome.err
