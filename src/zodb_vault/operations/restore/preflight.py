"""What speaks against a restore, whatever the backend: places, databases that belong together, space."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...blobs.layout import MARKER
from ...errors import TargetRefused
from ...model.restore import SpaceNeed
from ...repository.repository import Repository
from ...strategies.destination import Destination
from .destination import Chosen


def refuse_within(repository: Repository, destination: Destination) -> None:
    """Raise TargetRefused where a restored file would lie in a repository or in another blob directory."""
    location = repository.store.location
    root = Path(location).resolve() if "://" not in location else None
    ours = destination.writes
    for path in ours:
        for parent in (path, *path.parents):
            if parent == root:
                raise TargetRefused(f"{path} lies in the repository {root}", "choose another place")
            if parent not in ours and (parent / MARKER).exists():
                raise TargetRefused(f"{path} lies in the blob directory {parent}", "choose another place")


def require_one_step(chosen: Sequence[Chosen]) -> None:
    """Raise TargetRefused for databases of which only some resume.

    No step would make all of them valid together.
    """
    if len({one.destination.resumes for one in chosen}) > 1:
        names = ", ".join(one.cut.entry.name for one in chosen)
        raise TargetRefused(
            f"the databases {names} are of different kinds, and no one step would make all of them valid",
            "restore them one after the other, with --database NAME, "
            "or all of them into a directory, with --output DIR",
        )


def require_together(
    destinations: Iterable[Destination], others: Iterable[Destination], *, done: bool
) -> None:
    """Raise TargetRefused when an interrupted restore of some databases was one of ``others`` too.

    All of its databases become valid, or are put back, together. ``done``: also when it is done with the
    others.
    """
    interrupted = {found.restore for one in destinations if (found := one.unfinished())}
    for other in others:
        found = other.unfinished()
        same = found if found and found.restore in interrupted else None
        if same is None and found is None and done:
            same = next((one for restore in sorted(interrupted) if (one := other.finished(restore))), None)
        if same is not None:
            raise TargetRefused(
                f"the interrupted restore {same.restore} was one of {same.database} too, "
                "and only together they fit",
                "leave --database out",
            )


def require_space(needs: Sequence[SpaceNeed]) -> None:
    """Raise TargetRefused when what all databases together need does not fit on one of the file systems."""
    for device in dict.fromkeys(need.directory.stat().st_dev for need in needs):
        here = [need for need in needs if need.directory.stat().st_dev == device]
        free, needed = shutil.disk_usage(here[0].directory).free, sum(need.size for need in here)
        if free < needed:
            raise TargetRefused(
                f"{here[0].directory} has {free} bytes free, {needed} are needed", "free space there first"
            )
