"""A group of commands: its help shows whole sentences, and a mistyped command gets a suggestion."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

import click

from ..errors import UsageError

# What other backup tools call a command, with the name that it has here.
ELSEWHERE: Final = {
    "backup": "create",
    "backups": "list",
    "check": "verify",
    "copy": "repository copy",
    "forget": "prune",
    "info": "repository info",
    "init": "repository init",
    "ls": "list",
    "recover": "restore",
    "remove": "delete",
    "rm": "delete",
    "snapshot": "create",
    "snapshots": "list",
    "unlock": "repository unlock",
}


class Group(click.Group):
    """A group that suggests a command when an unknown one is given."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; raise UsageError with the most similar one when it does not exist."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            meant = ELSEWHERE.get(args[0], "")
            if meant.partition(" ")[0] not in known:
                meant = next(iter(get_close_matches(args[0], known, n=1)), "")
            suggestion = f", did you mean {meant}?" if meant else ""
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
