"""Create a backup: take the cut points, copy storages, then blobs, and commit all with one write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

from ...errors import InUse, KeyMissing, SourceChanged
from ...model.manifest import Marker
from ...model.source import Database, Site
from ...repository import markers
from ...repository.repository import Repository
from ...runtime.progress import Progress
from ...strategies.backend_lookup import copying_backend
from ..damage import damage_recorded
from .attempt import Attempt
from .eligibility import choose_databases, refuse_overlap, with_advice
from .mirrors import Mirrored, MirrorOptions, mirrored
from .options import Created, CreateOptions
from .provenance import machine

ATTEMPTS: Final = 4
WAIT_SECONDS: Final = 1.0


def create(
    repository: Repository,
    site: Site,
    options: CreateOptions,
    progress: Progress,
    begun: Callable[[str], None] = lambda _id: None,
) -> Created:
    """Back up a site; ``begun`` is called with the id of the backup as soon as it is known.

    Raise InUse while another create of the site runs, NothingToBackUp, ConfigurationError, WrongSource,
    SourceError, BlobsMissing, StoreError. After an error there is no backup, and the next run uses what was
    stored.
    """
    databases = with_advice(choose_databases(site, options), options)
    refuse_overlap(repository, databases)
    repository.require_recipients()
    wanted = MirrorOptions(
        directory=options.mirror, afresh=options.full, take_over=options.take_over, machine=machine()
    )
    while True:
        if options.wait:
            _wait_for_others(repository, site.name, progress)
        try:
            with (
                mirrored(repository, site, databases, options.method, wanted, progress) as sources,
                _exclusive_storages(sources.databases, options.cold),
                damage_recorded(repository, site.name, "create", progress.note),
            ):
                return _attempts(repository, site, sources, options, progress, begun)
        except InUse:
            # when several runs have waited, only one of them begins
            if not options.wait or _other(repository, site.name) is None:
                raise


def _attempts(
    repository: Repository,
    site: Site,
    sources: Mirrored,
    options: CreateOptions,
    progress: Progress,
    begun: Callable[[str], None],
) -> Created:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Attempt(repository, site, sources, options, progress, begun).run()
        except SourceChanged as error:
            if attempt == ATTEMPTS:
                raise
            progress.note(f"{error.message}; starting over ({attempt} of {ATTEMPTS - 1})")
    raise AssertionError("unreachable")


def _other(repository: Repository, site: str) -> Marker | None:
    """Return the marker of a running create of the site, None when there is none."""
    try:
        marker, _data = markers.read_marker(repository.store, markers.marker_key(site, "create", ""))
    except KeyMissing:
        return None
    return marker if markers.is_alive(marker, repository.store) else None


def _wait_for_others(repository: Repository, site: str, progress: Progress) -> None:
    named = None
    while (other := _other(repository, site)) is not None:
        if other.run != named:
            progress.note(
                f"waiting for the create {other.run} (host {other.host}, "
                f"pid {other.pid}, since {other.started})"
            )
            named = other.run
        time.sleep(WAIT_SECONDS)


@contextlib.contextmanager
def _exclusive_storages(databases: list[Database], cold: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for database in databases if cold else []:
            stack.enter_context(copying_backend(database).exclusive(database))
        yield
