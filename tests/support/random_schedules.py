"""Random schedules of operations on one repository, each stopped before every call to the store.

Creates, deletes, prunes, restores and undeletes, and copies from and to a second repository in which the same
happens. A scheduler lets one of them continue, again and again; the clock jumps meanwhile. After every change
of a repository no backup that is listed there may miss an object. One number, the seed, decides everything.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import fault_injection
import filestorage_vault
import key_pairs
import pytest
import site_factory
from memory_store import MemoryStaging, MemoryStore
from pyrage import x25519

from zodb_vault.errors import BackupMissing, InUse, SourceChanged, TargetRefused, VaultError
from zodb_vault.model import chain
from zodb_vault.model.source import Database, Site
from zodb_vault.operations.catalog import Catalog
from zodb_vault.operations.copy import coordination
from zodb_vault.operations.copy.backup import BackupCopier
from zodb_vault.operations.copy.options import CopyOptions
from zodb_vault.operations.copy.run import copy as copy_backups
from zodb_vault.operations.create import resume
from zodb_vault.operations.create import run as creating
from zodb_vault.operations.create.options import CreateOptions
from zodb_vault.operations.prune import run as prune
from zodb_vault.operations.prune import trash as deletion
from zodb_vault.operations.restore import run as restoring
from zodb_vault.policy.retention import OnDemandRetention, Rules, SafetyRetention, ScheduledRetention
from zodb_vault.repository import markers
from zodb_vault.repository.markers import RunMarker
from zodb_vault.repository.objects import meta_key, object_key
from zodb_vault.repository.references import add_names
from zodb_vault.repository.repository import Repository
from zodb_vault.runtime import clock
from zodb_vault.stores.base import ListedKey
from zodb_vault.strategies.blobs import compaction, packer
from zodb_vault.strategies.filestorage import cut, segments

GRACE: Final = timedelta(days=3)
NIGHT: Final = timedelta(hours=80)
NAP: Final = timedelta(minutes=20)
START: Final = datetime(2027, 1, 1, tzinfo=UTC)
ONE: Final = "one"
OTHER: Final = "other"
Operation = Callable[..., Any]
EXPECTED: Final = (InUse, BackupMissing, SourceChanged, TargetRefused)
RULES: Final = Rules(
    scheduled=ScheduledRetention(daily=1, weekly=0, monthly=0),
    on_demand=OnDemandRetention(newest=0, age=timedelta()),
    safety=SafetyRetention(),
    zone=UTC,
)


KEY: Final = str(x25519.Identity.generate())


class Lost(AssertionError):
    """A listed backup misses something."""


def opened(store: Any) -> Repository:
    """Open a repository with the key that all are encrypted for, if they are."""
    repository = Repository.open(store)
    repository.configure(repository.info.recipients, lambda: [KEY])
    return repository


def copied(source: Repository, target: Repository, site: str) -> None:
    """Copy; where only one of both is encrypted, everything gets other names."""
    decrypt = bool(source.info.recipients) and not target.info.recipients
    copy_backups(source, target, site, filestorage_vault.Quiet(), CopyOptions(decrypt=decrypt))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


class Watched:
    """What is stored, and the judge: it knows what each listed backup needs, and looks at each change."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.store = MemoryStore(dict(content))
        self.needs: dict[str, set[str]] = {}
        self._ever: set[str] = set()
        for key in [key for key in content if "/backups/" in key]:
            self.listed(key)

    def listed(self, key: str) -> None:
        """Require that a backup that has begun to exist has all it needs."""
        objects = Repository.open(self.store).objects("")
        _, site, _, name = key.split("/")
        names: dict[str, int] = {}
        try:
            add_names(
                Repository.open(self.store).manifest_document(site, name.removesuffix(".json")),
                names,
                objects,
            )
        except VaultError as error:
            raise Lost(f"{key}: {error}") from None
        # a manifest also holds digests of other things
        wanted = {folder + name for name in names for folder in (f"objects/{name[:2]}/", f"meta/{name[:2]}/")}
        self.needs[key] = wanted & self.ever
        missing = {one for one in self.needs[key] if one not in self.store.content}
        # what has a size is no digest of something else; a copy may never have brought it
        missing |= {
            name
            for name, size in names.items()
            if size and not {object_key(name), meta_key(name)} & self.store.content.keys()
        }
        if missing:
            raise Lost(f"{key} lacks {missing}")

    @property
    def ever(self) -> set[str]:
        """Return all objects that ever were."""
        self._ever |= set(self.store.content)
        return self._ever

    def changed(self, operation: str, key: str) -> None:
        """Look at what a call has changed."""
        if "/backups/" in key:
            if operation == "delete":
                self.needs.pop(key, None)
            else:
                self.listed(key)
        elif operation == "delete" and key.startswith(("objects/", "meta/")):
            self._ever = self.ever | {key}
            if losers := [backup for backup, needed in self.needs.items() if key in needed]:
                raise Lost(f"{losers} need {key}, which was deleted")


