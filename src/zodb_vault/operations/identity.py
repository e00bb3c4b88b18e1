"""Find the private key where content has to be read: in a file, from a command, or among the credentials that systemd gives a service."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from ..config.copies import CopySettings
from ..config.settings import IdentitySettings, Settings
from ..errors import ConfigurationError, KeyNeeded, VaultError
from ..model.manifest import DatabaseEntry
from ..repository.ageworker import identity_of
from ..repository.encryption import MAGIC, normalized_recipients, require_installed
from ..repository.objects import Objects
from ..repository.references import part_of, read_list, references

CREDENTIAL: Final = "zodb-vault-identity"
ARMOR: Final = b"-----BEGIN AGE ENCRYPTED FILE-----"
SECRET_KEY: Final = "AGE-SECRET-KEY-"
VARIABLE: Final = "ZODB_VAULT_IDENTITY_COMMAND"


def identities(settings: IdentitySettings, ask: Callable[[str], str]) -> list[str]:
    """Return the private keys that are configured, none where nothing says where they are; ``ask`` for the passphrase of a file.

    Raise KeyNeeded when what is named cannot be had or is no key.
    """
    if settings.file is not None:
        return _keys(_file(settings.file), str(settings.file), ask)
    if settings.command is not None:
        return _keys(_output(settings.command.reveal()), "the output of the identity command", ask)
    if (credential := _credential()).exists():
        return _keys(_file(credential), str(credential), ask)
    return []


def _credential() -> Path:
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nowhere") / CREDENTIAL


def _named(settings: IdentitySettings) -> bool:
    """Tell whether anything says where the private key is."""
    return settings.file is not None or settings.command is not None or _credential().exists()


def require_copyable(copy: CopySettings, settings: Settings) -> None:
    """Raise ConfigurationError when a copy has to decrypt what is encrypted, and nothing on this host says how, or that it is meant."""
    ours = settings.repository.encryption.recipients
    if (
        not ours
        or copy.recipients is None
        or normalized_recipients(copy.recipients) == normalized_recipients(ours)
    ):
        return
    by_hand = f"take it out of [repository] copies, and run `zodb-vault repository copy {copy.location}"
    if not copy.recipients:
        message = f"repository.copies: {copy.location} is not encrypted, and the repository is"
        raise ConfigurationError([message], f"{by_hand} --decrypt` where the private key is, if it is meant")
    if not _named(settings.identity):
        message = "is encrypted for others than the repository, so that each backup has to be decrypted for it; nothing says where the private key is"
        raise ConfigurationError(
            [f"repository.copies: {copy.location} {message}"],
            f"{by_hand}` on a host that has the private key; or name that here ([identity])",
        )


def require_key(entries: Iterable[DatabaseEntry], documents: Objects) -> None:
    """Find out whether the private key fits before anything starts: by the oldest and the newest object of each half of a database.

    Raise KeyNeeded, and Damage where a list cannot be read.
    """
    for half in (half for entry in entries for half in (entry.storage, entry.blobs)):
        found = [*references(msgspec.to_builtins(half))]
        content = [one for one in found if one.kind == "content"]
        for oldest in [one for one in found if one.kind == "list"][:1]:
            content[:0] = [
                one for one in references(read_list(oldest.name, documents)) if one.kind == "content"
            ][:1]
        for one in dict.fromkeys(part_of(one) for one in (*content[:1], *content[-1:])):
            documents.require_key(one)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyNeeded(
            f"the private key cannot be read: {error.strerror} ({path})",
            "correct ZODB_VAULT_IDENTITY_FILE or [identity] file",
        ) from None


def _output(command: str) -> bytes:
    """Run the command, which may hold a secret itself: it goes through the environment, as arguments are there for everybody to see."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'eval "${VARIABLE}"'],
        env=os.environ | {VARIABLE: command},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise KeyNeeded(
            f"the command that prints the private key failed with status {done.returncode}",
            f"correct {VARIABLE} or [identity] command",
        )
    return done.stdout


def _keys(data: bytes, where: str, ask: Callable[[str], str]) -> list[str]:
    require_installed("what this key opens")
    import pyrage

    if data.startswith((MAGIC, ARMOR)):
        try:
            data = pyrage.passphrase.decrypt(data, ask(f"Passphrase of {where}"))
        except pyrage.DecryptError:
            raise KeyNeeded(f"the passphrase does not open {where}", "try again") from None
        except VaultError as error:
            raise KeyNeeded(
                f"{where} has a passphrase: {error.message}",
                "run this on a terminal, or let a command print the private key",
            ) from None
    text = data.decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [text] if text.startswith("-----BEGIN") else lines
    try:
        for key in found:
            identity_of(key)
    except pyrage.IdentityError:
        found = []
    if not found:
        hint = f"what is needed is {SECRET_KEY}..., as `age-keygen` makes it, or a private key of SSH without a passphrase"
        raise KeyNeeded(f"{where} holds no private key that can be used", hint)
    return found
