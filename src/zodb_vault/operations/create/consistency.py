"""Take the cut points of several databases in one moment without commits, so that they belong together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from ...strategies.base import Survey

Consistency = Literal["consistent", "uncoordinated"]

# A site that commits all the time leaves gaps between commits: it is looked at again after these seconds.
PAUSES: Final = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.34, 0.55)


def align_cut_points(surveys: Sequence[Survey], mirrors_outdated: Callable[[], bool]) -> Consistency:
    """Take all cut points again until none moved between two passes and no commit is pending.

    A transaction that spans databases is then in all of them or in none. ``mirrors_outdated`` tells whether the
    source of a mirror has gone on. Raise SourceChanged when a pack has replaced a storage: what was committed
    since is in the new one.
    """
    if len(surveys) == 1:
        return "consistent"
    for pause in PAUSES:
        time.sleep(pause)
        _extend(surveys)
        if not _extend(surveys) and not any(survey.commit_pending for survey in surveys):
            return "uncoordinated" if mirrors_outdated() else "consistent"
    return "uncoordinated"


def _extend(surveys: Sequence[Survey]) -> bool:
    """Take every cut point again, one right after the other; tell whether one moved."""
    return any([survey.extend() for survey in surveys])