class Actor(threading.Thread):
    """One operation, on the repositories at one or two places."""

    def __init__(self, schedule: Schedule, name: str, operation: Operation, *places: Watched) -> None:
        super().__init__(name=name, daemon=True)
        self.schedule, self.operation, self.places = schedule, operation, places
        self.go, self.pending = threading.Event(), ("begin", "")
        self.done = False
        self.calls = 0
        self.outcome: BaseException | None = None

    def run(self) -> None:
        try:
            self.wait("begin", "")
            self.operation(*[opened(Stopping(self, place)) for place in self.places])
        except BaseException as error:  # noqa: BLE001  reported by the schedule
            self.outcome = error
        finally:
            self.done = True
            self.schedule.stopped.release()

    @property
    def committing(self) -> bool:
        """Return whether its next call lets a backup begin to exist."""
        return "/backups/" in self.pending[1] and self.pending[0] == "put" and not self.done

    def wait(self, operation: str, key: str) -> None:
        """Stop until the scheduler lets this actor go on."""
        if self.schedule.ended:
            raise KeyboardInterrupt
        self.pending = operation, key
        self.calls += 1
        if operation != "begin":
            self.schedule.stopped.release()
        self.go.wait()
        self.go.clear()
        if self.schedule.ended:
            raise KeyboardInterrupt


class Stopping:
    """The store as one actor sees it."""

    location = "/memory"

    def __init__(self, actor: Actor, place: Watched) -> None:
        self._actor, self._watched = actor, place

    def _call(self, operation: str, key: str, call: Callable[[], Any]) -> Any:
        self._actor.wait(operation, key)
        found = call()
        if operation in ("put", "replace", "delete"):
            self._watched.changed(operation, key)
        return found

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        return int(self._call("put", key, lambda: self._watched.store.put(key, chunks)))

    def stage(self) -> MemoryStaging:
        return MemoryStaging(self)  # type: ignore[arg-type]

    def replace(self, key: str, data: bytes, expected: bytes) -> None:
        self._call("replace", key, lambda: self._watched.store.replace(key, data, expected))

    def get(self, key: str) -> bytes:
        found: bytes = self._call("get", key, lambda: self._watched.store.get(key))
        return found

    def stream(self, key: str) -> Iterator[bytes]:
        yield self.get(key)

    def list(self, prefix: str) -> Iterator[ListedKey]:
        yield from self._call("list", prefix, lambda: [*self._watched.store.list(prefix)])

    def delete(self, key: str, expected: bytes | None = None) -> None:
        self._call("delete", key, lambda: self._watched.store.delete(key, expected))

    def clock(self) -> datetime:
        return clock.now()


class Between(Stopping):
    """The store of one operation that runs alone, except for an action before one of its calls."""

    def __init__(self, watched: Watched, at: int, action: Callable[[], Any]) -> None:
        self._watched, self._at, self._action = watched, at, action
        self.calls = 0

    def _call(self, operation: str, key: str, call: Callable[[], Any]) -> Any:
        self.calls += 1
        # no actor sleeps there, see Schedule._awake
        if self.calls == self._at and not (operation == "put" and "/backups/" in key):
            self._action()
        found = call()
        if operation in ("put", "replace", "delete"):
            self._watched.changed(operation, key)
        return found


class World(NamedTuple):
    """What every schedule starts from."""

    directory: Path
    content: dict[str, bytes]
    second: dict[str, bytes]
    files: dict[str, site_factory.SiteFiles]
    now: datetime
    digests: dict[str, str]

    def site(self, name: str) -> Site:
        files = self.files[name]
        database = Database(
            name="main",
            backend="filestorage",
            data_fs=str(files.data_fs),
            blob_dir=str(files.blob_dir),
            blob_mode="directory",
            history=True,
        )
        return Site(name=name, config=None, databases=(database,))


