"""The exit codes and the one tree of exceptions; each class has the exit code and the kind that scripts see.

::

    VaultError                    1  failed
    ├── UsageError                2  usage
    │   ├── ConfigurationError    2  configuration
    │   ├── NothingToBackUp       2  nothing-to-back-up
    │   ├── WrongSource           2  wrong-source
    │   └── NoTerminal            2  no-terminal
    ├── SourceError               1  source
    │   ├── SourceChanged         1  source-changed
    │   ├── SourceDamaged         1  source-damaged
    │   └── BlobsMissing          1  blobs-missing
    ├── TargetRefused             1  target-refused
    ├── SafetyBackupFailed        1  safety-backup-failed
    ├── UnsupportedRepository     1  unsupported-repository
    ├── StoreError                1  store
    │   ├── KeyMissing            1  key-missing
    │   ├── KeyExists             1  key-exists
    │   └── KeyChanged            1  key-changed
    ├── Declined                  1  declined
    ├── Damage                    4  damage
    ├── NotProven                 5  not-proven
    ├── RepositoryMissing        10  no-repository
    ├── InUse                    11  in-use
    ├── KeyNeeded                12  no-key
    ├── BackupMissing            13  no-such-backup
    ├── TargetMissing            13  no-such-target
    └── TargetAmbiguous          13  ambiguous-target
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Every status that the command line ends with."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    # The work is done, but the source has lost something or has changed what was stored before.
    SOURCE_INCOMPLETE = 3
    DAMAGE = 4
    # This machine lacks something that the proof needs. It says nothing about the backup.
    NOT_PROVEN = 5
    NO_REPOSITORY = 10
    IN_USE = 11
    NO_KEY = 12
    NOT_FOUND = 13
    INTERRUPTED = 130


class VaultError(Exception):
    """An operation failed.

    The message names what failed and why; ``hint`` says what to do next. Without a hint of its own, an error
    has the ``default_hint`` of its class.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE
    kind: ClassVar[str] = "failed"
    default_hint: ClassVar[str] = "correct the cause and run the command again"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class UsageError(VaultError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE
    kind = "usage"


class ConfigurationError(UsageError):
    """The configuration is wrong; all problems are reported at once, each with its file and key."""

    kind = "configuration"
    default_hint = "correct the problems and run the command again"

    def __init__(self, issues: Sequence[str], hint: str = "") -> None:
        super().__init__("\n".join(issues), hint)
        self.issues = list(issues)


class NothingToBackUp(UsageError):
    """The site has no persistent data of its own."""

    kind = "nothing-to-back-up"


class WrongSource(UsageError):
    """The source is not the one that the earlier backups of this site were made from."""

    kind = "wrong-source"


class NoTerminal(UsageError):
    """A question needs an answer, and there is no terminal to ask on."""

    kind = "no-terminal"


class SourceError(VaultError):
    """The storage or the blobs of the site cannot be read."""

    kind = "source"


class SourceChanged(SourceError):
    """The source was replaced (by a pack or a restore) while it was read."""

    kind = "source-changed"


class SourceDamaged(SourceError):
    """The source violates its own format."""

    kind = "source-damaged"


class BlobsMissing(SourceError):
    """More blobs are missing than a loss explains: the path is probably wrong."""

    kind = "blobs-missing"


class TargetRefused(VaultError):
    """The operation would destroy or mix data; nothing was changed."""

    kind = "target-refused"


class SafetyBackupFailed(VaultError):
    """The present state could not be backed up, so it was not replaced."""

    kind = "safety-backup-failed"


class UnsupportedRepository(VaultError):
    """The repository needs a newer version of zodb-vault, or a feature that is not installed."""

    kind = "unsupported-repository"


class StoreError(VaultError):
    """The file system or the service that holds the repository failed."""

    kind = "store"


class KeyMissing(StoreError):
    """The repository has nothing under this key."""

    kind = "key-missing"


class KeyExists(StoreError):
    """The repository already has other content under this key."""

    kind = "key-exists"


class KeyChanged(StoreError):
    """Another process has changed the content under this key."""

    kind = "key-changed"


class Declined(VaultError):
    """The user answered a question with no."""

    kind = "declined"


class Damage(VaultError):
    """Bytes in the repository are missing or are not what was stored.

    ``object_name`` is the name of the object or document that is damaged, if it is one.
    """

    exit_code = ExitCode.DAMAGE
    kind = "damage"
    default_hint = (
        "`zodb-vault verify --all --level bytes` shows what else is damaged; "
        "use another backup, or bring the file back from a copy of the repository"
    )

    def __init__(self, message: str, hint: str = "", *, object_name: str | None = None) -> None:
        super().__init__(message, hint)
        self.object_name = object_name


class NotProven(VaultError):
    """This machine lacks what a proof needs: a package, a program, rights or memory.

    It says nothing about the backup, so nothing is recorded.
    """

    exit_code = ExitCode.NOT_PROVEN
    kind = "not-proven"
    default_hint = (
        "provide it and verify again, or verify on another machine; this is no result about the backup"
    )


class RepositoryMissing(VaultError):
    """There is no repository at the location."""

    exit_code = ExitCode.NO_REPOSITORY
    kind = "no-repository"


class InUse(VaultError):
    """Another run or another process is using it."""

    exit_code = ExitCode.IN_USE
    kind = "in-use"


class KeyNeeded(VaultError):
    """The content is encrypted, and the private key is missing or wrong."""

    exit_code = ExitCode.NO_KEY
    kind = "no-key"


class BackupMissing(VaultError):
    """No backup has this id, prefix or name."""

    exit_code = ExitCode.NOT_FOUND
    kind = "no-such-backup"


class TargetMissing(VaultError):
    """No backup contains the requested transaction or point in time."""

    exit_code = ExitCode.NOT_FOUND
    kind = "no-such-target"


class TargetAmbiguous(VaultError):
    """Several timelines have different states for the request, and the user has to choose one."""

    exit_code = ExitCode.NOT_FOUND
    kind = "ambiguous-target"
