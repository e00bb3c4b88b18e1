"""Find the private keys: in a file, from a command, or in a credential that systemd gives to a service."""

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
COMMAND_VARIABLE: Final = "ZODB_VAULT_IDENTITY_COMMAND"


def identities(settings: IdentitySettings, ask: Callable[[str], str]) -> list[str]:
    """Return the configured private keys, none without a configuration; ``ask`` for a passphrase.

    Raise KeyNeeded when the configured key cannot be read or is no key.
    """
    if settings.file is not None:
        return _keys(_read(settings.file), str(settings.file), ask)
    if settings.command is not None:
        return _keys(_output_of(settings.command.reveal()), "the output of the identity command", ask)
    if (credential := _credential()).exists():
        return _keys(_read(credential), str(credential), ask)
    return []


def _credential() -> Path:
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nowhere") / CREDENTIAL


def _is_configured(settings: IdentitySettings) -> bool:
    return settings.file is not None or settings.command is not None or _credential().exists()


def require_copyable(copy: CopySettings, settings: Settings) -> None:
    """Raise ConfigurationError when a copy after each backup needs a private key, and this host has none.

    The same for a copy without encryption of an encrypted repository: that has to be confirmed with
    --decrypt.
    """
    ours = settings.repository.encryption.recipients
    if not ours or copy.recipients is None:
        return
    if normalized_recipients(copy.recipients) == normalized_recipients(ours):
        return
    by_hand = f"remove it from [repository] copies, and run `zodb-vault repository copy {copy.location}"
    if not copy.recipients:
        message = f"repository.copies: {copy.location} is not encrypted, but the repository is"
        hint = f"{by_hand} --decrypt` on a host that has the private key, if this is intended"
        raise ConfigurationError([message], hint)
    if not _is_configured(settings.identity):
        message = (
            f"repository.copies: {copy.location} has other recipients than the repository, so every backup "
            "has to be decrypted for the copy; no private key is configured"
        )
        hint = f"{by_hand}` on a host that has the private key; or configure the key here ([identity])"
        raise ConfigurationError([message], hint)


def require_key(entries: Iterable[DatabaseEntry], documents: Objects) -> None:
    """Check that the private key fits before anything takes long.

    The oldest and the newest object of each component are tried: the recipients may have changed in between.
    Raise KeyNeeded, and Damage when a list cannot be read.
    """
    for entry in entries:
        for component in (entry.storage, entry.blobs):
            found = [*references(msgspec.to_builtins(component))]
            content = [one for one in found if one.kind == "content"]
            lists = [one for one in found if one.kind == "list"]
            if lists:  # these come before what the manifest itself names
                oldest = references(read_list(lists[0].name, documents))
                content[:0] = [one for one in oldest if one.kind == "content"][:1]
            for part in dict.fromkeys(part_of(one) for one in (*content[:1], *content[-1:])):
                documents.require_key(part)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyNeeded(
            f"the private key cannot be read: {error.strerror} ({path})",
            "correct ZODB_VAULT_IDENTITY_FILE or [identity] file",
        ) from None


def _output_of(command: str) -> bytes:
    """Run the command, and return what it prints.

    The command may contain a secret. It is passed in the environment, since all users can see arguments.
    """
    done = subprocess.run(
        ["/bin/sh", "-c", f'eval "${COMMAND_VARIABLE}"'],
        env=os.environ | {COMMAND_VARIABLE: command},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise KeyNeeded(
            f"the command that prints the private key failed with exit status {done.returncode}",
            f"correct {COMMAND_VARIABLE} or [identity] command",
        )
    return done.stdout


def _keys(data: bytes, where: str, ask: Callable[[str], str]) -> list[str]:
    """Return the keys of age-keygen or SSH in a file, after decrypting it if it has a passphrase."""
    require_installed("what the private key decrypts")
    import pyrage

    if data.startswith((MAGIC, ARMOR)):
        try:
            data = pyrage.passphrase.decrypt(data, ask(f"Passphrase of {where}"))
        except pyrage.DecryptError:
            raise KeyNeeded(f"the passphrase does not open {where}", "try again") from None
        except VaultError as error:
            raise KeyNeeded(
                f"{where} has a passphrase: {error.message}",
                "run this on a terminal, or configure a command that prints the private key",
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
        hint = (
            f"it needs {SECRET_KEY}..., as `age-keygen` makes it, or a private SSH key without a passphrase"
        )
        raise KeyNeeded(f"{where} has no private key that can be used", hint)
    return found