class Schedule:
    """One schedule; ``run`` returns what happened."""

    def __init__(
        self, world: World, seed: int, time: Clock, only: tuple[str, ...] = (), *, copies: bool = False
    ) -> None:
        self.world, self.seed, self.time, self.only = world, seed, time, only
        self.random = random.Random(seed)
        self.watched, self.second = Watched(world.content), Watched(world.second)
        self.stopped = threading.Semaphore(0)
        self.ended = False
        self.output = world.directory / f"restored-{seed}"
        self.actors = [
            Actor(self, name, operation, self.watched)
            for name, operation in self._operations()
            if not only or name in only
        ]
        if copies:
            # Some of the others, beside the copy: in the repository that it reads, and in its target.
            beside = [*self.actors, *self._beside()]
            self.actors = [*self._copies(), *self.random.sample(beside, self.random.randint(2, 5))]
        self.current: Actor | None = None
        # one may sleep from one of its calls on, until all others are done
        self.sleeper = self.random.choice([*self.actors, None])
        self.bedtime = self.random.randint(2, 60)
        self.begins = {
            actor: self.random.choice((0, self.random.randint(0, 400 if only else 150)))
            for actor in self.actors
        }

    def _awake(self) -> list[Actor]:
        """Return the actors that can continue.

        None sleeps right before it writes a manifest: the protocol assumes that.
        """
        waiting = [actor for actor in self.actors if not actor.done]
        awake = [
            one for one in waiting if one is not self.sleeper or one.calls < self.bedtime or one.committing
        ]
        steps = sum(actor.calls for actor in self.actors)
        return [one for one in awake if steps >= self.begins[one]] or awake or waiting

    def _operations(self) -> Iterator[tuple[str, Operation]]:
        ids, trashed = listed(self.world.content), in_trash(self.world.content)
        yield "create", self._create(ONE)
        yield (
            "create of the same site" if self.random.random() < 0.5 else "create of another site",
            self._create(self.random.choice((ONE, OTHER))),
        )
        yield "prune", self._prune(self.random.choice((ONE, OTHER)), self.random.randint(1, 4))
        yield "restore", self._restore(self.random.choice(ids), self.output)
        if self.random.random() < 0.6 or self.only:
            # of those in the trash the oldest one is due the soonest
            yield "undelete", self._undelete(trashed[0] if self.only else self.random.choice(trashed))
        if self.random.random() < 0.6:
            yield "delete", self._delete(self.random.choice([ids[-1], ids[-1], self.random.choice(ids)]))
        if self.random.random() < 0.2:
            yield "another prune", self._prune(ONE, 2)

    def _beside(self) -> Iterator[Actor]:
        """Yield the operations in the second repository."""
        ids, trashed = listed(self.world.second), in_trash(self.world.second)
        yield Actor(self, "create there", self._create(self.random.choice((ONE, OTHER))), self.second)
        yield Actor(
            self,
            "prune there",
            self._prune(self.random.choice((ONE, OTHER)), self.random.randint(1, 4)),
            self.second,
        )
        yield Actor(
            self,
            "restore there",
            self._restore(self.random.choice(ids), Path(f"{self.output}-there")),
            self.second,
        )
        yield Actor(self, "undelete there", self._undelete(self.random.choice(trashed)), self.second)
        yield Actor(self, "delete there", self._delete(self.random.choice(ids)), self.second)

    def _copies(self) -> Iterator[Actor]:
        there, back = (self.watched, self.second), (self.second, self.watched)
        ways = [(ONE, *there), (ONE, *there), (OTHER, *there), (OTHER, *back)]
        for name in ("copy", "another copy")[: self.random.choice((1, 1, 2))]:
            site, *places = self.random.choice(ways)
            yield Actor(self, name, lambda source, target, site=site: copied(source, target, site), *places)

    def _create(self, site: str) -> Operation:
        options = CreateOptions(full=self.random.random() < 0.1, trigger="scheduled")
        return lambda repository: creating.create(
            repository, self.world.site(site), options, filestorage_vault.Quiet()
        )

    def _prune(self, site: str, times: int) -> Operation:
        def operation(repository: Repository) -> None:
            for _ in range(times):
                prune.prune(repository, site, prune.PruneOptions(rules=RULES, grace=GRACE))
                self._jump(NIGHT)

        return operation

    def _restore(self, backup: str, output: Path) -> Operation:
        def operation(repository: Repository) -> None:
            options = restoring.RestoreOptions(backup=backup, request=None, output=output)
            restoring.execute(
                repository, restoring.plan(repository, ONE, None, options), ONE, filestorage_vault.Quiet()
            )
            assert hashlib.sha256((output / "Data.fs").read_bytes()).hexdigest() == self.world.digests[backup]

        return operation

    def _undelete(self, backup: str) -> Operation:
        return lambda repository: deletion.undelete(repository, ONE, backup)

    def _delete(self, backup: str) -> Operation:
        def operation(repository: Repository) -> None:
            catalog = Catalog(repository, ONE)
            deletion.delete(repository, catalog, catalog.backup(backup), force=True)

        return operation

    def _jump(self, length: timedelta) -> None:
        """Let time pass for all actors.

        None sleeps so long between the last check of its marker and the commit, or within one removal.
        """
        while any(actor.committing for actor in self.actors):
            actor = threading.current_thread()
            assert isinstance(actor, Actor)
            actor.wait("jump", "")
        self.time.now += length

    def run(self) -> dict[str, int]:
        staying = self.random.choice((0.0, 0.5, 0.9, 0.97))
        for actor in self.actors:
            actor.start()
        try:
            while waiting := self._awake():
                if self.current not in waiting or self.random.random() >= staying:
                    self.current = self.random.choice(waiting)
                if self.random.random() < 0.01:
                    self.time.now += NAP
                self.current.go.set()
                self.stopped.acquire()
                if self.current.done and not isinstance(self.current.outcome, (*EXPECTED, type(None))):
                    raise self.current.outcome
            self._afterwards()
        finally:
            self.ended = True
            for actor in self.actors:
                actor.go.set()
                actor.join(10)
            for output in (self.output, f"{self.output}-there"):
                shutil.rmtree(output, ignore_errors=True)
        return {
            f"{actor.name}: {type(actor.outcome).__name__ if actor.outcome else 'done'}": 1
            for actor in self.actors
        }

    def _afterwards(self) -> None:
        """Sweep everything that the rules allow, alone; require that all that is listed can be read."""
        for _ in range(4):
            self.time.now += NIGHT
            for place in {place: None for actor in self.actors for place in actor.places}:
                prune.prune(Repository.open(place.store), OTHER, prune.PruneOptions(rules=RULES, grace=GRACE))
                for key in [key for key in place.store.content if "/backups/" in key]:
                    place.listed(key)


