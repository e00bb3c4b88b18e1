"""Encryption of content with age: public keys encrypt, private keys decrypt.

Both run in processes of their own (``ageworker``).
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import select
import subprocess
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final, Literal

from ..errors import ConfigurationError, Damage, KeyNeeded, UnsupportedRepository, VaultError
from ..model.requirements import PYRAGE
from ..runtime.child_process import child_environment, module_command
from .ageworker import LENGTH, recipient_of

FEATURE: Final = "age"
MAGIC: Final = b"age-encryption.org/v1"
PIECE: Final = 1 << 16
WHERE: Final = (
    "configure the private key: "
    "ZODB_VAULT_IDENTITY_FILE, ZODB_VAULT_IDENTITY_COMMAND, or [identity] in zodb-vault.toml"
)
Outcome = Literal["identity", "recipient", "key", "damage"]


class _Process:
    """A process that encrypts or decrypts one content after the other."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            module_command("zodb_vault.repository.ageworker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            bufsize=0,
        )
        assert self._child.stdin and self._child.stdout
        self._in, self._out = self._child.stdin.fileno(), self._child.stdout.fileno()
        os.set_blocking(self._in, False)
        self._received = bytearray()
        self._ended = False
        self.end = weakref.finalize(self, _end, self._child)

    def begin(self, task: dict[str, Sequence[str]]) -> None:
        """Send the task for a new content."""
        self._ended = False
        data = json.dumps(task).encode()
        list(self._pump(LENGTH.pack(len(data)) + data))

    def exchange(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Send some content, and yield the results that are ready."""
        for start in range(0, len(data), PIECE):
            piece = memoryview(data)[start : start + PIECE]
            yield from self._pump(LENGTH.pack(len(piece)) + piece)

    def finish(self) -> Generator[bytes, None, Outcome | None]:
        """Send the end of the content, yield the rest of the results, and return the outcome.

        None is success.
        """
        yield from self._pump(LENGTH.pack(0))
        while not self._ended:
            yield from self._received_now()
        while (message := self._message()) is None:
            self._read()
        outcome: Outcome | None = json.loads(message)
        return outcome

    def _pump(self, data: bytes) -> Iterator[bytes]:
        """Send bytes and receive at the same time: the child blocks while its output pipe is full."""
        waiting = select.poll()
        waiting.register(self._in, select.POLLOUT)
        waiting.register(self._out, select.POLLIN)
        view = memoryview(data)
        while view:
            ready = dict(waiting.poll())
            if ready.get(self._out):
                yield from self._received_now()
            if ready.get(self._in):
                try:
                    view = view[os.write(self._in, view) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise _died() from None

    def _received_now(self) -> Iterator[bytes]:
        self._read()
        while not self._ended and (message := self._message()) is not None:
            if message:
                yield message
            self._ended = not message

    def _read(self) -> None:
        data = os.read(self._out, 4 * PIECE)
        if not data:
            raise _died()
        self._received += data

    def _message(self) -> bytes | None:
        if len(self._received) < LENGTH.size:
            return None
        end = LENGTH.size + int(LENGTH.unpack_from(self._received)[0])
        if len(self._received) < end:
            return None
        message = bytes(self._received[LENGTH.size : end])
        del self._received[:end]
        return message


def _died() -> VaultError:
    return VaultError(
        "the process that encrypts and decrypts died",
        "free memory and run the command again; it reuses what is already stored",
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin and child.stdout
    child.stdin.close()
    child.stdout.close()
    child.wait()


class EncryptionKeys:
    """The keys of a repository.

    New content is encrypted for ``recipients``; without recipients it is not encrypted. ``identities``
    returns the private keys; it is called when they are needed for the first time.
    """

    def __init__(
        self, recipients: Sequence[str] = (), identities: Callable[[], Sequence[str]] | None = None
    ) -> None:
        self.recipients = tuple(recipients)
        self._find = identities
        self._found: tuple[str, ...] | None = None if identities else ()
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._lock = threading.Lock()

    @property
    def identities(self) -> Sequence[str]:
        """Return the private keys; empty when none are configured.

        Raise KeyNeeded when they cannot be read.
        """
        with self._lock:
            if self._found is None:
                assert self._find
                self._found = tuple(self._find())
            return self._found

    def encryptor(self) -> Encryptor:
        """Return an encryptor for one content."""
        return Encryptor(self._process(), self._idle, self.recipients)

    def decrypt(self, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
        """Yield decrypted content.

        Raise KeyNeeded without the right key, Damage with the ``name`` of the object.
        """
        identities = self.identities
        if not identities:
            raise KeyNeeded("the content is encrypted, and no private key is configured", WHERE)
        process = self._process()
        process.begin({"identities": identities})
        for chunk in chunks:
            yield from process.exchange(chunk)
        outcome = yield from process.finish()
        self._idle.put(process)
        match outcome:
            case "key":
                raise KeyNeeded(f"object {name} is encrypted for another key", WHERE)
            case "identity":
                raise KeyNeeded(
                    "the configured private key cannot be used",
                    WHERE + "; an SSH key must have no passphrase",
                )
            case "damage":
                raise Damage(f"object {name} does not decrypt")

    def _process(self) -> _Process:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            require_installed("the repository")
            return _Process()


class Encryptor:
    """Encrypts one content."""

    def __init__(self, process: _Process, idle: queue.LifoQueue[_Process], recipients: Sequence[str]) -> None:
        self._process, self._idle = process, idle
        process.begin({"recipients": recipients})

    def encode(self, data: bytes) -> bytes:
        """Take ``data`` and return the encrypted bytes that are ready."""
        return b"".join(self._process.exchange(data))

    def finish(self) -> bytes:
        """Return the remaining encrypted bytes."""
        rest = b"".join(self._rest())
        self._idle.put(self._process)
        return rest

    def _rest(self) -> Iterator[bytes]:
        outcome = yield from self._process.finish()
        if outcome is not None:
            raise VaultError("the content could not be encrypted", "check [repository.encryption] recipients")


def is_installed() -> bool:
    """Return whether pyrage is installed, which encrypts and decrypts content."""
    return importlib.util.find_spec("pyrage") is not None


def require_installed(what: str) -> None:
    """Raise UnsupportedRepository when encryption is not installed."""
    if not is_installed():
        raise UnsupportedRepository(
            f"{what} is encrypted and needs pyrage, which is not installed", PYRAGE.how_to_install
        )


def normalized_recipients(recipients: Sequence[str]) -> list[str]:
    """Return public keys in the form that is stored and compared.

    Raise ConfigurationError for texts that are no public keys.
    """
    if not recipients:
        return []
    require_installed("content for these recipients")
    import pyrage

    found, issues = [], []
    for number, text in enumerate(recipients, 1):
        # the third word of an SSH key is a comment
        words = text.split()[:2] if text.strip().startswith("ssh-") else [text.strip()]
        try:
            recipient_of(" ".join(words))
        except pyrage.RecipientError:
            known = "use public keys of age (age1...) or SSH (ssh-ed25519, ssh-rsa)"
            issues.append(
                f"[repository.encryption] recipients: number {number} is not a supported public key; {known}"
            )
        found.append(" ".join(words))
    if issues:
        raise ConfigurationError(issues)
    return sorted(set(found))
