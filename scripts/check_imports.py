"""Check what import-linter does not: no circle of modules, and no private name used from another module.

Imports inside functions count as well. They hide a circle from Python, but not from a reader of the code.
Ruff finds ``module._name`` (SLF001); this finds the text in ``setattr(module, "_name", ...)``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

PACKAGE: Final = "zodb_vault"
ROOT: Final = Path(__file__).parent.parent
BY_TEXT: Final = {"getattr", "setattr", "hasattr", "delattr"}
PRIVATE: Final = re.compile(r"_(?!_)\w+")


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def import_graph(source: Path, package: str) -> dict[str, set[str]]:
    """Return for each module of a package the modules of it that it imports, anywhere in its text."""
    paths = {}
    for path in sorted((source / package).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {module: set(_imports(module, path, paths)) - {module} for module, path in paths.items()}


def _imports(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Yield the imports of a module; ``from package import name`` imports the module of that name, if any."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, path, node)
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                if name in known:
                    yield name
                elif origin in known:
                    yield origin


def _origin(module: str, path: Path, node: ast.ImportFrom) -> str:
    """Return the absolute name behind the ``from`` of an import."""
    if not node.level:
        return node.module or ""
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others.

    These are the strongly connected components of the graph, found by Tarjan's algorithm.
    """
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(graph[module]):
            if imported not in order:
                visit(imported)
            if imported in stack:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == order[module]:
            position = stack.index(module)
            group, stack[position:] = stack[position:], []
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def private_imports(folder: Path, package: str) -> list[str]:
    """Return each import of a private name out of a module of the package, as ``file:line: name``."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.ImportFrom) or not (node.level or _is_in(node.module, package)):
                continue
            names = [alias.name for alias in node.names if PRIVATE.fullmatch(alias.name)]
            found += [f"{path.relative_to(folder.parent)}:{node.lineno}: {name}" for name in names]
    return found


def private_texts(folder: Path, package: str) -> list[str]:
    """Return each private name that is reached by its text, as ``file:line: name``.

    That is the second argument of ``setattr`` and its like, and a dotted name below the package.
    """
    dotted = re.compile(rf"{package}\.[\w.]*\b_(?!_)\w+")
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call) or _called(node) not in BY_TEXT:
                continue
            texts = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
            names = [one for one in texts if isinstance(one, str)]
            names = [one for one in names if PRIVATE.fullmatch(one) or dotted.fullmatch(one)]
            found += [f"{path.relative_to(folder.parent)}:{node.lineno}: {name}" for name in names]
    return found


def _called(node: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_in(module: str | None, package: str) -> bool:
    return module == package or (module or "").startswith(f"{package}.")


def problems(root: Path, package: str) -> list[str]:
    """Return what is wrong in the package in ``src`` and in ``tests`` beside it, one line each."""
    source, tests = root / "src", root / "tests"
    found = [f"circle of imports: {', '.join(group)}" for group in circles(import_graph(source, package))]
    for folder in (source, tests):
        found += [f"private name imported: {one}" for one in private_imports(folder, package)]
        found += [f"private name reached by its text: {one}" for one in private_texts(folder, package)]
    return found


def main() -> int:
    """Print what is wrong; return the exit status."""
    found = problems(ROOT, PACKAGE)
    print("\n".join(found) or "no circle of imports, no private name used elsewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
