"""Encrypt and decrypt with pyrage, in a process of its own.

Pyrage holds the interpreter lock while it works, and would block every other thread.

The process reads and writes messages: a length of four bytes (big endian), then as many bytes. One task is a
JSON message (``recipients`` or ``identities``), messages with content, and an empty message. The answer is
messages with content, an empty message, and the outcome as JSON. Keys are sent only in these messages, never
as arguments or in the environment.
"""

from __future__ import annotations

import json
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

LENGTH: Final = struct.Struct(">I")
NO_KEY: Final = "No matching keys found"


class Incoming:
    """The content of one task, as a readable file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._rest, self._ended = stream, b"", False

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes of the content; empty at its end."""
        while not self._rest and not self._ended:
            self._rest = receive(self._stream)
            self._ended = not self._rest
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def drain(self) -> None:
        """Read and drop the rest of the content, so that the next message is a new task."""
        while self.read():
            pass


class Outgoing:
    """The result of one task, as a writable file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        """Send bytes; an empty message would end the content."""
        if data:
            send(self._stream, data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the stream is flushed once, after the outcome."""


def receive(stream: BinaryIO) -> bytes:
    """Return one message; raise EOFError when the other process closed the stream."""
    head = stream.read(LENGTH.size)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else -1
    data = stream.read(length) if length >= 0 else b""
    if len(data) != length:
        raise EOFError
    return data


def send(stream: BinaryIO, data: bytes) -> None:
    """Send one message."""
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)


def recipient_of(text: str) -> Any:
    """Return the public key that a text describes (age or SSH); raise pyrage.RecipientError."""
    import pyrage

    return (
        pyrage.ssh.Recipient.from_str(text)
        if text.startswith("ssh-")
        else pyrage.x25519.Recipient.from_str(text)
    )


def identity_of(text: str) -> Any:
    """Return the private key that a text describes (age or SSH); raise pyrage.IdentityError."""
    import pyrage

    return (
        pyrage.ssh.Identity.from_buffer(text.encode())
        if text.startswith("-----BEGIN")
        else pyrage.x25519.Identity.from_str(text)
    )


def _work(task: dict[str, Any], incoming: Incoming, outgoing: Outgoing) -> str | None:
    """Do one task and return its outcome; None is success."""
    import pyrage

    try:
        if "recipients" in task:
            pyrage.encrypt_io(incoming, outgoing, [recipient_of(text) for text in task["recipients"]])
        else:
            pyrage.decrypt_io(incoming, outgoing, [identity_of(text) for text in task["identities"]])
    except pyrage.IdentityError:
        return "identity"
    except pyrage.RecipientError:
        return "recipient"
    except pyrage.DecryptError as error:
        return "key" if str(error) == NO_KEY else "damage"
    except OSError:
        return "damage"
    return None


def main() -> None:
    """Do one task after the other until the input ends."""
    # Ctrl-C is for the parent process: it ends this process by closing its input
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            task = json.loads(receive(source))
            incoming = Incoming(source)
            outcome = _work(task, incoming, Outgoing(target))
            incoming.drain()
            send(target, b"")
            send(target, json.dumps(outcome).encode())
            target.flush()
        except (EOFError, BrokenPipeError):
            return


if __name__ == "__main__":
    main()
