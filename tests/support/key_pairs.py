"""Key pairs for tests, made for each test: age keys, and SSH keys by its own program."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from zodb_vault.errors import KeyNeeded
from zodb_vault.repository import encryption
from zodb_vault.repository.ageworker import identity_of, recipient_of


def x25519(file: Path) -> tuple[str, Path]:
    """Write an identity as age-keygen does; return its recipient and the file."""
    from pyrage import x25519

    identity = x25519.Identity.generate()
    file.write_text(f"# public key: {identity.to_public()}\n{identity}\n")
    return str(identity.to_public()), file


def ssh(file: Path, passphrase: str = "") -> tuple[str, Path]:
    """Make a key of SSH; return the public key and the file of the private one."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "a comment", "-f", str(file)],
        check=True,
    )
    return file.with_name(f"{file.name}.pub").read_text().strip(), file


class InsideEncryptor:
    """Encrypts in this process, all at once."""

    def __init__(self, recipients: Sequence[str]) -> None:
        self._recipients, self._content = recipients, bytearray()

    def encode(self, data: bytes) -> bytes:
        self._content += data
        return b""

    def finish(self) -> bytes:
        import pyrage

        return bytes(pyrage.encrypt(bytes(self._content), [recipient_of(text) for text in self._recipients]))


class InsideKeys(encryption.EncryptionKeys):
    """Keys that are used in this process, for tests that count system calls or need many contents quickly."""

    def encryptor(self) -> InsideEncryptor:  # type: ignore[override]
        return InsideEncryptor(self.recipients)

    def decrypt(self, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
        import pyrage

        content = b"".join(chunks)
        try:
            yield pyrage.decrypt(content, [identity_of(text) for text in self.identities])
        except pyrage.DecryptError:
            raise KeyNeeded(f"object {name} is encrypted for another key") from None


def inside(patch: pytest.MonkeyPatch) -> None:
    """Let no process of its own encrypt and decrypt."""
    from zodb_vault.repository import repository

    patch.setattr(repository, "EncryptionKeys", InsideKeys)
