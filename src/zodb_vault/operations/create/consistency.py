"""Take the cut points of several databases at a moment without commits, so that they are consistent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from ...strategies.base import Survey

Consistency = Literal["consistent", "uncoordinated"]

# Seconds to wait before each new try: even a site that commits all the time has gaps between commits.
PAUSES: Final = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.34, 0.55)


def align_cut_points(surveys: Sequence[Survey], mirrors_outdated: Callable[[], bool]) -> Consistency:
    """Take all cut points again until none moved between two passes and no commit is pending.

    Then a transaction that spans databases is in all of them or in none. ``mirrors_outdated`` tells whether
    the source of a mirror has newer transactions. Raise SourceChanged when a pack has replaced a storage:
    newer transactions are in the new file.
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
    """Take all cut points again, one immediately after the other; tell whether one moved."""
    return any([survey.extend() for survey in surveys])
