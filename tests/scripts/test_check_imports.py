"""``scripts/check_imports.py``, run on packages that are made for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import check_imports
import pytest


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write a package ``shop`` with these files; return the directory that holds ``src`` and ``tests``."""
    for name, text in {"src/shop/__init__.py": "", "tests/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def problems(root: Path, files: Mapping[str, str]) -> list[str]:
    return check_imports.problems(write(root, files), "shop")


def test_a_package_without_circles_and_private_imports_is_fine(tmp_path: Path) -> None:
    files = {
        "src/shop/till.py": "from .prices import price\nfrom ._vendored import name\nfrom os import _exit\n",
        "src/shop/prices.py": "from __future__ import annotations\nfrom . import __version__\nimport shop\n",
        "src/shop/_vendored.py": "",
        "tests/test_till.py": "from shop.till import price\nfrom os import _exit\n",
    }
    assert problems(tmp_path, files) == []


@pytest.mark.parametrize(
    "text",
    [
        "from .till import sell",
        "from . import till",
        "import shop.till",
        "from shop.till import sell",
        "def price():\n    from .till import sell",
        "import typing\nif typing.TYPE_CHECKING:\n    from .till import sell",
    ],
)
def test_two_modules_that_import_each_other_are_found(tmp_path: Path, text: str) -> None:
    files = {"src/shop/till.py": "from .prices import price\n", "src/shop/prices.py": f"{text}\n"}
    assert problems(tmp_path, files) == ["circle of imports: shop.prices, shop.till"]


def test_a_circle_around_three_modules_of_two_folders_is_found(tmp_path: Path) -> None:
    files = {
        "src/shop/till.py": "from .stock.shelves import shelf\n",
        "src/shop/stock/__init__.py": "def stock():\n    from ..till import sell\n",
        "src/shop/stock/shelves.py": "from . import stock\n",
        "src/shop/front.py": "from .till import sell\n",
    }
    assert problems(tmp_path, files) == [
        "circle of imports: shop.stock, shop.stock.shelves, shop.till",
    ]


@pytest.mark.parametrize(
    "text", ["from .till import _sell", "def price():\n    from shop.till import a, _sell"]
)
def test_a_private_name_imported_from_another_module_is_found(tmp_path: Path, text: str) -> None:
    files = {"src/shop/till.py": "def _sell(): ...\n", "src/shop/prices.py": f"{text}\n"}
    line = text.count("\n") + 1
    assert problems(tmp_path, files) == [f"private name imported: src/shop/prices.py:{line}: _sell"]


def test_a_private_name_imported_by_a_test_is_found(tmp_path: Path) -> None:
    files = {"src/shop/till.py": "", "tests/till/test_till.py": "\nfrom shop.till import _sell, sell\n"}
    assert problems(tmp_path, files) == ["private name imported: tests/till/test_till.py:2: _sell"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('setattr(till, "_sell", None)', "_sell"),
        ('patch.setattr(till.Till, "_sell", None)', "_sell"),
        ('patch.setattr("shop.till.Till._sell", None)', "shop.till.Till._sell"),
        ('real = getattr(till, "_sell")', "_sell"),
    ],
)
def test_a_private_name_that_is_reached_by_its_text_is_found(tmp_path: Path, text: str, name: str) -> None:
    files = {"src/shop/till.py": "", "tests/test_till.py": f"from shop import till\n{text}\n"}
    assert problems(tmp_path, files) == [f"private name reached by its text: tests/test_till.py:2: {name}"]


@pytest.mark.parametrize(
    "text",
    [
        'setattr(till, "sell", None)',
        'patch.setattr(till.Till, "__init__", None)',
        'patch.setattr("shop._vendored.name", None)',
        'patch.setattr("os._exit", None)',
        'getattr(options, name, "_none")',
        'sell(till, "_sell")',
    ],
)
def test_public_names_and_other_texts_are_fine(tmp_path: Path, text: str) -> None:
    files = {"src/shop/till.py": "", "tests/test_till.py": f"from shop import till\n{text}\n"}
    assert problems(tmp_path, files) == []


def test_main_prints_what_it_finds_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_imports, "PACKAGE", "shop")
    monkeypatch.setattr(check_imports, "ROOT", write(tmp_path, {}))
    assert check_imports.main() == 0
    assert "no circle" in capsys.readouterr().out
    write(tmp_path, {"tests/test_till.py": "from shop.till import _sell\n"})
    assert check_imports.main() == 1
    assert capsys.readouterr().out == "private name imported: tests/test_till.py:1: _sell\n"
