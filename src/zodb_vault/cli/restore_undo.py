"""``zodb-vault restore --abort`` and ``--discard-kept``: they remove something for good, so they ask."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from ..errors import Declined, UsageError, VaultError
from .context import Context
from .output import printable

if TYPE_CHECKING:
    from ..model.source import Site
    from ..strategies.destination import Destination

CORRECT: Final = "remove the cause (free space, permissions, the disk), then run"
ABORT_AGAIN: Final = f"{CORRECT} `restore --abort` again"
DISCARD_AGAIN: Final = f"{CORRECT} `restore --discard-kept` again"


@contextlib.contextmanager
def system_errors(restored: str, hint: str) -> Iterator[None]:
    """Turn a system error into a message that names the file, or else the path that is restored."""
    try:
        yield
    except OSError as error:
        named = isinstance(error.filename, (str, bytes, os.PathLike))
        where = os.fsdecode(error.filename) if named else restored
        raise VaultError(f"the restore stopped at {where}: {error.strerror or error}", hint) from error


@dataclass(frozen=True, kw_only=True)
class Undo:
    """What is done to the databases of a site after a restore; it asks first, unless ``yes``."""

    context: Context
    site: Site
    destinations: list[Destination]
    dry_run: bool
    yes: bool
    as_json: bool

    @classmethod
    def of(cls, context: Context, site: Site | None, databases: tuple[str, ...], **how: bool) -> Undo:
        """Return it for the databases whose restores leave notes beside them; raise UsageError.

        ``how`` are the other fields.
        """
        from ..operations.restore.destination import resuming_destinations

        if site is None:
            raise UsageError(
                "--abort and --discard-kept need a site, and cannot be used with --output",
                "remove the output directory instead",
            )
        wanted = (one for one in site.databases if not databases or one.name in databases)
        destinations = resuming_destinations(wanted)
        if not destinations:
            raise UsageError(
                "a restore into a database server leaves nothing to abort; it keeps the old database",
                "remove the old database with DROP DATABASE",
            )
        return cls(context=context, site=site, destinations=destinations, **how)

    def abort(self) -> dict[str, list[str]]:
        """Put back the old state, and return the document with the ids of the restores that were undone."""
        from ..operations.restore.abort import abort, interrupted
        from ..operations.restore.destination import resuming_destinations
        from ..operations.restore.preflight import require_together

        for one in self.destinations:
            one.require_stopped()
        undone_here = {one.where for one in self.destinations}
        others = [one for one in resuming_destinations(self.site.databases) if one.where not in undone_here]
        require_together(self.destinations, others, done=True)
        undone = interrupted(self.destinations)
        for restore in undone:
            self._announce(
                f"puts back the state of {restore.database} before the restore of {restore.backup}, "
                f"and removes what was restored to {restore.where}"
            )
        if self._agreed("Put the old state back?"):
            with system_errors(self.destinations[0].where, ABORT_AGAIN):
                undone = abort(self.destinations)
            for restore in undone:
                self.context.say(
                    f"{printable(restore.database)}: the state before the restore of {restore.backup} is back"
                )
        return {"aborted": [restore.restore for restore in undone], "removed": []}

    def discard(self, restore: str) -> dict[str, list[str]]:
        """Remove what a finished restore has kept, and return the document with the paths.

        ``restore`` is its whole id or ``latest``.
        """
        from ..operations.restore.abort import discard_kept, kept_restore, require_finished
        from ..operations.restore.destination import resuming_destinations

        meant = kept_restore(self.destinations, restore)
        require_finished(resuming_destinations(self.site.databases), meant)
        paths = [path for one in self.destinations for path in one.kept_paths(meant)]
        for path in paths:
            self._announce(f"removes {path}")
        if self._agreed(f"Remove for good what the restore {meant} has kept of the state before it?"):
            with system_errors(self.destinations[0].where, DISCARD_AGAIN):
                paths = discard_kept(self.destinations, meant)
            for path in paths:
                self.context.say(f"removed {printable(path)}")
        return {"aborted": [], "removed": paths}

    def _announce(self, line: str) -> None:
        """Print what is going to be done: with --dry-run it is the result."""
        if not self.dry_run:
            self.context.say(printable(line))
        elif not self.as_json:
            click.echo(printable(line))

    def _agreed(self, question: str) -> bool:
        """Tell whether to go on: never with --dry-run. Raise Declined, or NoTerminal without --yes."""
        if not (self.dry_run or self.yes or self.context.confirm(question)):
            raise Declined("nothing was changed")
        return not self.dry_run
