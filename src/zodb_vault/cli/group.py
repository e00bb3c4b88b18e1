"""A group of commands that says in whole sentences what they do, and answers a mistyped name with the one that was likely meant."""

from __future__ import annotations

from difflib import get_close_matches

import click

from ..errors import UsageError


class Group(click.Group):
    """Says which commands there are when one is asked for that there is not."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant; raise UsageError with a similar one when there is none."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            close = get_close_matches(args[0], known, n=1)
            meant = f", did you mean {close[0]}?" if close else ""
            raise UsageError(
                f"there is no command {args[0]!r}{meant}", f"the commands are {', '.join(known)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its first sentence; click would cut it where the line ends."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, _sentence(command.help or "")) for name, command in commands if command is not None]
            )


def _sentence(text: str) -> str:
    """Return the first paragraph of a help text, without what it says of its arguments."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return paragraph.partition(" (ID:")[0].rstrip(".") + "."