def listed(content: dict[str, bytes]) -> list[str]:
    """Return the ids of the backups of the first site."""
    return sorted(key.rsplit("/", 1)[1][:-5] for key in content if key.startswith(f"sites/{ONE}/backups/"))


def in_trash(content: dict[str, bytes]) -> list[str]:
    """Return the ids of those in the trash."""
    return sorted(key.rsplit("/", 1)[1][:-5] for key in content if key.startswith(f"trash/{ONE}/2"))


def small(patch: pytest.MonkeyPatch) -> Clock:
    """Make operations quick, the clock ours, every run one of another host, and lists and segments short."""
    time = Clock()
    fault_injection.tame(patch)
    patch.setattr(clock, "now", time)
    patch.setattr(markers, "process_identity", lambda _pid: "")
    patch.setattr(cut, "SEGMENT_LIMIT", 600)
    patch.setattr(segments, "SEGMENT_LIMIT", 600)
    patch.setattr(packer, "PACK_LIMIT", 2000)
    patch.setattr(compaction, "NEIGHBOURS", 4)
    patch.setattr(chain, "TAIL_LIMIT", 3)
    patch.setattr(chain, "TAIL_KEPT", 1)
    return time


def build(directory: Path, time: Clock, *, interrupted: bool, reencrypted: bool) -> World:
    """Make a repository with a history: two sites, with backups that are listed, in the trash and due.

    And a second one that has some of it, encrypted with ``reencrypted``.
    """
    files = {
        name: site_factory.SiteFiles(directory / name / "Data.fs", directory / name / "blobs")
        for name in (ONE, OTHER)
    }
    world = World(directory, {}, {}, files, START, {})
    repository = Repository.create(MemoryStore(world.content))
    second = Repository.create(
        MemoryStore(world.second), [str(x25519.Identity.from_str(KEY).to_public())] if reencrypted else []
    )
    second.configure(second.info.recipients, lambda: [KEY])

    def grow(name: str, number: int) -> None:
        with site_factory.Site(directory / name) as site:
            values: dict[str, str | bytes] = {
                f"text{number % 3}": f"{name} {number} " * 40,
                f"blob{number % 4}": site_factory.noise(700, number),
            }
            site.put(**values)

    def back_up(name: str, where: Repository = repository, **options: Any) -> str:
        made = creating.create(
            where, world.site(name), CreateOptions(trigger="scheduled", **options), filestorage_vault.Quiet()
        ).manifest.id
        world.digests[made] = hashlib.sha256(files[name].data_fs.read_bytes()).hexdigest()
        time.now += timedelta(days=1)
        return made

    def remove(backup: str, where: Repository = repository) -> None:
        catalog = Catalog(where, ONE)
        deletion.delete(where, catalog, catalog.backup(backup), force=True)

    def pass_by(where: Repository = repository) -> None:
        prune.prune(where, OTHER, prune.PruneOptions(rules=RULES, grace=GRACE))

    ids = []
    for number in range(7):
        grow(ONE, number)
        ids.append(back_up(ONE, full=number in (2, 3, 4)))
        if number % 3 == 0:
            grow(OTHER, number)
            back_up(OTHER)
        if number in (2, 4):
            copied(repository, second, ONE)
    # In the second repository, without the newest backups: one due, one fresh, and one of its own.
    back_up(OTHER, second)
    remove(ids[3], second)
    pass_by(second)
    # in the trash: one that is due, one that is not yet, one that is fresh; the due ones were full
    for backup in (ids[2], ids[3]):
        remove(backup)
        pass_by()
        time.now += GRACE
    pass_by()
    remove(ids[4])
    time.now += timedelta(days=1)
    pass_by()
    for name in (ONE, OTHER):
        grow(name, 11)
    pass_by(second)
    remove(ids[4], second)
    if reencrypted:
        # Listed before a copy begins that needs what it shares with later ones: the backup, then its objects.
        pass_by(second)
        time.now += NIGHT
        pass_by(second)
    if interrupted:
        if reencrypted:
            _interrupt_copy(repository, second)
        _interrupt(world, repository)
        grow(ONE, 12)
    return world._replace(now=time.now)


