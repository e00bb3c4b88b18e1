"""Directives that print the exit codes and the error kinds as the program has them.

``error-kinds`` is made from the exception tree alone. ``exit-codes`` takes its texts from the page, one
``CODE: text`` a line, and fails the build when the page and ``ExitCode`` do not have the same codes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from zodb_vault.errors import ExitCode, VaultError


def error_classes(root: type[VaultError] = VaultError) -> Iterator[type[VaultError]]:
    """Yield the class and everything derived from it, depth first."""
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


class TableDirective(SphinxDirective):
    """A directive that produces one table from rows of reStructuredText."""

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
    ) -> nodes.table:
        """Return a table with one header row."""
        group = nodes.tgroup(cols=len(header))
        group += [nodes.colspec(colwidth=width) for width in widths]
        group += nodes.thead("", self.row(header))
        group += nodes.tbody("", *(self.row(row) for row in rows))
        return nodes.table("", group)

    def row(self, cells: Sequence[str]) -> nodes.row:
        """Return one row, each cell a paragraph of inline markup."""
        return nodes.row(
            "", *(nodes.entry("", nodes.paragraph(cell, "", *self.parse_inline(cell)[0])) for cell in cells)
        )


class ErrorKinds(TableDirective):
    """Every kind of error, with its exit code and the first line of its class."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [
            (f"``{error.kind}``", str(error.exit_code), (error.__doc__ or "").partition("\n")[0])
            for error in error_classes()
        ]
        return [self.table(("Kind", "Exit code", "Meaning"), rows, (22, 10, 68))]


class ExitCodes(TableDirective):
    """The exit codes with the texts of the page, checked against ``ExitCode``."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [
            (code.strip(), text.strip())
            for code, _, text in (line.partition(":") for line in self.content if line.strip())
        ]
        named = {int(code) for code, _ in rows}
        real = set(ExitCode)
        if named != real:
            raise self.error(
                f"exit codes that differ between this page and zodb_vault.errors: {sorted(named ^ real)}"
            )
        return [
            self.table(("Exit code", "Meaning"), [(f"``{code}``", text) for code, text in rows], (12, 88))
        ]


def setup(app: Any) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("error-kinds", ErrorKinds)
    app.add_directive("exit-codes", ExitCodes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
