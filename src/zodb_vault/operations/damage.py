"""Keep the register of damaged objects up to date with what a command reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..errors import StoreError
from ..repository.damage import ObjectObserver
from ..repository.repository import Repository


@contextlib.contextmanager
def damage_recorded(
    repository: Repository, site: str, command: str, note: Callable[[str], object]
) -> Iterator[ObjectObserver]:
    """Record the objects that are found damaged in this block, and clear those that are read well.

    Also when the block raises. A repository that cannot be written is no reason to fail: ``note`` gets a
    message. In a block of an outer command, the outer one records.
    """
    observer = repository.observer
    if observer.active:
        yield observer
        return
    # a create reads the register anyway, and tells the observer what to watch
    watched = repository.damage(repository.listing(site), site).objects if command != "create" else {}
    observer.begin(watched)
    observer.judges_disk = command == "verify"
    try:
        yield observer
    finally:
        observer.active = observer.judges_disk = False
        if observer.damaged or observer.intact:
            try:
                # another run may have recorded something in the meantime
                repository.damage(repository.listing(site), site).update(observer, command)
                observer.recorded = bool(observer.damaged)
            except StoreError as error:
                note(f"what is damaged could not be recorded in the repository: {error.message}")


def forget_unreadable(repository: Repository, site: str) -> None:
    """Remove the records of damaged objects that cannot be read; raise StoreError.

    Only after every backup of the site was read completely: then what they named is recorded again.
    """
    repository.damage(repository.listing(site), site).clear_unreadable()