def _interrupt(world: World, repository: Repository) -> None:
    """Let a create die before its commit; a dead process changes its marker no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "CHECKPOINT_BYTES", 1)

        def die(*_arguments: object) -> NoReturn:
            for method in ("update", "remove"):
                patch.setattr(RunMarker, method, lambda *_arguments, **_options: None)
            raise RuntimeError("died")

        patch.setattr(Repository, "commit", die)
        with pytest.raises(RuntimeError, match="died"):
            creating.create(
                repository, world.site(ONE), CreateOptions(trigger="scheduled"), filestorage_vault.Quiet()
            )


def _interrupt_copy(repository: Repository, second: Repository) -> None:
    """Let a copy give up before its first commit, with something noted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordination, "NOTE_BYTES", 1)
        patch.setattr(BackupCopier, "commit", lambda *_: (_ for _ in ()).throw(RuntimeError("died")))
        with pytest.raises(RuntimeError, match="died"):
            copied(repository, second, ONE)


class Schedules:
    """Runs schedules on the two worlds, which are made once."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, *, reencrypted: bool = False) -> None:
        self.time = small(patch)
        key_pairs.inside(patch)
        self.worlds = [
            build(directory / str(number), self.time, interrupted=bool(number), reencrypted=reencrypted)
            for number in range(2)
        ]
        self._patch = patch

    def run(self, seed: int, only: tuple[str, ...] = (), *, copies: bool = False) -> dict[str, int]:
        """Run one, of all operations or some, perhaps with copies; raise AssertionError with the seed."""
        world = self.worlds[seed % 2]
        # some find nothing due yet, some the interrupted run forgotten
        self.time.now = world.now + timedelta(
            hours=80 if only else random.Random(seed).choice((0, 1, 30, 80, 80, 14 * 24))
        )
        numbers = itertools.count(seed * 1000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(secrets, "token_hex", lambda count=32: f"{next(numbers):0{2 * count}x}")
            try:
                return Schedule(world, seed, self.time, only, copies=copies).run()
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error

    def undelete_at_every_call_of_a_prune(self) -> set[str]:
        """Bring back a due backup before each call of the prune that sweeps it; return how that ended."""
        backup = min(
            key.rsplit("/", 1)[1][:-5] for key in self.worlds[0].content if key.startswith(f"trash/{ONE}/2")
        )
        return self._at_every_call(
            lambda repository: prune.prune(repository, OTHER, prune.PruneOptions(rules=RULES, grace=GRACE)),
            lambda repository: deletion.undelete(repository, ONE, backup),
        )

    def prunes_at_every_call_of_a_restore(self) -> set[str]:
        """Let a backup be pruned and swept before each call of its restore; return how that ended."""
        world = self.worlds[0]
        backup = min(
            key.rsplit("/", 1)[1][:-5] for key in world.content if key.startswith(f"sites/{ONE}/backups/")
        )

        def restore(repository: Repository) -> None:
            shutil.rmtree(world.directory / "restored", ignore_errors=True)
            options = restoring.RestoreOptions(
                backup=backup, request=None, output=world.directory / "restored"
            )
            restoring.execute(
                repository, restoring.plan(repository, ONE, None, options), ONE, filestorage_vault.Quiet()
            )

        def prunes(repository: Repository) -> None:
            for _ in range(3):
                prune.prune(repository, ONE, prune.PruneOptions(rules=RULES, grace=GRACE))
                self.time.now += NIGHT

        return self._at_every_call(restore, prunes)

    def forgotten_at_every_call_of_a_create(self) -> set[str]:
        """Before each call of a create that continues an interrupted run, let two weeks pass and sweep all.

        Return how that ended.
        """
        world = self.worlds[1]

        def prunes(repository: Repository) -> None:
            self.time.now += timedelta(days=15)
            for _ in range(3):
                prune.prune(repository, OTHER, prune.PruneOptions(rules=RULES, grace=GRACE))
                self.time.now += NIGHT

        options = CreateOptions(trigger="scheduled")
        return self._at_every_call(
            lambda repository: creating.create(
                repository, world.site(ONE), options, filestorage_vault.Quiet()
            ),
            prunes,
            world,
        )

    def copies_and_prunes_at_every_call_of_the_other(self, world: World, *, copying: bool) -> set[str]:
        """Sweep the target of a copy before each call of the copy, or copy before each call of a sweep."""

        def copy(target: Repository) -> None:
            target.configure(target.info.recipients, lambda: [KEY])
            copied(opened(MemoryStore(dict(world.content))), target, ONE)

        def prunes(repository: Repository) -> None:
            for _ in range(3):
                prune.prune(repository, OTHER, prune.PruneOptions(rules=RULES, grace=GRACE))
                self.time.now += NIGHT

        return self._at_every_call(
            copy if copying else prunes, prunes if copying else copy, world, world.second
        )

    def _at_every_call(
        self,
        outer: Operation,
        inner: Operation,
        world: World | None = None,
        content: dict[str, bytes] | None = None,
    ) -> set[str]:
        """Run one operation before each call of another, in the first repository or in the given one."""
        outcomes, world = set[str](), world or self.worlds[0]

        def tried(who: str, operation: Callable[[Repository], Any], store: Between) -> None:
            try:
                operation(Repository.open(store))
                outcomes.add(f"{who} done")
            except EXPECTED as error:
                outcomes.add(f"{who} {type(error).__name__}")

        for at in itertools.count(1):
            self.time.now = world.now + NIGHT
            watched = Watched(world.content if content is None else content)
            store = Between(
                watched,
                at,
                lambda watched=watched: tried(  # type: ignore[misc]
                    "inner", inner, Between(watched, 0, lambda: None)
                ),
            )
            tried("outer", outer, store)
            for key in [key for key in watched.store.content if "/backups/" in key]:
                watched.listed(key)
            if store.calls < at:
                break
        return outcomes
