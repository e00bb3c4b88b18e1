"""Key pairs for tests, made anew each time: of age, and of SSH by its own program."""

from __future__ import annotations

import subprocess
from pathlib import Path


def x25519(file: Path) -> tuple[str, Path]:
    """Write an identity as age-keygen does; return its recipient and the file."""
    from pyrage import x25519

    identity = x25519.Identity.generate()
    file.write_text(f"# public key: {identity.to_public()}\n{identity}\n")
    return str(identity.to_public()), file


def ssh(file: Path, passphrase: str = "") -> tuple[str, Path]:
    """Make a key of SSH; return the public key and the file of the private one."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "a comment", "-f", str(file)], check=True)
    return file.with_name(f"{file.name}.pub").read_text().strip(), file
