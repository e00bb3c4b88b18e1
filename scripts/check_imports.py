"""Check what import-linter does not: no circle of modules, and no private name imported from another module.

Imports inside functions count as well. They hide a circle from Python, not from whoever reads the code.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp

PACKAGE = "zodb_vault"
SOURCE = Path(__file__).parent.parent / "src"


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or around (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in graph.find_modules_directly_imported_by(module):
            if imported not in order:
                visit(imported)
            if imported in stack:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == order[module]:
            position = stack.index(module)
            group, stack[position:] = stack[position:], []
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph.modules):
        if module not in order:
            visit(module)
    return found


def private_imports(folder: Path) -> list[str]:
    """Return each import of a name with a leading underscore from another module, as ``file:line: name``."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or (not node.level and not _is_ours(node.module)):
                continue
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    found.append(f"{path.relative_to(folder.parent)}:{node.lineno}: {alias.name}")
    return found


def _is_ours(module: str | None) -> bool:
    return module == PACKAGE or (module or "").startswith(f"{PACKAGE}.")


def main() -> int:
    """Print what is wrong; return the exit status."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    problems = [f"circle of imports: {', '.join(group)}" for group in circles(graph)]
    private = [*private_imports(SOURCE), *private_imports(SOURCE.parent / "tests")]
    problems += [f"private name imported from another module: {one}" for one in private]
    print("\n".join(problems) or "no circle of imports, no private name imported")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
