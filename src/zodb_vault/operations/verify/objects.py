"""The levels ``objects`` and ``bytes``: everything exists, and has the bytes that were stored."""

from __future__ import annotations

from datetime import date
from functools import partial

from ...errors import Damage
from ...model.manifest import Manifest
from ...repository.objects import Objects
from ...runtime import clock
from ...runtime.progress import Progress
from ...runtime.workers import Workers
from ...stores.base import Store
from .needed import NeededObject, needed_objects
from .report import VerifyReport


def check_existence(manifest: Manifest, objects: Objects, store: Store, report: VerifyReport) -> None:
    """Check that every object exists with its size; the repository is listed, and no object is read."""
    sizes = {item.key: item.size for prefix in ("objects/", "meta/") for item in store.list(prefix)}
    for one in needed_objects(manifest, objects, report):
        report.count("objects")
        if one.key not in sizes:
            _add(report, objects, one, f"{one.key} is missing")
        elif one.size not in (None, sizes[one.key]):
            _add(report, objects, one, f"{one.key} has {sizes[one.key]} bytes, {one.size} were stored")


def _add(report: VerifyReport, objects: Objects, one: NeededObject, why: str) -> None:
    report.add_damage(one.database, "object", why, object=one.name)
    objects.observer.note_damaged(one.name, why)


def check_bytes(
    manifest: Manifest,
    objects: Objects,
    report: VerifyReport,
    progress: Progress,
    *,
    sample: float,
    workers: int,
) -> None:
    """Read each object once and compare its bytes with its name, the SHA-256; nothing is decoded."""
    by_name = {one.name: one for one in needed_objects(manifest, objects, report)}
    today = clock.now().date()
    chosen = [one for one in by_name.values() if in_sample(one.name, sample, today)]
    progress.begin("bytes", sum(one.size or 0 for one in chosen))
    with Workers(workers, lambda: None) as pool:
        jobs = (partial(_check_object, one, objects, report, progress) for one in chosen)
        for size in pool.in_order(jobs):
            report.count("objects")
            report.count("bytes", size)


def _check_object(one: NeededObject, objects: Objects, report: VerifyReport, progress: Progress) -> int:
    """Return how many bytes were read, 0 if the object is damaged."""
    try:
        size = objects.check(one.key, one.name)
    except Damage as error:
        report.add_damage(one.database, "object", error, object=one.name)
        return 0
    progress.advance(size)
    return size


def in_sample(name: str, share: float, day: date) -> bool:
    """Tell whether an object is checked on this day.

    The names are digests, so they are evenly distributed: each day another part of them is checked, and after
    1 / share days every object has been.
    """
    days = max(1, round(1 / share))
    return int(name[:8], 16) % days == day.toordinal() % days
