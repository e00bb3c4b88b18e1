"""The one exception tree; every class carries the exit status and the kind that users and scripts see.

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
    ├── RepositoryMissing        10  no-repository
    ├── InUse                    11  in-use
    ├── KeyNeeded                12  no-key
    ├── BackupMissing            13  no-such-backup
    └── TargetMissing            13  no-such-target
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class VaultError(Exception):
    """Something failed; says the thing and the cause, and in ``hint`` the next step (``advice`` where nothing better is known)."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"
    advice: ClassVar[str] = "correct the cause and run the command again"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.advice


class UsageError(VaultError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2
    kind = "usage"


class ConfigurationError(UsageError):
    """The configuration is wrong; ``issues`` names every problem with its file and key."""

    kind = "configuration"
    advice = "correct what is named here and run the command again"

    def __init__(self, issues: Sequence[str], hint: str = "") -> None:
        super().__init__("\n".join(issues), hint)
        self.issues = list(issues)


class NothingToBackUp(UsageError):
    """The site holds no persistent data of its own."""

    kind = "nothing-to-back-up"


class WrongSource(UsageError):
    """The source is not the one that this site's backups were made from."""

    kind = "wrong-source"


class NoTerminal(UsageError):
    """A question has to be answered and nobody is there to answer it."""

    kind = "no-terminal"


class SourceError(VaultError):
    """The site's storage or its blobs cannot be read."""

    kind = "source"


class SourceChanged(SourceError):
    """The source was replaced (packed, restored) while it was read."""

    kind = "source-changed"


class SourceDamaged(SourceError):
    """The source is not what its format demands."""

    kind = "source-damaged"


class BlobsMissing(SourceError):
    """So many blobs are missing that a mistake is likelier than a loss."""

    kind = "blobs-missing"


class TargetRefused(VaultError):
    """A restore would destroy or mix something; nothing was changed."""

    kind = "target-refused"


class SafetyBackupFailed(VaultError):
    """The state that a restore replaces could not be saved first."""

    kind = "safety-backup-failed"


class UnsupportedRepository(VaultError):
    """The repository needs a newer version or a feature that is not installed."""

    kind = "unsupported-repository"


class StoreError(VaultError):
    """The place where the repository lives failed."""

    kind = "store"


class KeyMissing(StoreError):
    """Nothing is stored under this key."""

    kind = "key-missing"


class KeyExists(StoreError):
    """Something else is stored under this key already."""

    kind = "key-exists"


class KeyChanged(StoreError):
    """What is stored under this key is not what it was a moment ago."""

    kind = "key-changed"


class Declined(VaultError):
    """The question was answered with no."""

    kind = "declined"


class Damage(VaultError):
    """Stored bytes are not what was stored."""

    exit_code = 4
    kind = "damage"
    advice = "`zodb-vault verify --all --level bytes` shows what else is damaged; use another backup, or a copy of the file"


class RepositoryMissing(VaultError):
    """There is no repository at the location."""

    exit_code = 10
    kind = "no-repository"


class InUse(VaultError):
    """Somebody else works on it now."""

    exit_code = 11
    kind = "in-use"


class KeyNeeded(VaultError):
    """The content is encrypted and the key is missing or wrong."""

    exit_code = 12
    kind = "no-key"


class BackupMissing(VaultError):
    """No backup has this id, prefix or name."""

    exit_code = 13
    kind = "no-such-backup"


class TargetMissing(VaultError):
    """No backup can bring this transaction or moment back."""

    exit_code = 13
    kind = "no-such-target"
