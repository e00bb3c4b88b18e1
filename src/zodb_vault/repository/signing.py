"""Signatures of manifests, in the format of ``ssh-keygen -Y``.

A signature proves which key made a backup, even if others can write to the repository.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError, VaultError

NAMESPACE: Final = "zodb-vault"
PROGRAM: Final = "ssh-keygen"


def sign(data: bytes, key: Path) -> bytes:
    """Return the signature of a manifest.

    Raise ConfigurationError when the key cannot be used without a passphrase.
    """
    # _run starts a new session without a terminal, so ssh-keygen cannot ask for a passphrase
    done = _run(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], data)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise ConfigurationError(
            [f"the manifest cannot be signed with {key}"],
            "set [repository.signing] key to a private SSH key without a passphrase, or to a public key "
            "whose private key is in an SSH agent",
        )
    return done.stdout


def is_signed(data: bytes, signature: bytes, signers: Sequence[str]) -> bool:
    """Return whether one of the signers (public SSH keys) signed exactly this data."""
    with tempfile.TemporaryDirectory(prefix="zodb-vault-signature-") as directory:
        allowed, file = Path(directory, "signers"), Path(directory, "signature")
        allowed.write_text(
            "".join(f'{NAMESPACE} namespaces="{NAMESPACE}" {" ".join(one.split()[:2])}\n' for one in signers),
            encoding="utf-8",
        )
        file.write_bytes(signature)
        done = _run(
            ["-Y", "verify", "-f", str(allowed), "-I", NAMESPACE, "-n", NAMESPACE, "-s", str(file)], data
        )
    return done.returncode == 0


def _run(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [PROGRAM, *arguments],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        )
    except FileNotFoundError:
        raise VaultError(
            f"signatures need {PROGRAM}, which is not on PATH",
            "install the OpenSSH client (Debian: openssh-client)",
        ) from None
