"""A group of commands: its help shows whole sentences, and a mistyped command gets a suggestion."""

from __future__ import annotations

from difflib import get_close_matches

import click

from ..errors import UsageError


class Group(click.Group):
    """A group that suggests a command when an unknown one is given."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; raise UsageError with the most similar one when it does not exist."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            close = get_close_matches(args[0], known, n=1)
            suggestion = f", did you mean {close[0]}?" if close else ""
            message = f"there is no command {args[0]!r}{suggestion}"
            raise UsageError(message, f"the commands are {', '.join(known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List each command with the first paragraph of its help; click would shorten it to one line."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                rows.append((name, _first_paragraph(command.help or "")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())
